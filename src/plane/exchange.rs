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
        self.changed.notify_all();
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
            return self.break_off("the agent sent more than the client could take");
        }
        if !self.budget.take(length) {
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
mod tests {
    use std::borrow::Cow;
    use std::io::Write;

    use super::*;
    use crate::plane::flow::WINDOW;

    fn exchange(metered: bool) -> Exchange {
        let exchange = Exchange::new("r-1".into(), "t".into(), metered, Budget::new(1 << 30));
        exchange.announce();
        exchange
    }

    fn base64(bytes: &[u8]) -> String {
        base64_simd::STANDARD.encode_to_string(bytes)
    }

    fn body(exchange: &Exchange) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = exchange.next()? {
            exchange.passed_on(piece.len());
            body.extend(piece);
        }
        Ok(body)
    }

    #[test]
    fn a_streamed_answer() {
        let exchange = exchange(true);
        exchange.on_head(200, Headers::new());
        for piece in [&b"a"[..], &vec![7; 40_000], b"z"] {
            exchange.on_chunk(&base64(piece));
        }
        exchange.on_end();
        assert_eq!(exchange.wait_head().expect("came").status, 200);
        let want = [&b"a"[..], &vec![7; 40_000], b"z"].concat();
        assert_eq!(body(&exchange), Ok(want));
        assert!(!exchange.needs_cancel());
    }

    #[test]
    fn small_pieces_share_a_buffer() {
        let exchange = exchange(true);
        exchange.on_head(200, Headers::new());
        for _ in 0..10_000 {
            exchange.on_chunk("YQ==");
        }
        let state = exchange.state.lock();
        assert!(state.queue.len() <= 5);
        let memory: usize = state.queue.iter().map(Vec::capacity).sum();
        assert!(memory < 2 * 10_000 + 2 * SMALL);
    }

    #[test]
    fn an_agent_that_ignores_credit_loses_that_request() {
        for (metered, limit) in [(true, WINDOW), (false, UNMETERED_LIMIT)] {
            let exchange = exchange(metered);
            exchange.on_head(200, Headers::new());
            let piece = base64(&vec![1; 32 * 1024]);
            for _ in 0..2 * limit / (32 * 1024) {
                exchange.on_chunk(&piece);
            }
            let held: usize = exchange.state.lock().queue.iter().map(Vec::len).sum();
            assert_eq!(held as u64, limit);
            assert!(matches!(body(&exchange), Err(Failure::Protocol(_))));
            assert!(exchange.needs_cancel());
        }
    }

    #[test]
    fn what_came_before_a_failure_is_given_out_then_the_failure() {
        let exchange = exchange(true);
        exchange.on_head(200, Headers::new());
        exchange.on_chunk("aGk=");
        exchange.on_agent_gone();
        assert!(exchange.wait_head().is_ok());
        assert_eq!(exchange.next(), Ok(Some(b"hi".to_vec())));
        assert_eq!(exchange.next(), Err(Failure::AgentGone));
        assert_eq!(exchange.take_credit(1), Err(Stopped));
    }

    #[test]
    fn a_client_that_left_gets_nothing_more() {
        let exchange = exchange(true);
        exchange.on_head(200, Headers::new());
        exchange.on_chunk("aGk=");
        exchange.end(Reason::Cancelled);
        assert_eq!(exchange.next(), Err(Failure::Ended(Reason::Cancelled)));
        assert!(exchange.needs_cancel());
    }

    #[test]
    fn messages_out_of_order() {
        let protocol = |failure| matches!(failure, Err(Failure::Protocol(_)));
        let early = exchange(true);
        early.on_chunk("aGk=");
        assert!(protocol(early.wait_head().map(drop)));
        let twice = exchange(true);
        twice.on_head(200, Headers::new());
        twice.on_head(200, Headers::new());
        assert!(protocol(body(&twice).map(drop)));
        let nothing = exchange(true);
        nothing.on_end();
        assert!(protocol(nothing.wait_head().map(drop)));
        let late = exchange(true);
        late.on_head(200, Headers::new());
        late.on_end();
        late.on_chunk("aGk=");
        late.on_failure("late");
        assert_eq!(body(&late), Ok(Vec::new()));
        let no_base64 = exchange(true);
        no_base64.on_head(200, Headers::new());
        no_base64.on_chunk("a*==");
        assert!(protocol(body(&no_base64).map(drop)));
    }

    #[test]
    fn all_together_hold_no_more_than_their_budget() {
        let budget = Budget::new(1000);
        let new = || Exchange::new("r-1".into(), "t".into(), true, budget.clone());
        let (one, two) = (new(), new());
        for exchange in [&one, &two] {
            exchange.on_head(200, Headers::new());
            exchange.on_chunk(&base64(&[1; 400]));
        }
        two.on_chunk(&base64(&[1; 400]));
        assert_eq!(
            two.next().map(|piece| piece.map(|p| p.len())),
            Ok(Some(400))
        );
        assert!(matches!(two.next(), Err(Failure::Protocol(_))));
        one.on_chunk(&base64(&[1; 400]));
        one.on_chunk("a*==");
        assert_eq!(
            one.next().map(|piece| piece.map(|p| p.len())),
            Ok(Some(800))
        );
        one.on_end();
        drop((one, two));
        assert!(budget.take(1000), "all of it has come back");
    }

    #[test]
    fn a_request_that_the_agent_never_heard_of_needs_no_cancel() {
        let unheard = Exchange::new("r-1".into(), "t".into(), true, Budget::new(1));
        assert!(!unheard.needs_cancel());
        unheard.announce();
        assert!(unheard.needs_cancel());
    }

    #[test]
    fn endless_headers_are_not_kept() {
        let exchange = exchange(true);
        let headers: Headers = (0..10_000).map(|i| (format!("X-{i}"), "v")).collect();
        exchange.on_head(200, headers);
        assert!(matches!(exchange.wait_head(), Err(Failure::Protocol(_))));
    }

    #[test]
    fn an_error_before_the_header() {
        let exchange = exchange(true);
        exchange.on_failure("agent\nbusy");
        let failure = exchange.wait_head().expect_err("failed");
        assert_eq!(failure, Failure::Agent("agent busy".into()));
    }

    #[test]
    fn buffered_answers_in_both_encodings() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&vec![9; 100_000]).expect("packed");
        let gzip = base64(&gzip.finish().expect("packed"));
        for (encoded, want) in [
            (ResponseBody::Empty, Vec::new()),
            (ResponseBody::Base64(Cow::Borrowed("aGk=")), b"hi".to_vec()),
            (ResponseBody::Gzip(Cow::Owned(gzip)), vec![9; 100_000]),
        ] {
            let exchange = exchange(false);
            exchange.on_response(200, Headers::new(), &encoded);
            assert!(exchange.wait_head().is_ok());
            assert_eq!(body(&exchange), Ok(want));
        }
    }

    #[test]
    fn a_gzip_bomb_is_defused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..64 {
            gzip.write_all(&vec![0; 1024 * 1024]).expect("packed");
        }
        let gzip = base64(&gzip.finish().expect("packed"));
        let exchange = exchange(false);
        exchange.on_response(200, Headers::new(), &ResponseBody::Gzip(Cow::Owned(gzip)));
        assert!(matches!(body(&exchange), Err(Failure::Protocol(_))));
    }

    #[test]
    fn an_upload_waits_for_credit_and_ends_with_the_answer() {
        let exchange = exchange(true);
        let window = usize::try_from(WINDOW).expect("small");
        assert_eq!(exchange.take_credit(window - 1), Ok(window - 1));
        assert_eq!(exchange.take_credit(100), Ok(1));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| exchange.take_credit(100));
            exchange.on_credit(40);
            assert_eq!(waiting.join().expect("joined"), Ok(40));
            let waiting = scope.spawn(|| exchange.take_credit(100));
            exchange.on_head(413, Headers::new());
            exchange.on_end();
            assert_eq!(waiting.join().expect("joined"), Err(Stopped));
        });
    }

    #[test]
    fn grants_follow_what_the_client_took() {
        let exchange = exchange(true);
        exchange.on_head(200, Headers::new());
        exchange.on_chunk(&base64(&vec![1; 512 * 1024]));
        assert_eq!(exchange.passed_on(100), None);
        assert_eq!(exchange.passed_on(300 * 1024), Some(300 * 1024 + 100));
        exchange.on_end();
        assert_eq!(
            exchange.passed_on(200 * 1024),
            None,
            "nothing is granted after the end"
        );
    }
}
