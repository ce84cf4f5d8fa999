//! TLS as a layer: two halves that share nothing on the way of the data.
//!
//! rustls makes the handshake and hands the record layer over
//! ([`rustls::kernel`]; `design.md`, variant B). From then on the reader owns the
//! keys of its direction and decrypts where the bytes lie in its one buffer; the
//! writer owns the keys of the other, gathers what it is given into as few records
//! as it takes, and seals them in one buffer. rustls is asked only for new keys
//! and to keep tickets. What the reader provokes (an answer to a key update, an
//! alert) is a job for the writer ([`session`]).

#[cfg(any(test, fuzzing))]
pub(in crate::net) mod fuzz;
mod handshake;
mod incoming;
mod received;
mod record;
mod session;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use rustls::{AlertDescription, ContentType, HandshakeType, ProtocolVersion};

use super::tcp::Rest;
use super::{ReadHalf, Wait, WriteHalf};
pub(super) use handshake::Handshake;
use incoming::{Incoming, Step, WARNING};
use received::Received;
use record::{MAX_CONTENT, MAX_OVERHEAD, Opener, Sealer};
use session::Shared;

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
    let sealer = Sealer::new(version, secrets.tx, shared.limit()).map_err(HandshakeError::Tls)?;
    let reader = Reader {
        incoming: Incoming::new(opener, version, shared.side()),
        shared: shared.clone(),
        lower: read,
        received,
        plain: 0..0,
        ended: None,
    };
    let writer = Writer {
        shared,
        sealer,
        lower: write,
        out: Vec::new(),
        ended: None,
    };
    Ok((reader, writer))
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
                Ok(Step::Incomplete(need)) => {
                    if !self.receive_record(need, wait)? {
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

pub(super) struct Writer {
    shared: Arc<Shared>,
    sealer: Sealer,
    lower: WriteHalf,
    /// Records on their way out. Empty between calls.
    out: Vec<u8>,
    /// Why nothing can be written any more.
    ended: Option<Ended>,
}

enum Ended {
    /// close_notify is out.
    Closed,
    /// The reader met something that breaks the connection.
    Broken(rustls::Error),
}

impl Writer {
    pub(super) fn lower(&mut self) -> &mut WriteHalf {
        &mut self.lower
    }

    pub(super) fn write_all(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.do_jobs()?;
        match &self.ended {
            None => {}
            Some(Ended::Closed) => return Err(io::ErrorKind::BrokenPipe.into()),
            Some(Ended::Broken(error)) => return Err(broken(error)),
        }
        let mut rest = Rest::of(bufs);
        while !rest.is_empty() {
            self.out
                .reserve((rest.len() + MAX_OVERHEAD).min(BATCH_SEALED));
            for _ in 0..BATCH {
                if rest.is_empty() {
                    break;
                }
                if self.sealer.is_used_up() {
                    self.renew_keys()?;
                }
                self.sealer
                    .seal(&mut self.out, ContentType::ApplicationData, |out| {
                        rest.take(MAX_CONTENT, |bytes| out.extend_from_slice(bytes));
                    })
                    .map_err(io::Error::other)?;
            }
            self.send()?;
        }
        self.send()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.do_jobs()?;
        self.send()?;
        self.lower.flush()
    }

    pub(super) fn close(&mut self) -> io::Result<()> {
        self.do_jobs()?;
        if self.ended.is_none() {
            self.ended = Some(Ended::Closed);
            self.alert(WARNING, AlertDescription::CloseNotify)?;
        }
        self.send()?;
        self.lower.close()
    }

    pub(super) fn version(&self) -> ProtocolVersion {
        self.shared.version()
    }

    /// New keys with the next write or flush, and the peer is asked for new ones.
    #[cfg(test)]
    pub(super) fn refresh_traffic_keys(&mut self) -> io::Result<()> {
        self.change_keys(true)
    }

    /// Lets the keys that are in use protect no more than `limit` records.
    #[cfg(test)]
    pub(super) fn limit_records(&mut self, limit: u64) {
        self.sealer.set_limit(limit);
    }

    /// Puts what the reader provoked into `out`.
    fn do_jobs(&mut self) -> io::Result<()> {
        if !self.shared.has_jobs() {
            return Ok(());
        }
        let jobs = self.shared.take_jobs();
        if self.ended.is_some() {
            // The peer has been told that nothing follows.
            return Ok(());
        }
        if jobs.new_keys {
            self.change_keys(false)?;
        }
        if jobs.refuse_renegotiation {
            self.alert(WARNING, AlertDescription::NoRenegotiation)?;
        }
        if let Some(refusal) = jobs.refusal {
            self.ended = Some(Ended::Broken(refusal.error));
            if let Some(alert) = refusal.alert {
                self.alert(FATAL, alert)?;
            }
        }
        Ok(())
    }

    /// Before the keys are used more often than is safe.
    fn renew_keys(&mut self) -> io::Result<()> {
        if self.version() == ProtocolVersion::TLSv1_3 {
            return self.change_keys(false);
        }
        self.ended = Some(Ended::Closed);
        self.alert(WARNING, AlertDescription::CloseNotify)?;
        self.send()?;
        Err(io::Error::other(
            "the keys of this TLS 1.2 connection are used up; another connection has new ones",
        ))
    }

    /// Sends a key update, the last record under the old keys.
    fn change_keys(&mut self, ask_peer: bool) -> io::Result<()> {
        let message = [u8::from(HandshakeType::KeyUpdate), 0, 0, 1, ask_peer.into()];
        self.control(ContentType::Handshake, &message)?;
        self.sealer = self.shared.next_sealer().map_err(io::Error::other)?;
        Ok(())
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> io::Result<()> {
        self.control(ContentType::Alert, &[level, description.into()])
    }

    fn control(&mut self, kind: ContentType, message: &[u8]) -> io::Result<()> {
        self.sealer
            .seal(&mut self.out, kind, |out| out.extend_from_slice(message))
            .map_err(io::Error::other)
    }

    /// Sends the records that are ready.
    fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let sent = self.lower.write_all(&[IoSlice::new(&self.out)]);
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        sent
    }
}

fn broken(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

/// Level of an alert after which the connection is over.
const FATAL: u8 = 2;

/// Records in one system call.
const BATCH: usize = 4;

/// Room that so many full records take.
const BATCH_SEALED: usize = BATCH * (MAX_CONTENT + MAX_OVERHEAD);

/// Buffer that a writer keeps between two calls.
const KEEP: usize = 16 * 1024;

#[cfg(test)]
mod tests;
