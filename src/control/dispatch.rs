//! Every message of the peer finds its place (control-channel.md §2.6, §4).
//!
//! This runs on the `link-reader` thread and never waits: requests go to the proxy,
//! what concerns the life cycle goes to the conductor, and the few answers that are
//! given here are queued.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::channel::{Channel, printable};
use super::json_tunnels::json_tunnel;
use super::late::LateAnswers;
use super::refusals::Refusals;
use super::session::Generation;
use super::sinks::{RequestSink, TunnelSink};
use crate::link::{Lane, Message, Receiver, Slot};
use crate::net::Cancel;
use crate::telemetry::RateLimit;
use crate::tunnel::json;
use crate::wire::to_agent::{GatewayHello, Registered};
use crate::wire::{
    Envelope, EnvelopeError, FLOW, RAW_STREAMS, TUNNEL_HEADER_2, ToAgent, from_agent,
};

/// What the conductor hears of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    RegisterSuccess {
        request_id: Option<String>,
        registered: Box<Registered>,
    },
    RegisterInProgress,
    HeartbeatAck,
    Error {
        request_id: Option<String>,
        text: String,
    },
}

/// Routes the messages of one connection.
pub struct Dispatch<R> {
    generation: Generation,
    channel: Arc<dyn Channel>,
    requests: R,
    tunnels: Box<dyn TunnelSink>,
    /// `None` where `tunnels.enabled` is off.
    json_tunnels: Option<json::Tunnels>,
    /// Must not block.
    hear: Box<dyn Fn(PeerMessage) + Send>,
    late: Arc<LateAnswers>,
    refusals: Refusals,
    /// Unknown types, and how often each came.
    unknown: HashMap<Box<str>, u64>,
    /// No message was read yet.
    fresh: bool,
}

impl<R: RequestSink> Dispatch<R> {
    pub fn new(
        generation: Generation,
        channel: Arc<dyn Channel>,
        requests: R,
        tunnels: Box<dyn TunnelSink>,
        json_tunnels: Option<json::Tunnels>,
        late: Arc<LateAnswers>,
        hear: Box<dyn Fn(PeerMessage) + Send>,
    ) -> Self {
        let bulk = channel.clone();
        Self {
            generation,
            refusals: Refusals::new(move |slot, message| {
                bulk.send(Lane::Bulk(slot), message, &Cancel::new())
            }),
            channel,
            requests,
            tunnels,
            json_tunnels,
            hear,
            late,
            unknown: HashMap::new(),
            fresh: true,
        }
    }

    fn message(&mut self, text: &str) {
        let first = std::mem::replace(&mut self.fresh, false);
        match Envelope::parse(text) {
            Ok(envelope) => self.dispatch(&envelope, first),
            Err(error) => self.undecodable(&error),
        }
    }

    fn dispatch(&mut self, envelope: &Envelope<'_>, first: bool) {
        let id = envelope.request_id.as_deref();
        match ToAgent::parse(envelope) {
            ToAgent::RegisterSuccess(registered) => (self.hear)(PeerMessage::RegisterSuccess {
                request_id: id.map(str::to_owned),
                registered: Box::new(registered),
            }),
            ToAgent::RegisterInProgress => (self.hear)(PeerMessage::RegisterInProgress),
            ToAgent::HeartbeatAck => (self.hear)(PeerMessage::HeartbeatAck),
            ToAgent::Ping => self.control(|buf| from_agent::pong(buf, id)),
            ToAgent::Error(text) => self.error(id, &text),
            ToAgent::GatewayHello(hello) => self.gateway_hello(&hello),
            ToAgent::PlaneHello { features } => self.plane_hello(&features, first),
            ToAgent::ProxyFlow { credit } => {
                if let Some(id) = known("proxy_flow", id) {
                    self.requests.credit(id, credit);
                }
            }
            ToAgent::ProxyRequest(request) => {
                if let Some(id) = known("proxy_request", id) {
                    self.late.used(self.generation, id);
                    self.requests.request(id, *request);
                }
            }
            ToAgent::ProxyRequestChunk { data } => {
                if let Some(id) = known("proxy_request_chunk", id) {
                    self.requests.chunk(id, data.as_deref());
                }
            }
            ToAgent::ProxyRequestStreamEnd => {
                if let Some(id) = known("proxy_request_stream_end", id) {
                    self.requests.end(id);
                }
            }
            ToAgent::ProxyCancel => {
                if let Some(id) = known("proxy_cancel", id) {
                    self.requests.cancel(id);
                }
            }
            ToAgent::WebSocketStart(start) => self.requests.start_stream(&start),
            ToAgent::WebSocketData(data) => self.requests.stream_data(&data),
            ToAgent::WebSocketClose { ids, said } => self.requests.close_stream(&ids, said),
            message @ (ToAgent::TcpTunnelStart(_)
            | ToAgent::TcpTunnelData { .. }
            | ToAgent::TcpTunnelClose { .. }
            | ToAgent::UdpTunnelData(_)) => {
                if let Some(answer) = json_tunnel(self.json_tunnels.as_mut(), id, &message) {
                    self.refuse_by(id.unwrap_or_default(), answer);
                }
            }
            // Nobody asked.
            ToAgent::Pong => {}
            ToAgent::Unknown => self.unknown(&envelope.kind, id),
        }
    }

    /// The order of decisions.md §6.6: the old session has said its last word and the
    /// new one has its place, then the ack is queued, before all else that is; only
    /// then the new one speaks (tunnels.md §1.4, T6, T10).
    fn gateway_hello(&mut self, hello: &GatewayHello) {
        if !hello.use_yamux {
            log::info!("the gateway offers no tunnels");
            return;
        }
        self.requests.refuse_binary_bodies();
        self.tunnels.replace(hello);
        self.control(from_agent::gateway_hello_ack);
        self.tunnels.begin();
    }

    /// The features that both know. A hello that isn't the first message comes too
    /// late for features: requests may run without them already.
    fn plane_hello(&mut self, features: &[String], first: bool) {
        let common: Vec<&str> = FEATURES
            .iter()
            .copied()
            .filter(|ours| first && features.iter().any(|theirs| theirs == ours))
            .collect();
        // Answers wait for credit before the ack tells the peer to give any.
        if common.contains(&FLOW) {
            self.requests.use_flow_control();
        }
        if common.contains(&RAW_STREAMS) {
            self.requests.use_raw_streams();
        }
        if common.contains(&TUNNEL_HEADER_2) {
            self.tunnels.use_client_addresses();
        }
        self.control(|buf| from_agent::plane_hello_ack(buf, &common));
    }

    fn error(&mut self, id: Option<&str>, text: &str) {
        static ERRORS: RateLimit = RateLimit::new(5, Duration::from_mins(1));
        let text = printable(text);
        if let Some(skipped) = ERRORS.pass() {
            log::warn!(skipped; "the control plane reports an error: {text}");
        }
        (self.hear)(PeerMessage::Error {
            request_id: id.map(str::to_owned),
            text,
        });
    }

    /// control-channel.md §4.3: answered once per type and connection.
    fn unknown(&mut self, kind: &str, id: Option<&str>) {
        if let Some(count) = self.unknown.get_mut(kind) {
            *count = count.saturating_add(1);
            return;
        }
        if self.unknown.len() >= MAX_UNKNOWN || kind.len() > MAX_UNKNOWN_LENGTH {
            static MORE: RateLimit = RateLimit::new(1, Duration::from_mins(1));
            if let Some(skipped) = MORE.pass() {
                log::warn!(skipped; "message of an unknown type dropped: {}", printable(kind));
            }
            return;
        }
        log::warn!("message of an unknown type: {}", printable(kind));
        self.unknown.insert(kind.into(), 1);
        self.control(|buf| from_agent::protocol_fallback(buf, kind, id));
    }

    /// T15: whoever waits for an answer gets one whenever the id can be read.
    fn undecodable(&mut self, error: &EnvelopeError) {
        static UNDECODABLE: RateLimit = RateLimit::new(5, Duration::from_mins(1));
        if let Some(skipped) = UNDECODABLE.pass() {
            let error = printable(&error.to_string());
            log::warn!(skipped; "undecodable message dropped: {error}");
        }
        if let EnvelopeError::BadPayload {
            kind,
            request_id: Some(id),
        } = error
            && kind == "proxy_request"
            && let Some(id) = known(kind, Some(id))
        {
            let text = "the request's payload is not an object";
            self.refuse(id, |buf| from_agent::proxy_error(buf, id, text));
        }
    }

    /// For what belongs to no request.
    fn control(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        // A link that is gone needs no answer.
        let message = Message::text(SMALL, encode);
        let _ = self.channel.send(Lane::Control, message, &Cancel::new());
    }

    /// What belongs to the request of this id.
    fn refuse(&mut self, id: &str, encode: impl FnOnce(&mut Vec<u8>)) {
        self.refuse_by(id, Message::text(SMALL, encode));
    }

    fn refuse_by(&mut self, id: &str, message: Message) {
        if !self.refusals.send(Slot::of(id), message) {
            let why = "the peer provokes refusals and does not take them";
            self.channel.abort(why);
        }
    }
}

impl<R: RequestSink> Receiver for Dispatch<R> {
    fn text(&mut self, message: &str) {
        self.requests.text_arrived();
        self.message(message);
    }

    /// yamux has no messages, only bytes.
    fn takes_pieces(&self) -> bool {
        self.tunnels.is_active()
    }

    fn binary_piece(&mut self, piece: &[u8], _last: bool) {
        self.tunnels.binary(piece);
    }

    /// yamux, once that is agreed on; before, a request's body, or JSON in a binary
    /// message, which the controller sends.
    fn binary(&mut self, message: &[u8]) {
        if self.tunnels.binary(message) {
            return;
        }
        if self.requests.binary(message) {
            self.fresh = false;
            return;
        }
        let begins_an_object = message.trim_ascii_start().first() == Some(&b'{');
        match str::from_utf8(message) {
            Ok(text) if begins_an_object => self.message(text),
            _ => {
                static BINARY: RateLimit = RateLimit::new(5, Duration::from_mins(1));
                if let Some(skipped) = BINARY.pass() {
                    let length = message.len();
                    log::warn!(skipped, length; "binary message dropped: nobody waits for one");
                }
            }
        }
    }
}

impl<R> Drop for Dispatch<R> {
    /// Before the requests are dropped, so that their answers wait for the next
    /// connection.
    fn drop(&mut self) {
        self.late.lost(self.generation);
    }
}

/// The id of what is kept under it.
pub(super) fn known<'a>(kind: &str, id: Option<&'a str>) -> Option<&'a str> {
    let usable = id.filter(|id| id.len() <= MAX_ID);
    if usable.is_none() {
        static NO_ID: RateLimit = RateLimit::new(5, Duration::from_mins(1));
        if let Some(skipped) = NO_ID.pass() {
            log::warn!(skipped; "{kind} without a request_id of {MAX_ID} bytes at most dropped");
        }
    }
    usable
}

/// Ids of requests are kept as long as these, and repeated in each message: a longer
/// one is nobody's.
const MAX_ID: usize = 4096;

/// The features of `plane_hello` that we know.
const FEATURES: &[&str] = &[FLOW, RAW_STREAMS, TUNNEL_HEADER_2];

/// Unknown types that are answered and remembered per connection.
const MAX_UNKNOWN: usize = 64;

/// A longer one is nobody's message type.
const MAX_UNKNOWN_LENGTH: usize = 128;

/// What the messages that are written here need, in bytes.
const SMALL: usize = 256;

#[cfg(test)]
mod tests;
