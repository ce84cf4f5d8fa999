//! One TCP connection in JSON messages: a thread that dials and then writes what the
//! gateway sends, and one that reads what the target answers.
//!
//! Its end is said once (tunnels.md T26), by the thread that dialled, when nothing of
//! the other one can follow. Who ends it gives the reason, cancels what waits for the
//! peer, and shuts down or aborts the target, which wakes both threads.

mod running;

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use super::ending::End;
use super::queue::{Chunk, Queue};
use super::{JsonTunnels, Outlet, Settings};
use crate::config::ProxyProtocol;
use crate::link::{Message, SendError};
use crate::net::{Cancel, abort};
use crate::telemetry::metrics::{TCP_BYTES_RECEIVED, TCP_BYTES_SENT};
use crate::tunnel::audit::Audit;
use crate::wire::from_agent;
use crate::wire::tunnel::{TcpClose, TcpStart, Totals};

/// A connection under its `request_id`.
pub(super) struct Connection {
    id: Arc<str>,
    tunnel: String,
    client: Option<SocketAddr>,
    /// What the target wants to hear of the client.
    proxy: Option<ProxyProtocol>,
    settings: Settings,
    audit: Arc<Audit>,
    /// Fires at the end, whatever it is.
    cancel: Cancel,
    state: Mutex<State>,
    /// Something to write, or an end.
    changed: Condvar,
    outlet: Arc<dyn Outlet>,
    /// The close is said, or nobody is there to hear it. Held while a message is
    /// sent, so that none follows the close.
    silent: Mutex<bool>,
    began: Instant,
    /// Milliseconds from `began` to the last byte in either direction.
    active: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// A chunk of it is being written.
    writing: bool,
    /// The gateway closed behind what is queued.
    closed: bool,
    /// The target takes no more. What it still has to say is waited for: an answer
    /// that refuses an upload often comes before the end of it.
    deaf: Option<String>,
    end: Option<End>,
    target: Option<Arc<Socket>>,
    /// A thread reads from the target.
    reading: bool,
}

/// What the writing thread does next.
enum Next {
    Write(Chunk),
    Ended,
}

impl Connection {
    pub(super) fn new(
        id: Arc<str>,
        start: &TcpStart<'_>,
        proxy: Option<ProxyProtocol>,
        shared: &JsonTunnels,
        outlet: Arc<dyn Outlet>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            tunnel: start.tunnel_id.to_string(),
            client: start.client.parse().ok(),
            proxy,
            settings: shared.settings.clone(),
            audit: shared.audit.clone(),
            cancel: Cancel::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            outlet,
            silent: Mutex::new(false),
            began: Instant::now(),
            active: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        })
    }

    /// Bytes for the target. Never waits.
    pub(super) fn push(&self, chunk: Chunk) {
        let mut state = self.state.lock();
        if state.end.is_some() || state.closed || state.deaf.is_some() {
            return;
        }
        let pushed = state.queue.push(chunk);
        drop(state);
        match pushed {
            Ok(()) => {
                self.changed.notify_all();
            }
            Err(error) => self.end(End::Refused(error)),
        }
    }

    /// The gateway closes: its client went in order, or was cut off, which the target
    /// must be able to tell apart (T9).
    pub(super) fn close(&self, reason: &str) {
        if matches!(reason, "error" | "timeout") {
            return self.end(End::GatewayAborted);
        }
        let mut state = self.state.lock();
        state.closed = true;
        // Nobody waits for a dial that nothing was sent through.
        let dialling = state.target.is_none() && state.queue.is_empty();
        drop(state);
        if dialling {
            self.end(End::Gateway);
        } else {
            self.changed.notify_all();
        }
    }

    /// Bytes of memory that wait for the target.
    pub(super) fn queued(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Its close is on its way, or sent.
    pub(super) fn is_ending(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Ends it; only the first end counts. Never waits.
    pub(super) fn end(&self, end: End) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        // The target may still read, and must not take half an upload for a whole one.
        let unwritten = state.writing || !state.queue.is_empty();
        let (reason, aborts) = (end.reason(), end.aborts() || unwritten);
        state.end = Some(end);
        state.queue.clear();
        let target = state.target.clone();
        drop(state);
        self.changed.notify_all();
        self.cancel.cancel(reason);
        if let Some(target) = target {
            close_target(&target, aborts);
        }
    }

    /// Takes the target in, unless it ended meanwhile.
    fn take_in(&self, target: &Arc<Socket>) -> bool {
        let mut state = self.state.lock();
        state.target = Some(target.clone());
        let aborts = state.end.as_ref().map(End::aborts);
        drop(state);
        if let Some(aborts) = aborts {
            close_target(target, aborts);
        }
        self.touch();
        aborts.is_none()
    }

    /// What to write; waits until there is something, or an end.
    fn next(&self) -> Next {
        let mut state = self.state.lock();
        state.writing = false;
        loop {
            if state.end.is_some() {
                return Next::Ended;
            }
            if let Some(chunk) = state.queue.pop() {
                state.writing = true;
                return Next::Write(chunk);
            }
            if state.closed {
                // Behind a target that is deaf there is no good end.
                let end = state.deaf.take().map_or(End::Gateway, End::WriteError);
                drop(state);
                self.end(end);
                return Next::Ended;
            }
            let until = self.idle_at();
            if self.changed.wait_until(&mut state, until).timed_out()
                && Instant::now() >= self.idle_at()
            {
                drop(state);
                self.end(End::Idle(self.settings.tcp_idle));
                return Next::Ended;
            }
        }
    }

    /// Writes all of it, or ends, or the target is deaf from now on.
    fn write(&self, mut target: &Socket, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = self.idle_at().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return self.end(End::Idle(self.settings.tcp_idle));
            }
            let written = target
                .set_write_timeout(Some(left.max(Duration::from_millis(1))))
                .and_then(|()| target.write(bytes));
            match written {
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.touch();
                    self.bytes_sent.fetch_add(count as u64, Ordering::Relaxed);
                    TCP_BYTES_SENT.add(count as u64);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return self.turn_deaf(&error),
            }
        }
    }

    fn turn_deaf(&self, error: &io::Error) {
        let mut state = self.state.lock();
        state.queue.clear();
        // While there is no end, the reader is still there to find it.
        state.deaf = Some(error.to_string());
    }

    /// The reading thread: to the end of the target, whatever is done with its bytes.
    fn read(&self, target: &Socket) {
        let mut buffer = vec![0; self.settings.tcp_buffer];
        loop {
            match recv(target, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return self.target_ended(None),
                Ok((_, count)) => self.deliver(&buffer[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    // Who waits holds no memory.
                    drop(std::mem::take(&mut buffer));
                    let mut fds = [PollFd::new(target, PollFlags::IN)];
                    let _ = poll(&mut fds, None);
                    buffer = vec![0; self.settings.tcp_buffer];
                }
                Err(error) => return self.target_ended(Some(error.into())),
            }
        }
    }

    /// One message of what the target said; waits for room in the lane, so that TCP
    /// makes the target wait. Dropped, once there is an end.
    fn deliver(&self, bytes: &[u8]) {
        self.touch();
        let silent = self.silent.lock();
        if *silent || self.cancel.reason().is_some() {
            return;
        }
        let message = Message::text(bytes.len() / 3 * 4 + self.id.len() + 160, |buf| {
            from_agent::tcp_tunnel_data(buf, &self.id, bytes);
        });
        match self.outlet.send(&self.id, message, &self.cancel) {
            Ok(()) => {
                let count = bytes.len() as u64;
                self.bytes_received.fetch_add(count, Ordering::Relaxed);
                TCP_BYTES_RECEIVED.add(count);
                // That may have taken its time.
                self.touch();
            }
            Err(SendError::Cancelled(_)) => {}
            Err(SendError::Closed) => {
                drop(silent);
                self.end(End::Lost);
            }
        }
    }

    fn target_ended(&self, error: Option<io::Error>) {
        let deaf = self.state.lock().deaf.clone();
        self.end(match (error, deaf) {
            // It said all that it had to say.
            (None, _) => End::Target,
            (Some(_), Some(deaf)) => End::WriteError(deaf),
            (Some(error), None) => End::ReadError(error.to_string()),
        });
    }

    fn reader_left(&self) {
        let mut state = self.state.lock();
        state.reading = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Says the end, behind everything else.
    fn say(&self, end: &End) {
        let mut silent = self.silent.lock();
        *silent = true;
        let Some((reason, error)) = end.close() else {
            return;
        };
        let message = Message::text(self.id.len() + 256, |buf| {
            let close = TcpClose {
                reason,
                error: error.as_deref(),
                totals: Some(self.totals()),
            };
            from_agent::tcp_tunnel_close(buf, &self.id, &close);
        });
        // The connection may be gone: then nobody waits for it.
        let _ = self.outlet.send(&self.id, message, &Cancel::new());
    }

    fn totals(&self) -> Totals {
        Totals {
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            duration: self.began.elapsed(),
        }
    }

    /// A byte has moved.
    fn touch(&self) {
        let now = self.began.elapsed().as_millis() as u64;
        self.active.store(now, Ordering::Relaxed);
    }

    fn idle_at(&self) -> Instant {
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        self.began + active + self.settings.tcp_idle
    }
}

/// Wakes who is blocked there.
fn close_target(target: &Socket, aborts: bool) {
    if aborts {
        abort(target);
    } else {
        // The end stands behind what was written.
        let _ = target.shutdown(std::net::Shutdown::Write);
    }
}

/// Neither moved bytes nor an end.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut
    )
}
