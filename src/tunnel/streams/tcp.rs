//! TCP (and Unix sockets): bytes both ways, each half with its own end.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

use super::Settings;
use super::flow::{Flow, is_hung_up, wait};
use crate::tunnel::session::{Payload, SendError};
use crate::yamux::{Input, MAX_PAYLOAD, Reset};

/// What the two threads tell each other.
pub(super) struct Tcp {
    /// Why the target takes no more. Held while something is written.
    refused: Mutex<Option<Errno>>,
    /// The target has ended well, and the stream was told.
    answered: AtomicBool,
    /// One of the two has come to pass: it has ended, or it takes nothing any more.
    half_gone: AtomicBool,
    /// What had moved when it was last asked ([`Stream::sending`]).
    ///
    /// [`Stream::sending`]: crate::tunnel::session::Stream::sending
    moves: AtomicU32,
}

impl Tcp {
    /// For a socket that was just connected; `prefix` is to be its first bytes.
    pub(super) fn new(target: &Socket, prefix: &[u8], settings: &Settings) -> Self {
        let rest = settings.times.rest;
        let stall = settings.tcp_idle.map_or(rest, |idle| idle.min(rest));
        // Fails for no socket that can be written to.
        let _ = target.set_write_timeout(Some(stall.max(Duration::from_millis(1))));
        // Writing nothing would take an error away from who reads.
        let refused = if prefix.is_empty() {
            None
        } else {
            // There is room for all of it.
            send(target, prefix, SendFlags::NOSIGNAL).err()
        };
        Self {
            refused: Mutex::new(refused),
            answered: AtomicBool::new(false),
            half_gone: AtomicBool::new(false),
            moves: AtomicU32::new(0),
        }
    }
}

/// stream → target.
pub(super) fn to_target(flow: &Flow<Tcp>) {
    loop {
        match flow.stream.read(flow.activity.until()) {
            Ok(Input::Some(chunk)) => {
                let written = flow.write(&chunk);
                flow.stream.give_back(chunk);
                if !written {
                    return;
                }
            }
            Ok(Input::Wait) => {
                if flow.end_if_idle() {
                    return;
                }
            }
            Ok(Input::End) => {
                flow.record.ended("by the gateway");
                // Fails when the target is gone; then there is nobody to be told.
                let _ = flow.target.shutdown(Shutdown::Write);
                return;
            }
            Err(cut) => return flow.record.cut(cut),
        }
    }
}

/// target → stream. A buffer is taken when there are bytes, and room for them.
pub(super) fn from_target(flow: &Flow<Tcp>) {
    let mut more = false;
    let mut spoke = false;
    loop {
        let room = match flow.stream.room(flow.activity.until()) {
            Ok(room) => room,
            Err(SendError::TimedOut) => {
                if flow.end_if_idle() {
                    return;
                }
                continue;
            }
            Err(SendError::Cut(cut)) => return flow.record.cut(cut),
            // Nobody else does that.
            Err(SendError::Finished) => return,
        };
        if !more && wait(&flow.target, flow.activity.until()).is_empty() {
            if flow.end_if_idle() {
                return;
            }
            continue;
        }
        // Of one size, so that it comes from the pool: this thread allocates nothing.
        let mut payload = Payload::new();
        match payload.fill(|buf| receive(&flow.target, buf, room)) {
            Ok(0) => return flow.target_ended(spoke),
            Ok(read) => {
                flow.activity.touch();
                flow.record.moved_out(read);
                spoke = true;
                more = read == room;
                // It fits, or will soon: another stream may have taken the spare place.
                match flow.stream.send(payload.fitting(), None) {
                    Ok(()) => {}
                    Err(SendError::Cut(cut)) => return flow.record.cut(cut),
                    Err(SendError::Finished | SendError::TimedOut) => return,
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => more = false,
            Err(errno) => return flow.target_failed(errno, spoke),
        }
    }
}

/// Appends what is there now, `room` bytes at most.
fn receive(target: &Socket, buf: &mut Vec<u8>, room: usize) -> Result<usize, Errno> {
    if room == MAX_PAYLOAD {
        let (read, _) = recv(target, spare_capacity(buf), RecvFlags::DONTWAIT)?;
        return Ok(read);
    }
    let before = buf.len();
    buf.resize(before + room, 0);
    let read = recv(target, &mut buf[before..], RecvFlags::DONTWAIT);
    let kept = read.as_ref().map_or(0, |(read, _)| *read);
    buf.truncate(before + kept);
    read.map(|(read, _)| read)
}

impl Flow<Tcp> {
    /// False: this direction is over.
    fn write(&self, mut bytes: &[u8]) -> bool {
        let mut refused = self.kind.refused.lock();
        while !bytes.is_empty() {
            match send(&self.target, bytes, SendFlags::NOSIGNAL) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.activity.touch();
                    self.record.moved_in(written);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Nothing was taken for so long that it may be time.
                    if self.end_if_idle() || self.end_if_over() {
                        return false;
                    }
                }
                Err(errno) => {
                    refused.get_or_insert(errno);
                    drop(refused);
                    if !self.is_cut() {
                        // It may have answered all the same (413), and that is still
                        // to be read: the other direction ends the stream.
                        self.stream.discard();
                        self.end_if_gone();
                    }
                    return false;
                }
            }
        }
        true
    }

    fn end_if_idle(&self) -> bool {
        if !self.activity.is_idle() {
            return false;
        }
        // What the target said long ago may still be on its way, over a bad link. When it
        // moved last isn't known: so nothing has for twice as long, at most.
        let (queued, moves) = self.stream.sending();
        let before = self.kind.moves.swap(moves, Ordering::Relaxed);
        if queued > 0 || moves != before {
            self.activity.touch();
            return false;
        }
        self.reset("idle");
        true
    }

    /// Both ends have finished, the session may be gone: nobody else would ever end
    /// this.
    fn end_if_over(&self) -> bool {
        let over = self.kind.answered.load(Ordering::Acquire) && self.stream.peer_finished();
        if over {
            self.reset("the target doesn't take the rest");
        }
        over
    }

    /// Zero bytes were read; `spoke`: some were before.
    fn target_ended(&self, spoke: bool) {
        if self.is_cut() {
            return;
        }
        if let Some(errno) = self.hidden_error() {
            return self.target_failed(errno, spoke);
        }
        self.record.ended("by the target");
        self.kind.answered.store(true, Ordering::Release);
        self.stream.finish();
        self.end_if_gone();
    }

    /// A target that has ended and takes nothing any more: the peer has been told of the
    /// end, but perhaps goes on sending (a download whose client has left), and would
    /// without end. The direction that comes second sees to it, and it alone: the other
    /// would take its reset for somebody else's.
    fn end_if_gone(&self) {
        if !self.kind.half_gone.swap(true, Ordering::AcqRel) {
            return;
        }
        let begun = Instant::now();
        loop {
            self.stream.wait_for_peer(Instant::now() + LAST_WORDS);
            if self.stream.peer_finished() || self.is_cut() {
                return;
            }
            if begun.elapsed() >= LINGER || self.stream.discarded() >= LINGER_BYTES {
                break;
            }
        }
        self.stream.reset(Reset::AtOnce);
    }

    /// A socket tells of a reset once: if that was to the thread that writes, the
    /// other one reads a clean end.
    fn hidden_error(&self) -> Option<Errno> {
        if !is_hung_up(&self.target) {
            // Only its half has ended; somebody may be writing for long.
            return None;
        }
        // EPIPE: it had ended its half before. Or the error was told to us.
        self.kind
            .refused
            .lock()
            .filter(|errno| *errno != Errno::PIPE)
    }

    fn target_failed(&self, errno: Errno, spoke: bool) {
        if self.is_cut() {
            return;
        }
        self.record.copy_failed(format!("the target: {errno}"));
        if spoke {
            // A server that answers (413) and closes with input unread resets its
            // socket. A gateway that finds an RST drops what it hasn't passed on yet,
            // as hashicorp/yamux does: that would be the answer.
            self.stream.discard();
            self.stream.wait_for_cut(self.activity.last() + LAST_WORDS);
        }
        self.stream.reset(Reset::AfterData);
    }
}

/// What a gateway has to pass on the last bytes of a target that failed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a peer may send to a target that is gone, so that one that uploads before it
/// reads the answer comes to its end; and for how long.
const LINGER_BYTES: u64 = 32 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(30);
