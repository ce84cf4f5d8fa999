//! An answer, and what becomes of its connection afterwards.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::upload::Upload;
use super::{CallError, Inner};
use crate::http::Headers;
use crate::http::body::Framing;
use crate::http::incoming::{Chunks, Incoming, ReadError};
use crate::net::{Cancel, Deadline, Guard, Halves, WriteHalf};

/// An answer of which the head has come.
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: ResponseBody,
}

/// The body of an answer. When it was read to its end, its connection can be used
/// again; when it is dropped before, the connection is closed.
pub struct ResponseBody {
    framing: Framing,
    /// Gone when the body has ended.
    rest: Option<Rest>,
    client: Arc<Inner>,
    cancel: Cancel,
    idle: Option<Duration>,
}

pub(super) struct Rest {
    pub(super) incoming: Incoming,
    pub(super) sending: Sending,
    pub(super) socket: Arc<Socket>,
    /// The server is willing to answer another request.
    pub(super) keep: bool,
    /// Closes the socket when the call is cancelled.
    pub(super) guard: Guard,
}

/// The half that wrote the request, or is writing it.
pub(super) enum Sending {
    Done(WriteHalf),
    Running(Upload),
}

impl ResponseBody {
    pub(super) fn new(
        framing: Framing,
        mut rest: Rest,
        client: Arc<Inner>,
        cancel: Cancel,
    ) -> Self {
        rest.keep &= framing != Framing::UntilClose;
        let mut body = Self {
            framing,
            rest: Some(rest),
            client,
            cancel,
            idle: None,
        };
        if framing == Framing::Length(0) {
            body.end();
        }
        body
    }

    /// From now on a body of which nothing comes for so long has failed; takes the
    /// place of the call's deadline.
    pub fn limit_idle(&mut self, limit: Duration) {
        self.idle = Some(limit);
    }

    /// The length, if it was said.
    pub fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// The next bytes, where they lie, `max` at most; waits for some. Empty at the
    /// end.
    pub fn chunk(&mut self, max: usize) -> Result<&[u8], CallError> {
        let Some(rest) = &mut self.rest else {
            return Ok(&[]);
        };
        if let Some(limit) = self.idle {
            rest.incoming.set_deadline(Some(Deadline::after(limit)));
        }
        match rest.incoming.advance(max) {
            Ok(()) if rest.incoming.lent().is_empty() => {
                // The end of the connection may be our own doing: then the body is
                // half of one.
                if self.framing == Framing::UntilClose
                    && let Some(error) = self.broken_off()
                {
                    self.rest = None;
                    return Err(error);
                }
                self.end();
                Ok(&[])
            }
            Ok(()) => Ok(self.lent()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The bytes that the last call has brought, once more.
    pub fn lent(&mut self) -> &[u8] {
        match &mut self.rest {
            Some(rest) => rest.incoming.lent(),
            None => &[],
        }
    }

    /// As [`chunk`](Self::chunk), but never waits, and doesn't ask the system either:
    /// when nothing more has been received it is empty, which needn't be the end.
    pub fn received(&mut self, max: usize) -> Result<&[u8], CallError> {
        let Some(rest) = &mut self.rest else {
            return Ok(&[]);
        };
        match rest.incoming.advance_received(max) {
            Ok(()) => Ok(self.lent()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Bytes of what is lent now and what [`received`](Self::received) would bring;
    /// with TLS and chunks there are fewer in truth.
    pub fn at_hand(&mut self) -> usize {
        self.rest
            .as_mut()
            .map_or(0, |rest| rest.incoming.received())
    }

    /// The whole body, if it has at most `limit` bytes.
    pub fn read_all(&mut self, limit: usize) -> Result<Vec<u8>, CallError> {
        Chunks::read_all(self, limit)?.ok_or(CallError::TooLarge(limit))
    }

    /// What became of the body; there is no more of it.
    fn failed(&mut self, error: ReadError) -> CallError {
        let why = self.broken_off();
        self.rest = None;
        why.unwrap_or_else(|| match (&error, self.idle) {
            (ReadError::Io(cause), Some(limit)) if cause.kind() == io::ErrorKind::TimedOut => {
                CallError::Idle(limit)
            }
            _ => CallError::Body(error),
        })
    }

    /// Why this side has closed the connection, if it has.
    fn broken_off(&self) -> Option<CallError> {
        if let Some(reason) = self.cancel.reason() {
            return Some(CallError::Cancelled(reason));
        }
        let blame = self.rest.as_ref()?.sending.blame();
        blame.map(CallError::Upload)
    }

    /// Gives the connection back, if it is good for another exchange.
    fn end(&mut self) {
        let Some(rest) = self.rest.take() else {
            return;
        };
        // A half-sent request, or a server that won't: dropping it closes it.
        let Some(halves) = rest.into_halves() else {
            return;
        };
        self.client.pool.put(halves);
    }
}

impl Chunks for ResponseBody {
    type Error = CallError;

    fn length(&self) -> Option<u64> {
        self.length()
    }

    fn chunk(&mut self, max: usize) -> Result<&[u8], CallError> {
        self.chunk(max)
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.rest.as_ref().is_some_and(|r| r.incoming.is_done()) {
            self.end();
        } else if let Some(rest) = &self.rest {
            // The upload may hold the socket a moment longer.
            let _ = rest.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Rest {
    fn into_halves(self) -> Option<Halves> {
        if !self.keep {
            return None;
        }
        let write = match self.sending {
            Sending::Done(write) => write,
            Sending::Running(upload) => upload.finish()?,
        };
        // From here on the connection may serve somebody else.
        drop(self.guard);
        let mut halves = Halves {
            read: self.incoming.into_read(),
            write,
            socket: self.socket,
        };
        halves.set_deadline(None);
        Some(halves)
    }
}

impl Sending {
    pub(super) fn blame(&self) -> Option<super::UploadError> {
        match self {
            Self::Done(_) => None,
            Self::Running(upload) => upload.blame(),
        }
    }
}
