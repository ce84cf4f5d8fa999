//! One connection of an agent, and the requests on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::budget::Budget;
use super::exchange::{Exchange, Failure};
use super::registry::UnixTime;
use crate::link::{Lane, Link, Message, SendError};
use crate::net::{Cancel, Reason};
use crate::wire::to_agent;

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

    /// The request of that id, while it is in flight.
    pub(crate) fn exchange(&self, id: Option<&str>) -> Option<Arc<Exchange>> {
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
