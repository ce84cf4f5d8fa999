//! The one buffer of a TLS reader: what has arrived and is not used up.

use std::io;

use super::record::{MAX_CONTENT, MAX_OVERHEAD};
use crate::net::stream::tcp::SMALL;
use crate::net::stream::{ReadHalf, Wait};

pub(super) struct Received {
    /// Empty until the first read, then [`SMALL`] to [`LARGE`] bytes.
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read took all there was room for: there may be much more.
    filled: bool,
}

impl Received {
    pub(super) fn new() -> Self {
        Self {
            buf: Vec::new(),
            start: 0,
            end: 0,
            filled: false,
        }
    }

    /// What is not used up, as long as nothing is received.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.end]
    }

    /// Counts `count` bytes as used; they stay where they are until the next
    /// receive. Says where they lie.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let start = self.start;
        self.start = (start + count).min(self.end);
        start
    }

    /// Bytes at places that [`advance`](Self::advance) has told.
    pub(super) fn at(&mut self, range: std::ops::Range<usize>) -> &mut [u8] {
        &mut self.buf[range]
    }

    /// Receives something from the layer below, with room for `need` bytes in all.
    /// False at its end.
    pub(super) fn receive(
        &mut self,
        lower: &mut ReadHalf,
        need: usize,
        wait: Wait,
    ) -> io::Result<bool> {
        self.make_room(need);
        let room = &mut self.buf[self.end..];
        let count = lower.receive(room, wait)?;
        self.filled = count == room.len();
        self.end += count;
        Ok(count > 0)
    }

    /// True when waiting with it would be a waste.
    pub(super) fn is_large(&self) -> bool {
        self.buf.len() > SMALL
    }

    /// Gives the memory back unless something is in it.
    pub(super) fn shrink(&mut self) {
        if self.start == self.end {
            *self = Self::new();
        }
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.buf.capacity()
    }

    fn make_room(&mut self, need: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.buf.len() - self.end < LARGE / 2 {
            // A piece of a record, once per record at most.
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut size = self.buf.len().max(SMALL).max(self.start + need);
        if self.filled && self.buf.len() < LARGE {
            size = size.max((self.buf.len() * 4).min(LARGE));
        }
        if self.buf.len() < size {
            self.buf.resize(size, 0);
        }
        debug_assert!(self.end < self.buf.len(), "no room");
    }
}

/// Buffer of a reader that is kept busy: two full records a call, and hardly more, so
/// that what is left of a third, and is moved to the front, is little. With room for
/// four, 128 readers take 4 MiB more and not less CPU.
const LARGE: usize = 2 * (MAX_CONTENT + MAX_OVERHEAD);
