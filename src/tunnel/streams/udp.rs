//! UDP: a datagram is one Data frame, in both directions (tunnels.md §3.6).
//!
//! An empty one is counted and goes no further, whichever way (decisions.md §6.6): a
//! Data frame without payload is what some libraries carry flags on, and the one of
//! the gateways never sends one.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Settings;
use super::flow::{Flow, is_hung_up, wait};
use crate::net;
use crate::telemetry::metrics;
use crate::tunnel::session::{Payload, SendError};
use crate::yamux::{Datagram, Input};

pub(super) struct Udp {
    /// Stands in front of each datagram to the target (PROXY protocol).
    prefix: Vec<u8>,
    /// How long answers are waited for after the peer's FIN.
    linger: Duration,
}

impl Udp {
    pub(super) fn new(prefix: Vec<u8>, settings: &Settings) -> Self {
        Self {
            prefix,
            linger: settings.times.linger,
        }
    }
}

/// stream → target. Also ends the stream: when it is idle, and after the peer.
pub(super) fn to_target(flow: &Flow<Udp>) {
    loop {
        // Waits without a buffer.
        flow.count_empty();
        match flow.stream.parse(flow.activity.until(), |_| ()) {
            Ok(Input::Some(())) => flow.pass_on(),
            Ok(Input::Wait) => {}
            Ok(Input::End) => {
                flow.count_empty();
                flow.linger();
                return flow.finish("by the gateway");
            }
            Err(cut) => return flow.record.cut(cut),
        }
        // Also with half a datagram, whose rest doesn't come.
        if flow.activity.is_idle() {
            return flow.finish("idle");
        }
    }
}

/// target → stream.
pub(super) fn from_target(flow: &Flow<Udp>) {
    // The other thread looks after the time.
    loop {
        let found = wait(&flow.target, None);
        if !flow.take_all() {
            return;
        }
        if found.contains(PollFlags::HUP) {
            // Finished by the other thread, or aborted.
            flow.is_cut();
            return;
        }
    }
}

impl Flow<Udp> {
    /// Sends what there is, and what comes while it does.
    fn pass_on(&self) {
        let mut scratch = Scratch::take();
        let buf = &mut scratch.0;
        loop {
            buf.clear();
            buf.extend_from_slice(&self.kind.prefix);
            let until = self.activity.until();
            match self.stream.read_datagram(MAX_DATAGRAM, buf, until) {
                Ok(Input::Some(Datagram::Whole(len))) => self.send(buf, len),
                Ok(Input::Some(Datagram::TooLong(_))) => metrics::UDP_DROPPED.increment(),
                // Whoever called us sees it too.
                Ok(Input::Wait | Input::End) | Err(_) => return,
            }
            match self.stream.parse(Some(Instant::now()), |_| ()) {
                Ok(Input::Some(())) => {}
                _ => return,
            }
        }
    }

    fn send(&self, datagram: &[u8], len: usize) {
        self.activity.touch();
        let mut refused = false;
        loop {
            match send(&self.target, datagram, SendFlags::NOSIGNAL) {
                Ok(_) => {
                    metrics::UDP_PACKETS_SENT.increment();
                    self.record.moved_in(len);
                    return;
                }
                Err(Errno::INTR) => {}
                // Of the datagram before: this one was not sent, and who was not there
                // then may be back.
                Err(Errno::CONNREFUSED) => {
                    metrics::UDP_REFUSED.increment();
                    if refused {
                        return;
                    }
                    refused = true;
                }
                // It has ended; the stream says so.
                Err(Errno::PIPE) => return,
                Err(Errno::MSGSIZE | Errno::NOBUFS | Errno::AGAIN) => {
                    return metrics::UDP_DROPPED.increment();
                }
                Err(_) => return metrics::UDP_WRITE_ERRORS.increment(),
            }
        }
    }

    /// Those of the gateway.
    fn count_empty(&self) {
        metrics::UDP_EMPTY.add(self.stream.take_empty().into());
    }

    /// Takes what has come. False: it is over.
    fn take_all(&self) -> bool {
        let mut scratch = Scratch::take();
        let buf = &mut scratch.0;
        loop {
            buf.clear();
            match recv(&self.target, spare_capacity(buf), RecvFlags::DONTWAIT) {
                Ok((0, _)) => metrics::UDP_EMPTY.increment(),
                Ok(_) => {
                    if !self.take(buf) {
                        return false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(Errno::CONNREFUSED) => metrics::UDP_REFUSED.increment(),
                Err(_) => {
                    metrics::UDP_READ_ERRORS.increment();
                    return true;
                }
            }
        }
    }

    fn take(&self, datagram: &[u8]) -> bool {
        self.activity.touch();
        match self.stream.try_send_datagram(Payload::from(datagram)) {
            Ok(true) => {
                metrics::UDP_PACKETS_RECEIVED.increment();
                self.record.moved_out(datagram.len());
                true
            }
            Ok(false) | Err(SendError::TimedOut) => {
                metrics::UDP_DROPPED.increment();
                true
            }
            Err(SendError::Finished) => false,
            Err(SendError::Cut(cut)) => {
                self.record.cut(cut);
                false
            }
        }
    }

    /// Waits for late answers, or until it is cut.
    fn linger(&self) {
        let until = Instant::now() + self.kind.linger;
        while !is_hung_up(&self.target) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let limit = Timespec::try_from(left).ok();
            // Nothing but an error or the abort ends this early.
            let mut fds = [PollFd::new(&*self.target, PollFlags::empty())];
            let _ = poll(&mut fds, limit.as_ref());
        }
    }

    /// FIN, and the end of both threads.
    fn finish(&self, how: &'static str) {
        if self.is_cut() {
            return;
        }
        self.record.ended(how);
        self.stream.finish();
        self.stream.discard();
        // Wakes the other thread, which finds the stream finished.
        net::abort(&self.target);
    }
}

/// Room for one datagram, while it is under way: the kernel says only afterwards how
/// long it is. A few are kept, for all streams.
struct Scratch(Vec<u8>);

static SCRATCHES: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Scratch {
    fn take() -> Self {
        let kept = SCRATCHES.lock().pop();
        Self(kept.unwrap_or_else(|| Vec::with_capacity(MAX_PREFIX + MAX_DATAGRAM)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut kept = SCRATCHES.lock();
        if kept.len() < MAX_SCRATCHES {
            kept.push(std::mem::take(&mut self.0));
        }
    }
}

/// No datagram is longer.
const MAX_DATAGRAM: usize = 65_535;

/// Nor is what stands in front of it (PROXY protocol, version 2, IPv6).
const MAX_PREFIX: usize = 52;

/// As many as have something to do at once, and are worth 256 KiB.
const MAX_SCRATCHES: usize = 4;
