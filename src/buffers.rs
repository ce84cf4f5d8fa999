//! Buffers that are used again, for bulk data on its way into the tunnel. One pool for
//! the process, because one thread fills them and another one drops them: an allocator
//! that has a part for each thread keeps in all parts what only one of them needs at a
//! time (with 128 streams 11 MiB more, and with the pool too small none less).
//!
//! [`Buffer`] is a `Vec` in all but its end: dropped, it goes back. Small ones and very
//! large ones come from the allocator and go there.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

use crate::resident;

/// Bytes with room for more; what it is made of may be used again later.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty one with room for `bytes` at least.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        match class_for(bytes) {
            Some(class) => POOL.lock().take(class),
            None => None,
        }
        .unwrap_or_else(|| {
            let capacity = class_for(bytes).map_or(bytes, |class| CLASSES[class]);
            Self(Vec::with_capacity(capacity))
        })
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let capacity = self.0.capacity();
        if let Some(class) = CLASSES.iter().position(|size| *size == capacity) {
            let mut bytes = std::mem::take(&mut self.0);
            bytes.clear();
            // What doesn't find room is freed here, not under the lock.
            let mut pool = POOL.lock();
            let first = pool.bytes() == 0;
            let refused = pool.put(class, bytes);
            drop(pool);
            drop(refused);
            if first {
                resident::left_behind(capacity);
            }
        }
    }
}

/// An empty buffer with room for [`LITTLE`] bytes: from here, so that the many threads
/// that copy little now and then have no part of the allocator each.
pub(crate) fn little() -> Buffer {
    let waiting = POOL.lock().take(LITTLE_CLASS);
    waiting.unwrap_or_else(|| Buffer(Vec::with_capacity(LITTLE)))
}

/// Frees the buffers that nobody has needed since the last call. False: none are left.
pub(crate) fn sweep() -> bool {
    let mut pool = POOL.lock();
    let freed = pool.unneeded();
    let left = pool.bytes() > 0;
    drop(pool);
    let bytes = freed.iter().map(Vec::capacity).sum();
    drop(freed);
    if bytes > 0 {
        resident::left_behind(bytes);
    }
    left
}

struct Pool {
    idle: [Idle; CLASSES.len()],
}

/// Buffers of one size that wait.
struct Idle {
    /// The one used last goes first: its pages are in the cache.
    buffers: Vec<Vec<u8>>,
    /// How few there were at the worst time since the last sweep.
    fewest: usize,
}

impl Pool {
    const fn new() -> Self {
        Self {
            idle: [const { Idle::NONE }; CLASSES.len()],
        }
    }

    fn take(&mut self, class: usize) -> Option<Buffer> {
        let idle = &mut self.idle[class];
        let bytes = idle.buffers.pop()?;
        idle.fewest = idle.fewest.min(idle.buffers.len());
        Some(Buffer(bytes))
    }

    /// Gives back what it has no room for.
    fn put(&mut self, class: usize, bytes: Vec<u8>) -> Option<Vec<u8>> {
        if self.bytes() + bytes.capacity() > KEPT {
            return Some(bytes);
        }
        self.idle[class].buffers.push(bytes);
        None
    }

    fn unneeded(&mut self) -> Vec<Vec<u8>> {
        let mut unneeded = Vec::new();
        for idle in &mut self.idle {
            unneeded.extend(idle.buffers.drain(..idle.fewest));
            idle.buffers.shrink_to_fit();
            idle.fewest = idle.buffers.len();
        }
        unneeded
    }

    fn bytes(&self) -> usize {
        let sizes = self.idle.iter().zip(CLASSES);
        sizes.map(|(idle, size)| idle.buffers.len() * size).sum()
    }
}

/// The smallest class that holds so many bytes, if they are worth one.
fn class_for(bytes: usize) -> Option<usize> {
    if bytes < WORTH_IT {
        return None;
    }
    CLASSES.iter().position(|size| bytes <= *size)
}

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

impl Idle {
    const NONE: Self = Self {
        buffers: Vec::new(),
        fewest: 0,
    };
}

/// The sizes, in bytes: a full Data frame, 32 KiB with what goes around it, 32 KiB as
/// base64 in a message; and [`LITTLE`], which is asked for by name.
pub(crate) const CLASSES: [usize; 4] = [FRAME, 36 * 1024, 48 * 1024, LITTLE];
const LITTLE_CLASS: usize = 3;

/// What a small Data frame takes, at most: a page, and a size that nobody else asks for
/// (`allocator.rs`).
pub(crate) const LITTLE: usize = 4 * 1024 - 8;

/// What fills two TLS records, with room for the largest header of a WebSocket frame
/// instead of one of 8 bytes. A buffer of this size has no room for more, so that a
/// read from a socket can't take more.
pub(crate) const FRAME: usize = 32 * 1024 - 8 + 14;

/// Smaller ones the allocator has at hand.
const WORTH_IT: usize = 12 * 1024;

/// Bytes that wait at most: as many as 128 streams have in flight, one each, and the
/// lane. If it were less, each of as many threads would in turn get new ones from its
/// own part of the allocator, which keeps what it once had.
const KEPT: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_used_again() {
        // Its own: the one of the process is in use by other tests.
        let mut pool = Pool::new();
        assert!(pool.take(1).is_none());
        let bytes = Vec::with_capacity(CLASSES[1]);
        let place = bytes.as_ptr();
        assert!(pool.put(1, bytes).is_none());
        assert!(pool.take(0).is_none(), "of another size");
        let again = pool.take(1).expect("it is there");
        assert_eq!(again.as_ptr(), place);
        assert!(pool.take(1).is_none());
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let mut pool = Pool::new();
        let fits = KEPT / CLASSES[0];
        for n in 0..fits + 3 {
            let refused = pool.put(0, Vec::with_capacity(CLASSES[0]));
            assert_eq!(refused.is_some(), n >= fits);
        }
        assert!(pool.bytes() <= KEPT);
        assert!(pool.put(1, Vec::with_capacity(CLASSES[1])).is_some());
    }

    #[test]
    fn what_nobody_needed_between_two_sweeps_is_given_back() {
        let mut pool = Pool::new();
        for _ in 0..5 {
            pool.put(0, Vec::with_capacity(CLASSES[0]));
        }
        // Just come in: the fewest were none.
        assert_eq!(pool.unneeded().len(), 0);
        let used = [pool.take(0), pool.take(0)];
        for buffer in used.into_iter().flatten() {
            let bytes = std::mem::take(&mut { buffer }.0);
            pool.put(0, bytes);
        }
        assert_eq!(pool.unneeded().len(), 3);
        assert_eq!(pool.unneeded().len(), 2);
        assert_eq!(pool.bytes(), 0);
    }

    #[test]
    fn a_buffer_has_room_for_what_was_asked_for() {
        for (bytes, capacity) in [
            (0, 0),
            (100, 100),
            (WORTH_IT - 1, WORTH_IT - 1),
            (WORTH_IT, CLASSES[0]),
            (CLASSES[0], CLASSES[0]),
            (CLASSES[0] + 1, CLASSES[1]),
            (CLASSES[1], CLASSES[1]),
            (1 << 20, 1 << 20),
        ] {
            let buffer = Buffer::with_capacity(bytes);
            assert!(buffer.is_empty());
            assert_eq!(buffer.capacity(), capacity);
        }
        assert_eq!((little().len(), little().capacity()), (0, LITTLE));
    }

    #[test]
    fn a_buffer_comes_back_empty() {
        // Others take and give too: one of many is sure to have been used.
        let mut buffers: Vec<Buffer> = Vec::new();
        for _ in 0..100 {
            let mut buffer = Buffer::with_capacity(CLASSES[1]);
            assert!(buffer.is_empty());
            buffer.extend_from_slice(b"left behind");
            buffers.push(buffer);
            buffers.truncate(1);
        }
    }
}
