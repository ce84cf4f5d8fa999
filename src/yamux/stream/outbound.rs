//! The sending half of a stream: the window and the slot of frames that wait for
//! their turn (tunnels.md §2.7, design.md "Fairness").

use std::collections::VecDeque;
use std::sync::Arc;

use crate::yamux::{Common, Fatal, INITIAL_WINDOW};

/// `P` is a payload; what it is made of only the shell knows.
#[derive(Debug)]
pub(super) struct Outbound<P> {
    common: Arc<Common>,
    /// Bytes that may still be queued; what is queued has been taken off.
    window: u32,
    slots: VecDeque<Slot<P>>,
    /// Payload bytes in the slots.
    queued: usize,
    /// Bytes of memory that they take.
    held: usize,
    /// How often something moved: a payload was taken, or the peer has granted window.
    moves: u32,
}

#[derive(Debug)]
struct Slot<P> {
    payload: P,
    len: u32,
    weight: usize,
}

/// What a payload to be sent takes of memory.
pub trait Weight {
    /// In bytes: the whole of its buffer, however little is in it.
    fn weight(&self) -> usize;
}

impl Weight for Vec<u8> {
    fn weight(&self) -> usize {
        self.capacity()
    }
}

impl<P> Outbound<P> {
    pub(super) fn new(common: &Arc<Common>) -> Self {
        Self {
            common: common.clone(),
            window: INITIAL_WINDOW,
            // Now: the thread that sends is to allocate nothing.
            slots: VecDeque::with_capacity(MOST_SLOTS),
            queued: 0,
            held: 0,
            moves: 0,
        }
    }

    /// A window update of the peer.
    pub(super) fn grant(&mut self, id: u32, delta: u32) -> Result<(), Fatal> {
        self.moves = self.moves.wrapping_add(1);
        let window = self.window.checked_add(delta);
        self.window = window.ok_or(Fatal::WindowOverflow(id))?;
        Ok(())
    }

    /// Bytes that may be queued now.
    pub(super) fn room(&self) -> u32 {
        let waiting = self.slots.len();
        if waiting < SLOTS || waiting < MOST_SLOTS && self.common.spare_slots() > 0 {
            self.window
        } else {
            0
        }
    }

    /// Whether to tell a sender who waits that there is room: not for each frame, where
    /// there is room for many.
    pub(super) fn wants_more(&self) -> bool {
        self.slots.len() <= MOST_SLOTS / 2
    }

    /// Queues `payload` of `len` bytes; it comes back when there is no room.
    pub(super) fn push(&mut self, payload: P, len: u32) -> Result<(), P>
    where
        P: Weight,
    {
        if len == 0 || len > self.room() {
            return Err(payload);
        }
        if self.slots.len() >= SLOTS && !self.common.take_spare_slot() {
            return Err(payload);
        }
        self.window -= len;
        self.queued += len as usize;
        let weight = payload.weight();
        self.held += weight;
        self.slots.push_back(Slot {
            payload,
            len,
            weight,
        });
        Ok(())
    }

    /// Length of the next payload.
    pub(super) fn next_len(&self) -> Option<u32> {
        self.slots.front().map(|slot| slot.len)
    }

    pub(super) fn pop(&mut self) -> Option<(P, u32)> {
        let Slot {
            payload,
            len,
            weight,
        } = self.slots.pop_front()?;
        if self.slots.len() >= SLOTS {
            self.common.give_spare_slots(1);
        }
        self.queued -= len as usize;
        self.held -= weight;
        self.moves = self.moves.wrapping_add(1);
        Some((payload, len))
    }

    pub(super) fn purge(&mut self) {
        self.common
            .give_spare_slots(self.slots.len().saturating_sub(SLOTS));
        self.slots = VecDeque::new();
        self.queued = 0;
        self.held = 0;
    }

    /// Frames that wait.
    pub(super) fn waiting(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn moves(&self) -> u32 {
        self.moves
    }

    /// Bytes of memory that what waits takes.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Payload bytes that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }
}

impl<P> Drop for Outbound<P> {
    fn drop(&mut self) {
        self.purge();
    }
}

/// Frames of one stream that may wait for their turn, however many others speak: the
/// one that is written next and the one that is made meanwhile.
pub const SLOTS: usize = 2;

/// As many as a window has. Those beyond [`SLOTS`] are the session's
/// ([`SPARE_SLOTS`]): so a stream that speaks alone, or beside few, sleeps once for
/// several frames, and many take no more memory than before.
pub const MOST_SLOTS: usize = 8;

/// Slots that the streams of a session share.
pub const SPARE_SLOTS: usize = MOST_SLOTS - SLOTS;
