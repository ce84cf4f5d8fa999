//! Buffers of messages that are used again. A bulk stream sends thirty thousand a
//! second, made on one thread and dropped on another; and a thread that allocates
//! nothing takes little memory.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::message::HEADROOM;

/// Capacity of a spare buffer: with room for a header in front, what fills two TLS
/// records together with a header of 8 bytes.
pub const SPARE: usize = HEADROOM + 32 * 1024 - 8;

/// Capacity of a small one: for what is queued for long, a large one would be a waste.
pub const SMALL_SPARE: usize = 2048;

static SPARES: Mutex<Spares> = Mutex::new(Spares::new());

struct Spares {
    large: Pile,
    small: Pile,
    tidied: Option<Instant>,
}

struct Pile {
    buffers: Vec<Vec<u8>>,
    most: usize,
    /// The fewest that lay here since it was tidied.
    unused: usize,
}

impl Spares {
    const fn new() -> Self {
        Self {
            large: Pile::new(MAX_LARGE),
            small: Pile::new(MAX_SMALL),
            tidied: None,
        }
    }

    fn tidy(&mut self, now: Instant) -> [Vec<Vec<u8>>; 2] {
        let tidied = *self.tidied.get_or_insert(now);
        if now.saturating_duration_since(tidied) < TIDY {
            return Default::default();
        }
        self.tidied = Some(now);
        [self.large.tidy(), self.small.tidy()]
    }
}

impl Pile {
    const fn new(most: usize) -> Self {
        Self {
            buffers: Vec::new(),
            most,
            unused: 0,
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop();
        self.unused = self.unused.min(self.buffers.len());
        buffer
    }

    /// It comes back when there are enough.
    fn give(&mut self, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.buffers.len() == self.most {
            return Some(buffer);
        }
        buffer.clear();
        self.buffers.push(buffer);
        None
    }

    /// What nobody has needed since the last time.
    fn tidy(&mut self) -> Vec<Vec<u8>> {
        let unused = self.buffers.drain(..self.unused).collect();
        self.unused = self.buffers.len();
        unused
    }
}

/// An empty buffer with a capacity of [`SPARE`], for
/// [`Message::from_buffer`](super::Message::from_buffer). It comes back by itself
/// when the message is dropped.
pub fn spare_buffer() -> Vec<u8> {
    let spare = SPARES.lock().large.take();
    spare.unwrap_or_else(|| Vec::with_capacity(SPARE))
}

/// Likewise, with a capacity of [`SMALL_SPARE`].
pub fn small_spare_buffer() -> Vec<u8> {
    let spare = SPARES.lock().small.take();
    spare.unwrap_or_else(|| Vec::with_capacity(SMALL_SPARE))
}

/// Keeps `buffer` if it is one of these.
pub fn keep_buffer(buffer: Vec<u8>) {
    // What is too much is dropped without the lock: the allocator has its own.
    let _rest = match buffer.capacity() {
        SPARE => SPARES.lock().large.give(buffer),
        SMALL_SPARE => SPARES.lock().small.give(buffer),
        _ => Some(buffer),
    };
}

/// Time has passed: gives back what nobody has needed for some seconds.
pub fn tidy_spare_buffers(now: Instant) {
    let unused = SPARES.lock().tidy(now);
    drop(unused);
}

/// Kept at most, by the whole process: 2 MiB, and half a MiB of small ones.
const MAX_LARGE: usize = 64;
const MAX_SMALL: usize = 256;

/// How long a buffer may lie unused.
const TIDY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_too_many_and_what_is_not_needed_goes() {
        let mut pile = Pile::new(10);
        for i in 0..=10 {
            let back = pile.give(vec![1; 10]);
            assert_eq!(back.is_some(), i == 10);
        }
        // None of them had been there all the time.
        assert!(pile.tidy().is_empty());
        for _ in 0..3 {
            let one = pile.take().expect("one");
            assert!(one.is_empty());
            pile.give(one);
        }
        for one in [pile.take(), pile.take()].into_iter().flatten() {
            pile.give(one);
        }
        // Two at once were needed.
        assert_eq!(pile.tidy().len(), 8);
        assert_eq!(pile.tidy().len(), 2);
        assert!(pile.take().is_none());
    }

    #[test]
    fn it_is_tidied_now_and_then() {
        let mut spares = Spares::new();
        let now = Instant::now();
        spares.tidy(now);
        spares.large.give(Vec::new());
        spares.small.give(Vec::new());
        let left = |spares: &Spares| spares.large.buffers.len() + spares.small.buffers.len();
        spares.tidy(now + TIDY);
        spares.tidy(now + TIDY + TIDY / 2);
        assert_eq!(left(&spares), 2);
        spares.tidy(now + 2 * TIDY);
        assert_eq!(left(&spares), 0);
    }
}
