//! What happens on a stream that the gateway opened (tunnels.md §3, decisions.md
//! §6.6).
//!
//! ```text
//!  link-reader ─► StreamAcceptor: a place, a thread, or an RST
//!  stream-N    ─► opening: header ─► Targets::admit ─► dial
//!  copy-N      ─► tcp, udp: one thread a direction ─► record: audit, metrics
//! ```
//!
//! * No thread but those two waits for a target, and both are parked and used again.
//!   The one that dialled doesn't copy: it has allocated, and a thread that has keeps
//!   more memory than two that haven't. An idle stream is two threads that have
//!   touched next to nothing, and no buffer.
//! * What is cut (by the peer, by us, with the session) reaches who waits in the
//!   stream by itself, and who waits in the target by
//!   [`Stream::on_cut`](super::session::Stream::on_cut): the dial is cancelled, the
//!   connection aborted. So a stream ends at once wherever its threads are, and the
//!   target sees an abort and never a clean end (T9).
//! * How a stream ends stands in `flow.rs`: FIN or RST.

mod account;
mod flow;
#[cfg(feature = "plane")]
mod joined;
mod opening;
mod record;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub(crate) use account::Account;
#[cfg(feature = "plane")]
pub(crate) use joined::{Activity, join};
use record::Record;

use super::audit::Audit;
use super::header::{HEADER_LIMIT, Version};
use super::limits;
use super::session::{Acceptor, Stream};
use super::target::Targets;
use crate::config::{Config, DialFailure, ProxyProtocol};
use crate::net::Deadline;
use crate::telemetry::{RateLimit, metrics};
use crate::threads::Stack;
use crate::workers::Workers;

/// What doesn't change while the agent runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Streams at once, of all connections (`tunnels.max_streams`, as the machine
    /// grants it).
    pub max_streams: usize,
    pub dial_failure: DialFailure,
    /// See [`proxy_protocol::configured`](super::proxy_protocol::configured).
    pub proxy_protocol: BTreeMap<String, ProxyProtocol>,
    /// A TCP stream on which nothing moved for this long is reset. `None`: never,
    /// because databases idle. So a target whose peer grants no window and doesn't end
    /// either (hashicorp/yamux #133) keeps two threads and its socket, but no buffer,
    /// as long as the session lives.
    pub tcp_idle: Option<Duration>,
    /// A UDP stream without a datagram for this long is finished. `None`: never.
    pub udp_idle: Option<Duration>,
    times: Times,
}

/// Limits of time that nobody sets but a test.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// For the header.
    header: Duration,
    /// For answers of a UDP target after the peer's FIN.
    linger: Duration,
    /// For what a target hasn't taken of a stream that is over.
    rest: Duration,
    /// Before a parked thread ends.
    parked: Duration,
}

impl Settings {
    /// For the start of the process: asks the machine how many streams it can carry
    /// ([`limits::grant`]).
    pub fn from_config(config: &Config) -> Self {
        let tunnels = &config.tunnels;
        let limit = |idle: Duration| (!idle.is_zero()).then_some(idle);
        Self {
            max_streams: limits::grant(tunnels),
            dial_failure: tunnels.dial_failure,
            proxy_protocol: tunnels.proxy_protocol.clone(),
            tcp_idle: tunnels.inactivity_timeout.and_then(limit),
            udp_idle: limit(tunnels.inactivity_timeout.unwrap_or(UDP_IDLE)),
            ..Self::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_streams: 4096,
            dial_failure: DialFailure::Reset,
            proxy_protocol: BTreeMap::new(),
            tcp_idle: None,
            udp_idle: Some(UDP_IDLE),
            times: Times {
                header: HEADER_LIMIT,
                linger: Duration::from_secs(2),
                rest: Duration::from_mins(5),
                parked: Duration::from_secs(3),
            },
        }
    }
}

/// All streams of the process: their limit, their threads, and what they share.
pub struct Streams {
    settings: Settings,
    targets: Arc<Targets>,
    audit: Arc<Audit>,
    open: AtomicUsize,
    /// For who waits until none is open.
    waiting: Mutex<()>,
    closed: Condvar,
    openers: Workers,
    copiers: Workers,
}

/// What was agreed on for one connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Tells its streams from those of others, in the audit.
    pub number: u64,
    /// The newest header that its peer may send.
    pub newest: Version,
    /// For the look-up and the dial of a target together
    /// (`connection_timeout_seconds` of the hello).
    pub dial_timeout: Duration,
}

impl Streams {
    pub fn new(settings: Settings, targets: Arc<Targets>, audit: Arc<Audit>) -> Arc<Self> {
        let parked = settings.times.parked;
        Arc::new(Self {
            settings,
            targets,
            audit,
            open: AtomicUsize::new(0),
            waiting: Mutex::new(()),
            closed: Condvar::new(),
            openers: Workers::new("stream", Stack::Work, parked),
            copiers: Workers::new("copy", Stack::Copy, parked),
        })
    }

    /// For the session of one connection.
    pub fn acceptor(self: &Arc<Self>, connection: Connection) -> StreamAcceptor {
        StreamAcceptor {
            streams: self.clone(),
            connection,
        }
    }

    /// Streams that have a place now: they are being opened, or threads copy.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Threads of streams, those that are parked included.
    pub fn threads(&self) -> usize {
        self.openers.count() + self.copiers.count()
    }

    /// Waits until none is open, until `deadline` at most. Their sessions have to be
    /// gone: then each ends by itself, and leaves its line in the audit.
    pub fn finish(&self, deadline: Deadline) {
        let mut waiting = self.waiting.lock();
        while self.open() > 0 {
            let until = deadline.instant();
            if self.closed.wait_until(&mut waiting, until).timed_out() {
                return;
            }
        }
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let limit = self.settings.max_streams;
        let more = |open| (open < limit).then_some(open + 1);
        let entered = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.is_ok().then(|| Place(self.clone()))
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("open", &self.open())
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

/// Takes the streams of one connection. Never waits; what there is no place or no
/// thread for is refused.
#[derive(Debug)]
pub struct StreamAcceptor {
    streams: Arc<Streams>,
    connection: Connection,
}

impl Acceptor for StreamAcceptor {
    fn accept(&mut self, stream: Stream) {
        let streams = &self.streams;
        let Some(place) = streams.enter() else {
            return self.refused();
        };
        metrics::YAMUX_ACCEPTED.increment();
        let mut opening = Opening {
            connection: self.connection,
            accepted: Some((place, stream)),
        };
        let task = Box::new(move || opening.run());
        // Without a thread the stream goes with its task, which is its RST.
        let _ = streams.openers.run(task);
    }

    /// A line of the audit for each would be a way to fill the disk: they are counted.
    fn refused(&mut self) {
        static REFUSED: RateLimit = RateLimit::new(1, Duration::from_mins(1));
        metrics::YAMUX_REFUSED.increment();
        if let Some(skipped) = REFUSED.pass() {
            log::warn!(
                limit = self.streams.settings.max_streams, skipped;
                "a stream is refused: tunnels.max_streams are open"
            );
        }
    }
}

/// A stream on its way to its thread.
struct Opening {
    connection: Connection,
    /// Until it has one.
    accepted: Option<(Place, Stream)>,
}

impl Opening {
    fn run(&mut self) {
        if let Some((place, stream)) = self.accepted.take() {
            let record = Record::new(place, self.connection.number, stream.id());
            opening::open(record, self.connection, stream);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some((place, stream)) = self.accepted.take() {
            metrics::YAMUX_REFUSED.increment();
            let record = Record::new(place, self.connection.number, stream.id());
            record.failed("no thread can be had".into());
        }
    }
}

/// Counts against the limit while it lives.
struct Place(Arc<Streams>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The lock orders this after a waiter's look.
            drop(self.0.waiting.lock());
            self.0.closed.notify_all();
        }
    }
}

/// The original's for UDP in JSON messages (tunnels.md T11).
const UDP_IDLE: Duration = Duration::from_mins(5);
