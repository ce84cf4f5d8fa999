//! One connection of an agent: its requests, and the receiver on its `link-reader`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::Mutex;

use super::budget::Budget;
use super::exchange::{Exchange, Failure};
use super::registry::{AgentInfo, ServiceToken, UnixTime, tidy};
use crate::link::{Lane, Link, Message, Receiver, SendError};
use crate::net::{Cancel, Reason};
use crate::wire::{Envelope, FromAgent, from_agent, to_agent};

/// What a session needs of a [`Link`].
pub(crate) trait Wire: Send + Sync {
    fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError>;
    fn close(&self, code: u16, reason: &str);
    fn abort(&self, why: &str);
}

impl Wire for Link {
    fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        Self::send(self, lane, message, cancel)
    }

    fn close(&self, code: u16, reason: &str) {
        Self::close(self, code, reason);
    }

    fn abort(&self, why: &str) {
        Self::abort(self, why);
    }
}

/// A connection of an agent, from the upgrade to its end.
pub(crate) struct Session {
    id: u64,
    /// The id of the agent's token.
    token: String,
    since: UnixTime,
    wire: OnceLock<Box<dyn Wire>>,
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The agent knows credit; set before it is attached.
    metered: bool,
    closed: bool,
    next: u64,
    requests: HashMap<String, Arc<Exchange>>,
}

impl Session {
    pub(crate) fn new(token: String, since: UnixTime, budget: Arc<Budget>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            token,
            since,
            wire: OnceLock::new(),
            budget,
            state: Mutex::default(),
        }
    }

    /// Identifies the connection in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// When the connection was made.
    pub(crate) fn since(&self) -> UnixTime {
        self.since
    }

    /// Gives the session its connection, once.
    pub(crate) fn connect(&self, wire: Box<dyn Wire>) {
        let first = self.wire.set(wire).is_ok();
        debug_assert!(first, "a session has one connection");
    }

    /// The agent knows `flow`: applies to requests that are opened after this.
    pub(crate) fn set_metered(&self) {
        self.state.lock().metered = true;
    }

    /// A new request; it leaves the session when the returned handle is dropped.
    pub(crate) fn open(self: &Arc<Self>, token: String) -> Result<Opened, SendError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(SendError::Closed);
        }
        state.next += 1;
        let id = format!("px-{}-{}", self.id, state.next);
        let budget = self.budget.clone();
        let exchange = Arc::new(Exchange::new(id.clone(), token, state.metered, budget));
        state.requests.insert(id, exchange.clone());
        drop(state);
        Ok(Opened {
            outlet: Outlet {
                session: self.clone(),
                exchange,
            },
        })
    }

    /// Queues what belongs to no request; never waits.
    pub(crate) fn send_control(
        &self,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        let wire = self.wire.get().ok_or(SendError::Closed)?;
        wire.send(
            Lane::Control,
            Message::text(expected, encode),
            &Cancel::new(),
        )
    }

    /// Orderly end, with a close code.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        if let Some(wire) = self.wire.get() {
            wire.close(code, reason);
        }
    }

    /// Ends the connection now.
    pub(crate) fn abort(&self, why: &str) {
        if let Some(wire) = self.wire.get() {
            wire.abort(why);
        }
    }

    /// The connection has ended: so have its requests. Nothing opens any more.
    pub(crate) fn closed(&self) {
        let requests = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.requests)
        };
        for exchange in requests.values() {
            exchange.on_agent_gone();
        }
    }

    /// Ends the requests of a user whose token was revoked.
    pub(crate) fn end_requests_of(&self, token: &str, reason: Reason) {
        let requests: Vec<Arc<Exchange>> = self.state.lock().requests.values().cloned().collect();
        for exchange in requests.iter().filter(|e| e.token() == token) {
            exchange.end(reason);
        }
    }

    /// Requests in flight.
    pub(crate) fn load(&self) -> usize {
        self.state.lock().requests.len()
    }

    fn exchange(&self, id: Option<&str>) -> Option<Arc<Exchange>> {
        self.state.lock().requests.get(id?).cloned()
    }
}

/// A request in flight. Dropped before the agent has ended it: `proxy_cancel`.
pub(crate) struct Opened {
    outlet: Outlet,
}

/// The way of a request's messages to the agent; clones may go to other threads.
#[derive(Clone)]
pub(crate) struct Outlet {
    session: Arc<Session>,
    exchange: Arc<Exchange>,
}

impl Opened {
    pub(crate) fn exchange(&self) -> &Arc<Exchange> {
        &self.outlet.exchange
    }

    pub(crate) fn outlet(&self) -> &Outlet {
        &self.outlet
    }
}

impl Outlet {
    pub(crate) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Queues a message of this request, in the lane of requests; waits for room.
    /// `expected` is a guess of its size in bytes.
    pub(crate) fn send(
        &self,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>, &str),
    ) -> Result<(), Failure> {
        self.send_unless(self.exchange.cancel(), expected, encode)
    }

    fn send_unless(
        &self,
        cancel: &Cancel,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>, &str),
    ) -> Result<(), Failure> {
        let wire = self.session.wire.get().ok_or(Failure::AgentGone)?;
        let message = Message::text(expected, |buf| encode(buf, self.exchange.id()));
        wire.send(Lane::Bulk, message, cancel)
            .map_err(|error| match error {
                SendError::Cancelled(reason) => Failure::Ended(reason),
                SendError::Closed => Failure::AgentGone,
            })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let Outlet { session, exchange } = &self.outlet;
        let needs_cancel = exchange.needs_cancel();
        // An upload that still runs stops here.
        exchange.close();
        session.state.lock().requests.remove(exchange.id());
        if needs_cancel {
            // Its own cancellation must not stop this message. A link that is gone
            // needs none.
            let cancel = Cancel::new();
            let _ = self
                .outlet
                .send_unless(&cancel, 128, to_agent::proxy_cancel);
        }
    }
}

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
