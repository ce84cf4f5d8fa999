//! An outgoing message: its payload with room in front for the frame header.

use super::frame::MAX_HEADER;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// A text or binary message that is ready to be sent. It is encoded straight into
/// the buffer that goes out, behind the room for its header: no copy is made
/// between the encoder and the encryption.
#[derive(Debug)]
pub struct Message {
    buf: Vec<u8>,
    kind: Kind,
}

impl Message {
    /// A text message; `encode` appends its payload (UTF-8) to the buffer.
    /// `expected` is a guess of its size in bytes, so that the buffer needn't grow.
    pub fn text(expected: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(Kind::Text, expected, encode)
    }

    /// A binary message, likewise.
    pub fn binary(expected: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        Self::new(Kind::Binary, expected, encode)
    }

    fn new(kind: Kind, expected: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buf = Vec::with_capacity(HEADROOM + expected);
        buf.resize(HEADROOM, 0);
        encode(&mut buf);
        debug_assert!(buf.len() >= HEADROOM, "the encoder only appends");
        Self { buf, kind }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.buf[HEADROOM..]
    }

    /// Payload length in bytes.
    pub fn len(&self) -> usize {
        self.buf.len() - HEADROOM
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when it goes out in several frames.
    pub(super) fn is_fragmented(&self) -> bool {
        self.len() > FRAGMENT
    }

    /// Headroom and payload, for the writer, which masks the payload where it lies.
    pub(super) fn into_buf(self) -> Vec<u8> {
        self.buf
    }
}

/// Room in front of the payload for the largest header.
pub(super) const HEADROOM: usize = MAX_HEADER;

/// The largest payload of a frame that we send. Between two frames of a message a
/// ping or pong may go, so it must not be much; with its header of 8 bytes a frame
/// fills four TLS records.
pub(super) const FRAGMENT: usize = 64 * 1024 - 8;
