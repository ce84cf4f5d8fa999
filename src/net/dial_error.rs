//! What went wrong with a dial, and where.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::connect::{ConnectError, Unreachable};
use super::proxy::connect::{ProxyRefusal, Refused};
use super::{Endpoint, HandshakeError, Reason, ResolveError, TlsError, explain_tls};

/// The step of the chain at which a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Resolve,
    Connect,
    /// TLS to an `https://` proxy, and CONNECT.
    Proxy,
    /// TLS to the target.
    Tls,
    /// The WebSocket upgrade; made by `link`, part of the same deadline.
    Upgrade,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "looking the name up",
            Self::Connect => "connecting",
            Self::Proxy => "asking the proxy",
            Self::Tls => "TLS handshake",
            Self::Upgrade => "WebSocket upgrade",
        })
    }
}

/// A dial that failed: at which step, towards whom, through which proxy, why.
/// One line for people; never with credentials.
#[derive(Debug)]
pub struct DialError {
    pub phase: Phase,
    pub cause: DialCause,
    /// The other end, as `host:port`.
    peer: String,
    via: Option<String>,
    /// The address that was connected to, of the proxy or the target.
    address: Option<SocketAddr>,
    accepted: bool,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum DialCause {
    /// The deadline passed.
    #[error("no answer in time")]
    TimedOut,
    #[error("{0}")]
    Cancelled(Reason),
    #[error("{0}")]
    Resolve(#[source] ResolveError),
    /// No address could be connected to; says of each why.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The proxy said no. It speaks for itself, not for the target.
    #[error("{}", .0.explanation)]
    ProxyRefused(ProxyRefusal),
    /// What the proxy says makes no sense.
    #[error("the proxy is not usable: {0}")]
    ProxyAnswer(&'static str),
    /// The peer's certificate, or ours, or the protocol itself.
    #[error("{}", explain_tls(.0))]
    Tls(#[source] rustls::Error),
    /// Our own TLS settings don't fit.
    #[error("{0}")]
    TlsSettings(#[source] TlsError),
    /// The target itself can't be right.
    #[error("{0}")]
    Invalid(String),
    #[error("the connection was closed before it was ready")]
    Closed,
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl DialError {
    /// For steps on top of this chain, such as the upgrade.
    pub fn new(phase: Phase, to: &Endpoint, cause: impl Into<DialCause>) -> Self {
        Self {
            phase,
            cause: cause.into(),
            peer: to.to_string(),
            via: None,
            address: None,
            accepted: false,
        }
    }

    pub(super) fn on_the_way(mut self, via: Option<String>, address: Option<SocketAddr>) -> Self {
        self.via = via;
        self.address = address;
        self
    }

    pub(super) fn from_client(phase: Phase, peer: String, cause: DialCause) -> Self {
        Self {
            phase,
            cause,
            peer,
            via: None,
            address: None,
            accepted: true,
        }
    }

    /// The status with which an HTTP *proxy* refused (407, 403 …); never one of
    /// the target's.
    pub fn proxy_status(&self) -> Option<u16> {
        match &self.cause {
            DialCause::ProxyRefused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// The reason for which the caller itself ended the dial.
    pub fn cancelled(&self) -> Option<Reason> {
        match self.cause {
            DialCause::Cancelled(reason) | DialCause::Resolve(ResolveError::Cancelled(reason)) => {
                Some(reason)
            }
            _ => None,
        }
    }

    /// True when time ran out, in whatever step.
    pub fn timed_out(&self) -> bool {
        match &self.cause {
            DialCause::TimedOut | DialCause::Resolve(ResolveError::TimedOut) => true,
            DialCause::Unreachable(unreachable) => unreachable.timed_out,
            DialCause::Io(error) => error.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }

    /// The TLS error, if TLS is what failed (with the target or with the proxy).
    pub fn tls(&self) -> Option<&rustls::Error> {
        match &self.cause {
            DialCause::Tls(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.accepted { "from" } else { "to" };
        write!(f, "connection {direction} {}", self.peer)?;
        if let Some(proxy) = &self.via {
            write!(f, " through proxy {proxy}")?;
        }
        match self.address.map(|address| address.to_string()) {
            Some(address) if address != self.peer => write!(f, " at {address}")?,
            _ => {}
        }
        write!(f, " failed ({}): {}", self.phase, self.cause)
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl From<io::Error> for DialCause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut if error.raw_os_error().is_none() => Self::TimedOut,
            // A TLS layer reports what the peer did wrong as invalid data.
            io::ErrorKind::InvalidData => match error.downcast::<rustls::Error>() {
                Ok(error) => Self::Tls(error),
                Err(error) => Self::Io(error),
            },
            _ => Self::Io(error),
        }
    }
}

impl From<ResolveError> for DialCause {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Cancelled(reason) => Self::Cancelled(reason),
            error => Self::Resolve(error),
        }
    }
}

impl From<ConnectError> for DialCause {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Cancelled(reason) => Self::Cancelled(reason),
            ConnectError::Unreachable(unreachable) => Self::Unreachable(unreachable),
        }
    }
}

impl From<Refused> for DialCause {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Io(error) => error.into(),
            Refused::Closed => Self::Closed,
            Refused::Malformed(what) => Self::ProxyAnswer(what),
            Refused::Status(refusal) => Self::ProxyRefused(refusal),
        }
    }
}

impl From<HandshakeError> for DialCause {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => error.into(),
            HandshakeError::Closed => Self::Closed,
            HandshakeError::Tls(error) => Self::Tls(error),
        }
    }
}

impl From<TlsError> for DialCause {
    fn from(error: TlsError) -> Self {
        Self::TlsSettings(error)
    }
}

impl From<Reason> for DialCause {
    fn from(reason: Reason) -> Self {
        Self::Cancelled(reason)
    }
}
