//! What stands between everybody who sends and the one thread that writes.
//!
//! Messages, and speakers who keep theirs themselves, wait in `lanes.rs`. What frames
//! need (ping, pong, close, a flush of TLS) are places and flags, so their memory is
//! bounded by themselves.
//!
//! One lock. Nobody else's is taken under it: speakers are asked, and whatever may be
//! somebody's last hold on something is dropped, when it is free.

mod batch;
mod fill;

use std::mem;
use std::sync::Arc;

pub(super) use batch::{Batch, Jobs, Step};
pub(super) use fill::GATHER_MESSAGES;

use super::SendError;
use super::lanes::{Lanes, Leftovers, Party};
use super::message::Message;
use super::slots::Slot;
use super::speaker::Speaker;
use super::wait::{Wait, Waited};
use crate::net::Cancel;
use crate::sync::{Condvar, Mutex, MutexGuard, park};
use crate::websocket::frame::CloseFrame;
use batch::Pong;
use fill::fill;

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

    /// Queues a message of a slot; waits for room, or until it is taken.
    pub(super) fn send_bulk(
        &self,
        slot: Slot,
        mut message: Message,
        cancel: &Cancel,
    ) -> Result<(), SendError> {
        if let Some(reason) = cancel.reason() {
            message.settle();
            return Err(SendError::Cancelled(reason));
        }
        let wait = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(SendError::Closed);
            }
            state.lanes.push(slot, message)
        };
        self.work.notify_one();
        let Some(wait) = wait else {
            return Ok(());
        };
        let waker = wait.clone();
        let registered = cancel.on_wake(Arc::new(move || waker.wake()));
        loop {
            match wait.outcome() {
                Some(Waited::Admitted) => return Ok(()),
                Some(Waited::Closed) => return Err(SendError::Closed),
                None => {}
            }
            if let Some(reason) = cancel.reason() {
                if self.give_up(slot, &wait) {
                    return Err(SendError::Cancelled(reason));
                }
                // Settled in the meantime: the outcome stands.
                continue;
            }
            debug_assert!(registered.is_ok(), "or there is a reason");
            park();
        }
    }

    /// False when the wait was over before.
    fn give_up(&self, slot: Slot, wait: &Arc<Wait>) -> bool {
        let mut state = self.state.lock();
        let message = state.lanes.give_up(slot, wait);
        // Those behind may have been admitted.
        self.leave(state, Leftovers::default());
        let Some(mut message) = message else {
            return false;
        };
        message.settle();
        true
    }

    /// Somebody has something in order.
    pub(super) fn enter(&self, speaker: Arc<dyn Speaker>) {
        let mut state = self.state.lock();
        if !state.closed {
            state.lanes.turns.enter(Party::Speaker(speaker));
            drop(state);
            self.work.notify_one();
        }
    }

    /// Somebody has control frames.
    pub(super) fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        let mut state = self.state.lock();
        if !state.closed {
            state.lanes.speaking.push_back(speaker);
            drop(state);
            self.work.notify_one();
        }
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
        let gone = state.lanes.send_away();
        self.leave(state, gone);
        true
    }

    /// Drops what is queued, so that the close frame is next.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        state.urgent = true;
        let gone = state.lanes.abandon();
        self.leave(state, gone);
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
        let gone = state.lanes.abandon();
        self.leave(state, gone);
    }

    /// Nothing is written any more; everybody who waits is told.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.stopped = true;
        state.close = None;
        let gone = state.lanes.abandon();
        self.leave(state, gone);
    }

    /// Wakes the writer, and the senders whose wait is over; messages that are gone
    /// are with their owners by then.
    fn leave(&self, mut state: MutexGuard<'_, State>, gone: Leftovers) {
        let settled = mem::take(state.lanes.slots.settled());
        drop(state);
        drop(gone);
        self.work.notify_one();
        for wait in settled {
            wait.wake();
        }
    }

    /// Senders that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().lanes.slots.waiting()
    }

    /// Fills `batch` and says what to do with it; waits while there is nothing to
    /// do. `busy` says that messages are in hand, one of them half written perhaps, so
    /// only what may stand between its frames is given.
    pub(super) fn next(&self, batch: &mut Batch, busy: bool) -> Step {
        batch.messages.clear();
        batch.close = None;
        let mut state = self.state.lock();
        if !busy {
            state.lanes.slots.written();
        }
        let step = loop {
            if !busy {
                fill(&mut state, &mut batch.messages);
                if state.abandoned() {
                    // While a speaker was asked, perhaps.
                    MutexGuard::unlocked(&mut state, || batch.messages.clear());
                }
            }
            // When the lock won't be free again before we write or wait: nobody is
            // woken by what was asked for while a speaker was.
            batch.jobs = state.take_jobs();
            if state.stopped {
                break Step::Stop;
            }
            if state.urgent || !busy && batch.messages.is_empty() {
                batch.close = state.close.take();
                state.closing |= batch.close.is_some();
            }
            if batch.close.is_some() {
                break Step::Write;
            }
            if state.finish && (state.urgent || !busy) {
                break Step::Finish;
            }
            if busy || !batch.jobs.is_empty() || !batch.messages.is_empty() {
                break Step::Write;
            }
            self.work.wait(&mut state);
        };
        mem::swap(&mut batch.admitted, state.lanes.slots.settled());
        drop(state);
        for wait in batch.admitted.drain(..) {
            wait.wake();
        }
        step
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

    /// What was queued is gone, and nothing is queued any more.
    fn abandoned(&self) -> bool {
        self.urgent || self.stopped
    }
}

/// Pongs that are kept while the writer is busy.
const PONGS: usize = 16;

/// Pings without a pong of their own after which a peer is refused
/// (decisions.md §6.6, "Replies never need a queue").
pub(super) const UNANSWERED: usize = 4096;

#[cfg(test)]
mod tests;
