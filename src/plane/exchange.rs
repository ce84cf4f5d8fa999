//! One request on its way through an agent: what the `link-reader` of the agent's
//! connection puts in and the threads of the client's connection take out.
//!
//! The reader never waits here. What it brings is bounded by credit (or, from an
//! agent without `flow`, by a limit): beyond that the request fails, nobody else.
//! A slow client holds at most its own window.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::budget::Budget;
use super::flow::{Receiving, Sending, UNMETERED_LIMIT};
use crate::http::Headers;
use crate::net::{Cancel, Reason};
use crate::wire::from_agent::ResponseBody;

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

pub(crate) struct Exchange {
    id: String,
    /// Whose request it is: the id of the user's token.
    token: String,
    /// Ends the client's side: its socket, and whoever waits for room in the link.
    cancel: Cancel,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    head: Option<Head>,
    head_came: bool,
    queue: VecDeque<Vec<u8>>,
    /// The queue is one gzipped body (form B).
    gzipped: bool,
    /// What all exchanges together may hold; bytes in `queue` are taken from it.
    budget: Arc<Budget>,
    receiving: Receiving,
    sending: Sending,
    /// The agent has been told of the request.
    announced: bool,
    /// The answer is over; what is queued is still to be taken.
    end: Option<Result<(), Failure>>,
    /// More came than may be kept for the client.
    overrun: bool,
    /// The agent has ended it, or is gone: it needs no `proxy_cancel`.
    agent_done: bool,
}

impl Exchange {
    /// `metered`: the agent knows credit.
    pub(crate) fn new(id: String, token: String, metered: bool, budget: Arc<Budget>) -> Self {
        let (receiving, sending) = if metered {
            (Receiving::metered(), Sending::metered())
        } else {
            (Receiving::unmetered(), Sending::unmetered())
        };
        Self {
            id,
            token,
            cancel: Cancel::new(),
            state: Mutex::new(State {
                head: None,
                head_came: false,
                queue: VecDeque::new(),
                gzipped: false,
                budget,
                receiving,
                sending,
                announced: false,
                end: None,
                overrun: false,
                agent_done: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Ends it from outside: the client left, the token was revoked, the plane stops.
    pub(crate) fn end(&self, reason: Reason) {
        self.fail(Failure::Ended(reason));
        self.cancel.cancel(reason);
    }

    // What the link-reader calls.

    pub(crate) fn on_head(&self, status: u16, headers: Headers) {
        let mut state = self.state.lock();
        if state.over() {
            return;
        }
        if size(&headers) > MAX_HEADERS {
            state.break_off(TOO_MANY_HEADERS);
        } else if state.head_came {
            state.break_off("the agent sent two headers for one request");
        } else {
            state.head_came = true;
            state.head = Some(Head { status, headers });
        }
        self.changed.notify_all();
    }

    /// Base64, decoded straight into the queue.
    pub(crate) fn on_chunk(&self, data: &str) {
        let mut state = self.state.lock();
        if state.over() {
            return;
        }
        if state.head_came {
            state.append(data);
        } else {
            state.break_off("the agent sent a body before its header");
        }
        let overrun = state.overrun;
        drop(state);
        self.changed.notify_all();
        if overrun {
            // Who should pass it on waits for a client that may never read again.
            self.cancel.cancel(Reason::Failed);
        }
    }

    pub(crate) fn on_end(&self) {
        let mut state = self.state.lock();
        state.agent_done = true;
        if !state.over() {
            state.end = Some(if state.head_came {
                Ok(())
            } else {
                // An original agent's handler that wrote nothing
                // (control-channel.md §8.6).
                Err(Failure::Protocol("the agent ended without an answer"))
            });
        }
        self.changed.notify_all();
    }

    /// Form B, whole.
    pub(crate) fn on_response(&self, status: u16, headers: Headers, body: &ResponseBody<'_>) {
        let mut state = self.state.lock();
        state.agent_done = true;
        if !state.over() {
            if size(&headers) > MAX_HEADERS {
                state.break_off(TOO_MANY_HEADERS);
            } else if state.head_came {
                state.break_off("the agent answered twice");
            } else {
                state.head_came = true;
                state.head = Some(Head { status, headers });
                match body {
                    ResponseBody::Empty => {}
                    ResponseBody::Base64(data) => state.append(data),
                    ResponseBody::Gzip(data) => {
                        state.gzipped = true;
                        state.append(data);
                    }
                }
                if !state.over() {
                    state.end = Some(Ok(()));
                }
            }
        }
        self.changed.notify_all();
    }

    /// `proxy_error` or `proxy_response_abort`.
    pub(crate) fn on_failure(&self, text: &str) {
        self.state.lock().agent_done = true;
        self.fail(Failure::Agent(super::registry::tidy(text)));
    }

    /// The agent's connection has ended.
    pub(crate) fn on_agent_gone(&self) {
        self.state.lock().agent_done = true;
        self.fail(Failure::AgentGone);
        // An upload may wait for room in a link that is no more.
        self.changed.notify_all();
    }

    /// The agent may be sent more of the body.
    pub(crate) fn on_credit(&self, credit: u64) {
        self.state.lock().sending.grant(credit);
        self.changed.notify_all();
    }

    // What the client's threads call.

    /// The request goes to the agent now: if it ends early, the agent must hear it.
    pub(crate) fn announce(&self) {
        self.state.lock().announced = true;
    }

    /// Waits for the head of the answer.
    pub(crate) fn wait_head(&self) -> Result<Head, Failure> {
        let mut state = self.state.lock();
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
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the next piece of the body; `None` at its good end. What came
    /// before a failure on the agent's side is still given out.
    pub(crate) fn next(&self) -> Result<Option<Vec<u8>>, Failure> {
        let mut state = self.state.lock();
        loop {
            if let Some(Err(failure @ Failure::Ended(_))) = &state.end {
                return Err(failure.clone());
            }
            if state.gzipped {
                return Self::inflate(state);
            }
            if let Some(piece) = state.pop() {
                return Ok(Some(piece));
            }
            if let Some(end) = &state.end {
                return end.clone().map(|()| None);
            }
            self.changed.wait(&mut state);
        }
    }

    /// A piece has gone to the client. Returns what the agent is to be granted now.
    pub(crate) fn passed_on(&self, bytes: usize) -> Option<u64> {
        let mut state = self.state.lock();
        let held = state.receiving.held();
        // An inflated body is longer than what was received.
        let credit = state.receiving.pass_on(held.min(bytes as u64));
        credit.filter(|_| !state.over())
    }

    /// Waits until the agent takes up to `wanted` (not 0) bytes of the request's
    /// body, and says how many.
    pub(crate) fn take_credit(&self, wanted: usize) -> Result<usize, Stopped> {
        let mut state = self.state.lock();
        loop {
            if state.over() {
                return Err(Stopped);
            }
            match state.sending.take(wanted) {
                0 => self.changed.wait(&mut state),
                taken => return Ok(taken),
            }
        }
    }

    /// True when the agent still works on it.
    pub(crate) fn needs_cancel(&self) -> bool {
        let state = self.state.lock();
        state.announced && !state.agent_done
    }

    /// Nobody takes the answer any more; who still sends stops.
    pub(crate) fn close(&self) {
        self.fail(Failure::Ended(Reason::Failed));
        self.cancel.cancel(Reason::Failed);
    }

    fn fail(&self, failure: Failure) {
        let mut state = self.state.lock();
        match &state.end {
            // Nobody is left to take what is queued.
            Some(_) if matches!(failure, Failure::Ended(_)) => state.end = Some(Err(failure)),
            Some(_) => {}
            None => state.end = Some(Err(failure)),
        }
        self.changed.notify_all();
    }

    /// The whole of a gzipped body; nobody else waits for this thread.
    fn inflate(mut state: MutexGuard<'_, State>) -> Result<Option<Vec<u8>>, Failure> {
        state.gzipped = false;
        let Some(packed) = state.pop() else {
            return Ok(None);
        };
        drop(state);
        let mut body = Vec::new();
        let unpacked = flate2::read::MultiGzDecoder::new(packed.as_slice())
            .take(UNMETERED_LIMIT + 1)
            .read_to_end(&mut body);
        match unpacked {
            Err(_) => Err(Failure::Protocol("the agent's answer is no valid gzip")),
            Ok(length) if length as u64 > UNMETERED_LIMIT => Err(Failure::Protocol(
                "the agent's answer is larger than 8 MiB and was not streamed",
            )),
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(body)),
        }
    }
}

impl State {
    fn over(&self) -> bool {
        self.end.is_some()
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let piece = self.queue.pop_front()?;
        self.budget.give_back(piece.len());
        Some(piece)
    }

    fn break_off(&mut self, why: &'static str) {
        self.end = Some(Err(Failure::Protocol(why)));
    }

    fn append(&mut self, data: &str) {
        let base64 = base64_simd::STANDARD;
        let Ok(length) = base64.decoded_length(data.as_bytes()) else {
            return self.break_off("the agent sent a body that is not base64");
        };
        if self.receiving.receive(length as u64).is_err() {
            self.overrun = true;
            return self.break_off("the agent sent more than the client could take");
        }
        if !self.budget.take(length) {
            self.overrun = true;
            return self.break_off("the plane holds as many answers for slow clients as it may");
        }
        // Small pieces share a buffer: a million of one byte must not take a
        // million allocations.
        let needs_new = self
            .queue
            .back()
            .is_none_or(|last| last.capacity() - last.len() < length);
        if needs_new {
            self.queue.push_back(Vec::with_capacity(length.max(SMALL)));
        }
        let Some(buffer) = self.queue.back_mut() else {
            return;
        };
        let before = buffer.len();
        if base64.decode_append(data.as_bytes(), buffer).is_err() {
            buffer.truncate(before);
            self.budget.give_back(length);
            self.break_off("the agent sent a body that is not base64");
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

fn size(headers: &Headers) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 64)
        .sum()
}

/// Headers of an answer, in bytes: more than any API server sends.
const MAX_HEADERS: usize = 256 * 1024;

const TOO_MANY_HEADERS: &str = "the agent sent more than 256 KiB of headers";

/// What a buffer of the queue has room for at least, in bytes: about two watch
/// events.
const SMALL: usize = 2 * 1024;

#[cfg(test)]
mod tests;
