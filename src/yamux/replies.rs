//! Answers that belong to no stream. All others are flags on their stream, so only
//! these have to be counted (decisions.md §6.6, "Replies never need a queue").

use std::collections::VecDeque;

use super::header::{Flags, Header};
use super::{Fatal, MAX_REPLIES};

/// Pongs, and RSTs for streams that were never made.
#[derive(Debug, Default)]
pub(super) struct Replies {
    pongs: VecDeque<u32>,
    refused: VecDeque<u32>,
}

impl Replies {
    pub(super) fn pong(&mut self, value: u32) -> Result<(), Fatal> {
        self.room()?;
        self.pongs.push_back(value);
        Ok(())
    }

    pub(super) fn refuse(&mut self, id: u32) -> Result<(), Fatal> {
        self.room()?;
        self.refused.push_back(id);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pongs.is_empty() && self.refused.is_empty()
    }

    /// The next to write, pongs first.
    pub(super) fn next(&mut self) -> Option<Header> {
        if let Some(value) = self.pongs.pop_front() {
            return Some(Header::ping(Flags::ACK, value));
        }
        let id = self.refused.pop_front()?;
        Some(Header::window(id, Flags::RST, 0))
    }

    fn room(&self) -> Result<(), Fatal> {
        if self.pongs.len() + self.refused.len() >= MAX_REPLIES {
            return Err(Fatal::Flood);
        }
        Ok(())
    }
}
