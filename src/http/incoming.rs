//! Reading messages from a connection: the shell around the pure parsers.

use std::io;

use super::body::{BodyError, Decoder, Framing};
use super::head::{HeadError, HeadScanner};
use crate::net::{Deadline, ReadHalf};

/// Why a head could not be read.
#[derive(Debug)]
pub(super) enum ReadHeadError {
    /// The connection was closed; `begun` when a part of a head had come.
    Closed {
        begun: bool,
    },
    Io {
        begun: bool,
        cause: io::Error,
    },
    Head(HeadError),
}

/// Reads one head and hands it to `parse` where it lies, if it came in one piece.
pub(super) fn read_head<T>(
    read: &mut ReadHalf,
    parse: impl FnOnce(&[u8]) -> Result<T, HeadError>,
) -> Result<T, ReadHeadError> {
    let mut scanner = HeadScanner::default();
    let mut kept = Vec::new();
    loop {
        let bytes = match read.fill() {
            Ok([]) => {
                let begun = scanner.has_begun();
                return Err(ReadHeadError::Closed { begun });
            }
            Ok(bytes) => bytes,
            Err(cause) => {
                let begun = scanner.has_begun();
                return Err(ReadHeadError::Io { begun, cause });
            }
        };
        let Some(end) = scanner.scan(bytes).map_err(ReadHeadError::Head)? else {
            let count = bytes.len();
            kept.extend_from_slice(bytes);
            read.consume(count);
            continue;
        };
        let here = end - kept.len();
        let parsed = if kept.is_empty() {
            parse(&bytes[..here])
        } else {
            kept.extend_from_slice(&bytes[..here]);
            parse(&kept)
        };
        read.consume(here);
        return parsed.map_err(ReadHeadError::Head);
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Body(#[from] BodyError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A body that is read piece by piece.
pub(super) trait Chunks {
    type Error;

    /// The length, if it was said.
    fn length(&self) -> Option<u64>;

    /// The next bytes, `max` at most; empty at the end.
    fn chunk(&mut self, max: usize) -> Result<&[u8], Self::Error>;

    /// The whole body; `None` if it has more than `limit` bytes.
    fn read_all(&mut self, limit: usize) -> Result<Option<Vec<u8>>, Self::Error> {
        let said = self.length().unwrap_or(0);
        if said > limit as u64 {
            return Ok(None);
        }
        // What was said may not come.
        let mut all = Vec::with_capacity((said as usize).min(64 * 1024));
        loop {
            let chunk = self.chunk(usize::MAX)?;
            if chunk.is_empty() {
                return Ok(Some(all));
            }
            if chunk.len() > limit - all.len() {
                return Ok(None);
            }
            all.extend_from_slice(chunk);
        }
    }
}

/// A body on its way in.
pub(super) struct Incoming {
    read: ReadHalf,
    decoder: Decoder,
    /// Bytes that the caller has been looking at since the last call.
    lent: usize,
}

impl Incoming {
    pub(super) fn new(read: ReadHalf, framing: Framing) -> Self {
        Self {
            read,
            decoder: Decoder::new(framing),
            lent: 0,
        }
    }

    /// What the last [`advance`](Self::advance) found; empty at the end.
    pub(super) fn lent(&mut self) -> &[u8] {
        &self.read.buffered()[..self.lent]
    }

    /// Finds the next bytes of the body, `max` at most; waits for some.
    pub(super) fn advance(&mut self, max: usize) -> Result<(), ReadError> {
        if !self.find(max, ReadHalf::fill)? && !self.decoder.is_done() {
            self.decoder.at_end()?;
        }
        Ok(())
    }

    /// As [`advance`](Self::advance), but among what has been received already. When
    /// it finds nothing that needn't be the end.
    pub(super) fn advance_received(&mut self, max: usize) -> Result<(), ReadError> {
        self.find(max, ReadHalf::fill_received).map(drop)
    }

    /// Bytes that have been received and not been handed out, about; lent ones count.
    pub(super) fn received(&mut self) -> usize {
        self.read.received()
    }

    /// False when `fill` has nothing more, or the body is done.
    fn find(
        &mut self,
        max: usize,
        fill: fn(&mut ReadHalf) -> io::Result<&mut [u8]>,
    ) -> Result<bool, ReadError> {
        self.read.consume(std::mem::take(&mut self.lent));
        while !self.decoder.is_done() {
            let input = fill(&mut self.read)?;
            if input.is_empty() {
                break;
            }
            let step = self.decoder.decode(input, max)?;
            self.read.consume(step.skip);
            if step.data > 0 {
                self.lent = step.data;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last byte of the body has been handed out.
    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.read.set_deadline(deadline);
    }

    /// The read half, behind what has been read of the body.
    pub(super) fn into_read(mut self) -> ReadHalf {
        self.read.consume(self.lent);
        self.read
    }
}
