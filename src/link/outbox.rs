//! What stands between everybody who sends and the one thread that writes.
//!
//! Messages wait in two lanes (`lanes.rs`). What frames need (ping, pong, close, a
//! flush of TLS) are slots and flags, so their memory is bounded by themselves.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::frame::{CloseFrame, MAX_CONTROL};
use super::lanes::{Lanes, Wait, Waited};
use super::message::Message;
use super::{Lane, SendError};
use crate::net::Cancel;

/// Everything that waits to be written.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// The writer waits here.
    work: Condvar,
}

#[derive(Debug)]
struct State {
    lanes: Lanes,
    jobs: Jobs,
    /// Pings that got no pong of their own since the writer last came by.
    unanswered: usize,
    /// Nothing new is accepted.
    closed: bool,
    /// The close frame that ends what we write, when the lanes are empty.
    close: Option<CloseFrame>,
    /// The close frame has been given to the writer.
    closing: bool,
    /// The close frame doesn't wait for the rest of a message.
    urgent: bool,
    /// When the close frame is out, the connection's write half is closed.
    finish: bool,
    /// The writer ends at once.
    stopped: bool,
}

/// What is written between frames of messages.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    /// Send what reading has provoked in TLS.
    pub(super) flush: bool,
    pub(super) ping: bool,
    pub(super) pongs: VecDeque<Pong>,
}

impl Jobs {
    fn is_empty(&self) -> bool {
        !self.flush && !self.ping && self.pongs.is_empty()
    }
}

/// The payload of a pong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pong {
    bytes: [u8; MAX_CONTROL],
    len: usize,
}

impl Pong {
    /// `payload` is that of a ping, so it fits; what doesn't is cut.
    fn new(payload: &[u8]) -> Self {
        let len = payload.len().min(MAX_CONTROL);
        let mut bytes = [0; MAX_CONTROL];
        bytes[..len].copy_from_slice(&payload[..len]);
        Self { bytes, len }
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What the writer shall write next, in this order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) jobs: Jobs,
    pub(super) messages: Vec<(Lane, Message)>,
    /// Nothing may be written after it, the rest of a message included.
    pub(super) close: Option<CloseFrame>,
    /// Senders that got room.
    admitted: Vec<Arc<Wait>>,
}

/// What the writer shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write the batch (or go on with the message in hand).
    Write,
    /// Close the connection's write half and end.
    Finish,
    /// End.
    Stop,
}

/// Why the control lane didn't take a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    Closed,
    Full,
}

/// The peer sends pings and doesn't take the pongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl Outbox {
    pub(super) fn new(bulk_bytes: usize) -> Self {
        Self {
            state: Mutex::new(State {
                lanes: Lanes::new(bulk_bytes),
                jobs: Jobs::default(),
                unanswered: 0,
                closed: false,
                close: None,
                closing: false,
                urgent: false,
                finish: false,
                stopped: false,
            }),
            work: Condvar::new(),
        }
    }

    /// Queues a control message; never waits.
    pub(super) fn send_control(&self, message: Message) -> Result<(), Untaken> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Untaken::Closed);
        }
        if !state.lanes.control.push(message) {
            return Err(Untaken::Full);
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Queues a bulk message; waits for room in the order of arrival.
    pub(super) fn send_bulk(&self, mut message: Message, cancel: &Cancel) -> Result<(), SendError> {
        if let Some(reason) = cancel.reason() {
            message.settle();
            return Err(SendError::Cancelled(reason));
        }
        let wait = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(SendError::Closed);
            }
            state.lanes.bulk.push(message)
        };
        let Some(wait) = wait else {
            self.work.notify_one();
            return Ok(());
        };
        let waker = wait.clone();
        let registered = cancel.on_wake(Arc::new(move || waker.wake()));
        loop {
            // Whoever settles the wait has queued the message and speaks to the
            // writer himself.
            match wait.outcome() {
                Some(Waited::Admitted) => return Ok(()),
                Some(Waited::Closed) => return Err(SendError::Closed),
                None => {}
            }
            if let Some(reason) = cancel.reason() {
                if self.give_up(&wait) {
                    return Err(SendError::Cancelled(reason));
                }
                // Settled in the meantime: the outcome stands.
                continue;
            }
            debug_assert!(registered.is_ok(), "or there is a reason");
            thread::park();
        }
    }

    /// False when the wait was over before.
    fn give_up(&self, wait: &Arc<Wait>) -> bool {
        let mut state = self.state.lock();
        let message = state.lanes.bulk.give_up(wait);
        // Those behind may have been admitted.
        self.leave(state);
        let Some(mut message) = message else {
            return false;
        };
        message.settle();
        true
    }

    /// Asks for a ping frame.
    pub(super) fn ping(&self) {
        self.state.lock().jobs.ping = true;
        self.work.notify_one();
    }

    /// Asks for the answer to a ping. While the writer is busy, a few are kept and
    /// then only the latest (RFC 6455 §5.5.3 allows that); a peer that goes on and
    /// on without taking our answers is refused.
    pub(super) fn pong(&self, payload: &[u8]) -> Result<(), Flood> {
        let mut state = self.state.lock();
        if state.jobs.pongs.len() >= PONGS {
            state.jobs.pongs.pop_back();
            state.unanswered += 1;
            if state.unanswered > UNANSWERED {
                return Err(Flood);
            }
        }
        state.jobs.pongs.push_back(Pong::new(payload));
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Asks for what reading has provoked in TLS to be sent.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        if !mem::replace(&mut state.jobs.flush, true) {
            drop(state);
            self.work.notify_one();
        }
    }

    /// Ends what we write: what is queued, then `close`. False if it has an end
    /// already.
    pub(super) fn close(&self, close: CloseFrame) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        state.closed = true;
        state.close = Some(close);
        state.lanes.bulk.send_away();
        self.leave(state);
        true
    }

    /// Drops what is queued, so that the close frame is next.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        state.urgent = true;
        state.lanes.abandon();
        self.leave(state);
    }

    /// Ends what we write at once: `close`, unless a close frame went out before,
    /// then the end of the connection's write half.
    pub(super) fn finish(&self, close: Option<CloseFrame>) {
        let mut state = self.state.lock();
        if !state.closed {
            state.closed = true;
            state.close = close;
        }
        state.urgent = true;
        state.finish = true;
        state.lanes.abandon();
        self.leave(state);
    }

    /// Nothing is written any more; everybody who waits is told.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.stopped = true;
        state.close = None;
        state.lanes.abandon();
        self.leave(state);
    }

    /// Wakes the writer, and the senders whose wait is over.
    fn leave(&self, mut state: MutexGuard<'_, State>) {
        let settled = mem::take(&mut state.lanes.bulk.settled);
        drop(state);
        self.work.notify_one();
        for wait in settled {
            wait.wake();
        }
    }

    /// Senders that wait for room.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().lanes.bulk.waiting()
    }

    /// Fills `batch` and says what to do with it; waits while there is nothing to
    /// do. `written` is the room in the bulk lane that was written since the last
    /// call; `busy` says that a message is half written, so only what may stand
    /// between its frames is given.
    pub(super) fn next(&self, batch: &mut Batch, written: usize, busy: bool) -> Step {
        batch.messages.clear();
        batch.close = None;
        let mut state = self.state.lock();
        state.lanes.bulk.release(written);
        if !state.lanes.bulk.settled.is_empty() {
            mem::swap(&mut batch.admitted, &mut state.lanes.bulk.settled);
            MutexGuard::unlocked(&mut state, || {
                for wait in batch.admitted.drain(..) {
                    wait.wake();
                }
            });
        }
        loop {
            if state.stopped {
                return Step::Stop;
            }
            batch.jobs = state.take_jobs();
            if !busy {
                state.fill(&mut batch.messages);
            }
            if state.urgent || !busy && batch.messages.is_empty() {
                batch.close = state.close.take();
                state.closing |= batch.close.is_some();
            }
            if batch.close.is_some() {
                return Step::Write;
            }
            if state.finish && (state.urgent || !busy) {
                return Step::Finish;
            }
            if busy || !batch.jobs.is_empty() || !batch.messages.is_empty() {
                return Step::Write;
            }
            self.work.wait(&mut state);
        }
    }
}

impl State {
    fn take_jobs(&mut self) -> Jobs {
        self.unanswered = 0;
        let mut jobs = mem::take(&mut self.jobs);
        if self.closing {
            // Nothing follows a close frame.
            jobs.ping = false;
            jobs.pongs.clear();
        }
        jobs
    }

    /// Takes what one write call may carry.
    fn fill(&mut self, messages: &mut Vec<(Lane, Message)>) {
        let mut bytes = 0;
        while bytes < GATHER && messages.len() < GATHER_MESSAGES {
            let Some((lane, message)) = self.lanes.pop() else {
                break;
            };
            bytes += message.len();
            let fragmented = message.is_fragmented();
            messages.push((lane, message));
            if fragmented {
                // Nothing but control frames may stand between its frames.
                break;
            }
        }
    }
}

/// Bytes of messages in one write call.
const GATHER: usize = 64 * 1024;

/// Messages in one write call: with pings, pongs and a close frame in front they
/// fit into what the write half passes to the system at once.
pub(super) const GATHER_MESSAGES: usize = 60;

/// Pongs that are kept while the writer is busy.
const PONGS: usize = 16;

/// Pings without a pong of their own after which a peer is refused
/// (decisions.md §6.6, "Replies never need a queue").
pub(super) const UNANSWERED: usize = 4096;

#[cfg(test)]
mod tests;
