//! What an agent is made of.

use std::sync::Arc;
use std::time::Duration;

use crate::config::TokenSource;
use crate::control::dispatch::RequestSink;
use crate::control::facts::ClusterFacts;
use crate::control::refusals::Refusals;
use crate::control::registration::Registrant;
use crate::control::{heartbeat, session};
use crate::identity::Store;
use crate::link::{self, Message};
use crate::net::{Cancel, Deadline, Dialer};
use crate::proxy::{Executor, Outlet};
use crate::server::HealthState;
use crate::wire::{ProxyRequest, from_agent};

/// Everything that the conductor needs; `run` makes it from the configuration, demo
/// and tests from what they have.
pub struct Parts {
    pub session: session::Settings,
    pub heartbeat: heartbeat::Settings,
    pub link: link::Settings,
    /// `pipeops.api_url`.
    pub api_url: String,
    /// Read again for each dial.
    pub token: TokenSource,
    pub registrant: Registrant,
    /// What heartbeats say (decisions.md §6.1).
    pub is_private: bool,
    /// `agent.report_worker_join` (T37).
    pub report_worker_join: bool,
    /// One registration in HTTP mode (30 s).
    pub http_limit: Duration,
    /// One heartbeat in HTTP mode (10 s).
    pub heartbeat_limit: Duration,
    /// From [`Agent::stop`](super::Agent::stop) to the end (25 s).
    pub shutdown_limit: Duration,
    pub dialer: Dialer,
    pub proxy: Arc<dyn Proxying>,
    pub facts: Arc<dyn ClusterFacts>,
    pub store: Arc<dyn Store>,
    pub health: Arc<HealthState>,
}

/// Executes the requests of connections: the proxy's executor, or a stand-in.
pub trait Proxying: Send + Sync {
    /// The requests of a new connection, answered through `outlet`. The sink is
    /// used on the connection's reader thread and dropped when it is lost.
    fn connection(&self, outlet: Arc<dyn Outlet>) -> Box<dyn RequestSink>;

    /// Takes nothing new and waits for what runs, until `deadline` at most.
    fn drain(&self, deadline: Deadline);
}

impl Proxying for Arc<Executor> {
    fn connection(&self, outlet: Arc<dyn Outlet>) -> Box<dyn RequestSink> {
        Box::new(Executor::connection(self, outlet))
    }

    fn drain(&self, deadline: Deadline) {
        Executor::drain(self, deadline);
    }
}

/// Refuses every request: for an agent that has nothing to proxy to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProxy;

impl Proxying for NoProxy {
    fn connection(&self, outlet: Arc<dyn Outlet>) -> Box<dyn RequestSink> {
        let send = move |message| outlet.send(message, &Cancel::new());
        Box::new(Refuser(Refusals::new(send)))
    }

    fn drain(&self, _deadline: Deadline) {}
}

struct Refuser(Refusals);

impl RequestSink for Refuser {
    fn request(&mut self, id: &str, request: ProxyRequest<'_>) {
        let text = "there is nothing to proxy to: this agent has no Kubernetes API";
        let message = Message::text(256, |buf| {
            if request.stream_response {
                from_agent::proxy_response_abort(buf, id, text);
            } else {
                from_agent::proxy_error(buf, id, text);
            }
        });
        if !self.0.send(message) {
            log::debug!("a refusal was dropped: too many wait");
        }
    }

    fn binary(&mut self, _message: &[u8]) -> bool {
        false
    }

    fn text_arrived(&mut self) {}
    fn chunk(&mut self, _id: &str, _data: Option<&str>) {}
    fn end(&mut self, _id: &str) {}
    fn cancel(&mut self, _id: &str) {}
    fn use_flow_control(&mut self) {}
    fn credit(&mut self, _id: &str, _bytes: u64) {}
}
