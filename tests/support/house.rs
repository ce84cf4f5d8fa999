//! A plane and agents in this process, over real TLS on loopback.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pipeops_agent::agent::{self, Agent, Parts};
use pipeops_agent::config::{Config, OutboundProxy, Secret, StateBackend, TokenSource};
use pipeops_agent::kube::Credentials;
use pipeops_agent::plane::{
    Access, CertificateSource, ClusterName, GatewayUrl, Grant, Plane, PlaneConfig, Scope,
};
use pipeops_agent::server::HealthState;
use pipeops_agent::url::Url;
use tempfile::TempDir;

use super::front::Front;
use super::process::AgentSettings;
use super::wait::{far, until};

pub(crate) struct House {
    pub(crate) plane: Plane,
    pub(crate) config: PlaneConfig,
    folder: TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with_gateway(GatewayUrl::SameHost)
    }

    pub(crate) fn with_gateway(gateway: GatewayUrl) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = PlaneConfig {
            data_dir: folder.path().join("plane"),
            listen: "127.0.0.1:0".parse().expect("an address"),
            certificate: CertificateSource::Generated {
                names: vec![NAME.to_owned()],
            },
            gateway,
        };
        let plane = Plane::start(config.clone()).expect("starts");
        Self {
            plane,
            config,
            folder,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.plane.addr()
    }

    pub(crate) fn token(&self, grant: Grant) -> String {
        let (_, text) = self.plane.create_token(grant).expect("made");
        text.reveal().to_owned()
    }

    pub(crate) fn agent_token(&self, cluster: &str) -> String {
        self.token(Grant::Agent {
            cluster: name(cluster),
        })
    }

    /// Somebody who may do everything, at this cluster's door.
    pub(crate) fn front(&self, cluster: &str) -> Front {
        let token = self.token(Grant::User {
            scope: Scope::All,
            access: Access::Use,
        });
        Front::new(self.address(), self.plane.ca_pem(), &token, cluster)
    }

    /// What an agent of this cluster is configured with. Heartbeats and reconnects
    /// are as fast as tests want them.
    pub(crate) fn agent_config(&self, cluster: &str) -> Config {
        let mut config = agent_config(
            &format!("https://{}", self.address()),
            &self.agent_token(cluster),
            self.plane.certificate_path(),
        );
        cluster.clone_into(&mut config.agent.cluster_name);
        config
    }

    /// An agent in front of this API server, ready for requests.
    pub(crate) fn agent(&self, cluster: &str, credentials: Credentials) -> Agent {
        let config = self.agent_config(cluster);
        let agent = start(&config, Some(credentials));
        self.attached(cluster);
        agent
    }

    /// What an agent of the cluster `edge`, as a process, is started with; it dials
    /// `address`.
    pub(crate) fn settings(&self, address: &impl ToString) -> AgentSettings<'static> {
        AgentSettings::new(
            address,
            self.plane.certificate_path(),
            self.agent_token("edge"),
        )
    }

    /// Waits until requests go to the cluster's agent.
    pub(crate) fn attached(&self, cluster: &str) {
        until("the agent is connected", || self.is_connected(cluster));
    }

    pub(crate) fn is_connected(&self, cluster: &str) -> bool {
        let name = name(cluster);
        let mut views = self.plane.clusters().into_iter();
        views.any(|view| view.cluster.name == name && view.connected)
    }

    /// A file in the house's folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }
}

/// A name of the plane that no resolver knows: for proxies.
pub(crate) const NAME: &str = "plane.test";

pub(crate) fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).expect("a name")
}

/// Reconnects at once; otherwise the defaults.
pub(crate) fn agent_config(api_url: &str, token: &str, ca: &Path) -> Config {
    let mut config = Config::defaults();
    config.pipeops.api_url = Url::parse(api_url).expect("a URL");
    config.pipeops.token = TokenSource::Literal(Secret::new(token));
    config.pipeops.tls.ca_file = Some(ca.to_owned());
    config.pipeops.proxy = OutboundProxy::default(); // loopback needs none
    config.state.backend = StateBackend::Memory;
    config.timeouts.websocket_reconnect = Duration::from_millis(2);
    config.timeouts.websocket_reconnect_max = Duration::from_millis(20);
    config.timeouts.shutdown = Duration::from_secs(5);
    config
}

/// An agent of this configuration, in front of this API server.
pub(crate) fn start(config: &Config, credentials: Option<Credentials>) -> Agent {
    Agent::start(parts(config, credentials)).expect("started")
}

pub(crate) fn parts(config: &Config, credentials: Option<Credentials>) -> Parts {
    let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
    let (proxy, facts) = agent::reach(credentials, config).expect("usable");
    agent::parts(config, health, proxy, facts).expect("usable")
}

/// Waits until the agent has had the acknowledgement of a heartbeat.
pub(crate) fn acknowledged(agent: &Agent) {
    agent
        .wait_until(far(), |status| status.heartbeat_acks > 0)
        .expect("a heartbeat is acknowledged");
}
