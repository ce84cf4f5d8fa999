//! The queues of messages that belong to requests: one for each request.
//!
//! Pure bookkeeping: the lock around it and the waking are in `outbox.rs`, the order
//! among slots in `lanes.rs`.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::message::Message;
use super::wait::{Wait, Waited};
use crate::turns::TURN;

/// Where messages keep their order: what has the same slot is written in the order
/// in which it was sent. Slots have turns (design.md, "Fairness").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u64);

impl Slot {
    /// The slot of all messages of this request. It follows from the id alone, because
    /// an id may be used again while messages of its last request are still queued.
    /// (Two ids in one slot by accident have their turns together, no more.)
    pub fn of(request_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        request_id.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// The messages of all slots.
///
/// A message is queued at once. Whether its sender may go on is another question: he
/// waits while there is no room, until there is some when his slot has had a turn,
/// or the message itself is taken. So each waiting sender holds one message, and
/// what is written next depends on turns, not on who came first.
#[derive(Debug)]
pub(super) struct Slots {
    queues: HashMap<Slot, Queue>,
    room: Room,
}

/// The room of all slots.
#[derive(Debug)]
struct Room {
    /// In bytes.
    limit: usize,
    /// By messages whose senders have gone on, and by those in hand.
    taken: usize,
    /// What of that the writer has in hand.
    in_hand: usize,
    /// Waits that are over, whose senders are still to be woken: not under the lock,
    /// they would run into it.
    settled: Vec<Arc<Wait>>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Queued>,
    /// The first so many have no waiting sender any more.
    admitted: usize,
    /// Room that they take.
    taken: usize,
}

#[derive(Debug)]
struct Queued {
    message: Message,
    /// Where its sender waits.
    wait: Option<Arc<Wait>>,
}

/// What queuing a message meant.
#[derive(Debug)]
pub(super) struct Pushed {
    /// The slot was empty: it is to have a turn.
    pub(super) new: bool,
    /// There is no room: here the sender, who is the calling thread, waits.
    pub(super) wait: Option<Arc<Wait>>,
}

/// What giving up meant.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) message: Message,
    /// The slot is no more: it has nothing to say when it is its turn.
    pub(super) gone: bool,
}

impl Slots {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            queues: HashMap::new(),
            room: Room {
                limit,
                taken: 0,
                in_hand: 0,
                settled: Vec::new(),
            },
        }
    }

    pub(super) fn push(&mut self, slot: Slot, message: Message) -> Pushed {
        let mut new = false;
        let queue = self.queues.entry(slot).or_insert_with(|| {
            new = true;
            Queue::default()
        });
        let cost = cost(&message);
        let first = queue.admitted == queue.messages.len();
        let wait = if first && queue.may_admit(cost, &self.room) {
            queue.admit(cost, &mut self.room);
            None
        } else {
            Some(Arc::new(Wait::here()))
        };
        queue.messages.push_back(Queued {
            message,
            wait: wait.clone(),
        });
        Pushed { new, wait }
    }

    /// Takes the messages of one turn of a slot, `most` of them at most, and says how
    /// many bytes that is. `None`: it had nothing to say and is no more.
    pub(super) fn turn(
        &mut self,
        slot: Slot,
        messages: &mut Vec<Message>,
        most: usize,
    ) -> Option<usize> {
        let queue = self.queues.get_mut(&slot)?;
        if queue.messages.is_empty() {
            self.queues.remove(&slot);
            return None;
        }
        let mut bytes = 0;
        for count in 0..most {
            let Some(next) = queue.messages.front() else {
                break;
            };
            if count > 0 && bytes + next.message.len() > TURN {
                break;
            }
            bytes += next.message.len();
            messages.extend(queue.pop(&mut self.room));
        }
        queue.admit_waiting(&mut self.room);
        Some(bytes)
    }

    /// The writer has nothing in hand any more.
    pub(super) fn written(&mut self) {
        self.room.taken -= self.room.in_hand;
        self.room.in_hand = 0;
    }

    /// Gives up waiting; `None` when the wait was over before.
    pub(super) fn give_up(&mut self, slot: Slot, wait: &Arc<Wait>) -> Option<GivenUp> {
        let queue = self.queues.get_mut(&slot)?;
        let waits = |queued: &Queued| queued.wait.as_ref().is_some_and(|w| Arc::ptr_eq(w, wait));
        let at = queue.messages.iter().position(waits)?;
        let Queued { message, .. } = queue.messages.remove(at)?;
        // A smaller one may have waited behind it.
        queue.admit_waiting(&mut self.room);
        let gone = queue.messages.is_empty();
        if gone {
            self.queues.remove(&slot);
        }
        Some(GivenUp { message, gone })
    }

    /// Nothing new is accepted: those who wait are told, and their messages are given
    /// back.
    pub(super) fn send_away(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        for queue in self.queues.values_mut() {
            for Queued { message, wait } in queue.messages.drain(queue.admitted..) {
                messages.push(message);
                self.room.settle(wait, Waited::Closed);
            }
        }
        messages
    }

    /// Nobody will write what is in this slot: gives it back.
    pub(super) fn abandon(&mut self, slot: Slot) -> impl Iterator<Item = Message> {
        let queue = self.queues.remove(&slot).unwrap_or_default();
        self.room.taken -= queue.taken;
        queue.messages.into_iter().map(|Queued { message, wait }| {
            self.room.settle(wait, Waited::Closed);
            message
        })
    }

    /// Waits that are over, whose senders are to be woken.
    pub(super) fn settled(&mut self) -> &mut Vec<Arc<Wait>> {
        &mut self.room.settled
    }

    /// Senders that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let waiting = |queue: &Queue| queue.messages.len() - queue.admitted;
        self.queues.values().map(waiting).sum()
    }
}

impl Queue {
    /// A sender goes on while less than a turn waits in his slot, and there is room.
    fn may_admit(&self, cost: usize, room: &Room) -> bool {
        self.taken < TURN && room.has(cost)
    }

    /// The next one's sender goes on.
    fn admit(&mut self, cost: usize, room: &mut Room) {
        self.admitted += 1;
        self.taken += cost;
        room.taken += cost;
    }

    fn admit_waiting(&mut self, room: &mut Room) {
        while let Some(next) = self.messages.get(self.admitted) {
            let cost = cost(&next.message);
            if !self.may_admit(cost, room) {
                return;
            }
            room.settle(self.messages[self.admitted].wait.take(), Waited::Admitted);
            self.admit(cost, room);
        }
    }

    fn pop(&mut self, room: &mut Room) -> Option<Message> {
        let Queued { message, wait } = self.messages.pop_front()?;
        let cost = cost(&message);
        if self.admitted > 0 {
            self.admitted -= 1;
            self.taken -= cost;
        } else {
            room.taken += cost;
        }
        room.in_hand += cost;
        room.settle(wait, Waited::Admitted);
        Some(message)
    }
}

impl Room {
    /// A message larger than all of it has room when there is nothing else.
    fn has(&self, cost: usize) -> bool {
        self.taken == 0 || self.taken + cost <= self.limit
    }

    fn settle(&mut self, wait: Option<Arc<Wait>>, outcome: Waited) {
        if let Some(wait) = wait {
            wait.settle(outcome);
            self.settled.push(wait);
        }
    }
}

/// What a message takes of the room beside its payload, so that empty messages have
/// an end as well.
pub(super) const OVERHEAD: usize = 64;

pub(super) fn cost(message: &Message) -> usize {
    message.len() + OVERHEAD
}

#[cfg(test)]
mod tests;
