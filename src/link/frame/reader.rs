//! From received bytes to messages (RFC 6455 §5 and §8.1).

use std::mem;

use super::close::CloseFrame;
use super::header::{Header, MAX_CONTROL, MAX_HEADER, Malformed, Opcode};
use super::mask::mask;
use super::text::TextBuffer;
use crate::link::Role;

/// What a peer sent. The payload lies where it arrived, or in the reader.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::link) enum Event<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// Nothing comes after it: bytes that follow are ignored.
    Close(CloseFrame),
}

/// Why a peer's bytes are refused. The connection can't be used any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::link) enum Refusal {
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
    #[error("text that isn't UTF-8")]
    Utf8,
    #[error("a close frame with half a code")]
    ClosePayload,
    #[error("a close frame with the code {0}")]
    CloseCode(u16),
}

impl Refusal {
    /// The close code by which the peer is told (RFC 6455 §7.4.1).
    pub(in crate::link) fn code(self) -> u16 {
        match self {
            Self::TooLong { .. } => 1009,
            Self::Utf8 => 1007,
            _ => 1002,
        }
    }
}

/// Reads the frames of one direction of one connection.
///
/// It takes plaintext in slices that are cut anywhere and works in them: a message
/// in one frame that lies in one slice is unmasked, checked and handed out there.
/// Only what is fragmented or cut is copied, into a buffer that grows with what has
/// arrived (never with what a header announces) and is given back when it was large.
#[derive(Debug)]
pub(in crate::link) struct FrameReader {
    role: Role,
    limit: usize,
    /// The beginning of a header whose rest hasn't arrived.
    head: [u8; MAX_HEADER],
    head_len: usize,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    /// The payload of a cut control frame so far.
    control: [u8; MAX_CONTROL],
    /// The message so far, if it is fragmented or cut.
    message: Option<Body>,
    /// Memory for the next such message.
    spare: Vec<u8>,
    closed: bool,
}

impl FrameReader {
    /// A reader at the end `role` (so the peer has the other one) that accepts
    /// messages, and frames, of up to `limit` bytes of payload.
    pub(in crate::link) fn new(role: Role, limit: usize) -> Self {
        Self {
            role,
            limit,
            head: [0; MAX_HEADER],
            head_len: 0,
            frame: None,
            control: [0; MAX_CONTROL],
            message: None,
            spare: Vec::new(),
            closed: false,
        }
    }

    /// Reads all of `bytes` and calls `on` for each event in it. After a refusal the
    /// reader must not be used again.
    pub(in crate::link) fn read(
        &mut self,
        mut bytes: &mut [u8],
        on: &mut dyn FnMut(Event<'_>),
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
                self.control_payload(&frame, piece, on)?;
            } else {
                self.data_payload(&frame, piece, on)?;
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
        match (header.opcode, &self.message) {
            (Opcode::Continuation, None) => return Err(Refusal::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Refusal::ExpectedContinuation),
            _ => {}
        }
        let before = self.message.as_ref().map_or(0, Body::len) as u64;
        let size = before.saturating_add(header.len);
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
        on: &mut dyn FnMut(Event<'_>),
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
            Opcode::Ping => on(Event::Ping(payload)),
            Opcode::Pong => on(Event::Pong(payload)),
            _ => {
                let close = CloseFrame::parse(payload)?;
                self.closed = true;
                on(Event::Close(close));
            }
        }
        Ok(())
    }

    /// The one place where payload of messages passes: whoever wants binary
    /// messages in pieces as they arrive gets them from here.
    fn data_payload(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Refusal> {
        let complete = frame.header.fin && frame.ends_with(piece);
        let mut body = match self.message.take() {
            Some(body) => body,
            None if complete => {
                on(match frame.header.opcode {
                    Opcode::Text => Event::Text(str::from_utf8(piece).map_err(|_| Refusal::Utf8)?),
                    _ => Event::Binary(piece),
                });
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
        body.push(piece, at_most)?;
        if !complete {
            self.message = Some(body);
            return Ok(());
        }
        on(body.event()?);
        let memory = body.into_memory();
        if memory.capacity() <= KEPT {
            self.spare = memory;
        }
        Ok(())
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

/// A message that is being put together.
#[derive(Debug)]
enum Body {
    Text(TextBuffer),
    Binary(Vec<u8>),
}

impl Body {
    fn new(opcode: Opcode, mut spare: Vec<u8>) -> Self {
        if opcode == Opcode::Text {
            return Self::Text(TextBuffer::reusing(spare));
        }
        spare.clear();
        Self::Binary(spare)
    }

    fn push(&mut self, piece: &[u8], at_most: usize) -> Result<(), Refusal> {
        let needed = self.len() + piece.len();
        if needed > self.capacity() {
            let target = (2 * self.capacity()).min(at_most).max(needed);
            let additional = target - self.len();
            match self {
                Self::Text(text) => text.reserve_exact(additional),
                Self::Binary(bytes) => bytes.reserve_exact(additional),
            }
        }
        match self {
            Self::Text(text) => text.push(piece)?,
            Self::Binary(bytes) => bytes.extend_from_slice(piece),
        }
        Ok(())
    }

    fn event(&self) -> Result<Event<'_>, Refusal> {
        Ok(match self {
            Self::Text(text) => Event::Text(text.finish()?),
            Self::Binary(bytes) => Event::Binary(bytes),
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Self::Text(text) => text.capacity(),
            Self::Binary(bytes) => bytes.capacity(),
        }
    }

    fn into_memory(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_memory(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// A message buffer up to this size is kept for the next message: the usual
/// message of 32 KiB is cut by TLS records and shouldn't allocate each time.
const KEPT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(role: Role, limit: usize, slices: &[&[u8]]) -> Result<Vec<String>, Refusal> {
        let mut reader = FrameReader::new(role, limit);
        let mut events = Vec::new();
        for slice in slices {
            reader.read(&mut slice.to_vec(), &mut |event| {
                events.push(format!("{event:?}"));
            })?;
        }
        Ok(events)
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, payload.len() as u8];
        bytes.extend_from_slice(payload);
        bytes
    }

    fn refused(bytes: &[u8]) -> Refusal {
        read(Role::Client, 1000, &[bytes]).expect_err("refused")
    }

    #[test]
    fn a_frame_in_one_slice_is_handed_out_where_it_lies() {
        let mut reader = FrameReader::new(Role::Client, 100);
        let mut bytes = frame(0x82, b"abc");
        let lies = bytes[2..].as_ptr();
        let mut seen = None;
        reader
            .read(&mut bytes, &mut |event| {
                if let Event::Binary(payload) = event {
                    seen = Some(payload.as_ptr());
                }
            })
            .expect("valid");
        assert_eq!(seen, Some(lies));
    }

    #[test]
    fn control_frames_between_fragments() {
        let stream = [
            frame(0x01, "a\u{20ac}".as_bytes().split_at(2).0),
            frame(0x89, b"p"),
            frame(0x00, "a\u{20ac}".as_bytes().split_at(2).1),
            frame(0x8a, b""),
            frame(0x80, b"!"),
            frame(0x82, b""),
        ]
        .concat();
        let expected = [
            "Ping([112])",
            "Pong([])",
            "Text(\"a\u{20ac}!\")",
            "Binary([])",
        ];
        for cut in 0..stream.len() {
            let (one, two) = stream.split_at(cut);
            assert_eq!(
                read(Role::Client, 100, &[one, two]).expect("valid"),
                expected
            );
        }
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        assert_eq!(refused(&frame(0xc1, b"")), Refusal::ReservedBits);
        assert_eq!(refused(&frame(0x87, b"")), Refusal::Opcode(7));
        assert_eq!(refused(&frame(0x09, b"")), Refusal::FragmentedControl);
        assert_eq!(refused(&[0x89, 126, 0, 126]), Refusal::LongControl(126));
        assert_eq!(refused(&frame(0x80, b"")), Refusal::UnexpectedContinuation);
        let nested = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
        assert_eq!(refused(&nested), Refusal::ExpectedContinuation);
        assert_eq!(refused(&[0x81, 0x80, 1, 2, 3, 4]), Refusal::Masked);
        let unmasked = read(Role::Server, 100, &[&frame(0x81, b"a")]);
        assert_eq!(unmasked, Err(Refusal::Unmasked));
    }

    #[test]
    fn the_right_close_code_for_each_refusal() {
        assert_eq!(refused(&frame(0x81, b"\xff")).code(), 1007);
        assert_eq!(refused(&[0x82, 126, 0x10, 0]).code(), 1009);
        assert_eq!(refused(&frame(0xc1, b"")).code(), 1002);
    }

    #[test]
    fn a_message_too_long_is_refused_by_its_header() {
        // T31: nothing but the header has arrived, no memory has been taken.
        let huge = [0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let mut reader = FrameReader::new(Role::Client, 1000);
        let refusal = reader.read(&mut huge.clone(), &mut |_| {});
        assert!(matches!(
            refusal,
            Err(Refusal::TooLong { size: u64::MAX, .. })
        ));
        let sum = [frame(0x02, &[0; 100]), frame(0x80, &[0; 100])].concat();
        assert_eq!(
            read(Role::Client, 199, &[&sum]),
            Err(Refusal::TooLong {
                size: 200,
                limit: 199
            })
        );
        assert!(read(Role::Client, 200, &[&sum]).is_ok());
    }

    #[test]
    fn memory_grows_with_what_arrived_and_is_given_back() {
        let mib = 1024 * 1024;
        let mut reader = FrameReader::new(Role::Client, 64 * mib);
        let mut head = [0x82, 127, 0, 0, 0, 0, 0x03, 0, 0, 0]; // 48 MiB
        reader.read(&mut head, &mut |_| {}).expect("valid");
        let mut piece = vec![7; mib];
        let mut arrived = 0;
        let mut whole = 0;
        while arrived < 48 {
            reader
                .read(&mut piece, &mut |event| {
                    if let Event::Binary(bytes) = event {
                        whole = bytes.len();
                    }
                })
                .expect("valid");
            arrived += 1;
            let taken = reader.message.as_ref().map_or(0, Body::capacity);
            assert!(taken <= 2 * arrived * mib, "{taken} after {arrived} MiB");
        }
        assert_eq!(whole, 48 * mib);
        assert!(reader.message.is_none() && reader.spare.capacity() <= KEPT);
    }

    #[test]
    fn nothing_comes_after_a_close() {
        let stream = [
            frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
            frame(0x81, b"x"),
        ]
        .concat();
        let events = read(Role::Client, 100, &[&stream, &stream]).expect("valid");
        assert_eq!(events.len(), 1);
        assert!(events[0].contains("1000") && events[0].contains("bye"));
    }
}
