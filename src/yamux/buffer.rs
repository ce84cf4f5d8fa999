//! Bytes of one stream that arrived and weren't read.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Where buffers come from and where they go back to.
pub trait Pool: fmt::Debug + Send + Sync {
    /// An empty buffer with a capacity of `size`, which is [`CHUNK`] or
    /// [`SMALL_CHUNK`].
    fn take(&self, size: usize) -> Vec<u8>;
    /// A buffer that is not needed any more; its capacity tells its size.
    fn give(&self, buffer: Vec<u8>);
}

/// No pool: the allocator.
#[derive(Debug)]
pub struct Unpooled;

impl Pool for Unpooled {
    fn take(&self, size: usize) -> Vec<u8> {
        Vec::with_capacity(size)
    }

    fn give(&self, _buffer: Vec<u8>) {}
}

/// Received bytes on their way to who reads them. Given back with
/// [`Stream::give_back`](super::Stream::give_back).
pub struct Chunk {
    buf: Vec<u8>,
    /// What is in front was read before.
    at: usize,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buf[self.at..]
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

impl Chunk {
    fn room(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    pub(super) fn into_buf(self) -> Vec<u8> {
        self.buf
    }

    pub(super) fn capacity(&self) -> usize {
        self.buf.capacity()
    }
}

/// A queue of chunks. Memory is taken when bytes arrive; small frames share a
/// chunk, and the first one is small when little arrives.
#[derive(Debug)]
pub(super) struct Buffer {
    chunks: VecDeque<Chunk>,
    len: usize,
    /// Capacities of the chunks.
    capacity: usize,
    /// What is unread of each Data frame. None: nobody asks where they end.
    frames: Option<VecDeque<u32>>,
    pool: Arc<dyn Pool>,
}

impl Buffer {
    pub(super) fn new(pool: Arc<dyn Pool>) -> Self {
        Self {
            chunks: VecDeque::new(),
            len: 0,
            capacity: 0,
            frames: Some(VecDeque::new()),
            pool,
        }
    }

    /// A frame begins whose payload has `len` bytes.
    pub(super) fn begin_frame(&mut self, len: u32) {
        if let Some(frames) = &mut self.frames
            && len > 0
        {
            frames.push_back(len);
        }
    }

    /// The one copy of received bytes. `more` will follow it in the same frame.
    pub(super) fn push(&mut self, mut bytes: &[u8], more: usize) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let tail = match self.chunks.back_mut() {
                Some(tail) if tail.room() > 0 => tail,
                _ => {
                    let small = self.chunks.is_empty() && bytes.len() + more <= SMALL_CHUNK;
                    let buf = self.pool.take(if small { SMALL_CHUNK } else { CHUNK });
                    debug_assert!(buf.is_empty() && buf.capacity() >= SMALL_CHUNK);
                    self.capacity += buf.capacity();
                    self.chunks.push_back(Chunk { buf, at: 0 });
                    self.chunks.back_mut().expect("pushed just now")
                }
            };
            let (piece, rest) = bytes.split_at(bytes.len().min(tail.room()));
            tail.buf.extend_from_slice(piece);
            bytes = rest;
        }
    }

    /// The bytes of the first chunk.
    pub(super) fn front(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    /// The first chunk.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.capacity -= chunk.capacity();
        self.len -= chunk.len();
        self.pass(chunk.len());
        shrink(&mut self.chunks);
        Some(chunk)
    }

    /// Passes over `count` bytes, at most all.
    pub(super) fn skip(&mut self, count: usize) -> usize {
        let mut left = count;
        while left > 0
            && let Some(front) = self.chunks.front_mut()
        {
            let here = left.min(front.len());
            front.at += here;
            left -= here;
            if front.is_empty() {
                self.drop_front();
            }
        }
        let skipped = count - left;
        self.len -= skipped;
        self.pass(skipped);
        skipped
    }

    /// Length of the first frame, if all of it is here.
    pub(super) fn datagram(&self) -> Option<usize> {
        let len = *self.frames.as_ref()?.front()? as usize;
        (len <= self.len).then_some(len)
    }

    /// Appends the first `count` bytes to `out` and passes over them.
    pub(super) fn copy_to(&mut self, count: usize, out: &mut Vec<u8>) {
        let mut left = count;
        for chunk in &self.chunks {
            let here = left.min(chunk.len());
            out.extend_from_slice(&chunk[..here]);
            left -= here;
            if left == 0 {
                break;
            }
        }
        self.skip(count);
    }

    /// Where frames end is forgotten.
    pub(super) fn join_frames(&mut self) {
        self.frames = None;
    }

    /// Drops everything; how many bytes that were.
    pub(super) fn purge(&mut self) -> usize {
        let purged = self.skip(self.len);
        self.frames = None;
        self.chunks = VecDeque::new();
        purged
    }

    /// Bytes that can be read.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        let frames = self.frames.as_ref().map_or(0, VecDeque::len);
        self.capacity + frames * size_of::<u32>()
    }

    pub(super) fn recycle(&self, buf: Vec<u8>) {
        self.pool.give(buf);
    }

    fn drop_front(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.capacity -= chunk.capacity();
            self.pool.give(chunk.buf);
            shrink(&mut self.chunks);
        }
    }

    /// `count` bytes of the first frames were read.
    fn pass(&mut self, mut count: usize) {
        let Some(frames) = &mut self.frames else {
            return;
        };
        while count > 0
            && let Some(front) = frames.front_mut()
        {
            let here = count.min(*front as usize);
            *front -= here as u32;
            count -= here;
            if *front == 0 {
                frames.pop_front();
            }
        }
        shrink(frames);
    }
}

/// An idle stream doesn't keep the memory of its worst day.
fn shrink<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > KEPT {
        *queue = VecDeque::new();
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.purge();
    }
}

/// A chunk that bulk data arrives in.
pub const CHUNK: usize = 32 * 1024;

/// A chunk for the first small frame: what a stream of small messages holds.
pub const SMALL_CHUNK: usize = 2 * 1024;

/// Places of an empty queue for which memory is kept.
const KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer() -> Buffer {
        Buffer::new(Arc::new(Unpooled))
    }

    fn frame(buffer: &mut Buffer, bytes: &[u8]) {
        buffer.begin_frame(bytes.len() as u32);
        buffer.push(bytes, 0);
    }

    #[test]
    fn small_frames_share_a_small_chunk() {
        let mut buffer = buffer();
        for _ in 0..100 {
            frame(&mut buffer, b"hello");
        }
        assert_eq!(buffer.len(), 500);
        assert_eq!(buffer.memory(), SMALL_CHUNK + 100 * 4);
        let chunk = buffer.take().expect("there is one");
        assert_eq!(chunk.len(), 500);
        assert_eq!(buffer.memory(), 0);
        assert!(buffer.take().is_none());
    }

    #[test]
    fn a_large_frame_that_arrives_in_pieces_gets_a_large_chunk() {
        let mut buffer = buffer();
        buffer.begin_frame(30_000);
        buffer.push(&[1; 100], 29_900);
        assert_eq!(buffer.memory(), CHUNK + 4);
        buffer.join_frames();
        buffer.push(&vec![2; 29_900], 0);
        buffer.push(&vec![3; 40_000], 0);
        assert_eq!(buffer.memory(), 3 * CHUNK);
        assert_eq!(buffer.skip(30_000), 30_000);
        assert_eq!(buffer.front()[0], 3);
        assert_eq!(buffer.purge(), 40_000);
        assert_eq!((buffer.len(), buffer.memory()), (0, 0));
    }

    #[test]
    fn frames_keep_their_ends_until_nobody_asks() {
        let mut buffer = buffer();
        frame(&mut buffer, b"header+first");
        frame(&mut buffer, b"second");
        buffer.begin_frame(6);
        buffer.push(b"th", 4);
        assert_eq!(buffer.skip(7), 7);
        let mut out = Vec::new();
        for expected in [&b"first"[..], b"second"] {
            out.clear();
            let len = buffer.datagram().expect("complete");
            buffer.copy_to(len, &mut out);
            assert_eq!(out, expected);
        }
        assert_eq!(buffer.datagram(), None, "the third isn't complete");
        buffer.push(b"ird!", 0);
        assert_eq!(buffer.datagram(), Some(6));
        buffer.join_frames();
        assert_eq!(buffer.datagram(), None);
        assert_eq!(buffer.len(), 6);
    }
}
