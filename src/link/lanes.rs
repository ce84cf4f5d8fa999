//! Everything that waits for the writer, and in which order: the control lane, then
//! control frames of speakers, then turns.
//!
//! Pure bookkeeping; the lock around it, the waking and the asking of speakers are in
//! `outbox.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::Arc;

use super::message::Message;
use super::slots::{GivenUp, Slot, Slots, cost};
use super::speaker::Speaker;
use super::wait::Wait;
use crate::turns::Turns;

/// Everything that waits for the writer.
pub(super) struct Lanes {
    pub(super) control: Control,
    /// Who has control frames.
    pub(super) speaking: VecDeque<Arc<dyn Speaker>>,
    pub(super) turns: Turns<Party>,
    pub(super) slots: Slots,
}

/// Who has turns.
pub(super) enum Party {
    /// In the turns as long as it is in the slots.
    Slot(Slot),
    Speaker(Arc<dyn Speaker>),
}

/// What nobody will write. It is dropped when the lock is free again: messages go
/// back to their owners, and a speaker may be more than its name.
#[derive(Default)]
#[must_use = "to be dropped without the lock"]
pub(super) struct Leftovers {
    _messages: Vec<Message>,
    _speakers: Vec<Arc<dyn Speaker>>,
}

impl Lanes {
    /// `bulk_bytes` is the room of all slots.
    pub(super) fn new(bulk_bytes: usize) -> Self {
        Self {
            control: Control::default(),
            speaking: VecDeque::new(),
            turns: Turns::new(),
            slots: Slots::new(bulk_bytes),
        }
    }

    /// Queues a message; when there is no room, its sender, the calling thread, waits
    /// at the place that is given back.
    pub(super) fn push(&mut self, slot: Slot, message: Message) -> Option<Arc<Wait>> {
        let pushed = self.slots.push(slot, message);
        if pushed.new {
            self.turns.enter(Party::Slot(slot));
        }
        pushed.wait
    }

    /// Gives up waiting; `None` when the wait was over before.
    pub(super) fn give_up(&mut self, slot: Slot, wait: &Arc<Wait>) -> Option<Message> {
        let GivenUp { message, gone } = self.slots.give_up(slot, wait)?;
        if gone {
            self.turns
                .retain(|party| !matches!(party, Party::Slot(other) if *other == slot));
        }
        Some(message)
    }

    /// A slot has its turn: takes `most` messages at most, and says how many bytes
    /// they have.
    pub(super) fn turn(&mut self, slot: Slot, messages: &mut Vec<Message>, most: usize) -> usize {
        let Some(bytes) = self.slots.turn(slot, messages, most) else {
            return 0;
        };
        self.turns.spent(bytes);
        self.turns.again(Party::Slot(slot), bytes);
        bytes
    }

    /// Nothing new is accepted: senders that wait are told.
    pub(super) fn send_away(&mut self) -> Leftovers {
        Leftovers {
            _messages: self.slots.send_away(),
            _speakers: Vec::new(),
        }
    }

    /// Nobody will write what is here.
    pub(super) fn abandon(&mut self) -> Leftovers {
        let mut messages = Vec::from(mem::take(&mut self.control).queue);
        let mut speakers = Vec::from(mem::take(&mut self.speaking));
        while let Some(party) = self.turns.next_turn() {
            match party {
                Party::Slot(slot) => messages.extend(self.slots.abandon(slot)),
                Party::Speaker(speaker) => speakers.push(speaker),
            }
        }
        Leftovers {
            _messages: messages,
            _speakers: speakers,
        }
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("control", &self.control)
            .field("speaking", &self.speaking.len())
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// The control lane: whoever sends never waits, so it must not fill up.
#[derive(Debug, Default)]
pub(super) struct Control {
    queue: VecDeque<Message>,
    bytes: usize,
}

impl Control {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

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

    pub(super) fn pop(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }
}

/// The control lane holds heartbeats, acks and the like: a few at a time. Somebody
/// who has queued thousands is writing to a dead link (decisions.md §6.6).
pub(super) const CONTROL_MESSAGES: usize = 4096;

/// The same limit in bytes.
const CONTROL_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::super::slots::OVERHEAD;
    use super::*;

    fn message(len: usize) -> Message {
        Message::binary(len, |buf| buf.extend(std::iter::repeat_n(7, len)))
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
    fn a_slot_whose_last_message_was_given_up_has_no_turn() {
        let mut lanes = Lanes::new(100);
        let [a, b] = ["a", "b"].map(Slot::of);
        assert!(lanes.push(a, message(100)).is_none());
        let wait = lanes.push(b, message(1)).expect("no room");
        assert!(lanes.give_up(b, &wait).is_some());
        assert!(lanes.give_up(b, &wait).is_none());
        assert!(matches!(lanes.turns.next_turn(), Some(Party::Slot(slot)) if slot == a));
        assert!(lanes.turns.is_empty());
    }
}
