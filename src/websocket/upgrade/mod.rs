//! How a connection becomes a WebSocket (RFC 6455 §4, control-channel.md §2.2).
//!
//! Both sides leave every byte behind the heads where it is, in the read half: a
//! peer may send its first frame in the same segment as its answer.

mod answer;
mod client;
#[cfg(test)]
mod properties;
mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;

pub use answer::{Answer, retry_after};
pub use client::{Request, Upgraded, authority, upgrade};
pub use server::{Accept, AcceptError, BadRequest, accept};

use crate::net::Reason;

/// Why an upgrade failed.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Our own request can't be written down.
    #[error("the {0} cannot stand in a request")]
    Request(&'static str),
    /// The connection failed, or its deadline passed ([`io::ErrorKind::TimedOut`]).
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Cancelled(Reason),
    #[error("the peer closed the connection without an answer")]
    Closed,
    /// What came isn't HTTP/1.1.
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    #[error("the answer's head is larger than {MAX_HEAD} bytes")]
    LongHead,
    /// An answer that isn't 101, redirects included: they aren't followed.
    #[error("the upgrade was refused: {0}")]
    Refused(Box<Answer>),
    /// A 101 that doesn't keep to the RFC: it comes from something that isn't a
    /// WebSocket server, or was made for somebody else.
    #[error("the answer's {0} is missing or wrong")]
    Header(&'static str),
}

/// True when the comma-separated lists in all `name` headers contain `token`.
fn lists<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, name: &str, token: &str) -> bool {
    headers
        .filter(|(other, _)| other.eq_ignore_ascii_case(name))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The value of a header that must be there once; `None` otherwise.
fn single<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let (_, value) = values.next()?;
    values.next().is_none().then(|| value.trim_ascii())
}

/// The largest head that is read.
const MAX_HEAD: usize = 16 * 1024;
