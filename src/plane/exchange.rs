//! One request on its way through an agent: what the `link-reader` of the agent's
//! connection puts in and the threads of the client's connection take out.
//!
//! The reader never waits here. What it brings is bounded by credit (or, from an
//! agent without `flow`, by a limit): beyond that the request fails, nobody else.
//! A slow client holds at most its own window.

mod state;

use std::sync::Arc;

use super::budget::Budget;
use super::pending::{Ends, Pending};
use crate::http::Headers;
use crate::net::Reason;
use crate::wire::from_agent::ResponseBody;
pub(crate) use state::Piece;
use state::State;
pub(super) use state::is_oversized;

/// The head of an agent's answer, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
}

/// Why a request ended otherwise than well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The agent says so: `proxy_error`, `proxy_response_abort`.
    #[error("{0}")]
    Agent(String),
    #[error("the connection to the agent was lost")]
    AgentGone,
    /// The agent broke the protocol, or sent more than it may.
    #[error("{0}")]
    Protocol(&'static str),
    /// The client left, its token was revoked, or the plane stops: there is nobody
    /// to tell.
    #[error("{0}")]
    Ended(Reason),
}

/// There is nothing left to send to: the answer has ended, well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

/// A request and its answer, between the agent's thread and the client's.
///
/// The answer ends once. From the agent's side, what came before is still passed on:
///
/// | ended by | called by, when | the client's threads get |
/// | --- | --- | --- |
/// | [`on_end`], [`on_response`] | `AgentReceiver`: `proxy_response_end`, `proxy_response` | the good end |
/// | [`on_failure`] | `AgentReceiver`: `proxy_error`, `proxy_response_abort` | [`Failure::Agent`] |
/// | [`on_agent_gone`] | `AgentConnection::on_link_ended` | [`Failure::AgentGone`] |
/// | any `on_…` | `AgentReceiver`: a message breaks the protocol | [`Failure::Protocol`] |
///
/// From the client's side it ends at once, and what is queued is dropped; the
/// client's socket is shut down, and a thread that waits for room in the link wakes:
///
/// | ended by | called by, when | reason |
/// | --- | --- | --- |
/// | [`end`] | `upload`, `relay`: the client sends or takes no more | `Cancelled` |
/// | | `Hub::revoke_token`: the token of the client was revoked | `Cancelled` |
/// | | `InFlight`, dropped: the client has its answer, or gets none | `Failed` |
/// | [`cancel`], by way of [`end_when_cancelled`] | `ClientWatcher`: the client has left, or the server cut it | `Cancelled` |
/// | | [`on_chunk`]: more came than may be kept for it | `Failed` |
///
/// [`on_end`]: Exchange::on_end
/// [`on_response`]: Exchange::on_response
/// [`on_failure`]: Exchange::on_failure
/// [`on_agent_gone`]: Exchange::on_agent_gone
/// [`on_chunk`]: Exchange::on_chunk
/// [`end`]: Pending::end
/// [`cancel`]: Pending::cancel
/// [`end_when_cancelled`]: Pending::end_when_cancelled
pub(crate) type Exchange = Pending<State>;

impl Ends for State {
    fn end(&mut self, reason: Reason) {
        self.fail(Failure::Ended(reason));
    }
}

impl Exchange {
    /// `metered`: the agent knows credit.
    pub(crate) fn new(id: String, token: String, metered: bool, budget: Arc<Budget>) -> Self {
        Self::with(id, token, State::new(metered, budget))
    }

    // What the link-reader calls.

    pub(crate) fn on_head(&self, status: u16, headers: Headers) {
        self.change(|state| state.on_head(status, headers));
    }

    /// `data` is base64.
    pub(crate) fn on_chunk(&self, data: &str) {
        let overrun = self.change(|state| {
            state.on_chunk(data);
            state.overrun
        });
        if overrun {
            // Who should pass it on waits for a client that may never read again.
            self.cancel().cancel(Reason::Failed);
        }
    }

    pub(crate) fn on_end(&self) {
        self.change(State::on_end);
    }

    /// Form B, whole.
    pub(crate) fn on_response(&self, status: u16, headers: Headers, body: &ResponseBody<'_>) {
        self.change(|state| state.on_response(status, headers, body));
    }

    /// `proxy_error` or `proxy_response_abort`.
    pub(crate) fn on_failure(&self, text: &str) {
        let failure = Failure::Agent(super::registry::tidy(text));
        self.change(|state| state.on_failure(failure));
    }

    /// The agent's connection has ended.
    pub(crate) fn on_agent_gone(&self) {
        self.change(|state| state.on_failure(Failure::AgentGone));
    }

    /// The agent may be sent more of the body.
    pub(crate) fn on_credit(&self, credit: u64) {
        self.change(|state| state.sending.grant(credit));
    }

    // What the client's threads call.

    /// The request goes to the agent now: if it ends early, the agent must hear it.
    pub(crate) fn announce(&self) {
        self.state().announced = true;
    }

    /// Waits for the head of the answer.
    pub(crate) fn wait_head(&self) -> Result<Head, Failure> {
        let mut state = self.state();
        loop {
            if let Some(head) = state.head.take() {
                return Ok(head);
            }
            if let Some(end) = &state.end {
                return Err(match end {
                    Err(failure) => failure.clone(),
                    Ok(()) => Failure::Protocol("the agent ended without an answer"),
                });
            }
            self.wait(&mut state);
        }
    }

    /// Waits for the next piece of the body; `None` at its good end. What came
    /// before a failure on the agent's side is still given out.
    pub(crate) fn next(&self) -> Result<Option<Piece>, Failure> {
        let mut state = self.state();
        loop {
            if let Some(Err(failure @ Failure::Ended(_))) = &state.end {
                return Err(failure.clone());
            }
            if let Some(piece) = state.pop() {
                if !state.gzipped {
                    return Ok(Some(piece));
                }
                drop(state);
                let body = piece.inflated()?;
                return Ok((!body.is_empty()).then_some(body));
            }
            if let Some(end) = &state.end {
                return end.clone().map(|()| None);
            }
            self.wait(&mut state);
        }
    }

    /// A piece has gone to the client. Returns what the agent is to be granted now.
    pub(crate) fn passed_on(&self, bytes: usize) -> Option<u64> {
        let mut state = self.state();
        let held = state.receiving.held();
        // An inflated body is longer than what was received.
        let credit = state.receiving.pass_on(held.min(bytes as u64));
        credit.filter(|_| !state.is_over())
    }

    /// Waits until the agent takes up to `wanted` (not 0) bytes of the request's
    /// body, and says how many.
    pub(crate) fn take_credit(&self, wanted: usize) -> Result<usize, Stopped> {
        let mut state = self.state();
        loop {
            if state.is_over() {
                return Err(Stopped);
            }
            match state.sending.take(wanted) {
                0 => self.wait(&mut state),
                taken => return Ok(taken),
            }
        }
    }

    /// True when the agent still works on it.
    pub(crate) fn needs_cancel(&self) -> bool {
        let state = self.state();
        state.announced && !state.agent_done
    }
}

#[cfg(test)]
mod tests;
