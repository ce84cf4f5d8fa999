//! What the agent knows about its connection, for probes and for people
//! (local-server.md §4).

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::control::session::ConnectionState;

/// Shared between those who know (control, the conductor) and those who tell (the
/// local server, later metrics). Put it in an `Arc`.
///
/// `connected` is said of the state only when the socket is up *and* registration or
/// resumption is confirmed; the original's claimed it from memory.
#[derive(Debug)]
pub struct HealthState {
    /// A heartbeat older than this is too old: three intervals, at least 90 s.
    window: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    trying: bool,
    socket: bool,
    registered: bool,
    /// Registration succeeded once in this process: what follows is a *re*connect.
    was_connected: bool,
    heartbeat: Option<(Instant, SystemTime)>,
    failures: u32,
}

/// One moment's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub healthy: bool,
    /// The control-plane WebSocket is up.
    pub connected: bool,
    /// The control plane has confirmed who we are.
    pub registered: bool,
    pub connection_state: ConnectionState,
    pub last_heartbeat: Option<SystemTime>,
    /// `None` before the first.
    pub since_heartbeat: Option<Duration>,
    pub consecutive_failures: u32,
}

impl HealthState {
    pub fn new(heartbeat_interval: Duration) -> Self {
        Self {
            window: heartbeat_interval.saturating_mul(3).max(LEAST_WINDOW),
            inner: Mutex::default(),
        }
    }

    /// A dial (with registration or resumption) begins.
    pub fn dialing(&self) {
        let mut inner = self.inner.lock();
        inner.trying = true;
        inner.socket = false;
    }

    /// The WebSocket is up; who we are is not confirmed on it yet.
    pub fn socket_up(&self) {
        self.inner.lock().socket = true;
    }

    /// The control plane confirmed the registration, or resumed the session.
    pub fn registered(&self) {
        let mut inner = self.inner.lock();
        inner.registered = true;
        inner.was_connected = true;
    }

    /// The control plane doesn't know us any more.
    pub fn unregistered(&self) {
        self.inner.lock().registered = false;
    }

    /// The WebSocket is gone; it will be dialled again.
    pub fn socket_down(&self) {
        self.inner.lock().socket = false;
    }

    /// Nothing is tried any more: shutting down.
    pub fn stopped(&self) {
        let mut inner = self.inner.lock();
        inner.socket = false;
        inner.trying = false;
    }

    /// A heartbeat was acknowledged, or at least written while the socket was up.
    pub fn heartbeat(&self) {
        self.heartbeat_at(Instant::now(), SystemTime::now());
    }

    /// A heartbeat's turn came and it could not be sent; one that is skipped while
    /// the socket is down counts too.
    pub fn heartbeat_failed(&self) {
        let mut inner = self.inner.lock();
        inner.failures = inner.failures.saturating_add(1);
    }

    pub fn snapshot(&self) -> Health {
        self.snapshot_at(Instant::now())
    }

    fn heartbeat_at(&self, now: Instant, wall: SystemTime) {
        let mut inner = self.inner.lock();
        inner.heartbeat = Some((now, wall));
        inner.failures = 0;
    }

    fn snapshot_at(&self, now: Instant) -> Health {
        let inner = self.inner.lock();
        let state = if inner.socket && inner.registered {
            ConnectionState::Connected
        } else if !inner.trying {
            ConnectionState::Disconnected
        } else if inner.was_connected {
            ConnectionState::Reconnecting
        } else {
            ConnectionState::Connecting
        };
        let since = inner
            .heartbeat
            .map(|(then, _)| now.saturating_duration_since(then));
        Health {
            healthy: state == ConnectionState::Connected
                && since.is_some_and(|since| since < self.window),
            connected: inner.socket,
            registered: inner.registered,
            connection_state: state,
            last_heartbeat: inner.heartbeat.map(|(_, wall)| wall),
            since_heartbeat: since,
            consecutive_failures: inner.failures,
        }
    }
}

/// Shorter would flap whenever one heartbeat is late.
const LEAST_WINDOW: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_up_and_down() {
        let state = HealthState::new(Duration::from_secs(30));
        let says = || state.snapshot().connection_state.as_str();
        assert_eq!(says(), "disconnected");
        state.dialing();
        assert_eq!(says(), "connecting");
        state.socket_up();
        assert_eq!(says(), "connecting", "a socket alone is no connection");
        state.registered();
        assert_eq!(says(), "connected");
        state.socket_down();
        assert_eq!(says(), "reconnecting");
        assert!(state.snapshot().registered && !state.snapshot().connected);
        state.dialing();
        state.socket_up();
        assert_eq!(says(), "connected");
        state.stopped();
        assert_eq!(says(), "disconnected");
    }

    /// local-server.md §11.4: the original was healthy with no control plane at all.
    #[test]
    fn without_a_connection_nothing_is_healthy() {
        let state = HealthState::new(Duration::from_secs(30));
        state.heartbeat();
        assert!(!state.snapshot().healthy);
        state.dialing();
        state.registered();
        assert!(!state.snapshot().healthy);
        state.socket_up();
        assert!(state.snapshot().healthy);
    }

    #[test]
    fn a_heartbeat_gets_too_old_after_three_intervals_and_not_before_90_seconds() {
        for (interval, window) in [(10, 90), (30, 90), (60, 180)] {
            let state = HealthState::new(Duration::from_secs(interval));
            state.dialing();
            state.socket_up();
            state.registered();
            assert!(!state.snapshot().healthy, "no heartbeat yet");
            let now = Instant::now();
            state.heartbeat_at(now, SystemTime::UNIX_EPOCH);
            let at = |seconds| state.snapshot_at(now + Duration::from_secs(seconds));
            assert!(at(window - 1).healthy);
            assert!(!at(window).healthy);
        }
    }

    #[test]
    fn failures_count_until_a_heartbeat_succeeds() {
        let state = HealthState::new(Duration::from_secs(30));
        state.heartbeat_failed();
        state.heartbeat_failed();
        assert_eq!(state.snapshot().consecutive_failures, 2);
        state.heartbeat();
        assert_eq!(state.snapshot().consecutive_failures, 0);
    }
}
