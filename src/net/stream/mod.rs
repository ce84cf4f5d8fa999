//! Two halves of one connection, for two threads.
//!
//! A half is a stack of layers: TCP at the bottom, TLS on top of it where there
//! is any, and once more TLS on top of that behind an `https://` proxy. Each
//! layer reads from and writes to the halves of the layer below, so a byte that
//! a lower layer has already read (what follows a proxy's answer, say) is never
//! lost.
//!
//! The two halves share nothing on the way of the data, with TLS neither: rustls
//! makes the handshake, then each half has the keys of its direction (`tls/`).
//!
//! Memory, all of it taken lazily: an idle read half holds 4 KiB, a busy one 32 KiB.
//! A second without traffic gives the difference back.

mod tcp;
mod tls;

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use rustls::ProtocolVersion;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use socket2::Socket;

use super::Deadline;
pub use tls::HandshakeError;
#[cfg(feature = "fuzzing")]
pub use tls::fuzz::records as fuzz_records;

/// A connection, ready for use. The socket closes when both halves and all other
/// holders of it are gone.
pub struct Halves {
    pub read: ReadHalf,
    pub write: WriteHalf,
    /// For shutting it down from elsewhere, and for socket options.
    pub socket: Arc<Socket>,
}

impl Halves {
    /// The halves of a connected TCP socket, which must be in blocking mode.
    pub fn plain(socket: Socket) -> Self {
        Self::shared(Arc::new(socket))
    }

    /// As [`plain`](Self::plain), for a socket that somebody else holds too (to
    /// be able to shut it down, for instance).
    pub fn shared(socket: Arc<Socket>) -> Self {
        Self {
            read: ReadHalf(Read::Tcp(tcp::Reader::new(socket.clone()))),
            write: WriteHalf(Write::Tcp(tcp::Writer::new(socket.clone()))),
            socket,
        }
    }

    /// Makes the TLS handshake as the client and puts TLS on top. Time limits are
    /// those of the halves ([`set_deadline`](Self::set_deadline)). The
    /// configuration must have `enable_secret_extraction`.
    pub fn tls_client(self, session: UnbufferedClientConnection) -> Result<Self, HandshakeError> {
        self.tls(session)
    }

    /// Makes the TLS handshake as the server, likewise.
    pub fn tls_server(self, session: UnbufferedServerConnection) -> Result<Self, HandshakeError> {
        self.tls(session)
    }

    fn tls(self, session: impl tls::Handshake) -> Result<Self, HandshakeError> {
        let (reader, writer) = tls::handshake(session, self.read, self.write)?;
        Ok(Self {
            read: ReadHalf(Read::Tls(Box::new(reader))),
            write: WriteHalf(Write::Tls(Box::new(writer))),
            socket: self.socket,
        })
    }

    /// Limits reads and writes of both halves; `None` lifts the limit.
    pub fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.read.set_deadline(deadline);
        self.write.set_deadline(deadline);
    }

    /// A write that makes no progress for `limit` fails with
    /// [`io::ErrorKind::TimedOut`] (`SO_SNDTIMEO`); `None` waits for ever.
    pub fn set_write_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(limit)
    }

    /// The TLS version of the topmost layer; `None` for plain TCP.
    pub fn tls_version(&self) -> Option<ProtocolVersion> {
        match &self.write.0 {
            Write::Tcp(_) => None,
            Write::Tls(writer) => Some(writer.version()),
        }
    }
}

impl fmt::Debug for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Halves")
            .field("socket", &self.socket)
            .field("tls", &self.tls_version())
            .finish_non_exhaustive()
    }
}

/// The half that reads. It hands plaintext out where it lies.
pub struct ReadHalf(Read);

enum Read {
    Tcp(tcp::Reader),
    Tls(Box<tls::Reader>),
}

/// How long a layer waits for the layer below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Not even for the system: only what this layer has received already.
    /// [`io::ErrorKind::WouldBlock`] when there is nothing.
    Received,
    /// Not at all: [`io::ErrorKind::WouldBlock`] when there is nothing.
    No,
    /// A moment; then `WouldBlock`, so that buffers can be given back.
    Moment,
    /// Until there is something, or the half's deadline passes.
    Ever,
}

impl ReadHalf {
    /// The bytes that are unread; waits for some if there are none. Empty at the
    /// end of the stream (close_notify or not: a missing one is a plain end here).
    /// Mutable, so that a reader can work in place.
    ///
    /// Errors: [`io::ErrorKind::TimedOut`] when the deadline has passed (reading
    /// may go on after a new one was set); [`io::ErrorKind::InvalidData`] with a
    /// [`rustls::Error`] inside when the peer broke the TLS protocol (the write
    /// half then has an alert to send); others as the system has them. A broken
    /// connection stays broken: it never turns into a clean end.
    pub fn fill(&mut self) -> io::Result<&mut [u8]> {
        self.fill_waiting(Wait::Ever)?;
        Ok(self.buffered())
    }

    /// As [`fill`](Self::fill), but of what has been received already: asks the
    /// system for nothing, and is empty when there is no more.
    pub fn fill_received(&mut self) -> io::Result<&mut [u8]> {
        match self.fill_waiting(Wait::Received) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(self.buffered()),
        }
    }

    /// Bytes that have been received and are unread, about: with TLS they may be
    /// encrypted still, so there are some more than [`fill_received`](Self::fill_received)
    /// brings.
    pub fn received(&mut self) -> usize {
        match &mut self.0 {
            Read::Tcp(reader) => reader.buffered().len(),
            Read::Tls(reader) => reader.unread(),
        }
    }

    /// What is unread now, without waiting.
    pub fn buffered(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Read::Tcp(reader) => reader.buffered(),
            Read::Tls(reader) => reader.buffered(),
        }
    }

    /// Marks `count` bytes of what [`fill`](Self::fill) returned as read; more
    /// than there are counts as all of them.
    pub fn consume(&mut self, count: usize) {
        match &mut self.0 {
            Read::Tcp(reader) => reader.consume(count),
            Read::Tls(reader) => reader.consume(count),
        }
    }

    /// Reads fail with [`io::ErrorKind::TimedOut`] after this; `None` waits for
    /// ever (the state after a dial).
    pub fn set_deadline(&mut self, deadline: Option<Deadline>) {
        match &mut self.0 {
            Read::Tcp(reader) => reader.set_deadline(deadline),
            Read::Tls(reader) => reader.lower().set_deadline(deadline),
        }
    }

    /// True when an idle connection can be used again: nothing unread and not at
    /// its end. Never waits. What a TLS peer sends of its own accord (session
    /// tickets, key updates) is taken in and does not count as data.
    pub fn is_idle_alive(&mut self) -> bool {
        self.buffered().is_empty()
            && matches!(self.fill_waiting(Wait::No),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Gives back what buffers hold no unread bytes: for a connection that will be
    /// idle. The next read takes new ones.
    pub fn shrink(&mut self) {
        match &mut self.0 {
            Read::Tcp(reader) => reader.shrink(),
            Read::Tls(reader) => reader.shrink(),
        }
    }

    /// True when reading has provoked something that the write half must send
    /// (a TLS key update, an alert).
    pub fn wants_flush(&self) -> bool {
        match &self.0 {
            Read::Tcp(_) => false,
            Read::Tls(reader) => reader.wants_flush(),
        }
    }

    /// Bytes held by the buffers of all layers.
    #[cfg(test)]
    fn memory(&self) -> usize {
        match &self.0 {
            Read::Tcp(reader) => reader.memory(),
            Read::Tls(reader) => reader.memory(),
        }
    }

    /// Moves what is unread into `room`, which must not be empty; waits for some if
    /// there is none. Zero at the end of the stream.
    fn receive(&mut self, room: &mut [u8], wait: Wait) -> io::Result<usize> {
        match &mut self.0 {
            Read::Tcp(reader) => reader.receive(room, wait),
            Read::Tls(reader) => reader.receive(room, wait),
        }
    }

    fn fill_waiting(&mut self, wait: Wait) -> io::Result<()> {
        match &mut self.0 {
            Read::Tcp(reader) => reader.fill(wait),
            Read::Tls(reader) => reader.fill(wait),
        }
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadHalf")
    }
}

/// The half that writes. Its buffers are the caller's. TLS keeps no bytes between two
/// calls, but the room for some: up to 66 KiB, which [`shrink`](Self::shrink) gives back.
///
/// A half that is dropped says no goodbye; [`close`](Self::close) does. But if its
/// read half has met something that breaks TLS, and nobody has flushed since, the
/// alert goes out then, unless the peer would have to be waited for.
pub struct WriteHalf(Write);

enum Write {
    Tcp(tcp::Writer),
    Tls(Box<tls::Writer>),
}

impl WriteHalf {
    /// Sends all bytes of all buffers, in order, in as few system calls as it takes.
    ///
    /// [`io::ErrorKind::TimedOut`]: nothing could be written for the write limit
    /// ([`Halves::set_write_limit`]; any progress starts it anew), or the deadline
    /// has passed. How much went out is unknown after an error.
    pub fn write_all(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        match &mut self.0 {
            Write::Tcp(writer) => writer.write_all(bufs),
            Write::Tls(writer) => writer.write_all(bufs),
        }
    }

    /// Sends what the read half provoked.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Write::Tcp(_) => Ok(()),
            Write::Tls(writer) => writer.flush(),
        }
    }

    /// Says that nothing more will come (close_notify, FIN).
    pub fn close(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Write::Tcp(writer) => writer.close(),
            Write::Tls(writer) => writer.close(),
        }
    }

    /// Gives the buffers back: for a connection that will be idle.
    pub fn shrink(&mut self) {
        match &mut self.0 {
            Write::Tcp(_) => {}
            Write::Tls(writer) => writer.shrink(),
        }
    }

    /// The last bytes before the end, as far as they go without waiting.
    fn send_now(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Write::Tcp(writer) => writer.send_now(bytes),
            Write::Tls(writer) => writer.send_now(bytes),
        }
    }

    /// Bytes held by the buffers of all layers.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        match &self.0 {
            Write::Tcp(_) => 0,
            Write::Tls(writer) => writer.memory(),
        }
    }

    /// Writes fail with [`io::ErrorKind::TimedOut`] after this; `None` lifts it.
    pub fn set_deadline(&mut self, deadline: Option<Deadline>) {
        match &mut self.0 {
            Write::Tcp(writer) => writer.set_deadline(deadline),
            Write::Tls(writer) => writer.lower().set_deadline(deadline),
        }
    }

    /// Changes the keys of TLS 1.3 for what is written from now on; with `ask_peer`
    /// the peer shall change its keys too. That happens by itself before they have
    /// been used too often. Of no effect on plain TCP; an error with TLS 1.2.
    pub fn change_keys(&mut self, ask_peer: bool) -> io::Result<()> {
        match &mut self.0 {
            Write::Tcp(_) => Ok(()),
            Write::Tls(writer) => writer.change_keys(ask_peer),
        }
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteHalf")
    }
}

#[cfg(test)]
mod tests;
