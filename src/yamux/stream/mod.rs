//! One stream: its states, and what it has to say (tunnels.md §2.5, §2.6, §2.14).

mod inbound;
mod local;
mod outbound;
mod outcome;
mod speak;
mod wakes;

use std::sync::Arc;
use std::time::Instant;

pub use local::SCARCE;
pub use outbound::{MOST_SLOTS, SLOTS, SPARE_SLOTS, Weight};
pub use outcome::{Cut, Datagram, Input, QueueError, Reset};
pub use speak::TURN_BYTES;
pub use wakes::Wakes;

use super::budget::Account;
use super::header::{Flags, Header, Kind};
use super::{Common, Fatal, Unread};
use inbound::Inbound;
use outbound::Outbound;

/// One stream, of either end. `P` is what a payload to be sent is made of.
///
/// Whoever has called something has to look at [`Stream::wakes`] and act on it.
#[derive(Debug)]
pub struct Stream<P> {
    id: u32,
    common: Arc<Common>,
    account: Account,
    inbound: Inbound,
    outbound: Outbound<P>,
    opening: Opening,
    /// Data frames without payload or flags that nobody has asked about.
    empty: u32,
    /// Our half.
    local: Local,
    /// Both halves are cut off; there is nothing to read or to write any more.
    cut: Option<Cut>,
    /// An RST is to be written, behind what is in the slots.
    rst: bool,
    /// A window update is to be written.
    update: bool,
    /// In the list of who has control frames, and of who has turns.
    control_listed: bool,
    turn_listed: bool,
    forgotten: bool,
    wakes: Wakes,
}

/// How far the handshake is, as seen from here.
#[derive(Debug)]
enum Opening {
    /// We open it: a SYN is to be written before anything else.
    Syn,
    /// We have opened it and wait for the ACK since then.
    Unanswered(Instant),
    /// The peer opened it: an ACK is to be written before anything else.
    Ack,
    Done,
}

#[derive(Debug)]
enum Local {
    Open,
    /// A FIN is to be written, behind what is in the slots.
    Finishing,
    /// It was written then.
    Finished(Instant),
}

impl<P> Stream<P> {
    /// A stream that we open.
    pub(super) fn open(id: u32, common: &Arc<Common>, now: Instant) -> Self {
        Self::new(id, common, Opening::Syn, now)
    }

    /// A stream that the peer opened.
    pub(super) fn accept(id: u32, common: &Arc<Common>, now: Instant) -> Self {
        Self::new(id, common, Opening::Ack, now)
    }

    fn new(id: u32, common: &Arc<Common>, opening: Opening, now: Instant) -> Self {
        let mut stream = Self {
            id,
            account: Account::new(common.budget.clone()),
            inbound: Inbound::new(common, now),
            outbound: Outbound::new(common),
            opening,
            empty: 0,
            local: Local::Open,
            cut: None,
            rst: false,
            update: false,
            control_listed: false,
            turn_listed: false,
            forgotten: false,
            wakes: Wakes::default(),
            common: common.clone(),
        };
        stream.settle();
        stream
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// Why it can't be used any more, if so.
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// The peer has sent its FIN. There may be bytes to read before it.
    pub fn peer_finished(&self) -> bool {
        self.cut.is_none() && self.inbound.has_ended()
    }

    /// What others have to do after the calls since this one was called last.
    pub fn wakes(&mut self) -> Wakes {
        std::mem::take(&mut self.wakes)
    }

    /// Bytes that arrived and weren't read.
    pub fn unread(&self) -> Option<Unread> {
        self.inbound.unread_since()
    }

    /// The receive window as it is tuned now, in bytes.
    pub fn window(&self) -> u32 {
        self.inbound.window()
    }

    /// What it takes of the budget: bytes in memory both ways, and what the peer may
    /// send beyond the initial window.
    pub fn charged(&self) -> usize {
        self.account.charged()
    }

    /// Payload bytes that wait for their turn.
    pub fn queued(&self) -> usize {
        self.outbound.queued()
    }

    /// Another number when something of what was queued has moved since: it had its
    /// turn, or the peer has taken it and granted window.
    pub fn moves(&self) -> u32 {
        self.outbound.moves()
    }

    /// The session is over. A stream that came to its end before stays readable.
    pub fn lose(&mut self) {
        if self.cut.is_none() && self.is_closed() {
            return;
        }
        self.opening = Opening::Done;
        self.rst = false;
        self.outbound.purge();
        // A cut by the peer, or by us, stays what it was.
        self.cut_off(self.cut.unwrap_or(Cut::SessionLost));
    }

    /// Time has passed; once a second will do.
    pub fn tick(&mut self, now: Instant) -> Result<(), Fatal> {
        let config = &self.common.config;
        if let Opening::Unanswered(since) = self.opening
            && now.saturating_duration_since(since) >= config.open_timeout
        {
            return Err(Fatal::OpenTimeout(self.id));
        }
        if let Local::Finished(at) = self.local
            && !self.inbound.has_ended()
            && now.saturating_duration_since(at) >= config.close_timeout
        {
            self.reset(Reset::AtOnce);
        }
        Ok(())
    }

    // What arrives.

    /// A frame of this stream; SYN has been dealt with. True: its payload is to be
    /// given to [`Stream::receive_data`].
    pub(super) fn receive(&mut self, header: &Header) -> Result<bool, Fatal> {
        if header.flags.has(Flags::RST) {
            self.peer_reset();
            return Ok(false);
        }
        if self.cut.is_some() {
            // The peer doesn't know yet.
            return Ok(false);
        }
        let fin = header.flags.has(Flags::FIN);
        if fin && self.inbound.has_ended() {
            return Err(Fatal::UnexpectedFin(self.id));
        }
        if header.flags.has(Flags::ACK) || fin {
            self.answered();
        }
        let mut deliver = false;
        if header.kind == Kind::Data {
            deliver = self.inbound.announce(self.id, header.len)?;
            self.empty += u32::from(header.len == 0 && header.flags == Flags::NONE);
        } else {
            self.outbound.grant(self.id, header.len)?;
            self.wakes.sender |= header.len > 0;
        }
        if fin {
            // After `announce`: the payload of this frame comes before the end.
            self.inbound.end();
            self.update = false;
            self.wakes.reader = true;
            self.wakes.sender = true;
        }
        self.settle();
        Ok(deliver)
    }

    /// Bytes of the payload of the Data frame that was received last.
    pub(super) fn receive_data(&mut self, bytes: &[u8], now: Instant) {
        if self.cut.is_some() {
            return;
        }
        if self.inbound.arrive(bytes, now) {
            self.wakes.reader = true;
            self.settle();
        } else {
            self.was_read(now);
        }
        self.wakes.reader |= self.inbound.at_end();
    }

    // Private.

    fn was_read(&mut self, now: Instant) {
        if self.cut.is_none() {
            self.update |= self.inbound.update(&self.common, &mut self.account, now);
        }
        self.settle();
    }

    fn answered(&mut self) {
        if let Opening::Unanswered(_) = self.opening {
            self.opening = Opening::Done;
            self.wakes.answered = true;
        }
    }

    /// An ACK that is owed stays: it is the answer to the SYN.
    fn peer_reset(&mut self) {
        self.answered();
        self.rst = false;
        self.outbound.purge();
        self.cut_off(self.cut.unwrap_or(Cut::ByPeer));
    }

    fn cut_off(&mut self, cut: Cut) {
        if let Opening::Syn = self.opening {
            self.opening = Opening::Done;
            self.wakes.answered = true;
        }
        self.cut = Some(cut);
        self.update = false;
        self.inbound.purge();
        self.wakes.reader = true;
        self.wakes.sender = true;
        self.settle();
    }

    /// SYN or ACK have been written.
    fn may_speak(&self) -> bool {
        !matches!(self.opening, Opening::Syn | Opening::Ack)
    }

    /// FIN has gone both ways, and all that was sent before it.
    fn is_closed(&self) -> bool {
        matches!(self.local, Local::Finished(_)) && self.inbound.is_complete()
    }

    /// After every change: who has to be told.
    fn settle(&mut self) {
        let control = !self.may_speak() || self.update;
        let fin = self.cut.is_none() && matches!(self.local, Local::Finishing);
        let turn = self.may_speak() && (!self.outbound.is_empty() || self.rst || fin);
        if control && !self.control_listed {
            self.control_listed = true;
            self.wakes.control = true;
        }
        if turn && !self.turn_listed {
            self.turn_listed = true;
            self.wakes.turn = true;
        }
        let over = self.cut.is_some() || self.is_closed();
        if over && !control && !turn && !self.forgotten {
            self.forgotten = true;
            // If it was never answered it has no answer to come.
            self.answered();
            self.wakes.forget = true;
        }
        let charge = self.inbound.charge() + self.outbound.held();
        self.account.set(charge);
    }
}
