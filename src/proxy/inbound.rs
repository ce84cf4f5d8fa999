//! A request body that comes in messages (control-channel.md §8.2).
//!
//! The reader puts pieces in and never waits; the thread that sends the request
//! upstream takes them out. What a slow upstream hasn't taken is kept, up to a
//! limit; beyond it this request fails and nobody else notices (T9).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use base64_simd::STANDARD;
use parking_lot::{Condvar, Mutex};

use super::memory::{Budget, OverBudget, Reservation, mib};
use crate::http::client::Source;

/// The pieces that have come and weren't sent yet.
pub(super) struct Inbound {
    state: Mutex<State>,
    changed: Condvar,
    /// Most bytes that may wait.
    limit: usize,
    /// Told how many bytes were sent upstream (feature `flow`). May wait.
    grant: Option<Box<dyn Fn(u64) + Send + Sync>>,
}

struct State {
    pieces: VecDeque<Vec<u8>>,
    /// For what the pieces can hold, and the one that is being sent.
    room: Reservation,
    /// Bytes that wait or are being sent.
    held: usize,
    /// Size of the piece that is being sent, and the room it takes.
    handed: usize,
    handed_room: usize,
    /// Sent, and not yet granted anew.
    sent: u64,
    /// Taken altogether.
    taken: u64,
    /// When a piece last came or was taken.
    moved: Instant,
    ended: bool,
    /// Nobody takes any more, and why if that is an error.
    stopped: bool,
    failure: Option<String>,
}

/// Why a piece was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PushError {
    #[error("the request body comes faster than it is taken: {} wait, which is the limit", mib(*.0))]
    TooMuch(usize),
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("invalid base64 in the request body")]
    Base64,
}

impl Inbound {
    pub(super) fn new(
        budget: &Arc<Budget>,
        limit: usize,
        grant: Option<Box<dyn Fn(u64) + Send + Sync>>,
    ) -> Result<Arc<Self>, OverBudget> {
        Ok(Arc::new(Self {
            state: Mutex::new(State {
                pieces: VecDeque::new(),
                room: budget.reserve(0)?,
                held: 0,
                handed: 0,
                handed_room: 0,
                sent: 0,
                taken: 0,
                moved: Instant::now(),
                ended: false,
                stopped: false,
                failure: None,
            }),
            changed: Condvar::new(),
            limit,
            grant,
        }))
    }

    /// Takes a piece in, base64 as it comes. What comes after the end, or when nobody
    /// takes it any more, is dropped.
    pub(super) fn push(&self, base64: &str) -> Result<(), PushError> {
        let length = STANDARD.decoded_length(base64.as_bytes());
        let length = length.map_err(|_| PushError::Base64)?;
        let mut state = self.state.lock();
        if state.stopped || state.ended || length == 0 {
            return Ok(());
        }
        if length > self.limit - state.held {
            return Err(PushError::TooMuch(self.limit));
        }
        // Many small pieces would cost more than they hold.
        let last = state.pieces.back();
        let joins = last.is_some_and(|last| last.len() + length <= JOINED);
        let last = if joins { state.pieces.pop_back() } else { None };
        let mut piece = last.unwrap_or_default();
        // After an error nobody takes what is left of it.
        state.room.extend(&mut piece, length)?;
        STANDARD
            .decode_append(base64, &mut piece)
            .map_err(|_| PushError::Base64)?;
        state.held += length;
        state.moved = Instant::now();
        state.pieces.push_back(piece);
        self.changed.notify_one();
        Ok(())
    }

    /// Nobody takes the body any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// When a piece last came or was taken (or the body was announced).
    pub(super) fn moved(&self) -> Instant {
        self.state.lock().moved
    }

    /// Bytes that went on their way to the target.
    pub(super) fn taken(&self) -> u64 {
        self.state.lock().taken
    }

    /// The body is complete.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }

    /// The body will never be complete.
    pub(super) fn fail(&self, why: &str) {
        let mut state = self.state.lock();
        if !state.stopped {
            state.failure = Some(why.to_owned());
            state.let_go();
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl State {
    fn let_go(&mut self) {
        self.stopped = true;
        self.pieces = VecDeque::new();
        self.room.shrink_to(self.handed_room);
        self.held = self.handed;
    }
}

impl Source for Inbound {
    fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.state.lock();
        let sent = std::mem::take(&mut state.handed);
        state.held -= sent;
        let room = std::mem::take(&mut state.handed_room);
        state.room.shrink(room);
        state.sent += sent as u64;
        if let Some(grant) = &self.grant
            && state.sent >= GRANT
            && !state.ended
        {
            let bytes = std::mem::take(&mut state.sent);
            drop(state);
            grant(bytes);
            state = self.state.lock();
        }
        loop {
            if state.stopped {
                let why = state.failure.clone();
                let why = why.unwrap_or_else(|| "nobody takes it any more".to_owned());
                return Err(io::Error::other(why));
            }
            if let Some(piece) = state.pieces.pop_front() {
                state.handed = piece.len();
                state.taken += piece.len() as u64;
                state.handed_room = piece.capacity();
                state.moved = Instant::now();
                return Ok(Some(piece));
            }
            if state.ended {
                return Ok(None);
            }
            self.changed.wait(&mut state);
        }
    }

    fn stop(&self) {
        self.state.lock().let_go();
        self.changed.notify_one();
    }
}

/// Small pieces are joined up to this size.
const JOINED: usize = 32 * 1024;

/// Credit is given in portions of at least this size.
const GRANT: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn push(body: &Inbound, piece: &[u8]) -> Result<(), PushError> {
        body.push(&STANDARD.encode_to_string(piece))
    }

    fn inbound(budget: &Arc<Budget>, limit: usize) -> Arc<Inbound> {
        Inbound::new(budget, limit, None).expect("room")
    }

    #[test]
    fn pieces_come_out_in_order_and_room_is_given_back() {
        let budget = Budget::new(1000);
        let body = inbound(&budget, 1000);
        push(&body, b"he").expect("room");
        push(&body, b"llo").expect("room");
        assert_eq!(budget.used(), 5);
        let piece = body.next().expect("a piece").expect("not the end");
        assert_eq!(piece, b"hello");
        // It is being sent: it still counts.
        assert_eq!(budget.used(), piece.capacity());
        body.end();
        push(&body, b"late").expect("dropped");
        assert_eq!(body.next().expect("the end"), None);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn t9_too_much_is_refused_at_once() {
        let budget = Budget::new(100);
        let body = inbound(&budget, 10);
        push(&body, &[0; 8]).expect("room");
        assert_eq!(push(&body, &[0; 3]), Err(PushError::TooMuch(10)));
        let other = inbound(&budget, 1000);
        let error = push(&other, &[0; 93]).expect_err("over the budget");
        assert!(error.to_string().contains("proxy.memory_limit"), "{error}");
        drop((body, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_many_pieces_take_is_what_is_counted() {
        let budget = Budget::new(1 << 20);
        let body = inbound(&budget, 1 << 20);
        for length in (1..3000).step_by(7) {
            push(&body, &vec![0; length]).expect("room");
            let state = body.state.lock();
            let taken: usize = state.pieces.iter().map(Vec::capacity).sum();
            assert_eq!(budget.used(), taken);
        }
        // What can't be decoded takes nothing for long.
        assert_eq!(body.push("!!!!"), Err(PushError::Base64));
        assert_eq!(body.push("a"), Err(PushError::Base64));
        body.fail("invalid");
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn t43_a_body_that_fails_is_no_whole_body() {
        let budget = Budget::new(100);
        let body = inbound(&budget, 100);
        push(&body, b"half").expect("room");
        body.fail("the connection was lost");
        let error = body.next().expect_err("failed");
        assert!(error.to_string().contains("connection was lost"));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn who_waits_is_woken_by_each_end() {
        for how in [
            Inbound::end,
            |b: &Inbound| b.fail("x"),
            |b: &Inbound| b.stop(),
        ] {
            let body = inbound(&Budget::new(100), 100);
            let waits = body.clone();
            let waiting = thread::spawn(move || drop(waits.next()));
            how(&body);
            waiting.join().expect("woken");
        }
    }

    #[test]
    fn credit_is_given_for_what_was_sent() {
        let (send, receive) = mpsc::channel();
        let budget = Budget::new(10 << 20);
        let grant = move |bytes| {
            let _ = send.send(bytes);
        };
        let body = Inbound::new(&budget, 10 << 20, Some(Box::new(grant))).expect("room");
        push(&body, &vec![0; 200 << 10]).expect("room");
        push(&body, &vec![0; 100 << 10]).expect("room");
        push(&body, &[0; 1]).expect("room");
        assert!(body.next().expect("a piece").is_some());
        assert!(body.next().expect("a piece").is_some());
        assert!(receive.try_recv().is_err(), "too early");
        assert!(body.next().expect("a piece").is_some());
        let limit = Duration::from_mins(1);
        assert_eq!(receive.recv_timeout(limit), Ok(300 << 10));
    }
}
