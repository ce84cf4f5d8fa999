//! The cluster that this agent speaks for: found, asked, and proxied to.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::service_names::ServiceNames;
use super::{AgentError, Proxying};
use crate::config::{Config, Secret, Timeouts};
use crate::control::facts::{ClusterFacts, Facts, NoCluster};
use crate::http::client;
use crate::kube::{self, ApiError, ApiServer, Auth, Credentials, KubeError, Material, Search};
use crate::net::{Cancel, Deadline};
use crate::proxy::{self, AgentIdentity, Executor, Upstreams};
use crate::telemetry::{self, RateLimit};
use crate::tunnel::target::ExternalNames;
use crate::websocket::Keepalive;

/// Where a pod's own credentials are (config-and-state.md §9.1).
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Finds the cluster (config-and-state.md §9.4): a kubeconfig that was named, the
/// pod's own credentials, then the kubeconfigs of the environment and the home
/// folder. `None` on a plain VM, and where `daemon.enabled` says that it is one (§12.3):
/// many have a kubeconfig of some cluster.
pub fn find_cluster(config: &Config) -> Result<Option<Credentials>, KubeError> {
    let settings = &config.kubernetes;
    if config.daemon.enabled {
        if settings.kubeconfig.is_some() || settings.in_cluster == Some(true) {
            log::warn!("daemon.enabled: the cluster of the configuration is left alone");
        }
        return Ok(None);
    }
    if settings.kubeconfig.is_none() {
        let variable = |name| env::var(name).unwrap_or_default();
        let host = variable("KUBERNETES_SERVICE_HOST");
        let port = variable("KUBERNETES_SERVICE_PORT");
        if let Some(found) = kube::in_cluster(&host, &port, Path::new(SERVICE_ACCOUNT))? {
            return Ok(Some(found));
        }
        if settings.in_cluster == Some(true) {
            log::warn!(
                "kubernetes.in_cluster is set, but this is no pod with a ServiceAccount token \
                 (KUBERNETES_SERVICE_HOST, {SERVICE_ACCOUNT}/token)"
            );
        }
    }
    Search {
        explicit: settings.kubeconfig.clone(),
        environment: env::var("KUBECONFIG").ok(),
        home: env::var_os("HOME").map(PathBuf::from),
        context: settings.context.clone(),
    }
    .load()
}

/// What talks to the cluster: requests, and facts.
pub type Reach = (Arc<dyn Proxying>, Arc<dyn ClusterFacts>);

/// Both for this cluster; without one both are stand-ins.
pub fn reach(credentials: Option<Credentials>, config: &Config) -> Result<Reach, AgentError> {
    let settings = limits(config);
    let Some(credentials) = credentials else {
        let level = if config.daemon.enabled {
            log::Level::Info
        } else {
            log::Level::Warn
        };
        log::log!(
            level,
            "there is no Kubernetes API here: requests go to the configured origins"
        );
        return Ok((Arc::new(Executor::new(settings, None)), Arc::new(NoCluster)));
    };
    let mounted = mounted_token(&credentials, Path::new(SERVICE_ACCOUNT));
    let ca = credentials.ca.clone();
    let api = Arc::new(ApiServer::new(credentials, &connections(&config.timeouts))?);
    log::info!(api_server = api.authority().as_str(); "the cluster");
    let upstreams = Upstreams {
        callers: api.callers().clone(),
        agent: config.kubernetes.impersonate_agent.then(|| proxy::Agent {
            client: api.own().clone(),
            identity: Arc::new(LentIdentity(api.clone())),
        }),
        base: api.base().to_owned(),
    };
    let executor = Executor::new(settings, Some(upstreams));
    let facts = KubeFacts {
        api,
        given: config.kubernetes.service_token.clone(),
        mounted,
        ca,
        limit: config.timeouts.k8s_operation,
    };
    Ok((Arc::new(executor), Arc::new(facts)))
}

/// Limits of requests.
fn limits(config: &Config) -> proxy::Settings {
    let timeouts = &config.timeouts;
    let defaults = proxy::Settings::default();
    proxy::Settings {
        memory_limit: config.proxy.memory_limit,
        default_timeout: timeouts.proxy_request,
        body_idle: timeouts.proxy_body,
        first_byte: timeouts.proxy_first_byte,
        stall: timeouts.proxy_stall,
        keepalive: Keepalive {
            every: timeouts.service_ping,
            silence: timeouts.service_pong,
            ..defaults.keepalive
        },
        ..defaults
    }
}

/// Limits of connections to the API server.
fn connections(timeouts: &Timeouts) -> client::Settings {
    client::Settings {
        idle_limit: timeouts.proxy_idle,
        dial_limit: timeouts.proxy_dial,
        ..client::Settings::default()
    }
}

/// The agent's own credential, for those that it is lent to.
struct LentIdentity(Arc<ApiServer>);

impl AgentIdentity for LentIdentity {
    fn authorization(&self, cancel: &Cancel) -> Result<Option<Secret>, String> {
        let value = self.0.authorization(None, cancel);
        value.map_err(|error| error.to_string())
    }

    fn refused(&self) {
        self.0.refresh_authorization();
    }
}

/// What the messages say about the cluster, asked of its API server.
struct KubeFacts {
    api: Arc<ApiServer>,
    /// `kubernetes.service_token`.
    given: Option<Secret>,
    /// The ServiceAccount's token, in a pod that speaks for its own cluster.
    mounted: Option<PathBuf>,
    /// Whoever signs the API server's certificate.
    ca: Option<Material>,
    /// `timeouts.k8s_operation`: each call is cut at this age, if not before.
    limit: Duration,
}

/// The mounted token, where it is this cluster's: in a pod with a kubeconfig of
/// another cluster it must neither be shown to that one nor be handed over for it.
pub(super) fn mounted_token(credentials: &Credentials, folder: &Path) -> Option<PathBuf> {
    match &credentials.auth {
        Auth::TokenFile(path) if path.starts_with(folder) => Some(path.clone()),
        _ => None,
    }
}

impl ClusterFacts for KubeFacts {
    fn in_pod(&self) -> bool {
        self.mounted.is_some()
    }

    fn read(&self, deadline: Deadline, cancel: &Cancel) -> Facts {
        let deadline = deadline.earlier(Deadline::after(self.limit));
        let count = |plural| or_default(plural, self.api.count(plural, deadline, cancel));
        Facts {
            k8s_version: or_default("version", self.api.version(deadline, cancel)),
            nodes: count("nodes"),
            pods: count("pods"),
        }
    }

    /// The operator's token, else the mounted one, if it may do something
    /// (config-and-state.md §9.3). A kubeconfig's credentials are a person's and
    /// are never handed over.
    fn service_token(&self, deadline: Deadline, cancel: &Cancel) -> Option<Secret> {
        let mounted = self.mounted_token();
        let deadline = deadline.earlier(Deadline::after(self.limit));
        // They are opaque at times, so the log can't know them by their look.
        for token in self.given.iter().chain(&mounted) {
            telemetry::register(token);
        }
        let usable = |token: &Secret| match self.api.is_usable(token, deadline, cancel) {
            Ok(usable) => usable,
            Err(error) => {
                log::debug!("a token could not be reviewed: {error}");
                false
            }
        };
        if let Some(token) = self.given.as_ref().filter(|token| usable(token)) {
            return Some(token.clone());
        }
        if let Some(token) = &mounted
            && !usable(token)
        {
            // As the original: better a token of unknown use than none.
            log::warn!(
                "the ServiceAccount's token may not create namespaces; it is handed over as it is"
            );
        }
        mounted.or_else(|| self.given.clone())
    }

    fn external_names(&self) -> Option<Arc<dyn ExternalNames>> {
        Some(Arc::new(ServiceNames::new(self.api.clone())))
    }

    fn ca_certificates(&self) -> Option<Vec<u8>> {
        let read = self.ca.as_ref()?.read();
        read.inspect_err(|error| log::warn!("the cluster's CA can't be read: {error}"))
            .ok()
    }

    fn service_tokens(&self) -> Vec<Secret> {
        self.given
            .iter()
            .cloned()
            .chain(self.mounted_token())
            .collect()
    }
}

impl KubeFacts {
    fn mounted_token(&self) -> Option<Secret> {
        static UNREADABLE: RateLimit = RateLimit::new(1, Duration::from_mins(10));
        match kube::read_token(self.mounted.as_deref()?) {
            Ok(token) => Some(token),
            Err(error) => {
                if let Some(skipped) = UNREADABLE.pass() {
                    log::warn!(skipped; "the ServiceAccount's token can't be handed over: {error}");
                }
                None
            }
        }
    }
}

/// Facts are for show: what can't be read is zero or empty.
fn or_default<T: Default>(what: &str, result: Result<T, ApiError>) -> T {
    result.unwrap_or_else(|error| {
        log::debug!("the cluster's {what} can't be read: {error}");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of them swapped would still have compiled.
    #[test]
    fn t4_the_limits_of_proxying_arrive() {
        let seconds = Duration::from_secs;
        let mut config = Config::defaults();
        config.proxy.memory_limit = 41;
        config.timeouts.proxy_request = seconds(42);
        config.timeouts.proxy_body = seconds(43);
        config.timeouts.proxy_first_byte = seconds(44);
        config.timeouts.proxy_stall = seconds(45);
        config.timeouts.proxy_idle = seconds(46);
        config.timeouts.proxy_dial = seconds(47);
        config.timeouts.service_ping = seconds(48);
        config.timeouts.service_pong = seconds(49);
        let got = limits(&config);
        assert_eq!(got.memory_limit, 41);
        assert_eq!(got.default_timeout, seconds(42));
        assert_eq!(got.body_idle, seconds(43));
        assert_eq!(got.first_byte, seconds(44));
        assert_eq!(got.stall, seconds(45));
        let keepalive = (got.keepalive.every, got.keepalive.silence);
        assert_eq!(keepalive, (seconds(48), seconds(49)));
        let got = connections(&config.timeouts);
        assert_eq!((got.idle_limit, got.dial_limit), (seconds(46), seconds(47)));
    }

    /// Its routes led nowhere: the kubeconfig made it an agent outside its cluster.
    #[test]
    fn a_plain_machine_by_the_configuration_may_have_a_kubeconfig() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("config");
        let text = "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                    contexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n";
        std::fs::write(&path, text).expect("kubeconfig");
        let mut config = Config::defaults();
        config.kubernetes.kubeconfig = Some(path);
        assert!(find_cluster(&config).expect("fine").is_some());
        config.daemon.enabled = true;
        let found = find_cluster(&config).expect("fine");
        assert!(found.is_none());
        let (_, facts) = reach(found, &config).expect("usable");
        assert!(!facts.exists(), "a machine, whose routes count");
    }

    /// It was: the mount was looked for whatever cluster the credentials were for.
    #[test]
    fn the_mounted_token_is_not_shown_to_the_cluster_of_a_kubeconfig() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("token"), "t").expect("token");
        let own = kube::in_cluster("10.0.0.1", "443", folder.path());
        let own = own.expect("fine").expect("a pod");
        let token = Some(folder.path().join("token"));
        assert_eq!(mounted_token(&own, folder.path()), token);
        for auth in [
            Auth::None,
            Auth::Token(Secret::new("x")),
            Auth::TokenFile("/elsewhere/token".into()),
        ] {
            let other = Credentials {
                auth,
                ..own.clone()
            };
            assert_eq!(mounted_token(&other, folder.path()), None);
        }
    }
}
