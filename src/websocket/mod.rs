//! WebSockets (RFC 6455), for three users: the link, the agent's legs to the API
//! server and to Services, the plane's front leg to kubectl and browsers.
//!
//! `frame` has the frames, pure; [`upgrade`] how a connection becomes a WebSocket, both
//! sides. The link puts three threads of its own on them. A *leg* is the simpler shell:
//! [`open`] makes a blocking [`Reader`] and a [`Writer`] of it, for two threads of the
//! caller's. No extension is ever negotiated (no permessage-deflate).

pub(crate) mod frame;
mod keys;
mod leg;
pub mod upgrade;

#[cfg(feature = "fuzzing")]
pub use frame::fuzz::frames as fuzz_frames;
pub(crate) use keys::Keys;
pub use leg::{Data, End, Keepalive, Kind, Limits, Reader, Take, Writer, open};

/// Which end of the WebSocket this is: clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}
