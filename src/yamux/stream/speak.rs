//! What a stream has to say, in the right order (tunnels.md §2.14).

use std::mem;
use std::time::Instant;

use super::{Local, Opening, Stream};
use crate::turns::TURN;
use crate::yamux::header::{Flags, Header};

impl<P> Stream<P> {
    /// The next frame that goes before all data: SYN, ACK, window update. None: the
    /// stream has left the list.
    pub fn next_control(&mut self, now: Instant) -> Option<Header> {
        let frame = self.control(now);
        if frame.is_none() {
            self.control_listed = false;
        }
        self.settle();
        frame
    }

    /// A turn: gives `send` the frames that keep their order, Data, FIN and RST, up
    /// to [`TURN_BYTES`]. False: there was nothing, and the stream has left the list
    /// of turns.
    pub fn turn(&mut self, now: Instant, mut send: impl FnMut(Header, Option<P>)) -> bool {
        let mut spoke = false;
        let mut left = TURN_BYTES;
        while self.may_speak() {
            let Some(len) = self.outbound.next_len() else {
                if let Some(flag) = self.last_word(now) {
                    send(Header::window(self.id, flag, 0), None);
                    spoke = true;
                }
                break;
            };
            if spoke && len as usize > left {
                break;
            }
            let Some((payload, len)) = self.outbound.pop() else {
                break;
            };
            left = left.saturating_sub(len as usize);
            spoke = true;
            self.wakes.sender |= self.outbound.wants_more();
            send(Header::data(self.id, len), Some(payload));
        }
        self.turn_listed = spoke;
        self.settle();
        spoke
    }

    fn control(&mut self, now: Instant) -> Option<Header> {
        match self.opening {
            Opening::Syn => {
                self.opening = Opening::Unanswered(now);
                return Some(Header::window(self.id, Flags::SYN, 0));
            }
            Opening::Ack => {
                self.opening = Opening::Done;
                return Some(Header::window(self.id, Flags::ACK, 0));
            }
            Opening::Unanswered(_) | Opening::Done => {}
        }
        if !mem::take(&mut self.update) {
            return None;
        }
        // More may have been read since: one update says it all.
        let delta = self.inbound.grant();
        (delta > 0).then(|| Header::window(self.id, Flags::NONE, delta))
    }

    fn last_word(&mut self, now: Instant) -> Option<Flags> {
        if mem::take(&mut self.rst) {
            return Some(Flags::RST);
        }
        if self.cut.is_none() && matches!(self.local, Local::Finishing) {
            self.local = Local::Finished(now);
            return Some(Flags::FIN);
        }
        None
    }
}

/// Payload bytes of one turn. A longer frame is a turn of its own.
pub const TURN_BYTES: usize = TURN;
