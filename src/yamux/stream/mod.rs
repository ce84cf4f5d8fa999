//! One stream: its states, and what it has to say (tunnels.md §2.5, §2.6, §2.14).

mod inbound;
mod outbound;
mod wakes;

use std::sync::Arc;
use std::time::Instant;

pub use outbound::SLOTS;
pub use wakes::Wakes;

use super::budget::Account;
use super::buffer::Chunk;
use super::header::{Flags, Header, Kind};
use super::{Common, Fatal, MAX_PAYLOAD, Unread};
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

/// Why a stream can't be read or written any more. What was buffered is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    #[error("reset by the peer")]
    ByPeer,
    #[error("reset by us")]
    ByUs,
    /// Never to be taken for an end of the stream (tunnels.md T9).
    #[error("the session is gone")]
    SessionLost,
}

/// How an RST goes with data that is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It takes the place of the data.
    AtOnce,
    /// It follows the data: the target failed after it had answered.
    AfterData,
}

/// What reading gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<T> {
    Some(T),
    /// Nothing yet.
    Wait,
    /// The peer's FIN: nothing any more.
    End,
}

/// A datagram: what one Data frame carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// It was appended; so many bytes.
    Whole(usize),
    /// It has so many bytes, more than allowed, and was passed over.
    TooLong(usize),
}

/// Why a payload wasn't queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// No slot is free, the window is too small, or the payload is empty.
    #[error("no room")]
    NoRoom,
    #[error("finished before")]
    Finished,
    #[error(transparent)]
    Cut(#[from] Cut),
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
            outbound: Outbound::new(),
            opening,
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

    /// Payload bytes that wait for their turn.
    pub fn queued(&self) -> usize {
        self.outbound.queued()
    }

    // The reading side.

    /// The next bytes. They count as read when the chunk is given back; only then
    /// the peer may send as many again.
    pub fn read(&mut self) -> Result<Input<Chunk>, Cut> {
        self.alive()?;
        let chunk = self.inbound.take();
        Ok(chunk.map_or_else(|| self.wait_or_end(), Input::Some))
    }

    /// Takes back what [`Stream::read`] gave.
    pub fn give_back(&mut self, chunk: Chunk, now: Instant) {
        self.inbound.give_back(chunk, now);
        self.was_read(now);
    }

    /// The first bytes, where they lie: all that arrived so far, as long as that is
    /// less than [`SMALL_CHUNK`](super::SMALL_CHUNK).
    pub fn peek(&self) -> Result<Input<&[u8]>, Cut> {
        self.alive()?;
        Ok(match self.inbound.peek() {
            [] => self.wait_or_end(),
            bytes => Input::Some(bytes),
        })
    }

    /// Passes over `count` bytes, or all there are.
    pub fn skip(&mut self, count: usize, now: Instant) {
        self.inbound.skip(count, now);
        self.was_read(now);
    }

    /// What is left of the first Data frame, appended to `out`, if it is complete
    /// and has at most `limit` bytes. Works until [`Stream::join_frames`].
    pub fn read_datagram(
        &mut self,
        limit: usize,
        out: &mut Vec<u8>,
        now: Instant,
    ) -> Result<Input<Datagram>, Cut> {
        self.alive()?;
        let Some(len) = self.inbound.datagram() else {
            return Ok(self.wait_or_end());
        };
        let datagram = if len > limit {
            self.inbound.skip(len, now);
            Datagram::TooLong(len)
        } else {
            self.inbound.copy_to(len, out, now);
            Datagram::Whole(len)
        };
        self.was_read(now);
        Ok(Input::Some(datagram))
    }

    /// This is a byte stream: where frames end need not be remembered.
    pub fn join_frames(&mut self) {
        self.inbound.join_frames();
        self.settle();
    }

    /// Nobody reads any more, but the other direction goes on: what arrives is
    /// dropped, and window is granted for it (decisions.md §6.6, "A target that
    /// reads no more").
    pub fn discard(&mut self, now: Instant) {
        self.inbound.discard();
        self.was_read(now);
    }

    // The sending side.

    /// How many bytes the next frame may carry; 0: wait. The window of UDP streams,
    /// whose frames aren't cut, may allow more: try [`Stream::queue`].
    pub fn room(&self) -> Result<usize, QueueError> {
        self.sending()?;
        Ok((self.outbound.room() as usize).min(MAX_PAYLOAD))
    }

    /// Queues one Data frame of `len` bytes. The payload comes back with the error.
    pub fn queue(&mut self, payload: P, len: usize) -> Result<(), (QueueError, P)> {
        if let Err(error) = self.sending() {
            return Err((error, payload));
        }
        let Ok(len) = u32::try_from(len) else {
            return Err((QueueError::NoRoom, payload));
        };
        let queued = self.outbound.push(payload, len);
        self.settle();
        queued.map_err(|payload| (QueueError::NoRoom, payload))
    }

    /// We send no more: FIN follows what is queued. A second time it does nothing.
    pub fn finish(&mut self) {
        if self.cut.is_none() && matches!(self.local, Local::Open) {
            self.local = Local::Finishing;
            self.settle();
        }
    }

    /// Aborts both directions. Does nothing where there is nothing left to abort.
    pub fn reset(&mut self, how: Reset) {
        if self.cut.is_some() {
            if how == Reset::AtOnce {
                self.outbound.purge();
                self.settle();
            }
            return;
        }
        // Nothing is to be said of a stream that the peer has seen the end of, or
        // has never heard of.
        self.rst = !self.is_closed() && !matches!(self.opening, Opening::Syn);
        if how == Reset::AtOnce || !self.rst {
            self.outbound.purge();
        }
        self.cut_off(Cut::ByUs);
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

    // What is to be written.

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
            self.wakes.sender = true;
            send(Header::data(self.id, len), Some(payload));
        }
        self.turn_listed = spoke;
        self.settle();
        spoke
    }

    // Private.

    fn alive(&self) -> Result<(), Cut> {
        self.cut.map_or(Ok(()), Err)
    }

    fn sending(&self) -> Result<(), QueueError> {
        self.alive()?;
        match self.local {
            Local::Open => Ok(()),
            Local::Finishing | Local::Finished(_) => Err(QueueError::Finished),
        }
    }

    fn wait_or_end<T>(&self) -> Input<T> {
        if self.inbound.at_end() {
            Input::End
        } else {
            Input::Wait
        }
    }

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
        if !std::mem::take(&mut self.update) {
            return None;
        }
        // More may have been read since: one update says it all.
        let delta = self.inbound.grant();
        (delta > 0).then(|| Header::window(self.id, Flags::NONE, delta))
    }

    /// SYN or ACK have been written.
    fn may_speak(&self) -> bool {
        !matches!(self.opening, Opening::Syn | Opening::Ack)
    }

    fn last_word(&mut self, now: Instant) -> Option<Flags> {
        if std::mem::take(&mut self.rst) {
            return Some(Flags::RST);
        }
        if self.cut.is_none() && matches!(self.local, Local::Finishing) {
            self.local = Local::Finished(now);
            return Some(Flags::FIN);
        }
        None
    }

    /// FIN has gone both ways.
    fn is_closed(&self) -> bool {
        matches!(self.local, Local::Finished(_)) && self.inbound.has_ended()
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
        let charge = self.inbound.charge() + self.outbound.queued();
        self.account.set(charge);
    }
}

/// Payload bytes of one turn: two frames. A longer frame is a turn of its own.
pub const TURN_BYTES: usize = 64 * 1024;
