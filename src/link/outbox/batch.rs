//! What the writer is given.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::link::message::Message;
use crate::link::wait::Wait;
use crate::websocket::frame::{CloseFrame, MAX_CONTROL};

/// What is written between frames of messages.
#[derive(Debug, Default)]
pub(in crate::link) struct Jobs {
    /// Send what reading has provoked in TLS.
    pub(in crate::link) flush: bool,
    pub(in crate::link) ping: bool,
    pub(in crate::link) pongs: VecDeque<Pong>,
}

impl Jobs {
    pub(super) fn is_empty(&self) -> bool {
        !self.flush && !self.ping && self.pongs.is_empty()
    }
}

/// The payload of a pong.
#[derive(Clone, Copy, Debug)]
pub(in crate::link) struct Pong {
    bytes: [u8; MAX_CONTROL],
    len: usize,
}

impl Pong {
    /// `payload` is that of a ping, so it fits; what doesn't is cut.
    pub(super) fn new(payload: &[u8]) -> Self {
        let len = payload.len().min(MAX_CONTROL);
        let mut bytes = [0; MAX_CONTROL];
        bytes[..len].copy_from_slice(&payload[..len]);
        Self { bytes, len }
    }

    pub(in crate::link) fn payload(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What the writer shall write next, in this order.
#[derive(Debug, Default)]
pub(in crate::link) struct Batch {
    pub(in crate::link) jobs: Jobs,
    pub(in crate::link) messages: Vec<Message>,
    /// Nothing may be written after it, the rest of a message included.
    pub(in crate::link) close: Option<CloseFrame>,
    /// Senders that go on.
    pub(super) admitted: Vec<Arc<Wait>>,
}

/// What the writer shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) enum Step {
    /// Write the batch (or go on with the message in hand).
    Write,
    /// Close the connection's write half and end.
    Finish,
    /// End.
    Stop,
}
