//! Our side of a stream: who reads it, and who sends on it.

use std::time::Instant;

use super::{Cut, Datagram, Input, Local, Opening, QueueError, Reset, SLOTS, Stream, Weight};
use crate::yamux::MAX_PAYLOAD;
use crate::yamux::buffer::Chunk;

impl<P> Stream<P> {
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
    /// less than [`SMALL_CHUNK`](crate::yamux::SMALL_CHUNK).
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

    /// Data frames since the last call that carried neither payload nor flags: datagrams
    /// without a byte, which nobody can read here.
    pub fn take_empty(&mut self) -> u32 {
        std::mem::take(&mut self.empty)
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

    /// Bytes that have been dropped since.
    pub fn discarded(&self) -> u64 {
        self.inbound.discarded()
    }

    // The sending side.

    /// How many bytes the next frame may carry; 0: wait. While memory is full that is
    /// little, and one frame at a time: a peer that takes nothing must not have us fill
    /// two slots of each stream. (Who waits then is woken by his own stream's turn.)
    pub fn room(&self) -> Result<usize, QueueError> {
        self.sending()?;
        let most = match (self.account.is_full(), self.outbound.is_empty()) {
            (false, _) => MAX_PAYLOAD,
            (true, true) => SCARCE,
            (true, false) => 0,
        };
        Ok((self.outbound.room() as usize).min(most))
    }

    /// [`Stream::queue`], but for what is dropped when it doesn't fit: not where
    /// [`SLOTS`] wait already, because what waits long is worth little; nor while memory
    /// is full and something waits. A datagram may be larger than
    /// [`Stream::room`], because it isn't cut.
    pub fn queue_datagram(&mut self, payload: P, len: usize) -> Result<(), (QueueError, P)>
    where
        P: Weight,
    {
        match self.room() {
            Ok(0) => Err((QueueError::NoRoom, payload)),
            Ok(_) if self.outbound.waiting() >= SLOTS => Err((QueueError::NoRoom, payload)),
            _ => self.queue(payload, len),
        }
    }

    /// Queues one Data frame of `len` bytes: what [`Stream::room`] has promised, whatever
    /// memory is left by now; but another stream may have taken the spare place that it
    /// was promised for. The payload comes back with the error.
    pub fn queue(&mut self, payload: P, len: usize) -> Result<(), (QueueError, P)>
    where
        P: Weight,
    {
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
            self.wakes.sender = true;
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
}

/// Payload bytes of a frame while memory is full: as many as fit, with the headers, into
/// the small buffer of 4 KiB (with 4,096 streams 16 MiB in all, beyond the cap).
pub const SCARCE: usize = 4000;
