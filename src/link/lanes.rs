//! The queues of messages in front of the writer: two lanes.
//!
//! Pure bookkeeping; the lock around it and the waking of the writer are in
//! `outbox.rs`. A scheduler that gives each stream its own slot takes the place of
//! [`Bulk`]'s one queue: what it needs to know is here and nowhere else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};

use super::Lane;
use super::message::Message;

/// What a message takes of its lane's room beside its payload, so that empty
/// messages have an end as well.
pub(super) const OVERHEAD: usize = 64;

pub(super) fn cost(message: &Message) -> usize {
    message.len() + OVERHEAD
}

/// The control lane: whoever sends never waits, so it must not fill up.
#[derive(Debug, Default)]
pub(super) struct Control {
    queue: VecDeque<Message>,
    bytes: usize,
}

impl Control {
    /// False when the lane is full.
    #[must_use]
    pub(super) fn push(&mut self, message: Message) -> bool {
        let bytes = self.bytes + cost(&message);
        if self.queue.len() >= CONTROL_MESSAGES || bytes > CONTROL_BYTES {
            return false;
        }
        self.bytes = bytes;
        self.queue.push_back(message);
        true
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }
}

/// The bulk lane: first come, first served, also among those who wait for room.
#[derive(Debug)]
pub(super) struct Bulk {
    /// Room in bytes.
    limit: usize,
    queue: VecDeque<Message>,
    /// Taken room: of the queued messages and of what the writer is writing.
    taken: usize,
    waiting: VecDeque<(Message, Arc<Wait>)>,
    /// Waits that are over, whose senders are still to be woken: not under the lock,
    /// they would run into it.
    pub(super) settled: Vec<Arc<Wait>>,
}

impl Bulk {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            queue: VecDeque::new(),
            taken: 0,
            waiting: VecDeque::new(),
            settled: Vec::new(),
        }
    }

    /// Queues the message; when there is no room, it comes back with the place at
    /// which its sender, the calling thread, waits.
    pub(super) fn push(&mut self, message: Message) -> Option<Arc<Wait>> {
        if self.waiting.is_empty() && self.has_room(&message) {
            self.admit(message);
            return None;
        }
        let wait = Arc::new(Wait::here());
        self.waiting.push_back((message, wait.clone()));
        Some(wait)
    }

    /// Gives up waiting; `None` when the message has left the waiting line before.
    pub(super) fn give_up(&mut self, wait: &Arc<Wait>) -> Option<Message> {
        let waits = |(_, other): &(_, Arc<Wait>)| Arc::ptr_eq(other, wait);
        let at = self.waiting.iter().position(waits)?;
        let (message, _) = self.waiting.remove(at)?;
        // A small message may have waited behind this one.
        self.admit_waiting();
        Some(message)
    }

    /// Gives room back that written messages took, to those who wait for it.
    pub(super) fn release(&mut self, room: usize) {
        self.taken -= room;
        self.admit_waiting();
    }

    /// Nobody will write what is here.
    fn abandon(&mut self) {
        self.queue = VecDeque::new();
        self.send_away();
    }

    /// Nothing new is accepted: those who wait are told.
    pub(super) fn send_away(&mut self) {
        for (_, wait) in self.waiting.drain(..) {
            wait.settle(CLOSED);
            self.settled.push(wait);
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn admit_waiting(&mut self) {
        while let Some((message, wait)) = self.waiting.pop_front() {
            if !self.has_room(&message) {
                self.waiting.push_front((message, wait));
                return;
            }
            self.admit(message);
            wait.settle(ADMITTED);
            self.settled.push(wait);
        }
    }

    fn admit(&mut self, message: Message) {
        self.taken += cost(&message);
        self.queue.push_back(message);
    }

    /// A message larger than the whole lane has room when the lane is empty.
    fn has_room(&self, message: &Message) -> bool {
        self.taken == 0 || self.taken + cost(message) <= self.limit
    }
}

/// Where a sender waits for room. Its thread sleeps until this is settled.
#[derive(Debug)]
pub(super) struct Wait {
    outcome: AtomicU8,
    sender: Thread,
}

/// How waiting for room ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Admitted,
    Closed,
}

impl Wait {
    fn here() -> Self {
        Self {
            outcome: AtomicU8::new(WAITING),
            sender: thread::current(),
        }
    }

    fn settle(&self, outcome: u8) {
        self.outcome.store(outcome, Ordering::Release);
    }

    /// Makes the sender look again.
    pub(super) fn wake(&self) {
        self.sender.unpark();
    }

    pub(super) fn outcome(&self) -> Option<Waited> {
        match self.outcome.load(Ordering::Acquire) {
            ADMITTED => Some(Waited::Admitted),
            CLOSED => Some(Waited::Closed),
            _ => None,
        }
    }
}

/// Both lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) control: Control,
    pub(super) bulk: Bulk,
}

impl Lanes {
    /// `bulk_bytes` is the room of the bulk lane.
    pub(super) fn new(bulk_bytes: usize) -> Self {
        Self {
            control: Control::default(),
            bulk: Bulk::new(bulk_bytes),
        }
    }

    /// The next message to write.
    pub(super) fn pop(&mut self) -> Option<(Lane, Message)> {
        if let Some(message) = self.control.pop() {
            return Some((Lane::Control, message));
        }
        let message = self.bulk.queue.pop_front()?;
        Some((Lane::Bulk, message))
    }

    /// Drops everything that is queued.
    pub(super) fn abandon(&mut self) {
        self.control = Control::default();
        self.bulk.abandon();
    }
}

const WAITING: u8 = 0;
const ADMITTED: u8 = 1;
const CLOSED: u8 = 2;

/// The control lane holds heartbeats, acks and the like: a few at a time. Somebody
/// who has queued thousands is writing to a dead link (decisions.md §6.6).
pub(super) const CONTROL_MESSAGES: usize = 4096;

/// The same limit in bytes.
const CONTROL_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> Message {
        Message::binary(len, |buf| buf.extend(std::iter::repeat_n(7, len)))
    }

    #[test]
    fn the_control_lane_goes_first() {
        let mut lanes = Lanes::new(1000);
        assert!(lanes.bulk.push(message(1)).is_none());
        assert!(lanes.control.push(message(2)));
        assert!(matches!(lanes.pop(), Some((Lane::Control, m)) if m.len() == 2));
        assert!(matches!(lanes.pop(), Some((Lane::Bulk, m)) if m.len() == 1));
        assert!(lanes.pop().is_none());
    }

    #[test]
    fn the_control_lane_has_an_end_in_messages_and_in_bytes() {
        let mut lane = Control::default();
        for _ in 0..CONTROL_MESSAGES {
            assert!(lane.push(message(0)));
        }
        assert!(!lane.push(message(0)));
        let mut lane = Control::default();
        assert!(!lane.push(message(CONTROL_BYTES)));
        assert!(lane.push(message(CONTROL_BYTES - OVERHEAD)));
        assert!(!lane.push(message(0)));
    }

    #[test]
    fn room_is_given_in_the_order_of_arrival() {
        let mut bulk = Bulk::new(300);
        assert!(bulk.push(message(200)).is_none());
        let large = bulk.push(message(150)).expect("no room");
        let small = bulk.push(message(1)).expect("not before the large one");
        bulk.release(cost(&message(200)) - 90);
        assert_eq!(large.outcome(), None);
        bulk.release(90);
        assert_eq!(large.outcome(), Some(Waited::Admitted));
        assert_eq!(small.outcome(), Some(Waited::Admitted));
    }

    #[test]
    fn who_waits_behind_one_that_gives_up_is_not_forgotten() {
        let mut bulk = Bulk::new(300);
        assert!(bulk.push(message(100)).is_none());
        let large = bulk.push(message(200)).expect("no room");
        let small = bulk.push(message(1)).expect("waits behind it");
        assert!(bulk.give_up(&large).is_some());
        assert!(bulk.give_up(&large).is_none());
        assert_eq!(small.outcome(), Some(Waited::Admitted));
    }

    #[test]
    fn a_message_larger_than_the_lane_needs_it_empty() {
        let mut bulk = Bulk::new(100);
        assert!(bulk.push(message(0)).is_none());
        let huge = bulk.push(message(100_000)).expect("not empty");
        bulk.release(OVERHEAD);
        assert_eq!(huge.outcome(), Some(Waited::Admitted));
        assert!(bulk.push(message(0)).is_some());
    }
}
