//! A request body that comes in messages (control-channel.md §8.2).
//!
//! The reader puts pieces in and never waits; the thread that sends the request
//! upstream takes them out. What a slow upstream hasn't taken is kept, up to a
//! limit; beyond it this request fails and nobody else notices (T9).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

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
    /// For the pieces, and the one that is being sent.
    room: Reservation,
    /// Bytes that wait or are being sent.
    held: usize,
    /// Size of the piece that is being sent.
    handed: usize,
    /// Sent, and not yet granted anew.
    sent: u64,
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
                sent: 0,
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

    /// Takes a piece in. What comes after the end, or when nobody takes it any
    /// more, is dropped.
    pub(super) fn push(&self, piece: Vec<u8>) -> Result<(), PushError> {
        let mut state = self.state.lock();
        if state.stopped || state.ended || piece.is_empty() {
            return Ok(());
        }
        if piece.len() > self.limit - state.held {
            return Err(PushError::TooMuch(self.limit));
        }
        state.room.grow(piece.len())?;
        state.held += piece.len();
        state.moved = Instant::now();
        match state.pieces.back_mut() {
            // Many small pieces would cost more than they hold.
            Some(last) if last.len() + piece.len() <= JOINED => last.extend_from_slice(&piece),
            _ => state.pieces.push_back(piece),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// When a piece last came or was taken (or the body was announced).
    pub(super) fn moved(&self) -> Instant {
        self.state.lock().moved
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
        let rest = self.held - self.handed;
        self.room.shrink(rest);
        self.held = self.handed;
    }
}

impl Source for Inbound {
    fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.state.lock();
        let sent = std::mem::take(&mut state.handed);
        state.held -= sent;
        state.room.shrink(sent);
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

    fn inbound(budget: &Arc<Budget>, limit: usize) -> Arc<Inbound> {
        Inbound::new(budget, limit, None).expect("room")
    }

    #[test]
    fn pieces_come_out_in_order_and_room_is_given_back() {
        let budget = Budget::new(1000);
        let body = inbound(&budget, 1000);
        body.push(b"he".to_vec()).expect("room");
        body.push(b"llo".to_vec()).expect("room");
        assert_eq!(budget.used(), 5);
        assert_eq!(body.next().expect("a piece"), Some(b"hello".to_vec()));
        // It is being sent: it still counts.
        assert_eq!(budget.used(), 5);
        body.end();
        body.push(b"late".to_vec()).expect("dropped");
        assert_eq!(body.next().expect("the end"), None);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn t9_too_much_is_refused_at_once() {
        let budget = Budget::new(100);
        let body = inbound(&budget, 10);
        body.push(vec![0; 8]).expect("room");
        assert_eq!(body.push(vec![0; 3]), Err(PushError::TooMuch(10)));
        let other = inbound(&budget, 1000);
        let error = other.push(vec![0; 93]).expect_err("over the budget");
        assert!(error.to_string().contains("proxy.memory_limit"), "{error}");
        drop((body, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn t43_a_body_that_fails_is_no_whole_body() {
        let budget = Budget::new(100);
        let body = inbound(&budget, 100);
        body.push(b"half".to_vec()).expect("room");
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
        body.push(vec![0; 200 << 10]).expect("room");
        body.push(vec![0; 100 << 10]).expect("room");
        body.push(vec![0; 1]).expect("room");
        assert!(body.next().expect("a piece").is_some());
        assert!(body.next().expect("a piece").is_some());
        assert!(receive.try_recv().is_err(), "too early");
        assert!(body.next().expect("a piece").is_some());
        let limit = Duration::from_mins(1);
        assert_eq!(receive.recv_timeout(limit), Ok(300 << 10));
    }
}
