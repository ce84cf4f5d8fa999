//! The bottom layer: a TCP socket in blocking mode.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use socket2::Socket;

use super::Wait;
use crate::net::Deadline;

pub(super) struct Reader {
    input: Input,
    /// Empty until the first read, then [`SMALL`] to [`LARGE`] bytes.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Reader {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            input: Input {
                socket,
                deadline: None,
                ended: None,
            },
            buf: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn buffered(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.input.deadline = deadline;
    }

    pub(super) fn shrink(&mut self) {
        if self.start == self.end {
            self.buf = Vec::new();
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads something unless something is unread; nothing at the end.
    pub(super) fn fill(&mut self, wait: Wait) -> io::Result<()> {
        if self.start < self.end {
            return Ok(());
        }
        if wait == Wait::Received {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let filled = self.end == self.buf.len();
        (self.start, self.end) = (0, 0);
        if filled && self.buf.len() < LARGE {
            // The last read took all there was room for: there may be much more.
            self.resize((self.buf.len() * 4).clamp(SMALL, LARGE));
        }
        if wait == Wait::Ever && self.buf.len() > SMALL {
            match self.input.receive(&mut self.buf, Wait::Moment) {
                // The connection has gone quiet: wait with a small buffer.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.resize(SMALL),
                done => {
                    self.end = done?;
                    return Ok(());
                }
            }
        }
        self.end = self.input.receive(&mut self.buf, wait)?;
        Ok(())
    }

    /// Reads into `room`, which must not be empty; first what this layer has
    /// buffered already. Zero at the end. For a layer above that has a buffer of
    /// its own: this one gives up its.
    pub(super) fn receive(&mut self, room: &mut [u8], wait: Wait) -> io::Result<usize> {
        if self.start == self.end {
            return self.input.receive(room, wait);
        }
        let count = room.len().min(self.end - self.start);
        room[..count].copy_from_slice(&self.buffered()[..count]);
        self.consume(count);
        self.shrink();
        Ok(count)
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.buf.capacity()
    }

    fn resize(&mut self, size: usize) {
        if size < self.buf.len() {
            self.buf = Vec::new();
        }
        self.buf.resize(size, 0);
    }
}

/// The socket as a source.
struct Input {
    socket: Arc<Socket>,
    deadline: Option<Deadline>,
    /// How the stream ended; what the kernel reports only once is kept.
    ended: Option<Result<(), Errno>>,
}

impl Input {
    fn receive(&mut self, room: &mut [u8], wait: Wait) -> io::Result<usize> {
        match self.ended {
            Some(Ok(())) => return Ok(0),
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
        debug_assert!(!room.is_empty(), "looks like the end");
        match self.wait(room, wait) {
            Ok(0) => {
                self.ended = Some(Ok(()));
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(Failure::NotYet) => Err(io::ErrorKind::WouldBlock.into()),
            Err(Failure::Deadline) => Err(timed_out("nothing was received in time")),
            Err(Failure::System(error)) => {
                self.ended = Some(Err(error));
                Err(error.into())
            }
        }
    }

    fn wait(&self, room: &mut [u8], wait: Wait) -> Result<usize, Failure> {
        if wait == Wait::Ever && self.deadline.is_none() {
            return self.recv(room, RecvFlags::empty());
        }
        loop {
            match self.recv(room, RecvFlags::DONTWAIT) {
                Err(Failure::NotYet) if wait != Wait::No => {}
                done => return done,
            }
            // Readiness is a hint: the loop finds out.
            let at_most = (wait == Wait::Moment).then_some(MOMENT);
            let is_ready = ready(&self.socket, PollFlags::IN, self.deadline, at_most)?;
            if !is_ready && wait == Wait::Moment {
                return Err(Failure::NotYet);
            }
        }
    }

    fn recv(&self, room: &mut [u8], flags: RecvFlags) -> Result<usize, Failure> {
        loop {
            match recv(&*self.socket, &mut *room, flags) {
                Ok((count, _)) => return Ok(count),
                Err(Errno::INTR) => {}
                // Without DONTWAIT this is a SO_RCVTIMEO that somebody has set.
                Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => {
                    return Err(Failure::NotYet);
                }
                Err(Errno::AGAIN) => return Err(Failure::Deadline),
                Err(error) => return Err(Failure::System(error)),
            }
        }
    }
}

pub(super) struct Writer {
    socket: Arc<Socket>,
    deadline: Option<Deadline>,
}

impl Writer {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            deadline: None,
        }
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.deadline = deadline;
    }

    pub(super) fn write_all(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let mut rest = Rest::of(bufs);
        let mut window = [IoSlice::new(&[]); WINDOW];
        loop {
            let count = rest.window(&mut window);
            if count == 0 {
                return Ok(());
            }
            match self.send(&window[..count]) {
                Ok(sent) => rest.advance(sent),
                Err(Failure::NotYet) => {}
                Err(Failure::Deadline) => {
                    return Err(timed_out("the peer took nothing in time"));
                }
                Err(Failure::System(error)) => return Err(error.into()),
            }
        }
    }

    pub(super) fn close(&mut self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// Sends what the kernel takes without waiting. Whoever needs to know whether it
    /// did uses [`write_all`](Self::write_all).
    pub(super) fn send_now(&self, bytes: &[u8]) {
        let _ = self.sendmsg(&[IoSlice::new(bytes)], SendFlags::DONTWAIT);
    }

    fn sendmsg(&self, bufs: &[IoSlice<'_>], flags: SendFlags) -> Result<usize, Errno> {
        let flags = flags | SendFlags::NOSIGNAL;
        sendmsg(
            &*self.socket,
            bufs,
            &mut SendAncillaryBuffer::default(),
            flags,
        )
    }

    fn send(&self, bufs: &[IoSlice<'_>]) -> Result<usize, Failure> {
        let flags = match self.deadline {
            Some(_) => SendFlags::DONTWAIT,
            None => SendFlags::empty(),
        };
        match self.sendmsg(bufs, flags) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Err(Failure::NotYet),
            Err(Errno::AGAIN) if self.deadline.is_some() => {
                ready(&self.socket, PollFlags::OUT, self.deadline, None)?;
                Err(Failure::NotYet)
            }
            // SO_SNDTIMEO passed and not one byte went out (with some progress the
            // kernel returns the count instead).
            Err(Errno::AGAIN) => Err(Failure::Deadline),
            Err(error) => Err(Failure::System(error)),
        }
    }
}

enum Failure {
    NotYet,
    Deadline,
    System(Errno),
}

/// Waits until the socket is ready (true) or `at_most` has passed (false). Fails
/// when the deadline passes first.
fn ready(
    socket: &Socket,
    what: PollFlags,
    deadline: Option<Deadline>,
    at_most: Option<Duration>,
) -> Result<bool, Failure> {
    let limit = match deadline {
        Some(deadline) => {
            let left = deadline.remaining().ok_or(Failure::Deadline)?;
            Some(at_most.map_or(left, |at_most| at_most.min(left)))
        }
        None => at_most,
    };
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut [PollFd::new(socket, what)], limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        // Looks like readiness; the call that follows finds out.
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(Failure::System(error)),
    }
}

/// What of several buffers has not been written yet.
pub(super) struct Rest<'a, 'b> {
    bufs: &'a [IoSlice<'b>],
    /// Bytes of the first buffer that are done.
    done: usize,
}

impl<'a, 'b> Rest<'a, 'b> {
    pub(super) fn of(bufs: &'a [IoSlice<'b>]) -> Self {
        let mut rest = Self { bufs, done: 0 };
        rest.advance(0);
        rest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bufs.is_empty()
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.bufs.iter().map(|buf| buf.len()).sum::<usize>() - self.done
    }

    /// What is left of the first buffer that has something left.
    pub(super) fn first(&self) -> &'a [u8] {
        self.bufs.first().map_or(&[], |first| &first[self.done..])
    }

    /// Fills `room` with the next bytes, of which there must be enough.
    pub(super) fn copy_to(&mut self, mut room: &mut [u8]) {
        while !room.is_empty() && !self.is_empty() {
            let first = self.first();
            let count = first.len().min(room.len());
            let (now, later) = room.split_at_mut(count);
            now.copy_from_slice(&first[..count]);
            self.advance(count);
            room = later;
        }
    }

    /// Puts the next buffers into `window`; zero when nothing is left.
    pub(super) fn window(&self, window: &mut [IoSlice<'a>; WINDOW]) -> usize {
        let mut count = 0;
        let mut skip = self.done;
        for (place, buf) in window.iter_mut().zip(self.bufs) {
            *place = IoSlice::new(&buf[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    pub(super) fn advance(&mut self, mut count: usize) {
        while let Some((first, others)) = self.bufs.split_first() {
            let left = first.len() - self.done;
            if count < left {
                self.done += count;
                return;
            }
            count -= left;
            self.bufs = others;
            self.done = 0;
        }
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

/// Buffers per system call. More than the link coalesces, fewer than IOV_MAX.
pub(super) const WINDOW: usize = 64;

/// Buffer of a reader that waits: hundreds of connections do nothing else.
pub(super) const SMALL: usize = 4 * 1024;

/// Buffer of a reader that is kept busy: two full TLS records a call.
const LARGE: usize = 32 * 1024;

/// How long a connection must be quiet before its large buffers are given back.
const MOMENT: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1_000 });
