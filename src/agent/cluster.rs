//! The cluster that this agent speaks for: found, asked, and proxied to.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{AgentError, NoProxy, Proxying};
use crate::config::{self, Config, Secret};
use crate::control::facts::{ClusterFacts, Facts, NoCluster};
use crate::http;
use crate::kube::{self, ApiError, ApiServer, Auth, Credentials, KubeError, Search};
use crate::net::{Cancel, Deadline};
use crate::proxy::{self, AgentIdentity, Executor, Upstreams};

/// Where a pod's own credentials are (config-and-state.md §9.1).
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Finds the cluster (config-and-state.md §9.4): a kubeconfig that was named, the
/// pod's own credentials, then the kubeconfigs of the environment and the home
/// folder. `None` on a plain VM.
pub fn find_cluster(settings: &config::Kubernetes) -> Result<Option<Credentials>, KubeError> {
    if settings.kubeconfig.is_none() {
        let variable = |name| env::var(name).unwrap_or_default();
        let host = variable("KUBERNETES_SERVICE_HOST");
        let port = variable("KUBERNETES_SERVICE_PORT");
        if let Some(found) = kube::in_cluster(&host, &port, Path::new(SERVICE_ACCOUNT))? {
            return Ok(Some(found));
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
    let Some(credentials) = credentials else {
        return Ok((Arc::new(NoProxy), Arc::new(NoCluster)));
    };
    let mounted = mounted_token(&credentials, Path::new(SERVICE_ACCOUNT));
    let api = Arc::new(ApiServer::new(credentials, &connections(config))?);
    log::info!(api_server = api.authority().as_str(); "the cluster");
    let upstreams = Upstreams {
        callers: api.callers().clone(),
        agent: config.kubernetes.impersonate_agent.then(|| proxy::Agent {
            client: api.own().clone(),
            identity: Arc::new(Lent(api.clone())),
        }),
        base: api.base().to_owned(),
    };
    let executor = Executor::new(limits(config), Some(upstreams));
    let facts = KubeFacts::new(api, config, mounted);
    Ok((Arc::new(executor), Arc::new(facts)))
}

/// What proxied requests may take.
pub(super) fn limits(config: &Config) -> proxy::Settings {
    proxy::Settings {
        memory_limit: config.proxy.memory_limit,
        default_timeout: config.timeouts.proxy_request,
        ..proxy::Settings::default()
    }
}

/// How connections to the API server are made and kept.
pub(super) fn connections(config: &Config) -> http::client::Settings {
    http::client::Settings {
        dial_limit: config.timeouts.proxy_dial,
        idle_limit: config.timeouts.proxy_idle,
        ..http::client::Settings::default()
    }
}

/// The agent's own credential, for those that it is lent to.
struct Lent(Arc<ApiServer>);

impl AgentIdentity for Lent {
    fn authorization(&self) -> Result<Option<Secret>, String> {
        self.0.authorization().map_err(|error| error.to_string())
    }

    fn refused(&self) {
        self.0.refresh_authorization();
    }
}

/// What the messages say about the cluster, asked of its API server.
pub struct KubeFacts {
    api: Arc<ApiServer>,
    /// `kubernetes.service_token`.
    given: Option<Secret>,
    /// One call (`timeouts.k8s_operation`).
    limit: Duration,
    /// The ServiceAccount's token, in a pod that speaks for its own cluster.
    mounted: Option<PathBuf>,
}

/// The mounted token, where it is this cluster's: in a pod with a kubeconfig of
/// another cluster it must neither be shown to that one nor be handed over for it.
fn mounted_token(credentials: &Credentials, folder: &Path) -> Option<PathBuf> {
    match &credentials.auth {
        Auth::TokenFile(path) if path.starts_with(folder) => Some(path.clone()),
        _ => None,
    }
}

impl KubeFacts {
    /// `mounted`: the ServiceAccount's token file, if it belongs to this cluster.
    pub fn new(api: Arc<ApiServer>, config: &Config, mounted: Option<PathBuf>) -> Self {
        Self {
            api,
            given: config.kubernetes.service_token.clone(),
            limit: config.timeouts.k8s_operation,
            mounted,
        }
    }
}

impl ClusterFacts for KubeFacts {
    fn read(&self, deadline: Deadline, cancel: &Cancel) -> Facts {
        let by = || deadline.earlier(Deadline::after(self.limit));
        let count = |plural| or_default(plural, self.api.count(plural, by(), cancel));
        Facts {
            k8s_version: or_default("version", self.api.version(by(), cancel)),
            nodes: count("nodes"),
            pods: count("pods"),
        }
    }

    /// The operator's token, else the mounted one, if it may do something
    /// (config-and-state.md §9.3). A kubeconfig's credentials are a person's and
    /// are never handed over.
    fn service_token(&self, deadline: Deadline, cancel: &Cancel) -> Option<Secret> {
        let mounted = self
            .mounted
            .as_deref()
            .and_then(|path| match kube::read_token(path) {
                Ok(token) => Some(token),
                Err(error) => {
                    log::warn!("the ServiceAccount's token can't be handed over: {error}");
                    None
                }
            });
        let by = || deadline.earlier(Deadline::after(self.limit));
        let usable = |token: &Secret| match self.api.is_usable(token, by(), cancel) {
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
