//! yamux: many streams in one ordered byte stream (tunnels.md §2, decisions.md
//! §6.6). Pure: it knows no socket, no WebSocket, no thread, no lock, and no clock
//! but the time that it is given.
//!
//! ```text
//!  bytes ─► Receiver ─ decoder ─ Session::route ─► Stream (window, state, buffer) ─► who reads
//!                                    │ pongs, refusals        │ ACK, credit, FIN, RST: flags
//!  bytes ◄─ headers ◄─ Session::next_frame                    ▼
//!        ◄─ headers, payloads ◄─ Stream::next_control, Stream::turn ◄─ Turns ◄─ who writes
//! ```
//!
//! Nothing is shared but the [`Common`] of a session, so that a shell can put one
//! lock around each [`Stream`], one around the [`Session`] (a table and a few
//! counters) and one around the list of who has control frames and around
//! [`Turns`](crate::turns::Turns), and hold none of them for longer than it takes to
//! copy what one read of the socket gave. What a call changed for others (a reader to
//! wake, a frame to be written) waits in [`Stream::wakes`].
//!
//! Both roles are the same code. A peer may break every rule there is: the worst it
//! can get is a [`Fatal`].

mod budget;
mod buffer;
mod decoder;
mod header;
mod ping;
mod receiver;
mod replies;
mod session;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use budget::{Budget, Taken};
pub use buffer::{CHUNK, Chunk, Pool, SMALL_CHUNK, Unpooled};
pub use decoder::{Decoder, Event};
pub use header::{Flags, HEADER, Header, Kind};
pub use receiver::{Host, Receiver};
pub use session::{OpenError, Route, Session};
pub use stream::{
    Cut, Datagram, Input, MOST_SLOTS, QueueError, Reset, SCARCE, SLOTS, SPARE_SLOTS, Stream,
    TURN_BYTES, Wakes, Weight,
};

/// Which end of the connection this is: it decides which ids are opened here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Odd ids. The agent, which opens none.
    Client,
    /// Even ids. The gateway.
    Server,
}

impl Role {
    /// Whether this end opens `id`. Ids of the wrong half are accepted from a peer
    /// all the same; they are worth a line in a log (tunnels.md §2.4).
    pub fn opens(self, id: u32) -> bool {
        match self {
            Self::Client => !id.is_multiple_of(2),
            Self::Server => id.is_multiple_of(2),
        }
    }
}

/// What a session is built with; [`Config::new`] has the defaults.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub role: Role,
    /// Bytes to which a stream's receive window may grow. Clamped to
    /// [`INITIAL_WINDOW`]..=[`MAX_WINDOW`] (256 KiB).
    pub max_window: u32,
    /// Streams that may live at once; the next one is refused (4,096).
    pub max_streams: usize,
    /// Between a ping's answer and the next ping (30 s, 5 s to 1 h).
    pub keepalive: Duration,
    /// A ping unanswered for this long, while nothing else arrives either, ends the
    /// session (30 s, 5 s to 120 s).
    pub timeout: Duration,
    /// From our FIN to the peer's; then the stream is reset (5 min).
    pub close_timeout: Duration,
    /// From our SYN to its ACK; then the session ends (75 s).
    pub open_timeout: Duration,
}

impl Config {
    pub fn new(role: Role) -> Self {
        Self {
            role,
            max_window: INITIAL_WINDOW,
            max_streams: 4096,
            keepalive: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            close_timeout: Duration::from_mins(5),
            open_timeout: Duration::from_secs(75),
        }
    }

    /// The nearest configuration that works (tunnels.md T6: nothing that a hello
    /// asks for may fail).
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.max_window = self.max_window.clamp(INITIAL_WINDOW, MAX_WINDOW);
        let (least, most) = (Duration::from_secs(5), Duration::from_hours(1));
        self.keepalive = self.keepalive.clamp(least, most);
        let (least, most) = (Duration::from_secs(5), Duration::from_mins(2));
        self.timeout = self.timeout.clamp(least, most);
        self
    }
}

/// What the streams of one session have in common.
#[derive(Debug)]
pub struct Common {
    config: Config,
    /// May be shared by several sessions: one cap for all.
    budget: Arc<Budget>,
    pool: Arc<dyn Pool>,
    /// Nanoseconds; 0: not measured.
    round_trip: AtomicU64,
    /// Frames that may wait beyond those that each stream has a place for.
    spare_slots: AtomicUsize,
}

impl Common {
    pub fn new(config: Config, budget: Arc<Budget>, pool: Arc<dyn Pool>) -> Self {
        Self {
            config: config.clamped(),
            budget,
            pool,
            round_trip: AtomicU64::new(0),
            spare_slots: AtomicUsize::new(SPARE_SLOTS),
        }
    }

    /// As it is used: clamped.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub fn pool(&self) -> &Arc<dyn Pool> {
        &self.pool
    }

    /// To the peer and back, by pings: the shortest of the last few. What queues on
    /// the way adds to it, so the shortest is nearest to the truth.
    pub fn round_trip(&self) -> Option<Duration> {
        match self.round_trip.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    fn spare_slots(&self) -> usize {
        self.spare_slots.load(Ordering::Relaxed)
    }

    /// False: there is none.
    fn take_spare_slot(&self) -> bool {
        let less = |spare: usize| spare.checked_sub(1);
        let order = Ordering::Relaxed;
        self.spare_slots.fetch_update(order, order, less).is_ok()
    }

    fn give_spare_slots(&self, number: usize) {
        self.spare_slots.fetch_add(number, Ordering::Relaxed);
    }

    fn set_round_trip(&self, round_trip: Duration) {
        let nanos = u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX);
        self.round_trip.store(nanos.max(1), Ordering::Relaxed);
    }
}

/// Why a session is over. The connection under it can't be used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    #[error("version {0} of yamux")]
    Version(u8),
    #[error("a frame of the unknown type {0}")]
    Type(u8),
    #[error("a frame of stream 0")]
    StreamZero,
    #[error("a second SYN for stream {0}")]
    DuplicateSyn(u32),
    #[error("{len} bytes for stream {id}, whose window has {window}")]
    WindowOverrun { id: u32, len: u32, window: u32 },
    #[error("the send window of stream {0} grows beyond 4 GiB")]
    WindowOverflow(u32),
    #[error("a second FIN for stream {0}")]
    UnexpectedFin(u32),
    #[error("the peer ended the session with code {0}")]
    PeerGoAway(u32),
    #[error("the peer provokes answers and doesn't read them")]
    Flood,
    #[error("the peer doesn't answer pings")]
    Keepalive,
    #[error("the peer didn't answer the SYN of stream {0}")]
    OpenTimeout(u32),
}

impl Fatal {
    /// The code of the Go Away frame that tells the peer, if it is told at all
    /// (tunnels.md §2.9): written at once, and nothing after it.
    pub fn go_away(self) -> Option<u32> {
        match self {
            Self::StreamZero
            | Self::DuplicateSyn(_)
            | Self::WindowOverrun { .. }
            | Self::WindowOverflow(_)
            | Self::UnexpectedFin(_) => Some(PROTOCOL_ERROR),
            Self::Version(_)
            | Self::Type(_)
            | Self::PeerGoAway(_)
            | Self::Flood
            | Self::Keepalive
            | Self::OpenTimeout(_) => None,
        }
    }
}

/// Bytes that nobody has read, and since when nobody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    pub bytes: usize,
    pub since: Instant,
}

/// The stream to reset when the budget is full: most unread bytes, of those where
/// nobody has read for 10 s (decisions.md §6.6, "Windows").
pub fn victim<S>(
    streams: impl IntoIterator<Item = (S, Option<Unread>)>,
    now: Instant,
) -> Option<S> {
    streams
        .into_iter()
        .filter_map(|(stream, unread)| Some((stream, unread?)))
        .filter(|(_, unread)| now.saturating_duration_since(unread.since) >= UNREAD_LIMIT)
        .max_by_key(|(_, unread)| unread.bytes)
        .map(|(stream, _)| stream)
}

/// Send and receive window of every stream before any update, whatever either end
/// is configured to: the wire has no way to say otherwise (tunnels.md §2.7).
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// The largest receive window that we grant: 16 MiB carry 1.3 Gbit/s at 100 ms.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// The payload of a Data frame of a TCP stream: with its header and that of a
/// masked WebSocket message it fills two TLS records (libraries.md). The original
/// never sends more than 32 KiB.
pub const MAX_PAYLOAD: usize = 32 * 1024 - HEADER - 8;

/// SYNs of ours that may wait for their ACK: the backlog that peers are assumed to
/// have (tunnels.md §2.5).
pub const MAX_UNANSWERED: usize = 256;

/// Pongs and refusals that may wait to be written (decisions.md §6.6, "Replies
/// never need a queue").
pub const MAX_REPLIES: usize = 4096;

/// How long nobody has read a stream that may be reset for the budget's sake.
const UNREAD_LIMIT: Duration = Duration::from_secs(10);

/// Codes of Go Away.
const NORMAL: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
