//! One WebSocket as three threads: `link-reader` reads it, `link-writer` alone
//! writes it; `link-clock` watches both (control-channel.md §2, decisions.md §6.3).
//!
//! ```text
//!            ┌ ReadHalf ─► link-reader ─► FrameReader ─► Receiver
//! net::Halves┤                  │ pongs, closes
//!            └ WriteHalf ◄ link-writer ◄─ outbox ◄─ Link::send (a message), Link::enter
//!                                                   (a Speaker, who is asked for some)
//! ```
//!
//! What is written next: pings and pongs, the control lane, control frames of speakers,
//! then turns: of requests, each of which has its [`Slot`], and of speakers alike
//! ([`Turns`](crate::turns::Turns)). `outbox` has the lock and the waking, `lanes` and
//! `slots` the queues.
//!
//! Both ends of a connection are the same code: the agent's side is the client,
//! the plane's the server. How a connection becomes a WebSocket, and what its frames
//! are, is in [`websocket`](crate::websocket).

mod ending;
mod lanes;
mod liveness;
mod message;
mod outbox;
mod reader;
mod shared;
mod slots;
mod speaker;
#[cfg(test)]
mod tests;
mod wait;
mod writer;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use crate::websocket::Role;
pub use ending::{EndedBy, Ending};
pub use message::{HEADROOM, Kind, Message};
pub use slots::Slot;
pub use speaker::{Carrier, Speaker};

use crate::net::{Cancel, Halves, Reason, bound_backlog};
use crate::telemetry::metrics;
use crate::threads::{self, SpawnError, Stack};
use outbox::Untaken;
use shared::{Seat, Shared};

/// The ways to the writer. Messages of one request travel in one slot, in order
/// (decisions.md §6.2); the control lane always goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, acks, pongs: bounded; full means that the link is dead.
    Control,
    /// All messages of requests: bounded in bytes; full means that the sender waits.
    Bulk(Slot),
}

/// Limits of one connection; [`Settings::new`] has those of decisions.md §6.2, §6.3.
#[derive(Clone, Debug)]
pub struct Settings {
    pub role: Role,
    /// WebSocket ping period (10 s).
    pub ping_interval: Duration,
    /// A connection on which no byte arrived for this long is dead (25 s).
    pub read_limit: Duration,
    /// A write that makes no progress for this long ends the connection (30 s).
    pub write_limit: Duration,
    /// Largest message and largest frame accepted, in bytes (96 MiB).
    pub max_message: usize,
    /// Bytes of requests' messages that may be queued or in the writer's hand before
    /// senders wait (256 KiB). One message may be larger: its sender goes on when
    /// there is nothing else, or when its turn has come.
    pub bulk_bytes: usize,
    /// How long an orderly close may take to write what is queued, and then again
    /// how long the peer may take to answer it (5 s).
    pub drain: Duration,
}

impl Settings {
    pub fn new(role: Role) -> Self {
        Self {
            role,
            ping_interval: Duration::from_secs(10),
            read_limit: Duration::from_secs(25),
            write_limit: Duration::from_secs(30),
            max_message: 96 * 1024 * 1024,
            bulk_bytes: 256 * 1024,
            drain: Duration::from_secs(5),
        }
    }
}

/// What the reader does with complete messages. Called on the `link-reader`
/// thread: an implementation must never block.
///
/// It is dropped when nothing more will be delivered: its `Drop` is where work
/// that hangs on the connection can be ended.
///
/// On the agent's side it is `control::dispatch::Dispatch`, on the plane's
/// `AgentReceiver`.
pub trait Receiver: Send {
    fn text(&mut self, message: &str);

    /// A whole binary message.
    fn binary(&mut self, message: &[u8]);

    /// Asked when a binary message begins that isn't all there: whether this one shall
    /// come in pieces as they arrive, so that no copy is made to put it together.
    fn takes_pieces(&self) -> bool {
        false
    }

    /// A piece of a binary message that began after [`takes_pieces`] was true; the
    /// pieces follow each other, without another message in between, up to the `last`
    /// one, which may be empty. (When the connection ends within, there is none.)
    ///
    /// [`takes_pieces`]: Self::takes_pieces
    fn binary_piece(&mut self, _piece: &[u8], _last: bool) {}
}

/// Why a message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the connection is gone")]
    Closed,
    #[error("{0}")]
    Cancelled(Reason),
}

/// Why a link could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Thread(#[from] SpawnError),
    /// The system refused a setting of the socket: it is closed already.
    #[error("cannot set up the socket: {0}")]
    Socket(#[source] io::Error),
}

/// One live connection. Clones are handles to the same one; it lives until it is
/// closed or lost, whether there are handles or not.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

impl Link {
    /// Starts the threads of a connection that is a WebSocket already (see
    /// [`upgrade`](crate::websocket::upgrade)). `make_receiver` may keep a clone of the link to answer on.
    pub fn start<R: Receiver + 'static>(
        mut halves: Halves,
        settings: Settings,
        make_receiver: impl FnOnce(&Link) -> R,
    ) -> Result<Self, StartError> {
        halves.set_deadline(None);
        set_up(&halves, &settings).map_err(StartError::Socket)?;
        let Halves {
            read,
            write,
            socket,
        } = halves;
        let shared = Arc::new(Shared::new(settings, socket));
        let link = Self(shared.clone());
        let receiver = make_receiver(&link);

        let seats = ["link-reader", "link-writer", "link-clock"]
            .map(|name| (name, Seat::take(&shared, name)));
        let [reader, writer, clock] = seats;
        let started = start_thread(writer, Stack::Work, |shared| writer::run(shared, write))
            .and_then(|()| start_thread(clock, Stack::Copy, liveness::run))
            .and_then(|()| {
                start_thread(reader, Stack::Work, |shared| {
                    reader::run(shared, read, receiver);
                })
            });
        if let Err(error) = started {
            link.abort("its threads could not be started");
            return Err(error.into());
        }
        Ok(link)
    }

    /// Queues a message. Control: never waits (a full lane ends the link).
    /// Bulk: queued at once, but waits until there is room for more, the message's
    /// turn has come, the link ends or `cancel` fires, which takes the message back.
    /// Success means queued; what is lost later can be had back
    /// ([`Message::or_back_to`]).
    pub fn send(&self, lane: Lane, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        let message = match self.0.settings.role {
            Role::Client => message.counted_in(&metrics::LINK_QUEUED_BYTES),
            // The metric is the agent's.
            Role::Server => message,
        };
        match lane {
            Lane::Bulk(slot) => self.0.outbox.send_bulk(slot, message, cancel),
            Lane::Control => self.0.outbox.send_control(message).map_err(|untaken| {
                if untaken == Untaken::Full {
                    self.abort("the control lane is full: the peer takes nothing");
                }
                SendError::Closed
            }),
        }
    }

    /// This speaker has something in order: he'll have a turn. Never waits; nothing
    /// happens once the link is closing.
    pub fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.0.outbox.enter(speaker);
    }

    /// This speaker has control frames, which go before all turns. Likewise.
    pub fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.0.outbox.enter_control(speaker);
    }

    /// Tells this carrier the time from now on, once a second, and the one before no
    /// longer; with none, nobody. It is let go of when the link ends.
    pub fn attach(&self, carrier: Option<Arc<dyn Carrier>>) {
        self.0.attach(carrier);
    }

    /// Orderly close: what is queued is written (within `Settings::drain`), and what
    /// speakers who have entered have to say, until they have nothing more; then a
    /// close frame. Returns at once. What arrives from now on is dropped.
    pub fn close(&self, code: u16, reason: &str) {
        self.0.close(code, reason);
    }

    /// Ends the connection now, without a close frame.
    pub fn abort(&self, why: &str) {
        self.0.end(EndedBy::Us, why);
    }

    /// False once the link is closing, lost or ended.
    pub fn is_open(&self) -> bool {
        !self.0.is_closing()
    }

    /// Senders that wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.outbox.waiting()
    }

    /// Waits until its threads have ended and says how it went. Not from a
    /// receiver: that is one of the threads.
    pub fn wait(&self) -> Ending {
        self.0.wait()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("role", &self.0.settings.role)
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

fn start_thread(
    (name, seat): (&'static str, Seat),
    stack: Stack,
    body: impl FnOnce(&Shared) + Send + 'static,
) -> Result<(), SpawnError> {
    // The thread isn't joined: its seat says when it has ended.
    threads::spawn(name, stack, move || {
        let seat = seat;
        body(seat.shared());
    })
    .map(drop)
}

fn set_up(halves: &Halves, settings: &Settings) -> io::Result<()> {
    halves.set_write_limit(Some(settings.write_limit))?;
    let socket = &halves.socket;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    bound_backlog(socket);
    if socket.tcp_user_timeout()?.is_none() {
        // Accepted, not dialled: the dialer has set its own.
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    }
    Ok(())
}

/// Unsent bytes in the kernel, beyond which writing waits: what is queued there
/// can't be overtaken by the control lane any more (libraries.md, "Latency").
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// `TCP_USER_TIMEOUT` (decisions.md §6.3).
const USER_TIMEOUT: Duration = Duration::from_secs(20);
