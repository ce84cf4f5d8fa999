//! The half that seals what it is given.

use std::io::{self, IoSlice};
use std::sync::Arc;

use rustls::{AlertDescription, ContentType, HandshakeType, ProtocolVersion};

use super::broken;
use super::incoming::WARNING;
use super::record::{MAX_CONTENT, MAX_OVERHEAD, Refusal, Sealed, Sealer};
use super::session::Shared;
use crate::net::stream::WriteHalf;
use crate::net::stream::tcp::Rest;

pub(in crate::net::stream) struct Writer {
    shared: Arc<Shared>,
    pub(super) sealer: Sealer,
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
    pub(super) fn new(shared: Arc<Shared>, sealer: Sealer, limit: u64, lower: WriteHalf) -> Self {
        Self {
            shared,
            sealer,
            lower,
            limit,
            out: Sealed::default(),
            ended: None,
        }
    }

    pub(in crate::net::stream) fn lower(&mut self) -> &mut WriteHalf {
        &mut self.lower
    }

    pub(in crate::net::stream) fn write_all(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
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

    pub(in crate::net::stream) fn flush(&mut self) -> io::Result<()> {
        self.do_jobs()?;
        self.send()?;
        self.lower.flush()
    }

    pub(in crate::net::stream) fn close(&mut self) -> io::Result<()> {
        self.do_jobs()?;
        if self.ended.is_none() {
            self.end(Ended::Closed)?;
        }
        self.send()?;
        self.lower.close()
    }

    pub(in crate::net::stream) fn shrink(&mut self) {
        self.out.shrink();
        self.lower.shrink();
    }

    /// Sends what can be sent without waiting, and keeps no rest.
    pub(in crate::net::stream) fn send_now(&mut self, bytes: &[u8]) {
        if self.ended.is_none() && self.control(ContentType::ApplicationData, bytes).is_ok() {
            self.lower.send_now(self.out.bytes());
        }
        self.out.clear();
    }

    #[cfg(test)]
    pub(in crate::net::stream) fn memory(&self) -> usize {
        self.out.memory() + self.lower.memory()
    }

    pub(in crate::net::stream) fn version(&self) -> ProtocolVersion {
        self.shared.version()
    }

    /// See [`WriteHalf::change_keys`]. The key update goes out at once.
    pub(in crate::net::stream) fn change_keys(&mut self, ask_peer: bool) -> io::Result<()> {
        self.do_jobs()?;
        self.check()?;
        self.renew_keys(ask_peer)?;
        self.send()
    }

    /// Lets keys protect no more than `limit` records.
    #[cfg(test)]
    pub(super) fn limit_records(&mut self, limit: u64) {
        self.limit = limit;
        self.sealer.set_limit(limit);
    }

    /// close_notify without closing the layer below.
    #[cfg(test)]
    pub(super) fn notify_close(&mut self) {
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

/// Who drops a connection after an error of its reader hasn't flushed: the peer is
/// told all the same, if it takes that at once.
impl Drop for Writer {
    fn drop(&mut self) {
        if self.do_jobs().is_ok() && matches!(self.ended, Some(Ended::Broken(_))) {
            self.lower.send_now(self.out.bytes());
        }
    }
}

/// Level of an alert after which the connection is over.
const FATAL: u8 = 2;

/// Records in one system call.
const BATCH: usize = 4;

/// Room that so many full records take.
const BATCH_SEALED: usize = BATCH * (MAX_CONTENT + MAX_OVERHEAD);

/// A piece of data that is worth a record of its own, so that it needn't be copied.
const LONG: usize = 4 * 1024;
