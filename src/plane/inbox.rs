//! What an agent says, taken in on its connection's `link-reader`.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};

use super::registry::{AgentInfo, ServiceToken, tidy};
use super::session::Session;
use crate::link::Receiver;
use crate::wire::{Envelope, FromAgent, from_agent};

/// What an agent says about itself: handled in order by the session's own thread,
/// because some of it goes to disk.
#[derive(Debug)]
pub(crate) enum Event {
    Register {
        request_id: String,
        registration: Box<Registration>,
    },
    Heartbeat(Beat),
    /// The answer to `plane_hello`; an agent that doesn't know it knows no features.
    Hello {
        flow: bool,
    },
    Ping {
        request_id: Option<String>,
    },
}

/// A `heartbeat`, cut to size.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    pub(crate) cluster_id: String,
    pub(crate) agent_id: String,
    pub(crate) nodes: u64,
    pub(crate) pods: u64,
}

impl Beat {
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
pub(crate) struct Registration {
    pub(crate) name: String,
    pub(crate) agent: AgentInfo,
    pub(crate) service_token: Option<ServiceToken>,
}

impl Registration {
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

/// Takes an agent's messages on the `link-reader`. Never waits: answers go into
/// their exchanges, the rest to the session's thread by a bounded channel.
pub(crate) struct Inbox {
    session: Arc<Session>,
    events: Sender<Event>,
}

impl Inbox {
    pub(crate) fn new(session: Arc<Session>, events: Sender<Event>) -> Self {
        Self { session, events }
    }

    fn tell(&self, event: Event) {
        match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.session
                    .abort("the agent sends more than anybody can read");
            }
        }
    }

    fn dispatch(&self, text: &str) {
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(error) => {
                log::debug!(session = self.session.id(); "undecodable message: {error}");
                return;
            }
        };
        // What is remembered of a stranger's message has a size.
        let id = envelope
            .request_id
            .as_deref()
            .filter(|id| id.len() <= MAX_ID);
        let exchange = || self.session.exchange(id);
        match FromAgent::parse(&envelope) {
            FromAgent::ProxyResponseChunk { data } => {
                if let Some(exchange) = exchange() {
                    exchange.on_chunk(&data);
                }
            }
            FromAgent::ProxyResponseHeader { status, headers } => {
                if let Some(exchange) = exchange() {
                    exchange.on_head(status, headers);
                }
            }
            FromAgent::ProxyResponseEnd => {
                if let Some(exchange) = exchange() {
                    exchange.on_end();
                }
            }
            FromAgent::ProxyResponseAbort { error } | FromAgent::ProxyError { error } => {
                if let Some(exchange) = exchange() {
                    exchange.on_failure(&error);
                }
            }
            FromAgent::ProxyResponse {
                status,
                headers,
                body,
            } => {
                if let Some(exchange) = exchange() {
                    exchange.on_response(status, headers, &body);
                }
            }
            FromAgent::ProxyFlow { credit } => {
                if let Some(exchange) = exchange() {
                    exchange.on_credit(credit);
                }
            }
            FromAgent::Register(registration) => self.tell(Event::Register {
                request_id: id.unwrap_or_default().to_owned(),
                registration: Box::new(Registration::from_wire(&registration)),
            }),
            FromAgent::Heartbeat(report) => self.tell(Event::Heartbeat(Beat::from_wire(&report))),
            FromAgent::PlaneHelloAck { features } => self.tell(Event::Hello {
                flow: features.iter().any(|feature| feature == FLOW),
            }),
            FromAgent::ProtocolFallback { unknown_type } if unknown_type == "plane_hello" => {
                self.tell(Event::Hello { flow: false });
            }
            FromAgent::ProtocolFallback { unknown_type } => {
                let unknown = tidy(&unknown_type);
                log::info!(session = self.session.id(); "the agent doesn't know {unknown:?}");
            }
            FromAgent::Ping => self.tell(Event::Ping {
                request_id: id.map(str::to_owned),
            }),
            FromAgent::Pong | FromAgent::GatewayHelloAck { .. } | FromAgent::Other => {}
        }
    }

    /// Form B in a binary message (control-channel.md §5.2) has no place for its
    /// encoding, so it can't be read safely. Nothing we send asks for it.
    fn refuse_binary_response(&self, message: &[u8]) {
        let Some((length, rest)) = message.split_first_chunk::<2>() else {
            return;
        };
        let id = rest
            .get(..usize::from(u16::from_be_bytes(*length)))
            .and_then(|id| std::str::from_utf8(id).ok());
        if let Some(exchange) = self.session.exchange(id) {
            exchange.on_failure("the agent answered in a form that can't be read safely");
        }
    }
}

impl Receiver for Inbox {
    fn text(&mut self, message: &str) {
        self.dispatch(message);
    }

    fn binary(&mut self, message: &[u8]) {
        match std::str::from_utf8(message) {
            Ok(text) if text.trim_start().starts_with('{') => self.dispatch(text),
            _ => self.refuse_binary_response(message),
        }
    }
}

impl Drop for Inbox {
    /// The reader has ended, and with it the connection: no answer will come.
    fn drop(&mut self) {
        self.session.closed();
    }
}

/// The feature of `plane_hello` by which bodies have credit (decisions.md §6.2).
pub(crate) const FLOW: &str = "flow";

/// Longest request id that is looked at, in bytes; ours have some 20.
const MAX_ID: usize = 512;

#[cfg(test)]
mod tests;
