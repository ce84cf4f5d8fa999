//! From received bytes to messages (RFC 6455 §5 and §8.1).

use std::mem;

use super::body::{Body, KEPT};
use super::close::CloseFrame;
use super::header::{Header, MAX_CONTROL, MAX_HEADER, Malformed, Opcode};
use super::mask::mask;
use crate::websocket::Role;

/// What a peer sent. The payload lies where it arrived, or in the reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A part of a binary message, for who takes pieces; the last one may be empty.
    Piece {
        bytes: &'a [u8],
        last: bool,
    },
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// Nothing comes after it: bytes that follow are ignored.
    Close(CloseFrame),
}

/// Who hears what a peer sent.
pub(crate) trait Listener {
    /// Whether a binary message that begins now, and isn't all there, shall come in
    /// pieces as they arrive.
    fn takes_pieces(&self) -> bool;

    /// An unfinished message that isn't small is to be kept, in so many bytes of memory; 0:
    /// it isn't any more. False: there is no room for it.
    fn keeps(&mut self, _bytes: usize) -> bool {
        true
    }

    fn hear(&mut self, event: Event<'_>);
}

/// Why a peer's bytes are refused. The connection can't be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a server sent a masked frame")]
    Masked,
    #[error("a client sent an unmasked frame")]
    Unmasked,
    #[error("reserved bits are set")]
    ReservedBits,
    #[error("unknown opcode {0}")]
    Opcode(u8),
    #[error("a control frame is fragmented")]
    FragmentedControl,
    #[error("a control frame of {0} bytes")]
    LongControl(u64),
    #[error("a continuation without a beginning")]
    UnexpectedContinuation,
    #[error("a new message inside another one")]
    ExpectedContinuation,
    #[error("a message of {size} bytes or more (the limit is {limit})")]
    TooLong { size: u64, limit: usize },
    #[error("no room for a message of {0} bytes or more")]
    NoRoom(usize),
    #[error("text that isn't UTF-8")]
    Utf8,
    #[error("a close frame with half a code")]
    ClosePayload,
    #[error("a close frame with the code {0}")]
    CloseCode(u16),
}

impl Refusal {
    /// The close code by which the peer is told (RFC 6455 §7.4.1).
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::TooLong { .. } => 1009,
            Self::NoRoom(_) => 1013,
            Self::Utf8 => 1007,
            _ => 1002,
        }
    }
}

/// Reads the frames of one direction of one connection.
///
/// It takes plaintext in slices that are cut anywhere and works in them: a message
/// in one frame that lies in one slice is unmasked, checked and handed out there.
/// A binary message that is fragmented or cut is handed out in pieces where they lie,
/// to who takes pieces. What else is fragmented or cut is copied, into a buffer that
/// grows with what has arrived (never with what a header announces) and is given back
/// when it was large.
#[derive(Debug)]
pub(crate) struct FrameReader {
    role: Role,
    limit: usize,
    /// The beginning of a header whose rest hasn't arrived.
    head: [u8; MAX_HEADER],
    head_len: usize,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    /// The payload of a cut control frame so far.
    control: [u8; MAX_CONTROL],
    /// The message so far, if it is fragmented or cut and kept here.
    message: Option<Body>,
    /// The bytes so far of one that is handed out in pieces.
    passed: Option<usize>,
    /// Memory for the next such message.
    spare: Vec<u8>,
    closed: bool,
}

impl FrameReader {
    /// A reader at the end `role` (so the peer has the other one) that accepts
    /// messages, and frames, of up to `limit` bytes of payload.
    pub(crate) fn new(role: Role, limit: usize) -> Self {
        Self {
            role,
            limit,
            head: [0; MAX_HEADER],
            head_len: 0,
            frame: None,
            control: [0; MAX_CONTROL],
            message: None,
            passed: None,
            spare: Vec::new(),
            closed: false,
        }
    }

    /// Reads all of `bytes` and tells `listener` of each event in it. After a refusal
    /// the reader must not be used again.
    pub(crate) fn read(
        &mut self,
        mut bytes: &mut [u8],
        listener: &mut dyn Listener,
    ) -> Result<(), Refusal> {
        while !bytes.is_empty() && !self.closed {
            let mut frame = if let Some(frame) = self.frame.take() {
                frame
            } else {
                let (frame, size) = self.next_frame(bytes)?;
                bytes = &mut bytes[size..];
                let Some(frame) = frame else { break };
                frame
            };
            let here = frame.left().min(bytes.len());
            let (piece, rest) = bytes.split_at_mut(here);
            bytes = rest;
            if let Some(key) = frame.header.mask {
                mask(piece, key, frame.done);
            }
            if frame.header.opcode.is_control() {
                self.control_payload(&frame, piece, listener)?;
            } else {
                self.data_payload(&frame, piece, listener)?;
            }
            frame.done += here;
            if frame.left() > 0 {
                self.frame = Some(frame);
            }
        }
        Ok(())
    }

    /// Takes a header from `bytes`, and from what was there of it before; and how
    /// many of `bytes` were taken.
    fn next_frame(&mut self, bytes: &[u8]) -> Result<(Option<Frame>, usize), Refusal> {
        if self.head_len == 0
            && let Some((header, size)) = Header::parse(bytes)?
        {
            return Ok((Some(self.admit(header)?), size));
        }
        for (i, byte) in bytes.iter().enumerate() {
            // A header is complete when all its bytes are there, so there is room.
            self.head[self.head_len] = *byte;
            self.head_len += 1;
            if let Some((header, _)) = Header::parse(&self.head[..self.head_len])? {
                self.head_len = 0;
                return Ok((Some(self.admit(header)?), i + 1));
            }
        }
        Ok((None, bytes.len()))
    }

    /// Everything that a header alone can be refused for, so that no memory is
    /// taken and nothing is waited for in vain.
    fn admit(&self, header: Header) -> Result<Frame, Refusal> {
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(Refusal::Unmasked),
            (Role::Client, Some(_)) => return Err(Refusal::Masked),
            _ => {}
        }
        if header.opcode.is_control() {
            if !header.fin {
                return Err(Refusal::FragmentedControl);
            }
            if header.len > MAX_CONTROL as u64 {
                return Err(Refusal::LongControl(header.len));
            }
            return Ok(Frame { header, done: 0 });
        }
        let before = self.begun();
        match (header.opcode, before) {
            (Opcode::Continuation, None) => return Err(Refusal::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Refusal::ExpectedContinuation),
            _ => {}
        }
        let size = (before.unwrap_or_default() as u64).saturating_add(header.len);
        if size > self.limit as u64 {
            return Err(Refusal::TooLong {
                size,
                limit: self.limit,
            });
        }
        Ok(Frame { header, done: 0 })
    }

    fn control_payload(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        listener: &mut dyn Listener,
    ) -> Result<(), Refusal> {
        let done = frame.done + piece.len();
        let payload = if frame.done == 0 && frame.ends_with(piece) {
            piece
        } else {
            self.control[frame.done..done].copy_from_slice(piece);
            if !frame.ends_with(piece) {
                return Ok(());
            }
            &self.control[..done]
        };
        match frame.header.opcode {
            Opcode::Ping => listener.hear(Event::Ping(payload)),
            Opcode::Pong => listener.hear(Event::Pong(payload)),
            _ => {
                let close = CloseFrame::parse(payload)?;
                self.closed = true;
                listener.hear(Event::Close(close));
            }
        }
        Ok(())
    }

    /// The one place where payload of messages passes.
    fn data_payload(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        listener: &mut dyn Listener,
    ) -> Result<(), Refusal> {
        let complete = frame.header.fin && frame.ends_with(piece);
        if let Some(passed) = &mut self.passed {
            *passed += piece.len();
            self.pass(piece, complete, listener);
            return Ok(());
        }
        let mut body = match self.message.take() {
            Some(body) => body,
            None if complete => {
                listener.hear(match frame.header.opcode {
                    Opcode::Text => Event::Text(str::from_utf8(piece).map_err(|_| Refusal::Utf8)?),
                    _ => Event::Binary(piece),
                });
                return Ok(());
            }
            None if frame.header.opcode == Opcode::Binary && listener.takes_pieces() => {
                self.passed = Some(piece.len());
                self.pass(piece, false, listener);
                return Ok(());
            }
            None => Body::new(frame.header.opcode, mem::take(&mut self.spare)),
        };
        // A final frame tells how large the message becomes at most.
        let at_most = if frame.header.fin {
            body.len() + frame.left()
        } else {
            self.limit
        };
        if let Some(target) = body.outgrown_by(piece.len(), at_most) {
            if target > KEPT && !listener.keeps(target) {
                return Err(Refusal::NoRoom(body.len() + piece.len()));
            }
            body.grow(target);
        }
        body.push(piece)?;
        if !complete {
            self.message = Some(body);
            return Ok(());
        }
        listener.hear(body.event()?);
        let memory = body.into_memory();
        if memory.capacity() <= KEPT {
            self.spare = memory;
        } else {
            drop(memory);
            listener.keeps(0);
        }
        Ok(())
    }

    fn pass(&mut self, piece: &[u8], last: bool, listener: &mut dyn Listener) {
        if last {
            self.passed = None;
        }
        if last || !piece.is_empty() {
            listener.hear(Event::Piece { bytes: piece, last });
        }
    }

    /// Payload bytes so far of the message that has begun.
    fn begun(&self) -> Option<usize> {
        self.passed.or(self.message.as_ref().map(Body::len))
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::ReservedBits => Self::ReservedBits,
            Malformed::Opcode(bits) => Self::Opcode(bits),
        }
    }
}

#[derive(Debug)]
struct Frame {
    header: Header,
    /// Payload bytes read so far.
    done: usize,
}

impl Frame {
    /// Payload bytes still to come; the length fits, it was held against the limit.
    fn left(&self) -> usize {
        self.header.len as usize - self.done
    }

    fn ends_with(&self, piece: &[u8]) -> bool {
        piece.len() == self.left()
    }
}

/// A listener for tests, which takes whole messages.
#[cfg(test)]
pub(crate) fn whole<F: FnMut(Event<'_>)>(hear: F) -> impl Listener {
    struct Whole<F>(F);
    impl<F: FnMut(Event<'_>)> Listener for Whole<F> {
        fn takes_pieces(&self) -> bool {
            false
        }

        fn hear(&mut self, event: Event<'_>) {
            (self.0)(event);
        }
    }
    Whole(hear)
}

#[cfg(test)]
mod tests;
