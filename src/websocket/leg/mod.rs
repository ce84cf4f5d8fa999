//! A leg: one WebSocket as two blocking halves, for two threads of the caller's.
//!
//! ```text
//! net::Halves ┬ ReadHalf ─► Reader::run ─► the caller's `take`, message by message
//!             │                 │ pongs, echo of a close, keepalive pings
//!             └ WriteHalf ◄─ one lock ◄─ Writer::send (any thread)
//! ```
//!
//! The reader's thread waits for nothing but the connection and the caller's `take`: what
//! it has to answer is left to whoever holds the writer's lock, so a peer that writes
//! and doesn't read can't bring both to a stand. There is no queue: a writer waits for
//! the peer, and a `take` that waits makes the peer wait.
//!
//! A leg ends early when its socket is shut down, for instance by a
//! [`Cancel`](crate::net::Cancel) with which the caller has registered it.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::Role;
use crate::net::Halves;

pub use reader::Reader;
pub use writer::Writer;

/// Limits of one leg.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest message and largest frame accepted, in bytes.
    pub max_message: usize,
    /// A write that makes no progress for this long ends the leg; `None`: a peer may
    /// take its time (the standard input of a program that sleeps).
    pub write_limit: Option<Duration>,
    /// Whether the peer is asked for signs of life.
    pub keepalive: Option<Keepalive>,
}

/// When a silent peer counts as dead: a ping every so often; once nothing at all has
/// come for `silence`, each further ping time is a miss, and so many misses are the end.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    pub every: Duration,
    pub silence: Duration,
    pub misses: u32,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
}

/// A whole message, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    pub kind: Kind,
    /// UTF-8, if it is a text.
    pub payload: &'a [u8],
}

/// Who takes what a leg's peer says.
pub trait Take {
    /// May wait, and says whether it wants more.
    fn take(&mut self, data: Data<'_>) -> ControlFlow<()>;

    /// An unfinished message that isn't small is to be kept, in so many bytes of memory; 0:
    /// it isn't any more. False: there is no room, and the peer is refused.
    fn keeps(&mut self, bytes: usize) -> bool;
}

/// How reading a leg came to its end.
#[derive(Debug)]
pub enum End {
    /// The peer has sent a close frame, which is answered already.
    Closed { code: Option<u16>, reason: String },
    /// The connection ended, or failed, without one.
    Lost(Option<io::Error>),
    /// The peer broke the protocol, or sent a message beyond the limit; it is told so.
    Refused(String),
    /// No sign of life; the peer is told so (1001).
    Silent,
    /// `take` has enough.
    Stopped,
}

/// Makes a leg of a connection that is a WebSocket already (see
/// [`upgrade`](super::upgrade)).
pub fn open(mut halves: Halves, role: Role, limits: Limits) -> io::Result<(Reader, Writer)> {
    halves.set_deadline(None);
    halves.set_write_limit(limits.write_limit)?;
    // Refused, it is no TCP (an origin's Unix socket), where nothing waits for more.
    let _ = halves.socket.set_tcp_nodelay(true);
    let shared = Arc::new(writer::Shared::new(halves.write, halves.socket, role));
    let reader = Reader::new(halves.read, role, limits, shared.clone());
    Ok((reader, Writer::new(shared)))
}
