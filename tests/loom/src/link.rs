//! The outbox as a model uses it, and what sessions see of a link.

use std::sync::Arc;

use super::SendError;
use super::message::Message;
use super::outbox::{Batch, Outbox, Step};
use super::slots::Slot;
use super::speaker::Speaker;
use crate::net::Cancel;
use crate::websocket::frame::CloseFrame;

/// The outbox of a link. The model is the thread that writes.
pub struct Mailbox(Outbox);

/// What the writer was given to write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub ping: bool,
    pub messages: Vec<Vec<u8>>,
    pub close: bool,
}

impl Mailbox {
    /// `room` is that of all slots, in bytes.
    pub fn new(room: usize) -> Self {
        Self(Outbox::new(room))
    }

    pub fn send_control(&self, text: &str) -> bool {
        self.0.send_control(message(text)).is_ok()
    }

    pub fn send(&self, slot: Slot, text: &str) -> Result<(), SendError> {
        self.0.send_bulk(slot, message(text), &Cancel)
    }

    pub fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.0.enter(speaker);
    }

    pub fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.0.enter_control(speaker);
    }

    pub fn ping(&self) {
        self.0.ping();
    }

    pub fn close(&self) -> bool {
        self.0.close(CloseFrame(1000))
    }

    pub fn stop(&self) {
        self.0.stop();
    }

    /// Waits for what is to be written next. `None`: nothing any more.
    pub fn next(&self) -> Option<Written> {
        let mut batch = Batch::default();
        match self.0.next(&mut batch, false) {
            Step::Write => {
                let mut messages = Vec::new();
                for mut message in batch.messages.drain(..) {
                    message.settle();
                    messages.push(message.payload().to_vec());
                }
                Some(Written {
                    ping: batch.jobs.ping,
                    messages,
                    close: batch.close.is_some(),
                })
            }
            Step::Finish | Step::Stop => None,
        }
    }

    /// Until so many messages have come, or a close frame.
    pub fn write(&self, count: usize) -> Written {
        let mut all = Written::default();
        while all.messages.len() < count && !all.close {
            let Some(next) = self.next() else { break };
            all.ping |= next.ping;
            all.close |= next.close;
            all.messages.extend(next.messages);
        }
        all
    }
}

fn message(text: &str) -> Message {
    Message::binary(text.len(), |buf| buf.extend_from_slice(text.as_bytes()))
}

/// Nobody has one here.
pub enum Link {}

impl Link {
    pub fn enter(&self, _speaker: Arc<dyn Speaker>) {
        match *self {}
    }

    pub fn enter_control(&self, _speaker: Arc<dyn Speaker>) {
        match *self {}
    }

    pub fn close(&self, _code: u16, _reason: &str) {
        match *self {}
    }
}
