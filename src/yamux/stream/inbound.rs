//! The receiving half of a stream: its window, how it grows and shrinks, and the
//! buffer (tunnels.md §2.7, decisions.md §6.6 "Windows").

use std::time::Instant;

use crate::yamux::budget::Account;
use crate::yamux::buffer::{Buffer, Chunk};
use crate::yamux::{Common, Fatal, INITIAL_WINDOW, Unread};

/// Invariant: granted + announced + unread ≤ the window, or, after the window
/// shrank, ≤ what it was before.
#[derive(Debug)]
pub(super) struct Inbound {
    buffer: Buffer,
    /// What the peer may have under way and we unread.
    window: u32,
    /// Bytes that the peer may still send.
    granted: u32,
    /// Bytes of the current frame that haven't arrived.
    announced: u32,
    /// Bytes, and memory, of chunks that are out and not given back.
    out: usize,
    out_memory: usize,
    /// Nobody reads: what arrives is dropped and window is granted for it.
    discard: bool,
    /// How much that was.
    discarded: u64,
    /// The peer sends no more.
    ended: bool,
    /// When half a window had been read the last time.
    half_read: Instant,
    /// Since when nobody reads what is there.
    unread_since: Instant,
}

impl Inbound {
    pub(super) fn new(common: &Common, now: Instant) -> Self {
        Self {
            buffer: Buffer::new(common.pool.clone()),
            window: INITIAL_WINDOW,
            granted: INITIAL_WINDOW,
            announced: 0,
            out: 0,
            out_memory: 0,
            discard: false,
            discarded: 0,
            ended: false,
            half_read: now,
            unread_since: now,
        }
    }

    /// A Data frame begins. False: its payload is not for us.
    pub(super) fn announce(&mut self, id: u32, len: u32) -> Result<bool, Fatal> {
        self.granted = self.granted.checked_sub(len).ok_or(Fatal::WindowOverrun {
            id,
            len,
            window: self.granted,
        })?;
        if self.ended {
            // After its FIN: what had an end must not grow again.
            return Ok(false);
        }
        self.announced = len;
        self.buffer.begin_frame(len);
        Ok(true)
    }

    /// A part of that frame's payload. True: something can be read.
    pub(super) fn arrive(&mut self, bytes: &[u8], now: Instant) -> bool {
        debug_assert!(bytes.len() <= self.announced as usize);
        self.announced = self.announced.saturating_sub(bytes.len() as u32);
        if self.discard {
            self.discarded += bytes.len() as u64;
            return false;
        }
        if self.unread() == 0 {
            self.unread_since = now;
        }
        self.buffer.push(bytes, self.announced as usize);
        true
    }

    /// The peer's FIN. What was announced before still counts.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Everything that was sent before the FIN has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.ended && self.announced == 0
    }

    /// And has been read.
    pub(super) fn at_end(&self) -> bool {
        self.is_complete() && self.buffer.len() == 0
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn peek(&self) -> &[u8] {
        self.buffer.front()
    }

    pub(super) fn datagram(&self) -> Option<usize> {
        self.buffer.datagram()
    }

    pub(super) fn join_frames(&mut self) {
        self.buffer.join_frames();
    }

    pub(super) fn take(&mut self) -> Option<Chunk> {
        let chunk = self.buffer.take()?;
        self.out += chunk.len();
        self.out_memory += chunk.capacity();
        Some(chunk)
    }

    /// A chunk comes back: now it counts as read.
    pub(super) fn give_back(&mut self, chunk: Chunk, now: Instant) {
        self.out = self.out.saturating_sub(chunk.len());
        self.out_memory = self.out_memory.saturating_sub(chunk.capacity());
        self.buffer.recycle(chunk.into_buf());
        self.unread_since = now;
    }

    pub(super) fn skip(&mut self, count: usize, now: Instant) -> usize {
        self.unread_since = now;
        self.buffer.skip(count)
    }

    pub(super) fn copy_to(&mut self, count: usize, out: &mut Vec<u8>, now: Instant) {
        self.unread_since = now;
        self.buffer.copy_to(count, out);
    }

    /// From now on what arrives is dropped, and what is there as well.
    pub(super) fn discard(&mut self) {
        self.discard = true;
        self.buffer.purge();
    }

    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Nothing is kept and nothing more comes: the stream is over.
    pub(super) fn purge(&mut self) {
        self.discard();
        self.ended = true;
        self.announced = 0;
    }

    /// After something was read: whether the peer is owed a window update. The
    /// window is adapted here, once for each half of it that was read: doubled when
    /// that took less than two round trips (then the window was what limited the
    /// peer), halved while memory is scarce.
    pub(super) fn update(&mut self, common: &Common, account: &mut Account, now: Instant) -> bool {
        if self.ended || self.delta() < self.window / 2 {
            return false;
        }
        let took = now.saturating_duration_since(self.half_read);
        self.half_read = now;
        if account.is_near() {
            self.window = (self.window / 2).max(INITIAL_WINDOW);
        } else if !self.discard
            && common
                .round_trip()
                .is_some_and(|round_trip| took <= round_trip.saturating_mul(ROUND_TRIPS))
        {
            let larger = (self.window * 2).min(common.config.max_window);
            let more = larger - self.window;
            if more > 0 && account.reserve(more as usize) {
                self.window = larger;
            }
        }
        // A window that was shrunk is granted again when it has been used up.
        self.delta() > 0 && self.delta() >= self.window / 2
    }

    /// Grants what the window has room for.
    pub(super) fn grant(&mut self) -> u32 {
        let delta = self.delta();
        self.granted += delta;
        delta
    }

    /// Bytes that count against the budget: what is in memory, or what the peer may
    /// put there beyond the initial window.
    pub(super) fn charge(&self) -> usize {
        let memory = self.buffer.memory() + self.out_memory;
        if self.ended || self.discard {
            return memory;
        }
        let tuned = self.held().max(self.window as usize) - INITIAL_WINDOW as usize;
        memory.max(tuned)
    }

    pub(super) fn unread_since(&self) -> Option<Unread> {
        (self.unread() > 0).then_some(Unread {
            bytes: self.unread(),
            since: self.unread_since,
        })
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    fn unread(&self) -> usize {
        self.buffer.len() + self.out
    }

    /// What the peer may still send, sends, or has sent.
    fn held(&self) -> usize {
        self.granted as usize + self.announced as usize + self.unread()
    }

    fn delta(&self) -> u32 {
        (self.window as usize).saturating_sub(self.held()) as u32
    }
}

/// Half a window read in this many round trips: the window limits the peer.
const ROUND_TRIPS: u32 = 2;
