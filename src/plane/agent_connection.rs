//! One connection of an agent, and the exchanges and streams on it, by their ids.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::budget::Budget;
use super::exchange::{Exchange, Failure};
use super::in_flight::{InFlight, RequestSender};
use super::live_stream::{LiveStream, NoStream};
use super::registry::UnixTime;
use super::stream::Stream;
use super::tunnels;
use crate::link::{Lane, Link, Message, SendError, Slot};
use crate::net::{Cancel, Reason};
use crate::tunnel::header::Version;
use crate::tunnel::session::{Inbox, Memory, Session};
use crate::wire::to_agent;

/// What an [`AgentConnection`] needs of a [`Link`]; tests have one that records.
pub(crate) trait Channel: Send + Sync {
    fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError>;
    fn close(&self, code: u16, reason: &str);
    fn abort(&self, why: &str);
    /// Begins the tunnels' session on it, as the side that opens streams. `None`:
    /// it carries none.
    fn begin_session(&self, _memory: &Memory) -> Option<(Session, Inbox)> {
        None
    }
}

impl Channel for Link {
    fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        Self::send(self, lane, message, cancel)
    }

    fn close(&self, code: u16, reason: &str) {
        Self::close(self, code, reason);
    }

    fn abort(&self, why: &str) {
        Self::abort(self, why);
    }

    fn begin_session(&self, memory: &Memory) -> Option<(Session, Inbox)> {
        let line = Arc::new(self.clone());
        // An agent opens no streams: one that does is refused.
        let begun = Session::start(tunnels::config(), memory, line, drop);
        self.attach(Some(begun.0.carrier()));
        Some(begun)
    }
}

/// A connection of an agent, from the upgrade to its end.
pub(crate) struct AgentConnection {
    id: u64,
    /// The id of the agent's token.
    token: String,
    since: UnixTime,
    channel: OnceLock<Box<dyn Channel>>,
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The agent knows credit; set before it is attached.
    metered: bool,
    /// The agent passes WebSockets on untouched.
    raw_streams: bool,
    /// The newest header of a tunnel's stream that the agent reads.
    headers: Option<Version>,
    tunnels: Tunnels,
    ended: bool,
    /// It was ended before it had a link: why.
    doomed: Option<String>,
    next: u64,
    requests: HashMap<String, Arc<Exchange>>,
    streams: HashMap<String, Arc<Stream>>,
}

/// How far the tunnels of a connection are.
#[derive(Default)]
enum Tunnels {
    #[default]
    None,
    /// The agent has been asked.
    Offered,
    Live(Session),
}

impl AgentConnection {
    pub(crate) fn new(token: String, since: UnixTime, budget: Arc<Budget>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            token,
            since,
            channel: OnceLock::new(),
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

    /// Gives it its link, once. One that was ended meanwhile ends here: an agent may
    /// take its time for the answer to its upgrade.
    pub(crate) fn connect(&self, channel: Box<dyn Channel>) {
        let doomed = {
            let mut state = self.state.lock();
            let first = self.channel.set(channel).is_ok();
            debug_assert!(first, "an agent's connection has one link");
            state.doomed.take()
        };
        if let Some(why) = doomed {
            self.abort(&why);
        }
    }

    /// The agent knows `flow`: applies to requests that are opened after this.
    pub(crate) fn set_metered(&self) {
        self.state.lock().metered = true;
    }

    /// The agent knows `raw-streams`.
    pub(crate) fn set_raw_streams(&self) {
        self.state.lock().raw_streams = true;
    }

    /// The agent reads headers with the client's address in them.
    pub(crate) fn set_client_addresses(&self) {
        self.state.lock().headers = Some(Version::Two);
    }

    /// Asks the agent for tunnels, once.
    pub(crate) fn offer_tunnels(&self) -> Result<(), SendError> {
        {
            let mut state = self.state.lock();
            if state.ended || !matches!(state.tunnels, Tunnels::None) {
                return Ok(());
            }
            state.tunnels = Tunnels::Offered;
        }
        self.send_control(192, |buf| to_agent::gateway_hello(buf, &tunnels::SUGGESTED))
    }

    /// The agent has taken the offer up: binary messages are the inbox's from here
    /// on. `None` where nothing was offered, or the link is no more.
    pub(crate) fn begin_tunnels(&self, memory: &Memory) -> Option<Inbox> {
        let mut state = self.state.lock();
        if state.ended || !matches!(state.tunnels, Tunnels::Offered) {
            return None;
        }
        let (session, inbox) = self.channel.get()?.begin_session(memory)?;
        state.tunnels = Tunnels::Live(session);
        Some(inbox)
    }

    /// The session of its tunnels, and the newest header that may be sent there.
    pub(crate) fn tunnels(&self) -> Option<(Session, Version)> {
        let state = self.state.lock();
        let headers = state.headers.unwrap_or(Version::One);
        match &state.tunnels {
            // One that has ended takes its connection with it, in a moment.
            Tunnels::Live(session) if session.is_live() => Some((session.clone(), headers)),
            Tunnels::None | Tunnels::Offered | Tunnels::Live(_) => None,
        }
    }

    /// A new request; it leaves the connection when the handle is dropped.
    pub(crate) fn open(self: &Arc<Self>, token: String) -> Result<InFlight, SendError> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(SendError::Closed);
        }
        state.next += 1;
        let id = format!("px-{}-{}", self.id, state.next);
        let budget = self.budget.clone();
        let exchange = Arc::new(Exchange::new(id.clone(), token, state.metered, budget));
        state.requests.insert(id, exchange.clone());
        drop(state);
        Ok(InFlight::new(RequestSender::new(self.clone(), exchange)))
    }

    /// A new WebSocket stream; it leaves the connection when the handle is dropped.
    pub(crate) fn open_stream(self: &Arc<Self>, token: String) -> Result<LiveStream, NoStream> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(NoStream::Closed);
        }
        if !state.raw_streams {
            return Err(NoStream::Unknown);
        }
        state.next += 1;
        let id = format!("pw-{}-{}", self.id, state.next);
        let stream = Arc::new(Stream::new(id.clone(), token, self.budget.clone()));
        state.streams.insert(id, stream.clone());
        drop(state);
        Ok(LiveStream::new(self.clone(), stream))
    }

    /// Queues what belongs to no request; never waits.
    pub(crate) fn send_control(
        &self,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        let channel = self.channel.get().ok_or(SendError::Closed)?;
        channel.send(
            Lane::Control,
            Message::text(expected, encode),
            &Cancel::new(),
        )
    }

    /// Begins the orderly end, with a close code; [`on_link_ended`](Self::on_link_ended)
    /// follows.
    pub(crate) fn close(&self, code: u16, reason: &str) {
        if let Some(channel) = self.channel_or_doom(reason) {
            channel.close(code, reason);
        }
    }

    /// Ends the connection now.
    pub(crate) fn abort(&self, why: &str) {
        if let Some(channel) = self.channel_or_doom(why) {
            channel.abort(why);
        }
    }

    /// Without a link yet it is ended as soon as there is one.
    fn channel_or_doom(&self, why: &str) -> Option<&dyn Channel> {
        let mut state = self.state.lock();
        let channel = self.channel.get();
        if channel.is_none() {
            state.doomed = Some(why.to_owned());
        }
        channel.map(AsRef::as_ref)
    }

    /// False once it carries nothing any more.
    pub(crate) fn is_live(&self) -> bool {
        !self.state.lock().ended
    }

    /// The link is no more, whoever ended it: neither are its requests, and none is
    /// opened any more. Called by who learns it first, the [`AgentReceiver`] or the
    /// thread of the connection; the second call finds nothing to do.
    ///
    /// [`AgentReceiver`]: super::agent_receiver::AgentReceiver
    pub(crate) fn on_link_ended(&self) {
        let (requests, streams, tunnels) = {
            let mut state = self.state.lock();
            state.ended = true;
            let requests = std::mem::take(&mut state.requests);
            let streams = std::mem::take(&mut state.streams);
            (requests, streams, std::mem::take(&mut state.tunnels))
        };
        if let Tunnels::Live(session) = tunnels {
            session.lose();
        }
        for exchange in requests.values() {
            exchange.on_agent_gone();
        }
        for stream in streams.values() {
            stream.on_agent_gone();
        }
    }

    /// Ends the requests of a user whose token was revoked.
    pub(crate) fn end_requests_of(&self, token: &str, reason: Reason) {
        let (requests, streams): (Vec<Arc<Exchange>>, Vec<Arc<Stream>>) = {
            let state = self.state.lock();
            let requests = state.requests.values().cloned().collect();
            (requests, state.streams.values().cloned().collect())
        };
        for exchange in requests.iter().filter(|e| e.token() == token) {
            exchange.end(reason);
        }
        for stream in streams.iter().filter(|s| s.token() == token) {
            stream.end(reason);
        }
    }

    /// Requests in flight, WebSockets included.
    pub(crate) fn load(&self) -> usize {
        let state = self.state.lock();
        state.requests.len() + state.streams.len()
    }

    /// The request of that id, while it is in flight.
    pub(crate) fn exchange(&self, id: Option<&str>) -> Option<Arc<Exchange>> {
        self.state.lock().requests.get(id?).cloned()
    }

    /// The WebSocket stream of that id, while it lives.
    pub(crate) fn stream(&self, id: Option<&str>) -> Option<Arc<Stream>> {
        self.state.lock().streams.get(id?).cloned()
    }

    /// The request, or the stream, of that id is in flight no longer.
    pub(super) fn forget(&self, id: &str) {
        let mut state = self.state.lock();
        state.requests.remove(id);
        state.streams.remove(id);
    }

    /// Queues a message of the request, or the stream, of that id; waits for room until
    /// `cancel` ends the wait. `expected` is a guess of its size in bytes.
    pub(super) fn send(
        &self,
        id: &str,
        cancel: &Cancel,
        expected: usize,
        encode: impl FnOnce(&mut Vec<u8>, &str),
    ) -> Result<(), Failure> {
        let channel = self.channel.get().ok_or(Failure::AgentGone)?;
        let message = Message::text(expected, |buf| encode(buf, id));
        let sent = channel.send(Lane::Bulk(Slot::of(id)), message, cancel);
        sent.map_err(|error| match error {
            SendError::Cancelled(reason) => Failure::Ended(reason),
            SendError::Closed => Failure::AgentGone,
        })
    }
}
