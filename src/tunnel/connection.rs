//! The tunnels of a connection: which session its binary messages belong to, from a
//! gateway's hello to the end of either (tunnels.md §1, decisions.md §6.6).
//!
//! ```text
//!  Tunnels (one for the process: memory, limits, who accepts streams)
//!     └ ConnectionTunnels (one for each connection, on its link-reader)
//!          └ Session, Inbox (from a hello to the next one, or to the connection's end)
//! ```

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::header::Version;
use super::session::{Acceptor, Figures, Inbox, Memory, Session};
use super::streams::Connection;
use crate::link::{Carrier, Link};
use crate::sync::Mutex;
use crate::telemetry::RateLimit;
use crate::telemetry::metrics::{self, Entered, GaugeOfOne, Part};
use crate::yamux::{Config, Role};

/// What all tunnels of the process have in common.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Streams at once, of one session (`tunnels.max_streams`, as the machine grants
    /// it).
    pub max_streams: usize,
    /// From our FIN to the peer's (`tunnels.half_close_timeout`).
    pub half_close: Duration,
    /// How long streams may live on when the agent ends (`tunnels.drain_timeout`).
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_streams: 4096,
            half_close: Duration::from_mins(5),
            drain: Duration::from_secs(5),
        }
    }
}

/// What a hello suggests; `None`: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Bytes.
    pub max_window: Option<u32>,
    pub keepalive: Option<Duration>,
    /// For answers to pings, and for dialling targets.
    pub timeout: Option<Duration>,
}

/// Makes who gets the streams of a session.
pub trait Acceptors: Send + Sync {
    /// For the streams of one session.
    fn acceptor(&self, connection: Connection) -> Box<dyn Acceptor>;
}

/// Has nothing to lead to: every stream is refused.
#[derive(Clone, Copy, Debug)]
pub struct NoTargets;

impl Acceptors for NoTargets {
    fn acceptor(&self, _: Connection) -> Box<dyn Acceptor> {
        Box::new(drop)
    }
}

/// The tunnels of the process.
pub struct Tunnels {
    settings: Settings,
    memory: Memory,
    acceptors: Box<dyn Acceptors>,
    /// The number of the next session.
    next: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those that may be live.
    sessions: Vec<Session>,
    /// The process ends: nobody takes new streams.
    leaving: bool,
}

impl Tunnels {
    /// `memory`: of all sessions (`tunnels.memory_limit`).
    pub fn new(
        settings: Settings,
        memory: Memory,
        acceptors: impl Acceptors + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory,
            settings,
            acceptors: Box::new(acceptors),
            next: AtomicU64::new(1),
            state: Mutex::default(),
        })
    }

    /// Those of a new connection: none, until a hello comes.
    pub fn connection(self: &Arc<Self>, link: &Link) -> ConnectionTunnels {
        ConnectionTunnels {
            tunnels: self.clone(),
            link: link.clone(),
            headers: Version::One,
            number: 0,
            live: None,
        }
    }

    /// The memory of all sessions.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// No new streams from now on, on no connection; peers are told so (Go Away 0).
    pub fn leave(&self) {
        let mut state = self.state.lock();
        state.leaving = true;
        let sessions = state.sessions.clone();
        drop(state);
        for session in sessions {
            session.leave();
        }
    }

    /// [`leave`](Self::leave)s, lets streams come to their end until `until`, and
    /// resets the others (tunnels.md T5).
    pub fn drain(&self, until: Instant) {
        self.leave();
        let sessions = self.state.lock().sessions.clone();
        let reset: usize = sessions.iter().map(|session| session.drain(until)).sum();
        if reset > 0 {
            log::info!("{reset} streams of tunnels didn't come to their end in time: reset");
        }
    }

    /// How long [`drain`](Self::drain) is meant to take at most.
    pub fn drain_limit(&self) -> Duration {
        self.settings.drain
    }

    /// What all sessions have now.
    pub fn figures(&self) -> Figures {
        let sessions = self.state.lock().sessions.clone();
        sessions.iter().map(Session::figures).sum()
    }

    /// Sessions that are live.
    pub fn sessions(&self) -> usize {
        let sessions = self.state.lock().sessions.clone();
        sessions.iter().filter(|session| session.is_live()).count()
    }

    fn config(&self, terms: &Terms) -> Config {
        let mut config = Config::new(Role::Client);
        config.max_window = terms.max_window.unwrap_or(config.max_window);
        config.keepalive = terms.keepalive.unwrap_or(config.keepalive);
        config.timeout = terms.timeout.unwrap_or(config.timeout);
        config.max_streams = self.settings.max_streams;
        config.close_timeout = self.settings.half_close;
        config.clamped()
    }

    fn add(&self, session: &Session) {
        let mut state = self.state.lock();
        state.sessions.push(session.clone());
        let leaving = state.leaving;
        drop(state);
        if leaving {
            session.leave();
        }
    }

    /// Forgets those that have ended.
    fn tidy(&self) {
        let ended: Vec<Session> = {
            let mut state = self.state.lock();
            let sessions = mem::take(&mut state.sessions).into_iter();
            let (live, ended) = sessions.partition(Session::is_live);
            state.sessions = live;
            ended
        };
        drop(ended);
    }
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The tunnels of one connection. Its methods are called on the `link-reader` and
/// never wait. Dropping it is the loss of the connection: streams are cut, and
/// nothing more is written.
pub struct ConnectionTunnels {
    tunnels: Arc<Tunnels>,
    link: Link,
    headers: Version,
    /// Of the session that is there.
    number: u64,
    live: Option<(Session, Inbox)>,
}

impl ConnectionTunnels {
    /// Which headers the peer may send, in sessions that begin after this.
    pub fn expect_headers(&mut self, newest: Version) {
        self.headers = newest;
    }

    /// Puts a new session, of these terms as far as they make sense, in the place of
    /// one that is there: of that one nothing is written any more. The new one says
    /// nothing before it [begins](Self::begin), because nobody tells it anything
    /// before.
    pub fn replace(&mut self, terms: &Terms) {
        // Nothing keeps a gateway from saying it all the time.
        static HELLOS: RateLimit = RateLimit::new(5, Duration::from_mins(1));
        let config = self.tunnels.config(terms);
        let again = self.end();
        if let Some(skipped) = HELLOS.pass() {
            if again {
                log::warn!("the gateway has said hello again: the streams until now are cut");
            }
            log::info!(
                max_window = config.max_window, keepalive:? = config.keepalive,
                timeout:? = config.timeout, skipped;
                "tunnels: the gateway uses yamux"
            );
        }
        let acceptors = &self.tunnels.acceptors;
        self.number = self.tunnels.next.fetch_add(1, Ordering::Relaxed);
        let acceptor = acceptors.acceptor(Connection {
            number: self.number,
            newest: self.headers,
            dial_timeout: config.timeout,
        });
        let line = Arc::new(self.link.clone());
        self.live = Some(Session::start(config, &self.tunnels.memory, line, acceptor));
    }

    /// The session that is there may speak.
    pub fn begin(&mut self) {
        if let Some((session, _)) = &self.live {
            let watch = Watch::new(session.clone(), self.number);
            self.link.attach(Some(Arc::new(watch)));
            self.tunnels.add(session);
        }
    }

    /// There is a session.
    pub fn is_active(&self) -> bool {
        self.live.is_some()
    }

    /// Takes a message in, or a piece of one; false when there is no session.
    pub fn binary(&mut self, message: &[u8]) -> bool {
        let Some((_, inbox)) = &mut self.live else {
            return false;
        };
        inbox.receive(message);
        true
    }

    /// Whether there was a session.
    fn end(&mut self) -> bool {
        let Some((session, inbox)) = self.live.take() else {
            return false;
        };
        self.link.attach(None);
        session.lose();
        drop(inbox);
        self.tunnels.tidy();
        true
    }
}

/// Tells a session the time, and metrics what it has.
struct Watch {
    session: Session,
    _session: Entered,
    memory: GaugeOfOne,
    paused: Part,
    queued: Part,
}

impl Watch {
    fn new(session: Session, number: u64) -> Self {
        Self {
            session,
            _session: metrics::TUNNEL_SESSIONS.enter(),
            memory: metrics::YAMUX_WINDOW_BYTES.begin(number.to_string()),
            paused: metrics::YAMUX_PAUSED.part(),
            queued: metrics::LINK_QUEUED_BYTES.part(),
        }
    }
}

impl Carrier for Watch {
    fn tick(&self, now: Instant) {
        self.session.tick(now);
        let figures = self.session.figures();
        let charged = i64::try_from(figures.charged).unwrap_or(i64::MAX);
        self.memory.set(charged);
        self.paused.set(figures.paused);
        self.queued.set(figures.queued);
    }
}

impl Drop for ConnectionTunnels {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for ConnectionTunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTunnels")
            .field("live", &self.live.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
