//! The cluster that this agent speaks for: found, asked, and proxied to.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{AgentError, NoProxy, Proxying};
use crate::config::{self, Config, Secret};
use crate::control::facts::{ClusterFacts, Facts, NoCluster};
use crate::kube::{self, ApiError, ApiServer, Credentials, KubeError, Search};
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
    let api = Arc::new(ApiServer::new(credentials)?);
    log::info!(api_server = api.authority().as_str(); "the cluster");
    let upstreams = Upstreams {
        callers: api.callers().clone(),
        agent: config.kubernetes.impersonate_agent.then(|| proxy::Agent {
            client: api.own().clone(),
            identity: Arc::new(Lent(api.clone())),
        }),
        base: api.base().to_owned(),
    };
    let settings = proxy::Settings {
        memory_limit: config.proxy.memory_limit,
        ..proxy::Settings::default()
    };
    let executor = Executor::new(settings, Some(upstreams));
    let facts = KubeFacts::new(api, &config.kubernetes);
    Ok((Arc::new(executor), Arc::new(facts)))
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
    /// The ServiceAccount's token, in a pod.
    mounted: Option<PathBuf>,
}

impl KubeFacts {
    pub fn new(api: Arc<ApiServer>, settings: &config::Kubernetes) -> Self {
        let mounted = Path::new(SERVICE_ACCOUNT).join("token");
        Self {
            api,
            given: settings.service_token.clone(),
            mounted: mounted.exists().then_some(mounted),
        }
    }
}

impl ClusterFacts for KubeFacts {
    fn read(&self, deadline: Deadline, cancel: &Cancel) -> Facts {
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
}

/// Facts are for show: what can't be read is zero or empty.
fn or_default<T: Default>(what: &str, result: Result<T, ApiError>) -> T {
    result.unwrap_or_else(|error| {
        log::debug!("the cluster's {what} can't be read: {error}");
        T::default()
    })
}
