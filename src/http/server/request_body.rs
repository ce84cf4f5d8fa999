//! The body of a request, as a handler reads it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::exchange::{Shared, Stage};
use crate::http::body::Framing;
use crate::http::incoming::{Chunks, Incoming, ReadError};
use crate::net::{Deadline, ReadHalf};

/// The body of a request. May go to another thread than the answer.
pub struct RequestBody {
    pub(super) shared: Arc<Shared>,
    /// Gone only in `drop` and `into_read`.
    pub(super) incoming: Option<Incoming>,
    pub(super) framing: Framing,
    pub(super) idle_limit: Option<Duration>,
}

/// Why a whole body could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ReadAllError {
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Read(#[from] ReadError),
}

impl RequestBody {
    /// The length, if it was said; 0 when there is no body.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// The next bytes, where they lie, `max` at most; waits for some. Empty at the
    /// end. Tells a client that waits for it to go on (`100 Continue`).
    pub fn chunk(&mut self, max: usize) -> Result<&[u8], ReadError> {
        self.invite()?;
        let Some(incoming) = &mut self.incoming else {
            return Ok(&[]);
        };
        incoming.set_deadline(self.idle_limit.map(Deadline::after));
        incoming.advance(max)?;
        if incoming.is_done() {
            self.shared.body_done.store(true, Ordering::Release);
        }
        Ok(incoming.lent())
    }

    /// The whole body, if it has at most `limit` bytes.
    pub fn read_all(&mut self, limit: usize) -> Result<Vec<u8>, ReadAllError> {
        Chunks::read_all(self, limit)?.ok_or(ReadAllError::TooLarge(limit))
    }

    fn invite(&self) -> io::Result<()> {
        if !self.shared.expects.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut out = self.shared.out.lock();
        if out.stage != Stage::Nothing {
            return Ok(());
        }
        match &mut out.write {
            Some(write) => write.write_all(&[IoSlice::new(b"HTTP/1.1 100 Continue\r\n\r\n")]),
            None => Ok(()),
        }
    }

    pub(super) fn into_read(mut self) -> Option<ReadHalf> {
        self.incoming.take().map(Incoming::into_read)
    }
}

impl Chunks for RequestBody {
    type Error = ReadError;

    fn length(&self) -> Option<u64> {
        self.length()
    }

    fn chunk(&mut self, max: usize) -> Result<&[u8], ReadError> {
        self.chunk(max)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            *self.shared.back.lock() = Some(incoming);
            self.shared.came_back.notify_all();
        }
    }
}
