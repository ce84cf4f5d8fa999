//! What an agent says, taken in on its connection's `link-reader`.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};

use super::agent_connection::AgentConnection;
use super::agent_event::{AgentEvent, Heartbeat, RegisterRequest};
use super::registry::tidy;
use crate::link::Receiver;
use crate::tunnel::session::{Inbox, Memory};
use crate::wire::stream::CloseText;
use crate::wire::{Envelope, FLOW, FromAgent, RAW_STREAMS, TUNNEL_HEADER_2};

/// Takes an agent's messages on the `link-reader`. Never waits: answers go into
/// their exchanges, the rest to the connection's thread by a bounded channel.
pub(crate) struct AgentReceiver {
    connection: Arc<AgentConnection>,
    events: Sender<AgentEvent>,
    /// For its tunnels.
    memory: Memory,
    /// Gets binary messages, once there are tunnels.
    tunnels: Option<Inbox>,
}

impl AgentReceiver {
    pub(crate) fn new(
        connection: Arc<AgentConnection>,
        events: Sender<AgentEvent>,
        memory: Memory,
    ) -> Self {
        Self {
            connection,
            events,
            memory,
            tunnels: None,
        }
    }

    fn tell(&self, event: AgentEvent) {
        match self.events.try_send(event) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.connection
                    .abort("the agent sends more than anybody can read");
            }
        }
    }

    fn dispatch(&mut self, text: &str) {
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(error) => {
                // It may quote the whole of what came.
                let error = tidy(&error.to_string());
                log::debug!(connection = self.connection.id(); "undecodable message: {error}");
                return;
            }
        };
        // What is remembered of a stranger's message has a size.
        let id = envelope
            .request_id
            .as_deref()
            .filter(|id| id.len() <= MAX_ID);
        let exchange = || self.connection.exchange(id);
        let stream = || self.connection.stream(id);
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
            FromAgent::ProxyResponseAbort { error } => {
                if let Some(exchange) = exchange() {
                    exchange.on_failure(&error);
                }
            }
            FromAgent::ProxyError { error, refused } => {
                if let Some(exchange) = exchange() {
                    exchange.on_failure(&error);
                } else if let Some(stream) = stream() {
                    match refused {
                        Some(refused) => stream.on_refused(refused),
                        None => stream.on_failure(&error),
                    }
                }
            }
            FromAgent::WebSocketStarted { protocol } => {
                if let Some(stream) = stream() {
                    stream.on_started(protocol.as_deref());
                }
            }
            FromAgent::WebSocketData(message) => {
                if let Some(stream) = stream() {
                    stream.on_data(message.data.as_deref().unwrap_or_default());
                }
            }
            FromAgent::WebSocketClose { said, .. } => {
                if let Some(stream) = stream() {
                    stream.on_close(said.map(CloseText::into_owned));
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
                } else if let Some(stream) = stream() {
                    stream.on_credit(credit);
                }
            }
            FromAgent::Register(registration) => self.tell(AgentEvent::Register {
                request_id: id.unwrap_or_default().to_owned(),
                registration: Box::new(RegisterRequest::from_wire(&registration)),
            }),
            FromAgent::Heartbeat(report) => {
                self.tell(AgentEvent::Heartbeat(Heartbeat::from_wire(&report)));
            }
            FromAgent::PlaneHelloAck { features } => {
                let knows = |name| features.iter().any(|feature| feature == name);
                self.tell(AgentEvent::Hello {
                    flow: knows(FLOW),
                    raw_streams: knows(RAW_STREAMS),
                    client_addresses: knows(TUNNEL_HEADER_2),
                });
            }
            FromAgent::ProtocolFallback { unknown_type } if unknown_type == "plane_hello" => {
                self.tell(AgentEvent::Hello {
                    flow: false,
                    raw_streams: false,
                    client_addresses: false,
                });
            }
            FromAgent::ProtocolFallback { unknown_type } => {
                let unknown = tidy(&unknown_type);
                log::info!(connection = self.connection.id(); "the agent doesn't know {unknown:?}");
            }
            FromAgent::Ping => self.tell(AgentEvent::Ping {
                request_id: id.map(str::to_owned),
            }),
            FromAgent::GatewayHelloAck { use_yamux: true } => {
                // Here, on the reader: the agent may speak yamux at once.
                if let Some(inbox) = self.connection.begin_tunnels(&self.memory) {
                    self.tunnels = Some(inbox);
                }
            }
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
        if let Some(exchange) = self.connection.exchange(id) {
            exchange.on_failure("the agent answered in a form that can't be read safely");
        }
    }
}

impl Receiver for AgentReceiver {
    fn text(&mut self, message: &str) {
        self.dispatch(message);
    }

    /// yamux has no messages, only bytes.
    fn takes_pieces(&self) -> bool {
        self.tunnels.is_some()
    }

    fn binary_piece(&mut self, piece: &[u8], _last: bool) {
        if let Some(tunnels) = &mut self.tunnels {
            tunnels.receive(piece);
        }
    }

    fn binary(&mut self, message: &[u8]) {
        if let Some(tunnels) = &mut self.tunnels {
            return tunnels.receive(message);
        }
        match std::str::from_utf8(message) {
            Ok(text) if text.trim_start().starts_with('{') => self.dispatch(text),
            _ => self.refuse_binary_response(message),
        }
    }
}

impl Drop for AgentReceiver {
    /// The reader has ended, and with it the connection: no answer will come.
    fn drop(&mut self) {
        self.connection.on_link_ended();
    }
}

/// Longest request id that is looked at, in bytes; ours have some 20.
const MAX_ID: usize = 512;

#[cfg(test)]
mod tests;
