//! TLS as a layer: one rustls connection for both halves.
//!
//! rustls has one object for both directions. It stands behind a lock that is
//! held while bytes go in or come out of it, never across a socket call:
//! the reader reads ciphertext into the buffer of the layer below, locks, feeds
//! it and takes the plaintext; the writer locks, pushes plaintext, takes the
//! ciphertext, unlocks and alone writes it. What the reader provokes (key
//! updates, alerts) waits in the connection until the writer comes by.

use std::io::{self, BufRead, IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustls::{Connection, ProtocolVersion};

use super::tcp::{Rest, SMALL, WINDOW};
use super::{ReadHalf, Wait, WriteHalf};

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

/// What the two halves share.
struct Session {
    connection: Mutex<Connection>,
    /// The connection holds ciphertext that the reader provoked. Changed under
    /// the lock, read without it.
    provoked: AtomicBool,
}

/// Makes the handshake over `read` and `write` and puts a layer on them.
pub(super) fn handshake(
    mut connection: Connection,
    mut read: ReadHalf,
    mut write: WriteHalf,
) -> Result<(Reader, Writer), HandshakeError> {
    connection.set_buffer_limit(Some(BATCH));
    let mut out = Vec::new();
    loop {
        take_ciphertext(&mut connection, &mut out);
        if !out.is_empty() {
            write
                .write_all(&[IoSlice::new(&out)])
                .map_err(HandshakeError::Io)?;
            out.clear();
        }
        if !connection.is_handshaking() {
            break;
        }
        let mut bytes = &*read.fill().map_err(HandshakeError::Io)?;
        if bytes.is_empty() {
            return Err(HandshakeError::Closed);
        }
        let count = connection
            .read_tls(&mut bytes)
            .map_err(HandshakeError::Io)?;
        read.consume(count);
        if let Err(error) = connection.process_new_packets() {
            // The alert tells the peer why; whether it arrives changes nothing.
            take_ciphertext(&mut connection, &mut out);
            let _ = write.write_all(&[IoSlice::new(&out)]);
            return Err(HandshakeError::Tls(error));
        }
    }
    let session = Arc::new(Session {
        connection: Mutex::new(connection),
        provoked: AtomicBool::new(false),
    });
    let mut reader = Reader {
        session: session.clone(),
        lower: read,
        plain: Vec::new(),
        read: 0,
        ended: None,
    };
    // The peer's first data may have come along with its Finished.
    reader.take_in();
    let writer = Writer {
        session,
        lower: write,
        out: Vec::new(),
    };
    Ok((reader, writer))
}

pub(super) struct Reader {
    session: Arc<Session>,
    /// Where the ciphertext comes from, and where it lies.
    lower: ReadHalf,
    plain: Vec<u8>,
    /// How much of `plain` has been read.
    read: usize,
    ended: Option<Result<(), rustls::Error>>,
}

impl Reader {
    pub(super) fn buffered(&mut self) -> &mut [u8] {
        &mut self.plain[self.read..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.read = self.read.saturating_add(count).min(self.plain.len());
    }

    pub(super) fn lower(&mut self) -> &mut ReadHalf {
        &mut self.lower
    }

    pub(super) fn shrink(&mut self) {
        if self.read == self.plain.len() {
            self.plain = Vec::new();
            self.read = 0;
        }
        self.lower.shrink();
    }

    pub(super) fn fill(&mut self, wait: Wait) -> io::Result<()> {
        while self.read == self.plain.len() {
            self.plain.clear();
            self.read = 0;
            match &self.ended {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error.clone()));
                }
                None => {}
            }
            if wait == Wait::Ever && self.plain.capacity() > SMALL {
                match self.lower.fill_waiting(Wait::Moment) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.plain = Vec::new();
                        continue;
                    }
                    done => done?,
                }
            } else {
                self.lower.fill_waiting(wait)?;
            }
            if self.lower.buffered().is_empty() {
                self.ended = Some(Ok(()));
            } else {
                self.take_in();
            }
        }
        Ok(())
    }

    pub(super) fn wants_flush(&self) -> bool {
        self.session.provoked.load(Ordering::Acquire) || self.lower.wants_flush()
    }

    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.plain.capacity() + self.lower.memory()
    }

    /// Feeds the ciphertext of the layer below and takes the plaintext out.
    fn take_in(&mut self) {
        let mut connection = self.session.connection.lock();
        let mut bytes = &*self.lower.buffered();
        let before = bytes.len();
        let ended = loop {
            // rustls takes 4 KiB a call, and each time it looks at what it has it
            // moves an unfinished record to the front, where it mostly is already
            // (musl does that byte by byte): feed it until it is full, then let it look.
            let fed = bytes.len();
            let mut refused = None;
            while !bytes.is_empty() && refused.is_none() {
                match connection.read_tls(&mut bytes) {
                    Ok(0) => refused = Some("input not taken".to_owned()),
                    Ok(_) => {}
                    Err(error) => refused = Some(error.to_string()),
                }
            }
            let fed = fed - bytes.len();
            match take_plaintext(&mut connection, &mut self.plain) {
                Ok(false) => {}
                Ok(true) => break Some(Ok(())),
                Err(error) => break Some(Err(error)),
            }
            match refused {
                // Full without a record in it can't go on.
                Some(error) if fed == 0 => break Some(Err(rustls::Error::General(error))),
                Some(_) => {}
                None => break None,
            }
        };
        let taken = before - bytes.len();
        // Moves a waiting key update to the outgoing ciphertext. After a fatal
        // error it fails, and the alert is there already.
        let _ = connection.writer().write(&[]);
        if connection.wants_write() {
            self.session.provoked.store(true, Ordering::Release);
        }
        drop(connection);
        self.lower.consume(taken);
        self.ended = ended;
    }
}

pub(super) struct Writer {
    session: Arc<Session>,
    lower: WriteHalf,
    /// Ciphertext on its way out. Empty between calls.
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn lower(&mut self) -> &mut WriteHalf {
        &mut self.lower
    }

    pub(super) fn write_all(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        let mut rest = Rest::of(bufs);
        let mut window = [IoSlice::new(&[]); WINDOW];
        loop {
            let count = rest.window(&mut window);
            if count == 0 {
                return Ok(());
            }
            let pushed = self.exchange(|connection| {
                // Takes up to BATCH bytes; none only if the reader has provoked as
                // much, which this exchange takes out.
                connection.writer().write_vectored(&window[..count])
            })?;
            rest.advance(pushed);
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.session.provoked.load(Ordering::Acquire) {
            self.exchange(|_| Ok(()))?;
        }
        self.lower.flush()
    }

    pub(super) fn close(&mut self) -> io::Result<()> {
        self.exchange(|connection| {
            connection.send_close_notify();
            Ok(())
        })?;
        self.lower.close()
    }

    pub(super) fn version(&self) -> Option<ProtocolVersion> {
        self.session.connection.lock().protocol_version()
    }

    #[cfg(test)]
    pub(super) fn refresh_traffic_keys(&mut self) -> Result<(), rustls::Error> {
        let mut connection = self.session.connection.lock();
        connection.refresh_traffic_keys()?;
        self.session.provoked.store(true, Ordering::Release);
        Ok(())
    }

    /// Runs `push` under the lock, then sends all ciphertext that is there, also
    /// when `push` failed: that may be the alert which says why.
    fn exchange<T>(
        &mut self,
        push: impl FnOnce(&mut Connection) -> io::Result<T>,
    ) -> io::Result<T> {
        let pushed = {
            let mut connection = self.session.connection.lock();
            let pushed = push(&mut connection);
            take_ciphertext(&mut connection, &mut self.out);
            self.session.provoked.store(false, Ordering::Release);
            pushed
        };
        let sent = if self.out.is_empty() {
            Ok(())
        } else {
            self.lower.write_all(&[IoSlice::new(&self.out)])
        };
        if self.out.capacity() > KEEP {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        let pushed = pushed?;
        sent.map(|()| pushed)
    }
}

/// Processes what was fed and appends the plaintext to `plain`; true once the
/// peer has sent close_notify.
fn take_plaintext(connection: &mut Connection, plain: &mut Vec<u8>) -> Result<bool, rustls::Error> {
    let state = connection.process_new_packets();
    // Data in front of a broken record is good data.
    let mut reader = connection.reader();
    while let Ok(chunk) = reader.fill_buf() {
        if chunk.is_empty() {
            break;
        }
        plain.extend_from_slice(chunk);
        let count = chunk.len();
        reader.consume(count);
    }
    Ok(state?.peer_has_closed())
}

fn take_ciphertext(connection: &mut Connection, out: &mut Vec<u8>) {
    while connection.wants_write() {
        connection
            .write_tls(&mut Sink(out))
            .expect("a Vec takes everything");
    }
}

/// Appends to a Vec, reserving once for all chunks of a call.
struct Sink<'a>(&'a mut Vec<u8>);

impl Write for Sink<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let total = bufs.iter().map(|buf| buf.len()).sum();
        self.0.reserve(total);
        for buf in bufs {
            self.0.extend_from_slice(buf);
        }
        Ok(total)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plaintext that is encrypted at once, and rustls's own buffer limit: four full
/// records a system call, and the lock is not held for longer than they take.
const BATCH: usize = 64 * 1024;

/// Ciphertext buffer that a writer keeps between two calls.
const KEEP: usize = 16 * 1024;
