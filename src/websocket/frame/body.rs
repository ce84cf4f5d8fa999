//! A message that is put together from frames, or from parts of one.

use super::header::Opcode;
use super::reader::{Event, Refusal};
use super::text::TextBuffer;

/// A message that is being put together.
#[derive(Debug)]
pub(super) enum Body {
    Text(TextBuffer),
    Binary(Vec<u8>),
}

impl Body {
    pub(super) fn new(opcode: Opcode, mut spare: Vec<u8>) -> Self {
        if opcode == Opcode::Text {
            return Self::Text(TextBuffer::reusing(spare));
        }
        spare.clear();
        Self::Binary(spare)
    }

    /// The capacity that it should have for so many bytes more, if it has less. It becomes
    /// no larger than `at_most`.
    pub(super) fn outgrown_by(&self, more: usize, at_most: usize) -> Option<usize> {
        let (had, needed) = (self.capacity(), self.len() + more);
        (needed > had).then(|| (2 * had).min(at_most).max(needed))
    }

    pub(super) fn grow(&mut self, capacity: usize) {
        let additional = capacity - self.len();
        match self {
            Self::Text(text) => text.reserve_exact(additional),
            Self::Binary(bytes) => bytes.reserve_exact(additional),
        }
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        match self {
            Self::Text(text) => text.push(piece)?,
            Self::Binary(bytes) => bytes.extend_from_slice(piece),
        }
        Ok(())
    }

    pub(super) fn event(&self) -> Result<Event<'_>, Refusal> {
        Ok(match self {
            Self::Text(text) => Event::Text(text.finish()?),
            Self::Binary(bytes) => Event::Binary(bytes),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::Text(text) => text.capacity(),
            Self::Binary(bytes) => bytes.capacity(),
        }
    }

    pub(super) fn into_memory(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_memory(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// A message buffer up to this size is kept for the next message: the usual
/// message of 32 KiB is cut by TLS records and shouldn't allocate each time.
pub(super) const KEPT: usize = 64 * 1024;
