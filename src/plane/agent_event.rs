//! What an agent says about itself, owned and cut to size.

use super::registry::{AgentInfo, ServiceToken, tidy};
use crate::wire::from_agent;

/// What an agent says about itself: handled in order by the connection's own thread,
/// because some of it goes to disk.
#[derive(Debug)]
pub(crate) enum AgentEvent {
    Register {
        request_id: String,
        registration: Box<RegisterRequest>,
    },
    Heartbeat(Heartbeat),
    /// The answer to `plane_hello`; an agent that doesn't know it knows no features.
    Hello {
        flow: bool,
        /// `raw-streams`.
        raw_streams: bool,
        /// `tunnel_header_2`, which only an agent with tunnels knows.
        client_addresses: bool,
    },
    Ping {
        request_id: Option<String>,
    },
}

/// A `heartbeat`, cut to size.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    pub(crate) cluster_id: String,
    pub(crate) agent_id: String,
    pub(crate) nodes: u64,
    pub(crate) pods: u64,
}

impl Heartbeat {
    pub(crate) fn from_wire(report: &from_agent::HeartbeatReport) -> Self {
        Self {
            cluster_id: tidy(&report.cluster_id),
            agent_id: tidy(&report.agent_id),
            nodes: report.k8s_nodes,
            pods: report.k8s_pods,
        }
    }
}

/// A `register`, owned.
#[derive(Debug)]
pub(crate) struct RegisterRequest {
    pub(crate) name: String,
    pub(crate) agent: AgentInfo,
    pub(crate) service_token: Option<ServiceToken>,
}

impl RegisterRequest {
    pub(crate) fn from_wire(registration: &from_agent::Registration<'_>) -> Self {
        Self {
            name: tidy(&registration.name),
            agent: AgentInfo::new(
                &registration.agent_id,
                &registration.agent_version,
                &registration.k8s_version,
                &registration.hostname,
            ),
            service_token: registration
                .k8s_service_token
                .as_deref()
                .and_then(ServiceToken::new),
        }
    }
}
