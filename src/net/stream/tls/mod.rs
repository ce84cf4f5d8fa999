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
use record::{MAX_CONTENT, MAX_OVERHEAD, Opener, Refusal, Sealed, Sealer};
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
    let writer = Writer {
        shared,
        sealer,
        limit,
        lower: write,
        out: Sealed::default(),
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

pub(super) struct Writer {
    shared: Arc<Shared>,
    sealer: Sealer,
    lower: WriteHalf,
    /// How many records keys may protect.
    limit: u64,
    /// Records on their way out. Empty between calls.
    out: Sealed,
    /// Why nothing can be written any more.
    ended: Option<Ended>,
}

enum Ended {
    /// close_notify is out.
    Closed,
    /// The reader met something that breaks the connection.
    Broken(Refusal),
}

impl Writer {
    pub(super) fn lower(&mut self) -> &mut WriteHalf {
        &mut self.lower
    }

    pub(super) fn write_all(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.do_jobs()?;
        self.check()?;
        let mut rest = Rest::of(bufs);
        while !rest.is_empty() {
            self.out
                .reserve((rest.len() + MAX_OVERHEAD).min(BATCH_SEALED));
            for _ in 0..BATCH {
                if rest.is_empty() {
                    break;
                }
                if self.sealer.is_used_up() {
                    self.keys_are_used_up()?;
                }
                self.seal_some(&mut rest)?;
            }
            self.send()?;
        }
        self.send()
    }

    /// Seals the next record: a long piece from where it lies, short ones together.
    fn seal_some(&mut self, rest: &mut Rest<'_, '_>) -> io::Result<()> {
        let kind = ContentType::ApplicationData;
        let first = rest.first();
        if first.len() >= LONG || first.len() == rest.len() {
            let count = first.len().min(MAX_CONTENT);
            self.sealer
                .seal(&mut self.out, kind, &first[..count])
                .map_err(io::Error::other)?;
            rest.advance(count);
            return Ok(());
        }
        let length = rest.len().min(MAX_CONTENT);
        self.sealer
            .seal_gathered(&mut self.out, kind, length, |room| rest.copy_to(room))
            .map_err(io::Error::other)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.do_jobs()?;
        self.send()?;
        self.lower.flush()
    }

    pub(super) fn close(&mut self) -> io::Result<()> {
        self.do_jobs()?;
        if self.ended.is_none() {
            self.end(Ended::Closed)?;
        }
        self.send()?;
        self.lower.close()
    }

    pub(super) fn version(&self) -> ProtocolVersion {
        self.shared.version()
    }

    /// See [`WriteHalf::change_keys`]. The key update goes out at once.
    pub(super) fn change_keys(&mut self, ask_peer: bool) -> io::Result<()> {
        self.do_jobs()?;
        self.check()?;
        self.renew_keys(ask_peer)?;
        self.send()
    }

    /// Lets keys protect no more than `limit` records.
    #[cfg(test)]
    fn limit_records(&mut self, limit: u64) {
        self.limit = limit;
        self.sealer.set_limit(limit);
    }

    /// close_notify without closing the layer below.
    #[cfg(test)]
    fn notify_close(&mut self) {
        self.end(Ended::Closed).expect("sealed");
        self.send().expect("sent");
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
            self.renew_keys(false)?;
        }
        if jobs.refuse_renegotiation {
            self.alert(WARNING, AlertDescription::NoRenegotiation)?;
        }
        match jobs.refusal {
            Some(refusal) => self.end(Ended::Broken(refusal)),
            None => Ok(()),
        }
    }

    /// Fails if nothing can be written any more.
    fn check(&self) -> io::Result<()> {
        match &self.ended {
            None => Ok(()),
            Some(Ended::Closed) => Err(io::ErrorKind::BrokenPipe.into()),
            Some(Ended::Broken(refusal)) => Err(broken(&refusal.error)),
        }
    }

    /// The last record, which tells the peer why.
    fn end(&mut self, ended: Ended) -> io::Result<()> {
        let told = match &ended {
            Ended::Closed => self.alert(WARNING, AlertDescription::CloseNotify),
            Ended::Broken(refusal) => match refusal.alert {
                Some(alert) => self.alert(FATAL, alert),
                None => Ok(()),
            },
        };
        self.ended = Some(ended);
        told
    }

    /// There is room for one more record under these keys.
    fn keys_are_used_up(&mut self) -> io::Result<()> {
        if self.version() == ProtocolVersion::TLSv1_3 {
            return self.renew_keys(false);
        }
        self.end(Ended::Closed)?;
        self.send()?;
        Err(io::Error::other(
            "the keys of this TLS 1.2 connection are used up; a new connection has new ones",
        ))
    }

    /// Puts a key update into `out`, the last record under the old keys.
    fn renew_keys(&mut self, ask_peer: bool) -> io::Result<()> {
        if self.version() != ProtocolVersion::TLSv1_3 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let message = [HandshakeType::KeyUpdate.into(), 0, 0, 1, ask_peer.into()];
        self.control(ContentType::Handshake, &message)?;
        let secrets = self.shared.next_secrets().map_err(io::Error::other)?;
        self.sealer = Sealer::new(self.version(), secrets, self.limit).map_err(io::Error::other)?;
        Ok(())
    }

    fn alert(&mut self, level: u8, description: AlertDescription) -> io::Result<()> {
        self.control(ContentType::Alert, &[level, description.into()])
    }

    fn control(&mut self, kind: ContentType, message: &[u8]) -> io::Result<()> {
        self.sealer
            .seal(&mut self.out, kind, message)
            .map_err(io::Error::other)
    }

    /// Sends the records that are ready.
    fn send(&mut self) -> io::Result<()> {
        if self.out.bytes().is_empty() {
            return Ok(());
        }
        let sent = self.lower.write_all(&[IoSlice::new(self.out.bytes())]);
        self.out.clear();
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

/// A piece of data that is worth a record of its own, so that it needn't be copied.
const LONG: usize = 4 * 1024;

#[cfg(test)]
mod peers;
#[cfg(test)]
mod tests;
