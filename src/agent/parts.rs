//! What an agent is made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::TokenSource;
use crate::control::channel::Channel;
use crate::control::facts::ClusterFacts;
use crate::control::outlet::TunnelOutlet;
use crate::control::registration::Registrant;
use crate::control::sinks::RequestSink;
use crate::control::{heartbeat, session};
use crate::identity::Store;
use crate::link;
use crate::net::{Deadline, Dialer};
use crate::proxy::{Executor, Outlet, ServiceUpstreams};
use crate::server::HealthState;
use crate::tunnel::Tunnels;
use crate::tunnel::json::{self, JsonTunnels};
use crate::url::Url;

/// Everything that the conductor needs; `run` makes it from the configuration, demo
/// and tests from what they have.
pub struct Parts {
    pub session: session::Settings,
    pub heartbeat: heartbeat::Settings,
    pub link: link::Settings,
    /// `pipeops.api_url`.
    pub api_url: Url,
    /// Read again for each dial.
    pub token: TokenSource,
    pub registrant: Registrant,
    /// What heartbeats say (decisions.md §6.1).
    pub is_private: bool,
    /// `agent.report_worker_join` (T37).
    pub report_worker_join: bool,
    /// Where k3s keeps the token that it carries.
    pub node_token: PathBuf,
    /// One registration in HTTP mode (30 s).
    pub http_limit: Duration,
    /// One heartbeat in HTTP mode (`timeouts.heartbeat`).
    pub heartbeat_limit: Duration,
    /// From [`Agent::stop`](super::Agent::stop) to the end (25 s).
    pub shutdown_limit: Duration,
    pub dialer: Dialer,
    pub proxy: Arc<dyn Proxying>,
    pub tunnels: Arc<Tunnels>,
    /// TCP and UDP in JSON messages; `None` where `tunnels.enabled` is off.
    pub json_tunnels: Option<Arc<JsonTunnels>>,
    pub facts: Arc<dyn ClusterFacts>,
    pub store: Arc<dyn Store>,
    pub health: Arc<HealthState>,
}

impl Parts {
    /// The JSON tunnels of a new connection, if there are any.
    pub(super) fn json_tunnels(&self, channel: Arc<dyn Channel>) -> Option<json::Tunnels> {
        let tunnels = self.json_tunnels.as_ref()?;
        Some(tunnels.connection(Arc::new(TunnelOutlet::new(channel))))
    }
}

/// Executes the requests of connections: the proxy's executor, or a stand-in.
pub trait Proxying: Send + Sync {
    /// The requests of a new connection, answered through `outlet`. The sink is
    /// used on the connection's reader thread and dropped when it is lost.
    fn connection(&self, outlet: Arc<dyn Outlet>) -> Box<dyn RequestSink>;

    /// From now on requests reach Services, too; said once, before the first connection.
    /// A stand-in has no use for them.
    fn use_services(&self, services: ServiceUpstreams) {
        drop(services);
    }

    /// Takes nothing new and waits for what runs, until `deadline` at most.
    fn drain(&self, deadline: Deadline);
}

impl Proxying for Arc<Executor> {
    fn connection(&self, outlet: Arc<dyn Outlet>) -> Box<dyn RequestSink> {
        Box::new(Executor::connection(self, outlet))
    }

    fn use_services(&self, services: ServiceUpstreams) {
        Executor::use_services(self, services);
    }

    fn drain(&self, deadline: Deadline) {
        Executor::drain(self, deadline);
    }
}
