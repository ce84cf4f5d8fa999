//! Bytes on their way out.

use std::fmt;

use crate::buffers::{self, Buffer};
use crate::link::{HEADROOM, Kind, Message};
use crate::yamux::{HEADER, Header, MAX_PAYLOAD, SCARCE, Weight};

/// What one Data frame carries, with room in front for all headers: what is read
/// from a socket into it goes out from where it lies.
pub struct Payload {
    /// [`ROOM`] bytes, then the payload.
    buf: Buffer,
}

impl Payload {
    /// An empty one with room for [`MAX_PAYLOAD`] bytes.
    pub fn new() -> Self {
        Self::with(Buffer::with_capacity(ROOM + MAX_PAYLOAD))
    }

    /// With room for `bytes` and no more; datagrams may be larger.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::with(Vec::with_capacity(ROOM + bytes).into())
    }

    fn with(mut buf: Buffer) -> Self {
        buf.resize(ROOM, 0);
        Self { buf }
    }

    /// The same bytes, where they take a large buffer for little: what is queued may
    /// have to wait.
    #[must_use]
    pub fn fitting(self) -> Self {
        if self.len() > LITTLE {
            return self;
        }
        let mut little = Self::with(buffers::little());
        little.fill(|buf| buf.extend_from_slice(self.bytes()));
        little
    }

    /// Gives `fill` the buffer, to which it may only append (a read into its spare
    /// capacity, say).
    pub fn fill<R>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let before = self.buf.len();
        let result = fill(&mut self.buf);
        assert!(self.buf.len() >= before, "a payload only grows");
        result
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[ROOM..]
    }

    pub fn len(&self) -> usize {
        self.buf.len() - ROOM
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the bytes.
    pub fn clear(&mut self) {
        self.buf.truncate(ROOM);
    }

    /// With its header in front, ready to be sent. A long datagram is one frame in several
    /// messages: a peer needn't take more than 32 KiB at once (decisions.md §6.6,
    /// tunnels.md Appendix C).
    pub(super) fn into_messages(mut self, header: &Header, out: &mut Vec<Message>) {
        self.buf[HEADROOM..ROOM].copy_from_slice(&header.encode());
        let rest = self.bytes().chunks(MAX_PAYLOAD).skip(1);
        let rest: Vec<_> = rest
            .map(|piece| Message::binary(piece.len(), |buf| buf.extend_from_slice(piece)))
            .collect();
        self.buf.truncate(ROOM + MAX_PAYLOAD);
        out.push(Message::from_buffer(Kind::Binary, self.buf));
        out.extend(rest);
    }
}

impl Weight for Payload {
    fn weight(&self) -> usize {
        self.buf.capacity()
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        let mut payload = Self::with_capacity(bytes.len());
        payload.fill(|buf| buf.extend_from_slice(bytes));
        payload
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

/// In front: the WebSocket's header, then that of yamux.
const ROOM: usize = HEADROOM + HEADER;

const _: () = assert!(ROOM + MAX_PAYLOAD == buffers::FRAME);

// What is queued while memory is full takes no large buffer.
const _: () = assert!(SCARCE <= LITTLE);

/// Bytes that are worth a copy.
const LITTLE: usize = buffers::LITTLE - ROOM;
