//! The dial chain: resolve → TCP → CONNECT proxy → TLS. (Stub: signatures only.)

use std::io;

use super::{Cancel, Deadline, Halves};

/// Where to connect: a host (name or address, no brackets) and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// TLS on top of the connection.
    pub tls: bool,
}

/// The step of the chain at which a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Resolve,
    Connect,
    Proxy,
    Tls,
    /// The WebSocket upgrade; made by `link`, part of the same deadline.
    Upgrade,
}

#[derive(Debug, thiserror::Error)]
#[error("{phase:?}: {cause}")]
pub struct DialError {
    pub phase: Phase,
    pub cause: io::Error,
}

/// Dials [`Endpoint`]s by one set of rules (TLS, proxy, address order).
pub struct Dialer {}

impl Dialer {
    pub fn dial(
        &self,
        _to: &Endpoint,
        _deadline: Deadline,
        _cancel: &Cancel,
    ) -> Result<Halves, DialError> {
        unimplemented!()
    }
}
