//! What sessions see of a link.

use std::sync::Arc;
use std::time::Instant;

pub const HEADROOM: usize = 14;

pub enum Kind {
    Binary,
}

pub struct Message(Vec<u8>);

impl Message {
    pub fn binary(_expected: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut buf = vec![0; HEADROOM];
        encode(&mut buf);
        Self(buf)
    }

    pub fn from_buffer(_kind: Kind, buf: Vec<u8>) -> Self {
        Self(buf)
    }

    pub fn payload(&self) -> &[u8] {
        &self.0[HEADROOM..]
    }
}

pub trait Speaker: Send + Sync {
    fn control(&self, out: &mut Vec<u8>);
    fn turn(&self, out: &mut Vec<Message>) -> bool;
}

pub trait Carrier: Send + Sync {
    fn tick(&self, now: Instant);
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
