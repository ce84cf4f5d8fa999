//! The half that writes: one lock (T27), under which a frame is written whole.

use std::io::{self, IoSlice};
use std::mem;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::Socket;

use super::Kind;
use crate::net::{Deadline, WriteHalf, is_writable};
use crate::websocket::frame::{CloseFrame, Header, MAX_CONTROL, Opcode, mask};
use crate::websocket::{Keys, Role};

/// Writes a leg. Clones write to the same one; each message is written whole.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Writes a message, and waits until the system has taken all of it. The payload of
    /// a client's is masked where it lies, so it isn't what it was afterwards. After an
    /// error, or behind a close frame, nothing more can be written
    /// ([`io::ErrorKind::BrokenPipe`]). That a text is UTF-8 is the caller's business.
    pub fn send(&self, kind: Kind, payload: &mut [u8]) -> io::Result<()> {
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        self.frame(opcode, payload)
    }

    /// Writes a ping with at most 125 bytes of payload (the rest is cut off).
    pub fn ping(&self, payload: &mut [u8]) -> io::Result<()> {
        let end = payload.len().min(MAX_CONTROL);
        self.frame(Opcode::Ping, &mut payload[..end])
    }

    /// Writes a pong that nobody asked for, likewise.
    pub fn pong(&self, payload: &mut [u8]) -> io::Result<()> {
        let end = payload.len().min(MAX_CONTROL);
        self.frame(Opcode::Pong, &mut payload[..end])
    }

    /// Ends the leg in good order: a close frame, unless one was written already, then
    /// waits for the reader to have met the peer's. Each may take `within`; then the
    /// socket is shut down. Not from the reader's `take`. A code that must not stand
    /// on the wire makes an empty close frame.
    pub fn close(&self, code: u16, reason: &str, within: Duration) {
        let shared = &self.0;
        if let Some(mut writing) = shared.writing.try_lock_for(within) {
            writing.half.set_deadline(Some(Deadline::after(within)));
            // A peer that is gone doesn't need it.
            let _ = writing.close(&CloseFrame::new(code, reason));
        }
        let until = Instant::now() + within;
        let mut ended = shared.ended.lock();
        while !*ended {
            if shared.over.wait_until(&mut ended, until).timed_out() {
                break;
            }
        }
        if !*ended {
            let _ = shared.socket.shutdown(Shutdown::Both);
        }
    }

    /// Ends the leg without a close frame, as when its process dies.
    pub fn cut(&self) {
        let _ = self.0.socket.shutdown(Shutdown::Both);
    }

    fn frame(&self, opcode: Opcode, payload: &mut [u8]) -> io::Result<()> {
        let written = self.0.writing.lock().frame(opcode, payload);
        self.0.attend();
        written
    }
}

/// What both halves know.
pub(super) struct Shared {
    writing: Mutex<Writing>,
    /// What the reader owes the peer and hasn't written itself. Never held while the
    /// other lock is waited for.
    owed: Mutex<Owed>,
    /// The reader is gone.
    ended: Mutex<bool>,
    over: Condvar,
    socket: Arc<Socket>,
}

/// Answers that whoever writes next writes too.
#[derive(Default)]
pub(super) struct Owed {
    pub(super) pong: Option<Vec<u8>>,
    pub(super) ping: bool,
    pub(super) flush: bool,
    pub(super) close: Option<CloseFrame>,
}

impl Shared {
    pub(super) fn new(half: WriteHalf, socket: Arc<Socket>, role: Role) -> Self {
        Self {
            writing: Mutex::new(Writing {
                half,
                keys: Keys::new(role),
                role,
                closed: false,
            }),
            owed: Mutex::default(),
            ended: Mutex::new(false),
            over: Condvar::new(),
            socket,
        }
    }

    pub(super) fn owe(&self, what: impl FnOnce(&mut Owed)) {
        what(&mut self.owed.lock());
    }

    /// Writes what is owed, unless somebody else is writing (he does it when he's done)
    /// or the write would wait (whoever writes next does it).
    pub(super) fn attend(&self) {
        while self.owed.lock().is_any() {
            let Some(mut writing) = self.writing.try_lock() else {
                return;
            };
            if !writing.closed && !is_writable(&self.socket) {
                return;
            }
            let owed = mem::take(&mut *self.owed.lock());
            // Failed, it stays so, and the reader meets it.
            let _ = writing.answer(owed);
        }
    }

    /// The last frame, written by whoever can.
    pub(super) fn close_now(&self, close: &CloseFrame) {
        self.owe(|owed| owed.close = Some(close.clone()));
        self.attend();
    }

    pub(super) fn reading_ended(&self) {
        *self.ended.lock() = true;
        self.over.notify_all();
    }
}

impl Owed {
    fn is_any(&self) -> bool {
        self.pong.is_some() || self.ping || self.flush || self.close.is_some()
    }
}

struct Writing {
    half: WriteHalf,
    keys: Keys,
    role: Role,
    /// Nothing may follow: a close frame was written, or half a frame.
    closed: bool,
}

impl Writing {
    fn frame(&mut self, opcode: Opcode, payload: &mut [u8]) -> io::Result<()> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let header = Header {
            fin: true,
            opcode,
            mask: self.keys.next()?,
            len: payload.len() as u64,
        };
        if let Some(key) = header.mask {
            mask(payload, key, 0);
        }
        let (head, size) = header.encode();
        let slices = [IoSlice::new(&head[..size]), IoSlice::new(payload)];
        let written = self.half.write_all(&slices);
        self.closed = written.is_err();
        written
    }

    fn answer(&mut self, owed: Owed) -> io::Result<()> {
        if owed.flush {
            self.half.flush()?;
        }
        if let Some(mut payload) = owed.pong {
            self.frame(Opcode::Pong, &mut payload)?;
        }
        if owed.ping {
            self.frame(Opcode::Ping, &mut [])?;
        }
        match owed.close {
            Some(close) => self.close(&close),
            None => Ok(()),
        }
    }

    fn close(&mut self, close: &CloseFrame) -> io::Result<()> {
        self.frame(Opcode::Close, &mut close.payload())?;
        self.closed = true;
        // The server ends the connection (RFC 6455 §7.1.1), once both closes are there;
        // saying that no more will come is the beginning of it.
        if self.role == Role::Server {
            return self.half.close();
        }
        Ok(())
    }
}
