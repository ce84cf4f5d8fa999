//! One WebSocket as two threads: `link-reader` reads it, `link-writer` alone
//! writes it. (Stub: signatures only.)

mod frame;
mod lanes;
mod message;
mod outbox;

use std::sync::Arc;
use std::time::Duration;

pub use message::{Kind, Message};

use crate::net::{Cancel, Reason};

/// Which end of the WebSocket this is: clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// The two lanes to the writer. Messages of one request travel in one lane, in
/// order (decisions.md §6.2); the control lane always goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, acks, pongs: bounded; full means that the link is dead.
    Control,
    /// All messages of requests: bounded in bytes; full means that the sender waits.
    Bulk,
}

/// Limits of one connection; the defaults are those of decisions.md §6.2, §6.3.
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
    /// Bytes that may wait in the bulk lane before senders wait.
    pub bulk_bytes: usize,
    /// How long an orderly close may take to write what is queued.
    pub drain: Duration,
}

/// What the reader does with complete messages. Called on the `link-reader`
/// thread: an implementation must never block.
pub trait Receiver: Send {
    fn text(&mut self, message: &str);
    fn binary(&mut self, message: &[u8]);
}

/// Why a message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the connection is gone")]
    Closed,
    #[error("{0}")]
    Cancelled(Reason),
}

/// One live connection. Clones are handles to the same one.
#[derive(Clone)]
pub struct Link(#[allow(dead_code)] Arc<()>);

impl Link {
    /// Queues a message. Control: never waits (a full lane ends the link).
    /// Bulk: waits for room until there is some, the link ends or `cancel` fires.
    pub fn send(&self, _lane: Lane, _message: Message, _cancel: &Cancel) -> Result<(), SendError> {
        unimplemented!()
    }

    /// Orderly close: what is queued is written (within `Settings::drain`), then a
    /// close frame; returns at once.
    pub fn close(&self, _code: u16, _reason: &str) {
        unimplemented!()
    }

    /// Ends the connection now, without a close frame.
    pub fn abort(&self, _why: &str) {
        unimplemented!()
    }

    /// Waits until both threads have ended and says how it went.
    pub fn wait(&self) -> Ending {
        unimplemented!()
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Us,
    Peer,
    Network,
}

/// How a connection ended: everything that its one log line says.
#[derive(Clone, Debug)]
pub struct Ending {
    pub by: EndedBy,
    /// In words, safe to log.
    pub why: String,
    /// Close code, when a close frame was received (or sent, if we ended it).
    pub code: Option<u16>,
    pub lived: Duration,
    /// Age of the last byte received and of the last byte written.
    pub last_in: Duration,
    pub last_out: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub messages_in: u64,
    pub messages_out: u64,
}
