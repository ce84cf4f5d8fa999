//! What the two halves of a TLS connection share. None of it is touched while
//! data flows, but for one look at a flag before each write.

use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ProtocolVersion, Side, SupportedCipherSuite};

use super::incoming;
use super::record::{Opener, Refusal};

/// rustls's own part of a connection after the handshake: it derives new keys
/// and keeps tickets.
pub(in crate::net::stream) enum Kernel {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

pub(super) struct Shared {
    version: ProtocolVersion,
    /// Records that the keys of one direction may protect.
    limit: u64,
    kernel: Mutex<Kernel>,
    /// What the writer shall do: bits of [`Jobs`].
    jobs: AtomicU8,
    refusal: Mutex<Option<Refusal>>,
}

/// What the reader provoked and the writer must do, at its next write or flush.
#[derive(Default)]
pub(super) struct Jobs {
    /// Send a key update and change our keys.
    pub(super) new_keys: bool,
    /// Send a no_renegotiation warning.
    pub(super) refuse_renegotiation: bool,
    /// The connection is broken: tell the peer, and write nothing any more.
    pub(super) refusal: Option<Refusal>,
}

impl Shared {
    pub(super) fn new(kernel: Kernel) -> Self {
        let (version, suite) = match &kernel {
            Kernel::Client(client) => (client.protocol_version(), client.negotiated_cipher_suite()),
            Kernel::Server(server) => (server.protocol_version(), server.negotiated_cipher_suite()),
        };
        Self {
            version,
            limit: record_limit(suite),
            kernel: Mutex::new(kernel),
            jobs: AtomicU8::new(0),
            refusal: Mutex::new(None),
        }
    }

    pub(super) fn version(&self) -> ProtocolVersion {
        self.version
    }

    pub(super) fn side(&self) -> Side {
        match &*self.kernel.lock() {
            Kernel::Client(_) => Side::Client,
            Kernel::Server(_) => Side::Server,
        }
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn has_jobs(&self) -> bool {
        self.jobs.load(Ordering::Acquire) != 0
    }

    pub(super) fn take_jobs(&self) -> Jobs {
        let jobs = self.jobs.swap(0, Ordering::AcqRel);
        Jobs {
            new_keys: jobs & NEW_KEYS != 0,
            refuse_renegotiation: jobs & REFUSE_RENEGOTIATION != 0,
            refusal: if jobs & REFUSED != 0 {
                self.refusal.lock().take()
            } else {
                None
            },
        }
    }

    /// The next keys of the direction away from us (TLS 1.3 only).
    pub(super) fn next_secrets(&self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match &mut *self.kernel.lock() {
            Kernel::Client(client) => client.update_tx_secret(),
            Kernel::Server(server) => server.update_tx_secret(),
        }
    }

    /// The reader has stopped because of this.
    pub(super) fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock() = Some(refusal);
        self.ask(REFUSED);
    }

    fn ask(&self, job: u8) {
        self.jobs.fetch_or(job, Ordering::Release);
    }
}

impl incoming::Session for Shared {
    fn ticket(&self, payload: &[u8]) -> Result<(), rustls::Error> {
        match &mut *self.kernel.lock() {
            Kernel::Client(client) => client.handle_new_session_ticket(payload),
            // Not called for a server, where rustls would panic.
            Kernel::Server(_) => Ok(()),
        }
    }

    fn new_keys(&self, answer: bool) -> Result<Opener, rustls::Error> {
        let secrets = match &mut *self.kernel.lock() {
            Kernel::Client(client) => client.update_rx_secret(),
            Kernel::Server(server) => server.update_rx_secret(),
        }?;
        if answer {
            self.ask(NEW_KEYS);
        }
        Opener::new(self.version, secrets)
    }

    fn refuse_renegotiation(&self) {
        self.ask(REFUSE_RENEGOTIATION);
    }
}

/// Records that may be sealed with one key. RFC 8446 §5.5 has 2^24.5 for AES-GCM;
/// TLS 1.3 gets new keys well before. TLS 1.2 can't have new keys and ends at what
/// rustls allows. ChaCha20 needs no limit, but has the first one all the same.
fn record_limit(suite: SupportedCipherSuite) -> u64 {
    let (common, most) = match suite {
        SupportedCipherSuite::Tls13(suite) => (&suite.common, 1 << 23),
        SupportedCipherSuite::Tls12(suite) => (&suite.common, u64::MAX),
    };
    common.confidentiality_limit.min(most)
}

const NEW_KEYS: u8 = 1;
const REFUSE_RENEGOTIATION: u8 = 2;
const REFUSED: u8 = 4;
