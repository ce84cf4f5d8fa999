//! TLS as a layer: two halves that share nothing on the way of the data.
//!
//! rustls makes the handshake and hands the record layer over
//! ([`rustls::kernel`]; `design.md`, variant B). From then on the reader owns the
//! keys of its direction and decrypts where the bytes lie in its one buffer; the
//! writer owns the keys of the other, gathers what it is given into as few records
//! as it takes, and seals them in one buffer. rustls is asked only for new keys
//! and to keep tickets. What the reader provokes (an answer to a key update, an
//! alert) is a job for the writer ([`session`]).

#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::net) mod fuzz;
mod handshake;
mod incoming;
mod received;
mod record;
mod session;
mod writer;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{ReadHalf, Wait, WriteHalf};
pub(super) use handshake::Handshake;
use incoming::{Incoming, Step};
use received::Received;
use record::{Opener, Sealer};
use session::Shared;
pub(super) use writer::Writer;

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection below failed or its deadline passed.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// The peer closed the connection in the middle.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// The peer is not who it should be, or does not speak TLS as we do.
    #[error("{0}")]
    Tls(#[source] rustls::Error),
}

/// Makes the handshake over `read` and `write` and puts a layer on them.
pub(super) fn handshake(
    session: impl Handshake,
    mut read: ReadHalf,
    mut write: WriteHalf,
) -> Result<(Reader, Writer), HandshakeError> {
    let (secrets, kernel, received) = handshake::run(session, &mut read, &mut write)?;
    let shared = Arc::new(Shared::new(kernel));
    let version = shared.version();
    let opener = Opener::new(version, secrets.rx).map_err(HandshakeError::Tls)?;
    let limit = shared.limit();
    let sealer = Sealer::new(version, secrets.tx, limit).map_err(HandshakeError::Tls)?;
    let reader = Reader {
        incoming: Incoming::new(opener, version, shared.side()),
        shared: shared.clone(),
        lower: read,
        received,
        plain: 0..0,
        ended: None,
    };
    Ok((reader, Writer::new(shared, sealer, limit, write)))
}

pub(super) struct Reader {
    shared: Arc<Shared>,
    incoming: Incoming,
    lower: ReadHalf,
    received: Received,
    /// Where in `received` the data of the last record lies that is unread.
    plain: Range<usize>,
    ended: Option<Result<(), rustls::Error>>,
}

impl Reader {
    pub(super) fn buffered(&mut self) -> &mut [u8] {
        self.received.at(self.plain.clone())
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.plain.start = self.plain.start.saturating_add(count).min(self.plain.end);
    }

    /// Bytes of all that is unread, encrypted or not.
    pub(super) fn unread(&mut self) -> usize {
        self.plain.len() + self.received.bytes().len()
    }

    pub(super) fn lower(&mut self) -> &mut ReadHalf {
        &mut self.lower
    }

    pub(super) fn shrink(&mut self) {
        if self.plain.is_empty() {
            self.plain = 0..0;
            self.received.shrink();
        }
        self.lower.shrink();
    }

    pub(super) fn fill(&mut self, wait: Wait) -> io::Result<()> {
        while self.plain.is_empty() {
            match &self.ended {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(broken(error)),
                None => {}
            }
            match self.incoming.next(self.received.bytes(), &*self.shared) {
                Ok(Step::Data { at, used }) => {
                    let begin = self.received.advance(used);
                    self.plain = begin + at.start..begin + at.end;
                }
                Ok(Step::Other { used }) => {
                    self.received.advance(used);
                }
                Ok(Step::Closed) => self.ended = Some(Ok(())),
                Ok(Step::Incomplete(_)) if wait == Wait::Received => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(Step::Incomplete(need)) => {
                    if !self.receive_record(need, wait)? {
                        // Between two records it may be the end of a peer without
                        // manners; inside of one it is a cut.
                        if !self.received.bytes().is_empty() {
                            let text = "the connection ended inside a TLS record";
                            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                        }
                        self.ended = Some(Ok(()));
                    }
                }
                Err(refusal) => {
                    self.ended = Some(Err(refusal.error.clone()));
                    self.shared.refuse(refusal);
                }
            }
        }
        Ok(())
    }

    /// For TLS inside of this TLS.
    pub(super) fn receive(&mut self, room: &mut [u8], wait: Wait) -> io::Result<usize> {
        self.fill(wait)?;
        let plain = self.buffered();
        let count = room.len().min(plain.len());
        room[..count].copy_from_slice(&plain[..count]);
        self.consume(count);
        Ok(count)
    }

    pub(super) fn wants_flush(&self) -> bool {
        self.shared.has_jobs() || self.lower.wants_flush()
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.received.memory() + self.lower.memory()
    }

    /// Receives more of a record that takes `need` bytes; false at the end.
    fn receive_record(&mut self, need: usize, wait: Wait) -> io::Result<bool> {
        self.plain = 0..0;
        if wait == Wait::Ever && self.received.is_large() {
            match self.received.receive(&mut self.lower, need, Wait::Moment) {
                // The connection has gone quiet: wait with a small buffer.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.received.shrink(),
                done => return done,
            }
        }
        self.received.receive(&mut self.lower, need, wait)
    }
}

fn broken(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

#[cfg(test)]
mod peers;
#[cfg(test)]
mod tests;
