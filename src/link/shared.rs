//! What the threads of one link share: how far it is on its way to its end.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use socket2::Socket;

use super::ending::printable;
use super::outbox::Outbox;
use super::{Carrier, EndedBy, Ending, Settings};
use crate::websocket::frame::{CloseFrame, Refusal};

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) outbox: Outbox,
    pub(super) traffic: Traffic,
    /// What is received now is of no interest any more.
    closing: AtomicBool,
    /// The connection was cut: nothing is read or written any more.
    cut: AtomicBool,
    pub(super) life: Mutex<Life>,
    /// Something in `life` changed: for the clock, and for those who wait for the
    /// end.
    pub(super) changed: Condvar,
}

pub(super) struct Life {
    /// Gone with the last thread, so that a handle to an ended link holds no
    /// descriptor.
    socket: Option<Arc<Socket>>,
    /// Threads of this link.
    pub(super) running: usize,
    /// The first reason counts.
    verdict: Option<Verdict>,
    /// When what is queued is given up for the close frame's sake.
    pub(super) drain_until: Option<Instant>,
    /// When the connection is cut, whatever state the closing is in.
    pub(super) cut_at: Option<Instant>,
    /// The writer ends by itself, after the close frame.
    finishing: bool,
    /// Who is told the time.
    pub(super) carrier: Option<Arc<dyn Carrier>>,
    write_error: Option<String>,
    ending: Option<Ending>,
}

struct Verdict {
    by: EndedBy,
    why: String,
    code: Option<u16>,
}

impl Shared {
    pub(super) fn new(settings: Settings, socket: Arc<Socket>) -> Self {
        Self {
            outbox: Outbox::new(settings.bulk_bytes),
            settings,
            traffic: Traffic::new(),
            closing: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            life: Mutex::new(Life {
                socket: Some(socket),
                running: 0,
                verdict: None,
                drain_until: None,
                cut_at: None,
                finishing: false,
                carrier: None,
                write_error: None,
                ending: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Ends the connection now.
    pub(super) fn end(&self, by: EndedBy, why: impl Into<String>) {
        let mut life = self.life.lock();
        self.judge(&mut life, by, why, None);
        self.cut(&mut life);
    }

    /// We close: what is queued is written, then a close frame, then we wait for
    /// the peer's; each for at most `Settings::drain`.
    pub(super) fn close(&self, code: u16, reason: &str) {
        let close = CloseFrame::new(code, reason);
        let mut life = self.life.lock();
        if life.verdict.is_some() || life.write_error.is_some() {
            return;
        }
        let why = match reason {
            "" => "closed".to_owned(),
            reason => format!("closed: {}", printable(reason)),
        };
        self.judge(&mut life, EndedBy::Us, why, close.code);
        self.outbox.close(close);
        let drain = self.settings.drain;
        life.drain_until = Some(after(drain));
        self.cut_within(&mut life, drain.saturating_mul(2));
    }

    /// Our close frame is out.
    pub(super) fn close_written(&self) {
        let mut life = self.life.lock();
        life.drain_until = None;
        self.cut_within(&mut life, self.settings.drain);
    }

    /// The peer closed, or answered our close.
    pub(super) fn peer_closed(&self, close: &CloseFrame) {
        let mut life = self.life.lock();
        let why = match close.reason.as_str() {
            "" => "closed".to_owned(),
            reason => format!("closed: {}", printable(reason)),
        };
        self.judge(&mut life, EndedBy::Peer, why, close.code);
        let echo = CloseFrame {
            code: close.code,
            reason: String::new(),
        };
        self.finish(&mut life, echo);
    }

    /// The peer broke the protocol.
    pub(super) fn refuse(&self, refusal: Refusal) {
        let mut life = self.life.lock();
        let code = refusal.code();
        let why = refusal.to_string();
        let close = CloseFrame::new(code, &why);
        self.judge(
            &mut life,
            EndedBy::Us,
            format!("the peer broke the protocol: {why}"),
            Some(code),
        );
        self.finish(&mut life, close);
    }

    /// The reader is at the end of the stream, or at an error.
    pub(super) fn input_ended(&self, error: Option<&io::Error>) {
        let mut life = self.life.lock();
        let (by, why) = match (error, life.write_error.take()) {
            (Some(error), _) => (EndedBy::Network, error.to_string()),
            (None, Some(error)) => (EndedBy::Network, error),
            (None, None) => (
                EndedBy::Peer,
                "the stream ended without a close frame".into(),
            ),
        };
        self.judge(&mut life, by, why, None);
        let broken = error.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        if broken && !life.finishing {
            // A peer that broke TLS gets the alert that says so.
            self.outbox.finish(None);
            life.finishing = true;
            self.cut_within(&mut life, LINGER);
        }
        if !life.finishing {
            self.cut(&mut life);
        }
    }

    /// Writing failed. What the peer said before it went, a close frame say, may
    /// still be unread, and says more than our error: the reader has the word.
    pub(super) fn output_failed(&self, error: &io::Error) {
        let mut life = self.life.lock();
        if error.kind() == io::ErrorKind::TimedOut {
            self.judge(&mut life, EndedBy::Network, "write timed out", None);
            self.cut(&mut life);
            return;
        }
        life.write_error = Some(format!("writing failed: {error}"));
        self.closing.store(true, Ordering::Relaxed);
        self.outbox.stop();
        self.cut_within(&mut life, LINGER);
    }

    /// Tells `carrier` the time from now on, unless the link has ended.
    pub(super) fn attach(&self, carrier: Option<Arc<dyn Carrier>>) {
        let mut life = self.life.lock();
        let gone = if life.ending.is_none() {
            std::mem::replace(&mut life.carrier, carrier)
        } else {
            carrier
        };
        drop(life);
        // Not under the lock: it may be the last hold on it.
        drop(gone);
        self.changed.notify_all();
    }

    /// Ends the connection for a time limit that has passed.
    pub(super) fn expire(&self, life: &mut Life, why: Option<String>) {
        let why = why
            .or_else(|| life.write_error.take())
            .unwrap_or_else(|| "the peer did not finish closing".into());
        self.judge(life, EndedBy::Network, why, None);
        self.cut(life);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// Waits until all threads have ended.
    pub(super) fn wait(&self) -> Ending {
        let mut life = self.life.lock();
        loop {
            if let Some(ending) = &life.ending {
                return ending.clone();
            }
            self.changed.wait(&mut life);
        }
    }

    fn judge(&self, life: &mut Life, by: EndedBy, why: impl Into<String>, code: Option<u16>) {
        self.closing.store(true, Ordering::Relaxed);
        if life.verdict.is_none() {
            let why = why.into();
            life.verdict = Some(Verdict { by, why, code });
        }
    }

    fn cut(&self, life: &mut Life) {
        self.cut.store(true, Ordering::Relaxed);
        self.outbox.stop();
        if let Some(socket) = &life.socket {
            // A reset when it is closed, and nothing kept for a peer that doesn't
            // read: without it, one that is blocked in a write to us isn't told
            // (seen: it hung for 107 s), and the kernel holds what we have written.
            // Both calls fail when the peer has cut it before.
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    fn finish(&self, life: &mut Life, close: CloseFrame) {
        life.finishing = true;
        self.outbox.finish(Some(close));
        self.cut_within(life, LINGER);
    }

    fn cut_within(&self, life: &mut Life, limit: Duration) {
        let at = after(limit);
        life.cut_at = Some(life.cut_at.map_or(at, |before| before.min(at)));
        self.changed.notify_all();
    }
}

/// A thread's place in a link. The last one that leaves says how the link ended.
pub(super) struct Seat {
    shared: Arc<Shared>,
    name: &'static str,
}

impl Seat {
    pub(super) fn take(shared: &Arc<Shared>, name: &'static str) -> Self {
        shared.life.lock().running += 1;
        Self {
            shared: shared.clone(),
            name,
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let shared = &self.shared;
        let mut life = shared.life.lock();
        if thread::panicking() {
            let why = format!("{} panicked", self.name);
            shared.judge(&mut life, EndedBy::Us, why, None);
            shared.cut(&mut life);
        }
        life.running -= 1;
        if life.running == 0 {
            while let Some(carrier) = life.carrier.take() {
                MutexGuard::unlocked(&mut life, || drop(carrier));
            }
            shared.outbox.stop();
            life.socket = None;
            let verdict = life.verdict.take().unwrap_or(Verdict {
                by: EndedBy::Us,
                why: "it was never started".into(),
                code: None,
            });
            life.ending = Some(shared.traffic.ending(verdict));
        }
        shared.changed.notify_all();
    }
}

/// Counters and clocks of one link; relaxed, because nothing hangs on their order.
pub(super) struct Traffic {
    started: Instant,
    /// Nanoseconds from `started` to the last byte.
    last_in: AtomicU64,
    last_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            last_in: AtomicU64::new(0),
            last_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
        }
    }

    pub(super) fn received(&self, bytes: usize) {
        self.last_in.store(self.now(), Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received_message(&self) {
        self.messages_in.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: usize, messages: usize) {
        self.last_out.store(self.now(), Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages_out
            .fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// When the last byte arrived (or the link began).
    pub(super) fn last_received(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_in.load(Ordering::Relaxed))
    }

    #[cfg(test)]
    pub(super) fn bytes_received(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        // Wraps after 584 years.
        self.started.elapsed().as_nanos() as u64
    }

    fn ending(&self, verdict: Verdict) -> Ending {
        let lived = self.started.elapsed();
        let age = |last: &AtomicU64| {
            lived.saturating_sub(Duration::from_nanos(last.load(Ordering::Relaxed)))
        };
        Ending {
            by: verdict.by,
            why: verdict.why,
            code: verdict.code,
            lived,
            last_in: age(&self.last_in),
            last_out: age(&self.last_out),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            messages_in: self.messages_in.load(Ordering::Relaxed),
            messages_out: self.messages_out.load(Ordering::Relaxed),
        }
    }
}

/// `limit` from now; an absurd one is a day.
fn after(limit: Duration) -> Instant {
    Instant::now() + limit.min(Duration::from_hours(24))
}

/// How long a peer may take to close the TCP connection when nothing is left to
/// be said: a reset in the meantime could take our close frame from it.
const LINGER: Duration = Duration::from_secs(1);
