//! One raw WebSocket stream on its way through an agent (decisions.md §6.7): what the
//! `link-reader` of the agent's connection puts in and the threads of the client's
//! connection take out, as an [`Exchange`](super::exchange::Exchange) is for a request.
//!
//! The reader never waits here. What it brings is bounded by credit; an agent that
//! sends more loses that stream, nothing else.

mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::exchange::{Failure, Stopped, is_oversized};
use super::pending::{Ends, Pending};
use crate::net::Reason;
use crate::wire::stream::{CloseText, Refused};
use crate::wire::{StreamReceiving, StreamSending};
pub(crate) use queue::Pack;
use queue::{Queue, Unfit};

/// What the agent has made of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The other end is open, with this subprotocol or none.
    Started(Option<String>),
    /// The API server has answered otherwise.
    Refused(Box<Refused>),
    Failed(Failure),
    /// Neither came in time.
    TooLate,
}

/// How a stream ended that was open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other end was closed; `None`: it broke off.
    Closed(Option<CloseText<'static>>),
    /// [`Failure::Ended`]: from the client's side, nobody is left to be told.
    Failed(Failure),
}

/// What the agent is told of an end on the client's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// `None`: the client broke off.
    pub(crate) said: Option<CloseText<'static>>,
}

/// A stream between the agent's thread and the client's.
///
/// It ends once. From the agent's side, what came before is still passed on:
///
/// | ended by | called by, when | the client gets |
/// | --- | --- | --- |
/// | [`on_close`] | `AgentReceiver`: `proxy_websocket_close` | its code, or 1011 |
/// | [`on_failure`] | `AgentReceiver`: `proxy_error` | 1011 |
/// | [`on_agent_gone`] | `AgentConnection::on_link_ended` | 1011 |
/// | any `on_…` | `AgentReceiver`: a message breaks the protocol | 1011 |
///
/// From the client's side it ends at once, and what is queued is dropped:
///
/// | ended by | called by, when |
/// | --- | --- |
/// | [`on_client_end`] | the leg's reader: the client has closed, or broken off |
/// | [`end`] | the leg's writer: the client takes no more |
/// | | [`take_credit`]: what a client sent before it left isn't taken |
/// | | `Hub::revoke_token`: the token of the client was revoked |
/// | | `LiveStream`, dropped |
/// | [`cancel`], by way of [`end_when_cancelled`] | the server cuts the client; [`on_data`]: more came than may be kept |
///
/// [`on_close`]: Stream::on_close
/// [`on_data`]: Stream::on_data
/// [`on_failure`]: Stream::on_failure
/// [`on_agent_gone`]: Stream::on_agent_gone
/// [`on_client_end`]: Stream::on_client_end
/// [`end`]: Pending::end
/// [`take_credit`]: Stream::take_credit
/// [`cancel`]: Pending::cancel
/// [`end_when_cancelled`]: Pending::end_when_cancelled
pub(crate) type Stream = Pending<State>;

pub(crate) struct State {
    opening: Option<Opening>,
    live: bool,
    queue: Queue,
    receiving: StreamReceiving,
    sending: StreamSending,
    end: Option<End>,
    /// The agent has been told of the stream.
    announced: bool,
    /// The agent has ended it, or is gone: it needs no close.
    agent_done: bool,
    /// What the client's close frame said.
    said: Option<CloseText<'static>>,
    /// The client has sent its last byte, of which some may be on their way.
    client_left: Option<Instant>,
}

impl Ends for State {
    fn end(&mut self, reason: Reason) {
        self.fail(Failure::Ended(reason));
    }
}

impl Stream {
    pub(crate) fn new(id: String, token: String, budget: Arc<Budget>) -> Self {
        let state = State {
            opening: None,
            live: false,
            queue: Queue::new(budget),
            receiving: StreamReceiving::default(),
            sending: StreamSending::new(true),
            end: None,
            announced: false,
            agent_done: false,
            said: None,
            client_left: None,
        };
        Self::with(id, token, state)
    }

    // What the link-reader calls.

    pub(crate) fn on_started(&self, protocol: Option<&str>) {
        self.change(|state| {
            if state.live {
                state.fail(Failure::Protocol("the agent started one stream twice"));
            } else if state.end.is_none() {
                state.live = true;
                state.opening = Some(Opening::Started(protocol.map(str::to_owned)));
            }
        });
    }

    /// The API server's own answer to the upgrade.
    pub(crate) fn on_refused(&self, refused: Box<Refused>) {
        self.change(|state| {
            state.agent_done = true;
            if refused.body.len() > MAX_REFUSAL || is_oversized(&refused.headers) {
                state.fail(Failure::Protocol("the agent sent too long a refusal"));
            } else if !state.live && state.end.is_none() {
                state.opening = Some(Opening::Refused(refused));
            }
            state.fail(Failure::Protocol("the agent refused a stream that is open"));
        });
    }

    /// `proxy_error`.
    pub(crate) fn on_failure(&self, text: &str) {
        let failure = Failure::Agent(super::registry::tidy(text));
        self.change(|state| {
            state.agent_done = true;
            state.fail(failure);
        });
    }

    /// `data` is base64 (control-channel.md §5.4).
    pub(crate) fn on_data(&self, data: &str) {
        let full = self.change(|state| state.take_in(data));
        if full {
            // Who should pass it on waits for a client that may never read again.
            self.cancel().cancel(Reason::Failed);
        }
    }

    pub(crate) fn on_close(&self, said: Option<CloseText<'static>>) {
        self.change(|state| {
            state.agent_done = true;
            if state.live {
                state.end_with(End::Closed(said));
            } else {
                state.fail(Failure::Protocol("the agent closed without an answer"));
            }
        });
    }

    /// The agent may be sent more.
    pub(crate) fn on_credit(&self, credit: u64) {
        self.change(|state| state.sending.grant(credit));
    }

    /// The agent's connection has ended.
    pub(crate) fn on_agent_gone(&self) {
        self.change(|state| {
            state.agent_done = true;
            state.fail(Failure::AgentGone);
        });
    }

    // What the client's threads call.

    /// The start goes to the agent now: if the stream ends early, the agent must hear it.
    pub(crate) fn announce(&self) {
        self.state().announced = true;
    }

    /// Waits for what the agent makes of the start.
    pub(crate) fn wait_opening(&self, until: Instant) -> Opening {
        let mut state = self.state();
        loop {
            if let Some(opening) = state.opening.take() {
                return opening;
            }
            match &state.end {
                Some(End::Failed(failure)) => return Opening::Failed(failure.clone()),
                Some(End::Closed(_)) => {
                    let why = "the agent closed without an answer";
                    return Opening::Failed(Failure::Protocol(why));
                }
                None => {}
            }
            if !self.wait_until(&mut state, until) {
                return Opening::TooLate;
            }
        }
    }

    /// Waits for the next messages. What came before an end on the agent's side is still
    /// given out.
    pub(crate) fn next(&self) -> Result<Pack, End> {
        let mut state = self.state();
        loop {
            if let Some(end @ End::Failed(Failure::Ended(_))) = &state.end {
                return Err(end.clone());
            }
            if let Some(pack) = state.queue.pop() {
                return Ok(pack);
            }
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            self.wait(&mut state);
        }
    }

    /// A message has gone to the client. Returns what the agent is to be granted now.
    pub(crate) fn passed_on(&self, bytes: usize) -> Option<u64> {
        let mut state = self.state();
        let credit = state.receiving.pass_on(bytes);
        credit.filter(|_| state.end.is_none())
    }

    /// Waits until the agent takes a message of that size; not for long when the client
    /// has left.
    pub(crate) fn take_credit(&self, bytes: usize) -> Result<(), Stopped> {
        let mut state = self.state();
        loop {
            if state.end.is_some() {
                return Err(Stopped);
            }
            if state.sending.take(bytes) {
                return Ok(());
            }
            match state.client_left {
                None => self.wait(&mut state),
                Some(then) => {
                    let until = then + LEFT_LIMIT;
                    if !self.wait_until(&mut state, until) {
                        drop(state);
                        self.end(Reason::Cancelled);
                        return Err(Stopped);
                    }
                }
            }
        }
    }

    /// The client has closed its side of the connection, or is gone. Until the stream
    /// is open that is its end; then the leg's reader finds out what came before.
    pub(crate) fn on_client_left(&self) {
        let waits = self.change(|state| {
            state.client_left.get_or_insert_with(Instant::now);
            !state.live
        });
        if waits {
            self.end(Reason::Cancelled);
        }
    }

    /// The client's side has ended: with what its close frame said, if there was one.
    pub(crate) fn on_client_end(&self, said: Option<CloseText<'static>>) {
        self.change(|state| {
            if state.end.is_none() {
                state.said = said;
            }
            state.fail(Failure::Ended(Reason::Cancelled));
        });
    }

    /// What the agent must be told when nobody uses the stream any more; `None`: nothing.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        let mut state = self.state();
        let said = state.said.take();
        (state.announced && !state.agent_done).then_some(Farewell { said })
    }
}

impl State {
    /// The first end counts; but when the client is gone, nobody is left to take
    /// what came before.
    fn end_with(&mut self, end: End) {
        if self.end.is_none() || matches!(end, End::Failed(Failure::Ended(_))) {
            self.end = Some(end);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.end_with(End::Failed(failure));
    }

    /// True when there is no room for it.
    fn take_in(&mut self, data: &str) -> bool {
        if self.end.is_some() {
            return false;
        }
        if !self.live {
            self.fail(Failure::Protocol("the agent sent data before it started"));
            return false;
        }
        let fit = match self.receiving.receive(queue::payload_size(data)) {
            Ok(()) => self.queue.push(data),
            Err(_) => Err(Unfit::Full),
        };
        match fit {
            Ok(()) => false,
            Err(Unfit::Malformed(why)) => {
                self.fail(Failure::Protocol(why));
                false
            }
            Err(Unfit::Full) => {
                self.fail(Failure::Protocol(
                    "the agent sent more than the client could take",
                ));
                true
            }
        }
    }
}

/// How long what a client sent before it left may wait for the agent's credit. (That it
/// has left is seen when the end of its connection has come, which is behind what it
/// sent: of a client that has filled our window too it is seen when its system gives
/// up, after some minutes.)
const LEFT_LIMIT: Duration = Duration::from_secs(5);

/// What a refusal's body has at most, in bytes: an agent reads no more of the API
/// server's.
const MAX_REFUSAL: usize = 64 * 1024;

#[cfg(test)]
mod tests;
