//! A plane and an agent, in this process, connected over TLS on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pipeops_agent::agent::{self, Agent};
use pipeops_agent::config::{Config, OutboundProxy, Secret, StateBackend, TokenSource};
use pipeops_agent::kube::Credentials;
use pipeops_agent::net::Deadline;
use pipeops_agent::plane::{
    Access, CertificateSource, ClusterName, ClusterView, GatewayUrl, Grant, Plane, PlaneConfig,
    Scope,
};
use pipeops_agent::server::HealthState;
use pipeops_agent::url::Url;
use tempfile::TempDir;

use crate::http::Http;
use crate::kubectl::Kubectl;
use crate::{LIMIT, wait_for};

pub(crate) struct House {
    agent: Agent,
    plane: Plane,
    user_token: String,
    _folder: TempDir,
}

/// What differs from test to test.
pub(crate) struct Plan {
    credentials: Credentials,
    impersonate: bool,
    service_token: Option<String>,
    heartbeat: Duration,
}

impl Plan {
    /// With these as the agent's own credentials.
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            impersonate: false,
            service_token: None,
            heartbeat: Duration::from_secs(30),
        }
    }

    /// The agent's own identity is lent to users of the plane.
    pub(crate) fn lend(mut self) -> Self {
        self.impersonate = true;
        self
    }

    /// The agent hands this over for the plane's users.
    pub(crate) fn hand_over(mut self, token: &str) -> Self {
        self.service_token = Some(token.to_owned());
        self
    }

    /// Facts are read with each heartbeat.
    pub(crate) fn heartbeat_every(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// Starts both and waits until requests can be made.
    pub(crate) fn build(self) -> House {
        let folder = tempfile::tempdir().expect("a folder");
        let plane = Plane::start(PlaneConfig {
            data_dir: folder.path().join("plane"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            certificate: CertificateSource::Generated { names: Vec::new() },
            gateway: GatewayUrl::SameHost,
            http: ([127, 0, 0, 1], 0).into(),
        })
        .expect("a plane");
        let token = |grant| {
            let (_, text) = plane.create_token(grant).expect("a token");
            text.reveal().to_owned()
        };
        let agent_token = token(Grant::Agent {
            cluster: ClusterName::parse(CLUSTER).expect("a name"),
        });
        let user_token = token(Grant::User {
            scope: Scope::All,
            access: Access::Use,
        });

        let config = self.config(&plane, &agent_token, folder.path());
        let health = Arc::new(HealthState::new(self.heartbeat));
        let (proxy, facts) = agent::reach(Some(self.credentials), &config).expect("usable");
        let parts = agent::parts(&config, health, proxy, facts).expect("parts");
        let agent = Agent::start(parts).expect("an agent");
        let house = House {
            agent,
            plane,
            user_token,
            _folder: folder,
        };
        house.heartbeats(1);
        house
    }

    fn config(&self, plane: &Plane, token: &str, folder: &Path) -> Config {
        let mut config = Config::defaults();
        CLUSTER.clone_into(&mut config.agent.cluster_name);
        config.agent.heartbeat_interval_connected = self.heartbeat;
        config.pipeops.api_url = Url::parse(&plane.url()).expect("a URL");
        config.pipeops.token = TokenSource::Literal(Secret::new(token));
        config.pipeops.tls.ca_file = Some(plane.certificate_path().to_owned());
        config.pipeops.proxy = OutboundProxy::default();
        config.state.backend = StateBackend::File;
        config.state.file = folder.join("agent").join("state.yaml");
        config.kubernetes.impersonate_agent = self.impersonate;
        config.kubernetes.service_token = self.service_token.as_deref().map(Secret::new);
        config
    }
}

impl House {
    /// A raw client of the plane, with a user's token.
    pub(crate) fn http(&self) -> Http {
        let address = self.plane.addr().to_string();
        Http::front(&address, self.plane.ca_pem(), CLUSTER, &self.user_token)
    }

    /// A kubectl that takes the plane for an API server.
    pub(crate) fn kubectl(&self, kube: &Path) -> Kubectl {
        Kubectl::at(kube, &self.server(), &self.ca(), &self.token())
    }

    /// What a client takes for the URL of an API server.
    pub(crate) fn server(&self) -> String {
        format!("{}/clusters/{CLUSTER}", self.plane.url())
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.plane.certificate_path().to_owned()
    }

    /// A user's token.
    pub(crate) fn token(&self) -> String {
        self.user_token.clone()
    }

    /// What the plane knows of the cluster.
    pub(crate) fn view(&self) -> ClusterView {
        let views = self.plane.clusters();
        views.into_iter().next().expect("it has registered")
    }

    /// Waits for this many acknowledged heartbeats on from now on; returns the view
    /// after the last of them.
    pub(crate) fn heartbeats(&self, count: u64) -> ClusterView {
        let before = self.agent.status().heartbeat_acks;
        self.agent
            .wait_until(Deadline::after(LIMIT), |status| {
                status.heartbeat_acks >= before + count
            })
            .unwrap_or_else(|| panic!("no heartbeat: {:?}", self.agent.status()));
        wait_for("the cluster in the plane's list", || {
            Some(self.view()).filter(|view| view.connected)
        })
    }

    /// How often the agent has connected.
    pub(crate) fn connections(&self) -> u64 {
        self.agent.status().connections
    }
}

pub(crate) const CLUSTER: &str = "edge";
