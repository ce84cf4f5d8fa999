//! Sessions with locks: what threads use of [`yamux`](crate::yamux), in both roles (tunnels.md
//! §2, decisions.md §6.6). The agent accepts streams, the plane opens them.
//!
//! ```text
//!  link-reader ─► Inbox ─► Entry (one lock a stream) ─► Stream::read ─► copy thread
//!                   │ a new stream: Acceptor
//!  link-writer ◄─ Speaker::control, turn ◄─ Entry ◄─ Stream::send ◄─ copy thread
//!  link-clock  ─► Session::tick
//! ```
//!
//! * [`Session::start`] makes a [`Session`], a handle for everybody, and its
//!   [`Inbox`], which belongs to the reader: with it the session ends.
//! * [`Stream`] is what copy threads block in; everything that waits is woken when
//!   the peer resets the stream, when another thread does, and when the session is
//!   lost. Who waits in a target's socket instead is told by [`Stream::on_cut`].
//! * The session knows its link as a [`Line`]: who has something to say enters it
//!   as a [`Speaker`](crate::link::Speaker).
//!
//! Locks: one around the table of a session, one around each stream. They are held
//! for as long as it takes to change a state or to copy what one read of the socket
//! gave, and never two at a time. What a change means for others
//! ([`Wakes`](crate::yamux::Wakes)) is done when the lock is free again, so nothing of a line, of
//! an acceptor or of a callback ever runs under one.
//!
//! Generations: a session that has ended says nothing any more (but the Go Away
//! that tells why), and all that hangs on it is cut: there is nothing to be
//! forgotten in a second one.

mod entry;
mod inbox;
mod line;
mod memory;
mod payload;
mod shared;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

pub use inbox::{Acceptor, Inbox};
pub use line::Line;
pub use memory::{Memory, Shelf};
pub use payload::Payload;
pub use shared::Figures;
pub use stream::{SendError, Stream};

use crate::link::Carrier;
use crate::yamux::{Config, OpenError};
use shared::Shared;

/// A handle to one session. Clones are handles to the same one, which ends with
/// its [`Inbox`], or by one of the calls here.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

impl Session {
    /// A session on `line`. `memory` is shared by all sessions of the process.
    /// Streams that the peer opens are handed to `acceptor`.
    pub fn start(
        config: Config,
        memory: &Memory,
        line: Arc<dyn Line>,
        acceptor: impl Acceptor + 'static,
    ) -> (Self, Inbox) {
        let shared = Shared::new(config, memory, line);
        let inbox = Inbox::new(shared.clone(), Box::new(acceptor));
        (Self(shared), inbox)
    }

    /// Opens a stream; what is sent on it may follow at once. Waits until `until`
    /// while too many streams wait for the peer's answer
    /// ([`OpenError::Unanswered`]), and for nothing else.
    pub fn open(&self, until: Instant) -> Result<Stream, OpenError> {
        self.0.open(until).map(Stream::new)
    }

    /// Ends it now: nothing is written any more, no RST either. For a connection
    /// that is lost, and for a session that another one replaces. Streams are cut
    /// ([`Cut::SessionLost`](crate::yamux::Cut::SessionLost)). A second time it
    /// does nothing.
    pub fn lose(&self) {
        self.0.end(None);
    }

    /// Takes no new streams any more and tells the peer so (Go Away 0).
    pub fn leave(&self) {
        self.0.leave();
    }

    /// [`leave`](Self::leave)s, waits until `until` for the streams to end, resets
    /// the others and waits a second at most for that to be written. How many were
    /// reset.
    pub fn drain(&self, until: Instant) -> usize {
        self.0.drain(until)
    }

    /// Once a second, from a thread of the link ([`carrier`](Self::carrier)): pings, close timers, open
    /// timeouts, and the reset of streams that nobody reads when memory is full.
    /// Never waits.
    pub fn tick(&self, now: Instant) {
        self.0.tick(now);
    }

    /// For [`Link::attach`](crate::link::Link::attach): what ticks.
    pub fn carrier(&self) -> Arc<dyn Carrier> {
        self.0.clone()
    }

    /// What there is now.
    pub fn figures(&self) -> Figures {
        self.0.figures()
    }

    /// To see whether anything of it is left.
    #[cfg(test)]
    fn weak(&self) -> std::sync::Weak<dyn Carrier> {
        Arc::downgrade(&self.0) as _
    }

    /// False once it has ended.
    pub fn is_live(&self) -> bool {
        self.0.is_live()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}
