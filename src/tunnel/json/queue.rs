//! What targets haven't taken yet, and the memory for it.

use std::collections::VecDeque;
use std::sync::Arc;

use base64_simd::STANDARD;

use crate::yamux::{Budget, Taken};

/// The bytes for one target, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    /// What they take.
    bytes: usize,
}

/// Some bytes, and the memory that they take.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    _taken: Share,
}

/// The memory of all JSON tunnels: a part of what all tunnels have, so that streams of
/// yamux always find the rest.
#[derive(Debug)]
pub(super) struct Memory {
    all: Arc<Budget>,
    own: Arc<Budget>,
}

/// Some of it; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    _taken: [Taken; 2],
}

impl Memory {
    /// `limit` bytes of `all`.
    pub(super) fn new(limit: usize, all: Arc<Budget>) -> Self {
        Self {
            all,
            own: Arc::new(Budget::new(limit)),
        }
    }

    /// `None` when they are not left.
    pub(super) fn take(&self, bytes: usize) -> Option<Share> {
        let taken = [self.own.take(bytes)?, self.all.take(bytes)?];
        Some(Share { _taken: taken })
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.own.charged()
    }
}

/// Why bytes can't be kept. The stream would have a gap, so it ends (T8 of
/// control-channel.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PushError {
    #[error("data that is not base64")]
    NotBase64,
    #[error("the target takes nothing and {} MiB wait for it", MAX_QUEUED >> 20)]
    Full,
    #[error("the limit for all queues of JSON tunnels (half of tunnels.memory_limit) is reached")]
    OverBudget,
}

impl Chunk {
    /// Strict base64, as much memory as it will take at most.
    pub(super) fn decode(base64: &str, memory: &Memory) -> Result<Self, PushError> {
        let capacity = (base64.len() / 4 * 3).max(MIN_CHUNK);
        if capacity > MAX_QUEUED {
            return Err(PushError::Full);
        }
        let taken = memory.take(capacity).ok_or(PushError::OverBudget)?;
        let mut bytes = Vec::with_capacity(capacity);
        STANDARD
            .decode_append(base64, &mut bytes)
            .map_err(|_| PushError::NotBase64)?;
        Ok(Self {
            bytes,
            _taken: taken,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn has_room_for(&self, more: &[u8]) -> bool {
        self.bytes.capacity() - self.bytes.len() >= more.len()
    }
}

impl Queue {
    pub(super) fn push(&mut self, chunk: Chunk) -> Result<(), PushError> {
        if chunk.bytes.is_empty() {
            return Ok(());
        }
        // Many small ones would take more memory than they have bytes.
        if let Some(last) = self.chunks.back_mut()
            && last.has_room_for(&chunk.bytes)
        {
            last.bytes.extend_from_slice(&chunk.bytes);
            return Ok(());
        }
        let bytes = self.bytes + chunk.bytes.capacity();
        if bytes > MAX_QUEUED {
            return Err(PushError::Full);
        }
        self.bytes = bytes;
        self.chunks.push_back(chunk);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.bytes.capacity();
        Some(chunk)
    }

    /// Bytes of memory.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// decisions.md §6.2, which takes the place of T22's 1 MiB.
const MAX_QUEUED: usize = 64 << 20;

/// A message with a few bytes takes so many, and shares them with the next.
const MIN_CHUNK: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(limit: usize) -> Memory {
        Memory::new(limit, Arc::new(Budget::new(usize::MAX)))
    }

    fn chunk(bytes: &[u8], memory: &Memory) -> Result<Chunk, PushError> {
        Chunk::decode(&STANDARD.encode_to_string(bytes), memory)
    }

    #[test]
    fn tt22_what_waits_is_bounded_by_the_queue_and_by_all_queues() {
        let room = memory(256 << 20);
        let mut queue = Queue::default();
        let mib = vec![0; 1 << 20];
        let mut count = 0;
        let error = loop {
            match queue.push(chunk(&mib, &room).expect("room")) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, PushError::Full);
        assert!((60..=64).contains(&count), "{count} MiB");
        assert!(room.taken() <= MAX_QUEUED);
        drop(queue);
        assert_eq!(room.taken(), 0);
        let small = memory(10_000);
        let first = chunk(&[1; 9_000], &small).expect("room");
        assert_eq!(
            chunk(b"x", &small).expect_err("full"),
            PushError::OverBudget
        );
        drop(first);
        chunk(b"x", &small).expect("room again");
        let huge = "A".repeat((MAX_QUEUED / 3 + 1) * 4);
        assert_eq!(
            Chunk::decode(&huge, &room).expect_err("too much"),
            PushError::Full
        );
    }

    #[test]
    fn streams_of_yamux_always_find_the_rest() {
        let all = Arc::new(Budget::new(100_000));
        let room = Memory::new(50_000, all.clone());
        let first = room.take(40_000).expect("room");
        assert!(room.take(10_001).is_none());
        let streams = all.take(60_000).expect("theirs");
        assert!(room.take(1).is_none());
        drop(streams);
        drop((first, room.take(10_000).expect("room")));
        assert_eq!((room.taken(), all.charged()), (0, 0));
    }

    #[test]
    fn a_flood_of_tiny_messages_takes_hardly_more_than_its_bytes() {
        let room = memory(1 << 20);
        let mut queue = Queue::default();
        for _ in 0..100_000 {
            queue.push(chunk(b"x", &room).expect("room")).expect("room");
        }
        assert!(room.taken() < 150_000, "{}", room.taken());
    }

    #[test]
    fn rubbish_is_refused() {
        let room = memory(1 << 20);
        for rubbish in ["!", "aGk", "aGk=\n", "aGk=aGk="] {
            let error = Chunk::decode(rubbish, &room).expect_err("rubbish");
            assert_eq!(error, PushError::NotBase64, "{rubbish:?}");
        }
        assert_eq!(room.taken(), 0);
    }

    proptest! {
        #[test]
        fn tt22_what_comes_out_is_what_went_in(pieces in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..10_000), 0..20,
        ), taken_after in 0usize..20) {
            let room = memory(64 << 20);
            let mut queue = Queue::default();
            let mut out = Vec::new();
            for (i, piece) in pieces.iter().enumerate() {
                queue.push(chunk(piece, &room).expect("room")).expect("room");
                if i >= taken_after && let Some(chunk) = queue.pop() {
                    out.extend_from_slice(chunk.bytes());
                }
            }
            while let Some(chunk) = queue.pop() {
                out.extend_from_slice(chunk.bytes());
            }
            prop_assert_eq!(out, pieces.concat());
            prop_assert!(queue.is_empty());
            prop_assert_eq!((queue.bytes, room.taken()), (0, 0));
        }
    }
}
