//! A stream as the threads see it that copy to and from it.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::entry::Entry;
use super::payload::Payload;
use crate::yamux::{self, Chunk, Cut, Datagram, Input, QueueError, Reset};

/// A handle to a stream; clones are handles to the same one. One thread reads and
/// one sends, any thread may end it.
///
/// When the last handle is dropped, a stream that wasn't [`finish`](Self::finish)ed
/// is reset; of one that was, what is queued is still written, and what arrives is
/// dropped until the peer ends it too. A handle that is dropped by a panic resets it.
///
/// Calls that wait take a moment until which they do; none means for as long as it
/// takes. Nothing is allocated while waiting, and no lock is held.
#[derive(Clone)]
pub struct Stream(Arc<Guard>);

impl Stream {
    pub(super) fn new(entry: Arc<Entry>) -> Self {
        Self(Arc::new(Guard(entry)))
    }

    /// As on the wire. Unique in its session only.
    pub fn id(&self) -> u32 {
        self.entry().id()
    }

    /// Why it can't be used any more, if so.
    pub fn cut(&self) -> Option<Cut> {
        self.entry().with(|stream| stream.cut())
    }

    /// The peer has sent its FIN. There may be bytes to read before it.
    pub fn peer_finished(&self) -> bool {
        self.entry().with(|stream| stream.peer_finished())
    }

    // The reading side.

    /// The next bytes; [`Input::Wait`] when there are none until `until`. They
    /// count as read, and the peer may send as many again, when the chunk comes back
    /// with [`give_back`](Self::give_back).
    pub fn read(&self, until: Option<Instant>) -> Result<Input<Chunk>, Cut> {
        self.entry().wait_to_read(until, |stream, _| stream.read())
    }

    /// Takes back what [`read`](Self::read) gave.
    pub fn give_back(&self, chunk: Chunk) {
        let now = Instant::now();
        self.entry().with(|stream| stream.give_back(chunk, now));
    }

    /// Waits like [`read`](Self::read) and calls `parse` with the first bytes; what
    /// it takes off their front counts as read. It runs under the stream's lock. For
    /// what precedes the data, the tunnel's header; frames keep their ends.
    pub fn parse<R>(
        &self,
        until: Option<Instant>,
        parse: impl FnOnce(&mut &[u8]) -> R,
    ) -> Result<Input<R>, Cut> {
        let mut parse = Some(parse);
        self.entry().wait_to_read(until, |stream, now| {
            let mut rest = match stream.peek()? {
                Input::Some(bytes) => bytes,
                Input::Wait => return Ok(Input::Wait),
                Input::End => return Ok(Input::End),
            };
            let before = rest.len();
            let parse = parse.take().expect("called once: then the wait is over");
            let result = parse(&mut rest);
            let taken = before - rest.len();
            stream.skip(taken, now);
            Ok(Input::Some(result))
        })
    }

    /// This is a byte stream: where frames end need not be remembered.
    pub fn join_frames(&self) {
        self.entry().with(yamux::Stream::join_frames);
    }

    /// Empty datagrams that have come, and gone, since this was asked last. They end no
    /// wait.
    pub fn take_empty(&self) -> u32 {
        self.entry().with(yamux::Stream::take_empty)
    }

    /// The next datagram (what one Data frame carried), appended to `out`, or passed
    /// over if it has more than `limit` bytes. Not after
    /// [`join_frames`](Self::join_frames).
    pub fn read_datagram(
        &self,
        limit: usize,
        out: &mut Vec<u8>,
        until: Option<Instant>,
    ) -> Result<Input<Datagram>, Cut> {
        self.entry()
            .wait_to_read(until, |stream, now| stream.read_datagram(limit, out, now))
    }

    /// Nobody reads any more, but the other direction goes on: what arrives is
    /// dropped, and window is granted for it (decisions.md §6.6, "A target that
    /// reads no more"). A reader that waits goes on waiting until the end.
    pub fn discard(&self) {
        let now = Instant::now();
        self.entry().with(|stream| stream.discard(now));
    }

    /// Bytes that have been dropped since.
    pub fn discarded(&self) -> u64 {
        self.entry().with(|stream| stream.discarded())
    }

    // The sending side.

    /// Waits until something can be sent: how many bytes, at most
    /// [`MAX_PAYLOAD`](crate::yamux::MAX_PAYLOAD), and less while memory is full. Where one thread sends they stay
    /// free, so it can wait here first and take a buffer then.
    pub fn room(&self, until: Option<Instant>) -> Result<usize, SendError> {
        self.entry()
            .wait_to_send(until, |stream| match stream.room() {
                Ok(0) => None,
                Ok(room) => Some(Ok(room)),
                Err(error) => Some(Err(error)),
            })
    }

    /// Queues `payload` as one Data frame, as soon as there is room for all of it.
    /// An empty one is nothing.
    pub fn send(&self, payload: Payload, until: Option<Instant>) -> Result<(), SendError> {
        if payload.is_empty() {
            return Ok(());
        }
        let mut payload = Some(payload);
        self.entry().wait_to_send(until, |stream| {
            let bytes = payload.take().expect("it comes back with the error");
            let len = bytes.len();
            match stream.queue(bytes, len) {
                Ok(()) => Some(Ok(())),
                Err((QueueError::NoRoom, back)) => {
                    payload = Some(back);
                    None
                }
                Err((error, _)) => Some(Err(error)),
            }
        })
    }

    /// Queues a datagram if there is room now. False: there was none, or it is
    /// empty, and it was dropped.
    pub fn try_send_datagram(&self, payload: Payload) -> Result<bool, SendError> {
        let len = payload.len();
        let queued = self
            .entry()
            .with(|stream| stream.queue_datagram(payload, len));
        match queued {
            Ok(()) => Ok(true),
            Err((QueueError::NoRoom, _)) => Ok(false),
            Err((QueueError::Finished, _)) => Err(SendError::Finished),
            Err((QueueError::Cut(cut), _)) => Err(SendError::Cut(cut)),
        }
    }

    /// Bytes that wait for their turn on the link, and a number that is another one when
    /// some have moved: had their turn, or were taken by the peer.
    pub fn sending(&self) -> (usize, u32) {
        self.entry()
            .with(|stream| (stream.queued(), stream.moves()))
    }

    // Its end.

    /// We send no more: FIN follows what is queued. A second time it does nothing.
    pub fn finish(&self) {
        self.entry().with(yamux::Stream::finish);
    }

    /// Aborts both directions. Does nothing where there is nothing left to abort.
    pub fn reset(&self, how: Reset) {
        self.entry().with(|stream| stream.reset(how));
    }

    /// Waits until the stream is cut, `until` at most.
    pub fn wait_for_cut(&self, until: Instant) {
        self.entry().wait(until, |stream| stream.cut().is_some());
    }

    /// Waits until the peer has finished or the stream is cut, `until` at most.
    pub fn wait_for_peer(&self, until: Instant) {
        let gone =
            |stream: &yamux::Stream<Payload>| stream.peer_finished() || stream.cut().is_some();
        self.entry().wait(until, gone);
    }

    /// Calls `tell` once, when the stream is cut: by the peer, by us, with the
    /// session; now, if it was cut before. For who waits elsewhere: there the
    /// target's socket can be aborted. It is called on any thread, with no lock
    /// held, and must not wait. There is one; a second takes the place of the first.
    /// With the last handle it is dropped, so it must hold none.
    pub fn on_cut(&self, tell: impl FnOnce(Cut) + Send + 'static) {
        self.entry().on_cut(Box::new(tell));
    }

    fn entry(&self) -> &Entry {
        &self.0.0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if thread::panicking() {
            self.reset(Reset::AtOnce);
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// Goes with the last handle.
struct Guard(Arc<Entry>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer grants nothing, or the link writes nothing.
    #[error("no room in time")]
    TimedOut,
    #[error("finished before")]
    Finished,
    #[error(transparent)]
    Cut(#[from] Cut),
}
