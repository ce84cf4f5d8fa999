//! An agent in this process and the gateway that it talks to.

use std::sync::Arc;
use std::time::Duration;

use pipeops_agent::agent::{self, Agent, AgentError, Parts};
use pipeops_agent::config::{Config, Origin, Secret, StateBackend, TokenSource};
use pipeops_agent::identity::{Identity, MemoryStore, Store};
use pipeops_agent::net::Deadline;
use pipeops_agent::server::HealthState;
use pipeops_agent::url::Url;
use serde_json::json;

use crate::driver::Gateway;

/// The gateway's own ids.
pub(crate) const CLUSTER_ID: &str = "5b0d7f3c-3a0e-4a5c-8f26-0d4a1c9e7b11";
pub(crate) const CLUSTER_UUID: &str = "c19e2d84-77a1-4f0b-9d3e-62b8f5a04c22";

/// A gateway, and what agents that talk to it have in common: the state survives
/// them, as it does restarts.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) store: Arc<MemoryStore>,
    /// Of a plain machine; none: there is no such machine.
    pub(crate) routes: Vec<(String, Origin)>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::over(Gateway::start())
    }

    pub(crate) fn over(gateway: Gateway) -> Self {
        Self {
            gateway,
            store: Arc::default(),
            routes: Vec::new(),
        }
    }

    /// A controller that names no gateway.
    pub(crate) fn without_gateway() -> Self {
        let stage = Self::new();
        stage.gateway.set("gateway_url", "");
        stage
    }

    /// The stored id of an earlier registration that can't be resumed.
    pub(crate) fn stored_id(&self, id: &str) {
        let identity = Identity {
            cluster_id: Some(id.to_owned()),
            ..self.store.identity()
        };
        self.store.save(&identity).expect("memory takes it");
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::defaults();
        "interop".clone_into(&mut config.agent.cluster_name);
        config.agent.id = Some("interop-agent".to_owned());
        config.pipeops.api_url = Url::parse(&self.gateway.controller_url).expect("a URL");
        config.pipeops.token = TokenSource::Literal(Secret::new(self.gateway.token.clone()));
        config.pipeops.tls.ca_file = Some(self.gateway.ca_file());
        config.state.backend = StateBackend::Memory;
        config.timeouts.websocket_reconnect = QUICK;
        config.timeouts.websocket_reconnect_max = QUICK * 4;
        config.daemon.routes = self.routes.iter().cloned().collect();
        config
    }

    /// The parts of an agent without a cluster.
    pub(crate) fn parts(&self, config: &Config) -> Parts {
        let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
        let (proxy, facts) = agent::reach(None, config).expect("nothing to fail");
        let parts = agent::parts(config, health, proxy, facts);
        let mut parts = parts.expect("parts");
        parts.store = self.store.clone();
        // On a machine that is busy with other tests a close may take its time, and
        // one that is cut off is a fault here.
        parts.session.leave_limit = Duration::from_secs(30);
        parts
    }

    pub(crate) fn start(&self) -> Agent {
        self.start_with(|_| {})
    }

    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Parts)) -> Agent {
        let mut parts = self.parts(&self.config());
        change(&mut parts);
        Agent::start(parts).expect("started")
    }

    /// Waits until the agent has come by way of the controller to the gateway; the
    /// connection's name.
    pub(crate) fn arrived(&self) -> String {
        let controller = self.gateway.connection("controller");
        self.gateway.closed(&controller, 1000);
        let gateway = self.gateway.connection("gateway");
        self.heartbeat_on(&gateway);
        gateway
    }

    /// Waits for the next heartbeat on `conn`; its ack may still be on the way.
    pub(crate) fn heartbeat_on(&self, conn: &str) {
        self.gateway
            .expect(json!({"event": "message", "conn": conn, "type": "heartbeat"}));
    }

    /// An orderly end; `conn` is what the agent is connected by.
    pub(crate) fn stop(&self, agent: Agent, conn: &str) {
        self.gateway.settle();
        agent.stop();
        self.gateway.closed(conn, 1000);
        agent.wait().expect("an orderly end");
    }

    /// The last act.
    pub(crate) fn end(self, agent: Agent, conn: &str) {
        self.stop(agent, conn);
        self.gateway.finish();
    }
}

/// The agent ends by itself, refused, for this reason.
pub(crate) fn refused(agent: Agent) -> String {
    match agent.wait() {
        Err(AgentError::Refused(why)) => why,
        other => panic!("{other:?} instead of a refusal"),
    }
}

/// Only a failing test waits so long.
pub(crate) fn far() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

/// The first reconnect delay of agents here.
pub(crate) const QUICK: Duration = Duration::from_millis(10);
