//! What flows on streams: the header that says where a stream wants to go, the
//! policy that allows it, the dial, and the line that is left of it in the audit
//! (tunnels.md §3, decisions.md §6.6).
//!
//! ```text
//!  stream ──► HeaderParser ──► Targets::admit ──► Admitted::dial ──► copying ──► Audit
//!               header.rs        policy by name     policy by address   streams/    audit/
//!                                (no waiting)       (on the stream's thread)
//! ```
//!
//! Sockets here are those of targets. Streams are [`session`]'s (yamux) and what
//! becomes of them is [`streams`]'s.

use std::fmt;

pub mod audit;
pub mod connection;
pub mod header;
pub mod json;
pub mod limits;
pub mod policy;
pub mod proxy_protocol;
pub mod session;
pub mod streams;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;

pub use connection::{ConnectionTunnels, Tunnels};

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// In a stream's header (tunnels.md §3.1).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 1,
            Self::Udp => 2,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
