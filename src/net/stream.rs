//! Two halves of one connection, for two threads. (Stub: signatures only.)
//!
//! The seam carries any way of splitting TLS: the read half hands out plaintext
//! slices where they lie, the write half takes finished buffers.

use std::io::{self, IoSlice};
use std::sync::Arc;

use socket2::Socket;

/// A connection, ready for use.
pub struct Halves {
    pub read: ReadHalf,
    pub write: WriteHalf,
    /// For shutting it down from elsewhere, and for socket options.
    pub socket: Arc<Socket>,
}

pub struct ReadHalf {}

impl ReadHalf {
    /// The bytes that are unread; waits for some if there are none. Empty at the
    /// end of the stream (close_notify or not: a missing one is a plain end here).
    /// Mutable, so that a reader can work in place.
    pub fn fill(&mut self) -> io::Result<&mut [u8]> {
        unimplemented!()
    }

    /// What is unread now, without waiting.
    pub fn buffered(&mut self) -> &mut [u8] {
        unimplemented!()
    }

    /// Marks `count` bytes of what [`fill`](Self::fill) returned as read.
    pub fn consume(&mut self, _count: usize) {
        unimplemented!()
    }

    /// True when reading has provoked something that the write half must send
    /// (a TLS key update, an alert).
    pub fn wants_flush(&self) -> bool {
        unimplemented!()
    }
}

pub struct WriteHalf {}

impl WriteHalf {
    /// Sends all bytes of all buffers, in order, in as few system calls as it takes.
    pub fn write_all(&mut self, _bufs: &[IoSlice<'_>]) -> io::Result<()> {
        unimplemented!()
    }

    /// Sends what the read half provoked.
    pub fn flush(&mut self) -> io::Result<()> {
        unimplemented!()
    }

    /// Says that nothing more will come (close_notify, FIN).
    pub fn close(&mut self) -> io::Result<()> {
        unimplemented!()
    }
}
