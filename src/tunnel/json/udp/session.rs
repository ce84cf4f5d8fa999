//! One client of one tunnel, and its thread.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::Socket;

use super::{Key, Table};
use crate::config::ProxyProtocol;
use crate::link::Message;
use crate::net::{Cancel, Deadline, Reason, abort};
use crate::telemetry::metrics::{
    TUNNEL_FORWARDS, UDP_ACTIVE, UDP_CONNECTION_FAILED, UDP_DENIED, UDP_DROPPED,
    UDP_PACKETS_RECEIVED, UDP_PACKETS_SENT, UDP_READ_ERRORS, UDP_REFUSED, UDP_SESSIONS,
    UDP_WRITE_ERRORS,
};
use crate::threads::{self, SpawnError, Stack};
use crate::tunnel::Protocol;
use crate::tunnel::audit::{Judged, Line};
use crate::tunnel::json::queue::Share;
use crate::tunnel::json::{JsonTunnels, Outlet, Place};
use crate::tunnel::policy::Verdict;
use crate::tunnel::proxy_protocol;
use crate::tunnel::target::{Admitted, Connected, Refusal, RefusalKind};
use crate::wire::from_agent;

/// One client of one tunnel.
pub(super) struct Session {
    shared: Arc<JsonTunnels>,
    outlet: Arc<dyn Outlet>,
    key: Key,
    /// What the target wants to hear of the client.
    proxy: OnceLock<ProxyProtocol>,
    state: Mutex<State>,
    /// Fires when it ends early.
    cancel: Cancel,
    began: Instant,
    /// Milliseconds from `began` to the client's last datagram: what the target says
    /// keeps no session alive.
    heard: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

enum State {
    /// Datagrams wait for the socket, and have memory for it.
    Dialling(VecDeque<(Vec<u8>, Share)>),
    Open(Arc<Way>),
    /// There is no way: what comes is dropped, so that a client that goes on and on
    /// isn't dialled for again and again.
    Refused(Instant),
}

/// To the target.
struct Way {
    socket: Arc<Socket>,
    /// Stands in front of each datagram (PROXY protocol).
    prefix: Vec<u8>,
}

impl Session {
    pub(super) fn new(shared: Arc<JsonTunnels>, outlet: Arc<dyn Outlet>, key: Key) -> Arc<Self> {
        Arc::new(Self {
            shared,
            outlet,
            key,
            proxy: OnceLock::new(),
            state: Mutex::new(State::Dialling(VecDeque::new())),
            cancel: Cancel::new(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        })
    }

    /// Says what the target wants to hear of the client; before it is spawned.
    pub(super) fn introduce(&self, proxy: Option<ProxyProtocol>) {
        if let Some(version) = proxy {
            let _ = self.proxy.set(version);
        }
    }

    /// Starts its thread, which takes it out of the table at its end.
    pub(super) fn spawn(
        self: &Arc<Self>,
        admitted: Admitted,
        table: Arc<Table>,
        place: Place,
    ) -> Result<(), SpawnError> {
        let running = Running {
            session: self.clone(),
            table,
            _place: place,
            end: "internal error".to_owned(),
            refused: None,
            connected: None,
            admitted,
        };
        threads::spawn("json-udp", Stack::Work, move || running.run()).map(drop)
    }

    /// One datagram of the client. Never waits: what finds no room is lost, as
    /// datagrams are.
    pub(super) fn send(&self, bytes: Vec<u8>) {
        let now = self.began.elapsed().as_millis() as u64;
        self.heard.store(now, Ordering::Relaxed);
        let mut state = self.state.lock();
        match &mut *state {
            State::Dialling(waiting) if waiting.len() < MAX_WAITING => {
                match self.shared.memory.take(bytes.capacity()) {
                    Some(share) => waiting.push_back((bytes, share)),
                    None => UDP_DROPPED.increment(),
                }
            }
            State::Open(way) => {
                let way = way.clone();
                drop(state);
                self.send_to(&way, &bytes);
            }
            State::Dialling(_) | State::Refused(_) => UDP_DROPPED.increment(),
        }
    }

    fn send_to(&self, way: &Way, bytes: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let socket = &way.socket;
        let datagram = if way.prefix.is_empty() {
            Cow::Borrowed(bytes)
        } else {
            Cow::Owned([&way.prefix, bytes].concat())
        };
        let mut sent = send(socket, &datagram, flags);
        if sent == Err(Errno::CONNREFUSED) {
            // What became of an earlier one; this one wasn't sent yet.
            UDP_REFUSED.increment();
            sent = send(socket, &datagram, flags);
        }
        match sent {
            Ok(_) => {
                UDP_PACKETS_SENT.increment();
                let count = bytes.len() as u64;
                self.bytes_sent.fetch_add(count, Ordering::Relaxed);
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE) => UDP_DROPPED.increment(),
            Err(Errno::CONNREFUSED) => UDP_REFUSED.increment(),
            Err(_) => UDP_WRITE_ERRORS.increment(),
        }
    }

    /// Takes the socket in and sends what waits for it; false when the session ended
    /// meanwhile.
    fn open(&self, connected: &Connected) -> bool {
        let prefix = self.proxy.get().map(|version| {
            let to = connected.address;
            proxy_protocol::header(*version, Protocol::Udp, self.client(), to)
        });
        let way = Arc::new(Way {
            socket: connected.socket.clone(),
            prefix: prefix.unwrap_or_default(),
        });
        let mut state = self.state.lock();
        if self.cancel.reason().is_some() {
            return false;
        }
        if let State::Dialling(waiting) = &mut *state {
            // Under the lock, so that none overtakes them.
            for (bytes, _share) in waiting.drain(..) {
                self.send_to(&way, &bytes);
            }
        }
        *state = State::Open(way);
        true
    }

    /// Hears the target until the end; says what that was.
    fn listen(&self, socket: &Socket) -> String {
        let size = self.shared.settings.udp_buffer;
        let mut buffer = vec![0; size];
        loop {
            if let Some(reason) = self.cancel.reason() {
                return reason.to_string();
            }
            let left = self.idle_at().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return format!("idle for {} s", self.shared.settings.udp_idle.as_secs());
            }
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match recv(socket, &mut buffer[..], flags) {
                // Half a datagram is none.
                Ok((kept, whole)) if kept < whole => UDP_DROPPED.increment(),
                Ok((_, count)) => self.answer(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Who waits holds no memory.
                    drop(std::mem::take(&mut buffer));
                    wait_for(socket, left);
                    buffer = vec![0; size];
                }
                // ICMP: the target may come back, the client may try again.
                Err(Errno::CONNREFUSED) => UDP_REFUSED.increment(),
                Err(error) => {
                    UDP_READ_ERRORS.increment();
                    return format!("read from the target: {}", io::Error::from(error));
                }
            }
        }
    }

    /// To this client alone (T24). While it waits for the lane, the kernel keeps what
    /// it has room for of what the target goes on to say.
    fn answer(&self, bytes: &[u8]) {
        if self.cancel.reason().is_some() {
            return;
        }
        let Key {
            tunnel,
            address,
            port,
        } = &self.key;
        let expected = bytes.len() / 3 * 4 + tunnel.len() + address.len() + 224;
        let message = Message::text(expected, |buf| {
            from_agent::udp_tunnel_data(buf, tunnel, (address, *port), bytes);
        });
        if self.outlet.send(tunnel, message, &self.cancel).is_ok() {
            UDP_PACKETS_RECEIVED.increment();
            let count = bytes.len() as u64;
            self.bytes_received.fetch_add(count, Ordering::Relaxed);
        } else {
            self.lose();
        }
    }

    /// Ends it with the connection to the control plane.
    pub(super) fn lose(&self) {
        self.cancel.cancel(Reason::ConnectionLost);
        if let State::Open(way) = &*self.state.lock() {
            abort(&way.socket); // wakes the thread
        }
    }

    pub(super) fn refuse(&self, refusal: &Refusal) {
        match refusal.kind {
            RefusalKind::Denied => UDP_DENIED.increment(),
            RefusalKind::Header | RefusalKind::Dial => UDP_CONNECTION_FAILED.increment(),
            RefusalKind::Cancelled(_) => {}
        }
        *self.state.lock() = State::Refused(Instant::now());
    }

    pub(super) fn may_be_tried_again(&self) -> bool {
        matches!(&*self.state.lock(), State::Refused(since) if since.elapsed() >= REFUSED_FOR)
    }

    fn idle_at(&self) -> Instant {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.began + heard + self.shared.settings.udp_idle
    }

    fn client(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.key.address.parse().ok()?;
        Some((ip, self.key.port).into())
    }

    pub(super) fn record(
        &self,
        target: String,
        judged: Judged,
        verdict: Verdict,
        address: Option<SocketAddr>,
        end: String,
    ) {
        self.shared.audit.record(Line {
            is_request: false,
            id: format!("{}:{}", self.key.address, self.key.port),
            tunnel: self.key.tunnel.clone(),
            client: self.client(),
            protocol: Protocol::Udp,
            target,
            address,
            judged,
            reason: verdict.reason,
            dry_run: verdict.dry_run,
            bytes_in: self.bytes_sent.load(Ordering::Relaxed),
            bytes_out: self.bytes_received.load(Ordering::Relaxed),
            duration: self.began.elapsed(),
            end: end.into(),
        });
    }
}

/// A session's thread. Dropped at its end, after a panic too.
struct Running {
    session: Arc<Session>,
    table: Arc<Table>,
    _place: Place,
    admitted: Admitted,
    end: String,
    refused: Option<Refusal>,
    connected: Option<Connected>,
}

impl Running {
    fn run(mut self) {
        let session = self.session.clone();
        let deadline = Deadline::after(session.shared.settings.connection_timeout);
        let connected = match self.admitted.dial(deadline, &session.cancel) {
            Ok(connected) => connected,
            Err(refusal) => {
                self.end = refusal.to_string();
                self.refused = Some(refusal);
                return;
            }
        };
        let open = session.open(&connected);
        let socket = connected.socket.clone();
        self.connected = Some(connected);
        let _active = (UDP_ACTIVE.enter(), TUNNEL_FORWARDS.enter());
        UDP_SESSIONS.increment();
        self.end = if open {
            session.listen(&socket)
        } else {
            Reason::ConnectionLost.to_string()
        };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let session = &self.session;
        // A refused one stays for a while, without a thread.
        if let Some(refusal) = &self.refused {
            session.refuse(refusal);
        } else {
            let mut table = self.table.lock();
            let ours = table.get(&session.key);
            if ours.is_some_and(|ours| Arc::ptr_eq(ours, session)) {
                table.remove(&session.key);
            }
        }
        let verdict = match (&self.connected, &self.refused) {
            (Some(connected), _) => connected.verdict.clone(),
            (None, Some(refusal)) if refusal.kind == RefusalKind::Denied => Verdict {
                reason: refusal.to_string(),
                ..Verdict::default()
            },
            _ => self.admitted.verdict().clone(),
        };
        let judged = if verdict.allowed {
            Judged::Allowed
        } else {
            Judged::Denied
        };
        let address = self.connected.as_ref().and_then(|to| to.address);
        let end = std::mem::take(&mut self.end);
        session.record(self.admitted.to_string(), judged, verdict, address, end);
    }
}

/// Until there is something to hear, or the time is over.
fn wait_for(socket: &Socket, limit: Duration) {
    // Rounded up, so that it doesn't wake too early.
    let limit = limit + Duration::from_millis(1);
    let limit = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let _ = poll(&mut fds, limit.as_ref());
}

/// Datagrams that wait for a session's dial.
const MAX_WAITING: usize = 32;

/// How long a target that isn't to be had isn't tried again for a client.
const REFUSED_FOR: Duration = Duration::from_secs(5);
