//! An outgoing message: its payload with room in front for the frame header.

use std::any::Any;
use std::fmt;
use std::mem;

use crate::buffers::Buffer;
use crate::telemetry::metrics::{Entered, Gauge};
use crate::websocket::frame::MAX_HEADER;

/// What the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// A text or binary message that is ready to be sent. It is encoded straight into
/// the buffer that goes out, behind the room for its header: no copy is made
/// between the encoder and the encryption.
pub struct Message {
    buf: Buffer,
    kind: Kind,
    held: Option<Box<dyn Any + Send>>,
    owner: Option<Owner>,
    counted: Option<Entered>,
}

type Owner = Box<dyn FnOnce(Message) + Send>;

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

    /// A message whose payload is in the buffer already, behind [`HEADROOM`] bytes
    /// that are its header's: so what a socket was read into goes out from there.
    ///
    /// # Panics
    /// If the buffer is shorter than that.
    pub(crate) fn from_buffer(kind: Kind, buf: Buffer) -> Self {
        assert!(
            buf.len() >= HEADROOM,
            "a buffer without room for the header"
        );
        Self {
            buf,
            kind,
            held: None,
            owner: None,
            counted: None,
        }
    }

    fn new(kind: Kind, expected: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buf = Buffer::with_capacity(HEADROOM + expected);
        buf.resize(HEADROOM, 0);
        encode(&mut buf);
        Self::from_buffer(kind, buf)
    }

    /// Keeps `what` (room in a budget, say) as long as the message takes memory.
    #[must_use]
    pub fn holding(mut self, what: impl Any + Send) -> Self {
        self.held = Some(Box::new(what));
        self
    }

    /// Counts its bytes among those that wait, until it is written or given up.
    #[must_use]
    pub(super) fn counted_in(mut self, waiting: &'static Gauge) -> Self {
        self.counted = Some(waiting.hold(self.len()));
        self
    }

    /// Gives the message to `owner`, whole and unchanged, if it comes to its end
    /// unsent: the link was closed already or ended while it waited for room, was
    /// queued or was half written (a peer drops half a message together with its
    /// connection). Not if its sender is told [`Cancelled`](super::SendError::Cancelled).
    ///
    /// Sent means given to the system; whether the peer got it, nobody knows. Of a
    /// write call that failed nobody knows either how far it came: all its messages
    /// count as unsent, so one of them may come twice.
    ///
    /// `owner` is called on any thread, with locks of the link held: it must not
    /// wait, and not speak to a link. At the latest when [`Link::wait`](super::Link::wait)
    /// returns, it has been called.
    #[must_use]
    pub fn or_back_to(mut self, owner: impl FnOnce(Message) + Send + 'static) -> Self {
        self.owner = Some(Box::new(owner));
        self
    }

    /// True when somebody wants it back if it isn't sent.
    pub(super) fn has_owner(&self) -> bool {
        self.owner.is_some()
    }

    /// It was sent, or nobody shall send it: its owner doesn't get it back.
    pub(crate) fn settle(&mut self) {
        self.owner = None;
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

    /// Headroom and payload, for the writer, which masks the payload where it lies.
    pub(super) fn buf(&mut self) -> &mut [u8] {
        &mut self.buf
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner(Self {
                buf: mem::take(&mut self.buf),
                kind: self.kind,
                held: self.held.take(),
                owner: None,
                counted: None,
            });
        }
    }
}

/// Bytes in front of the payload: room for the largest header of a frame.
pub const HEADROOM: usize = MAX_HEADER;

/// The largest payload of a frame that we send. Between two frames of a message a
/// ping or pong may go, so it must not be much; with its header of 8 bytes a frame
/// fills four TLS records.
pub(super) const FRAGMENT: usize = 64 * 1024 - 8;

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_message_is_counted_until_it_is_gone_or_back_with_its_owner() {
        static WAITING: Gauge = Gauge::new();
        let message = || Message::text(5, |buf| buf.extend_from_slice(b"hello"));
        let gone = message().counted_in(&WAITING);
        let (to, back) = channel();
        let owned = message()
            .or_back_to(move |message| to.send(message).expect("the test waits"))
            .counted_in(&WAITING);
        assert_eq!(WAITING.value(), 10);
        drop(gone);
        assert_eq!(WAITING.value(), 5);
        drop(owned);
        assert_eq!(back.recv().expect("it is back").payload(), b"hello");
        assert_eq!(WAITING.value(), 0);
    }
}
