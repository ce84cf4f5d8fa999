//! `link-writer`: the only thread that writes to a connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;

use super::message::{FRAGMENT, HEADROOM, Kind, Message};
use super::outbox::{Batch, GATHER_MESSAGES, Jobs, Step};
use super::shared::Shared;
use crate::net::WriteHalf;
use crate::websocket::Keys;
use crate::websocket::frame::{CloseFrame, Header, MAX_HEADER, Opcode, mask};

/// Writes until the link ends.
pub(super) fn run(shared: &Shared, write: WriteHalf) {
    let mut writer = Writer {
        write,
        keys: Keys::new(shared.settings.role),
        control: Vec::new(),
        outgoing: VecDeque::with_capacity(GATHER_MESSAGES),
    };
    let mut batch = Batch::default();
    loop {
        let busy = !writer.outgoing.is_empty();
        match shared.outbox.next(&mut batch, busy) {
            Step::Write => {}
            Step::Finish => {
                // A peer that is gone doesn't need it.
                let _ = writer.write.close();
                return;
            }
            Step::Stop => return,
        }
        match writer.write(&mut batch) {
            Ok(sent) => {
                if sent.bytes > 0 {
                    shared.traffic.sent(sent.bytes, sent.messages);
                }
            }
            Err(error) => {
                shared.output_failed(&error);
                return;
            }
        }
        if batch.close.is_some() {
            shared.close_written();
        }
    }
}

struct Writer {
    write: WriteHalf,
    keys: Keys,
    /// Control frames, which go first in each write call.
    control: Vec<u8>,
    /// Messages in hand, in order. Between two write calls, those that aren't
    /// completely written.
    outgoing: VecDeque<Outgoing>,
}

/// What one write call has sent.
struct Sent {
    bytes: usize,
    /// Messages that are complete now.
    messages: usize,
}

impl Writer {
    fn write(&mut self, batch: &mut Batch) -> io::Result<Sent> {
        self.control.clear();
        self.control_frames(&batch.jobs)?;
        if let Some(close) = &batch.close {
            self.outgoing.clear();
            let close = CloseFrame::payload(close);
            self.control_frame(Opcode::Close, &close)?;
        }
        self.outgoing
            .extend(batch.messages.drain(..).map(Outgoing::new));

        let mut slices = [IoSlice::new(&[]); GATHER_MESSAGES + 1];
        slices[0] = IoSlice::new(&self.control);
        let mut sent = Sent {
            bytes: self.control.len(),
            messages: 0,
        };
        let mut count = 1;
        for (slice, outgoing) in slices[1..].iter_mut().zip(&mut self.outgoing) {
            let frame = outgoing.next_frame(&mut self.keys)?;
            sent.bytes += frame.len();
            count += 1;
            let complete = outgoing.is_complete();
            *slice = IoSlice::new(&outgoing.message.buf()[frame]);
            if !complete {
                // Nothing but control frames may stand between its frames.
                break;
            }
            sent.messages += 1;
        }
        if sent.bytes > 0 {
            self.write.write_all(&slices[..count])?;
        } else if batch.jobs.flush {
            self.write.flush()?;
        }
        for mut outgoing in self.outgoing.drain(..sent.messages) {
            outgoing.message.settle();
        }
        Ok(sent)
    }

    fn control_frames(&mut self, jobs: &Jobs) -> io::Result<()> {
        for pong in &jobs.pongs {
            self.control_frame(Opcode::Pong, pong.payload())?;
        }
        if jobs.ping {
            self.control_frame(Opcode::Ping, &[])?;
        }
        Ok(())
    }

    fn control_frame(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let header = Header {
            fin: true,
            opcode,
            mask: self.keys.next()?,
            len: payload.len() as u64,
        };
        let (head, size) = header.encode();
        self.control.extend_from_slice(&head[..size]);
        let at = self.control.len();
        self.control.extend_from_slice(payload);
        if let Some(key) = header.mask {
            mask(&mut self.control[at..], key, 0);
        }
        Ok(())
    }
}

/// A message on its way out.
struct Outgoing {
    message: Message,
    /// Where the payload of the next frame begins.
    at: usize,
    /// The frames so far, if the message goes back to its owner when it can't be
    /// sent.
    framed: Vec<Framed>,
}

/// What becoming a frame has changed in the buffer of a message.
struct Framed {
    header: Range<usize>,
    /// What stood in the place of the header.
    covered: [u8; MAX_HEADER],
    payload: Range<usize>,
    key: Option<[u8; 4]>,
}

impl Outgoing {
    fn new(message: Message) -> Self {
        Self {
            message,
            at: HEADROOM,
            framed: Vec::new(),
        }
    }

    /// Makes the next frame in the buffer and says where it lies. Its header takes
    /// the place of bytes in front of its payload: the headroom, then the end of
    /// the frame before, which has been sent.
    fn next_frame(&mut self, keys: &mut Keys) -> io::Result<Range<usize>> {
        let first = self.at == HEADROOM;
        let kind = self.message.kind();
        let wanted_back = self.message.has_owner();
        let buf = self.message.buf();
        let payload = self.at..buf.len().min(self.at + FRAGMENT);
        let header = Header {
            fin: payload.end == buf.len(),
            opcode: match kind {
                _ if !first => Opcode::Continuation,
                Kind::Text => Opcode::Text,
                Kind::Binary => Opcode::Binary,
            },
            mask: keys.next()?,
            len: payload.len() as u64,
        };
        let (head, size) = header.encode();
        let place = payload.start - size..payload.start;
        if wanted_back {
            let mut covered = [0; MAX_HEADER];
            covered[..size].copy_from_slice(&buf[place.clone()]);
            self.framed.push(Framed {
                header: place.clone(),
                covered,
                payload: payload.clone(),
                key: header.mask,
            });
        }
        if let Some(key) = header.mask {
            mask(&mut buf[payload.clone()], key, 0);
        }
        buf[place.clone()].copy_from_slice(&head[..size]);
        self.at = payload.end;
        Ok(place.start..payload.end)
    }

    fn is_complete(&self) -> bool {
        self.at == HEADROOM + self.message.len()
    }
}

impl Drop for Outgoing {
    /// Its owner gets the message as it was.
    fn drop(&mut self) {
        if !self.message.has_owner() {
            return;
        }
        let buf = self.message.buf();
        for frame in self.framed.drain(..).rev() {
            if let Some(key) = frame.key {
                mask(&mut buf[frame.payload], key, 0);
            }
            let size = frame.header.len();
            buf[frame.header].copy_from_slice(&frame.covered[..size]);
        }
    }
}
