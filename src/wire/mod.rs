//! The messages of the control channel, in both directions, as pure types.
//!
//! The agent reads [`ToAgent`] and writes with [`from_agent`]; our own plane
//! reads [`FromAgent`] and writes with [`to_agent`]. Nothing here knows a
//! socket. Reading is lenient the way the original is (control-channel.md §3):
//! a payload field of the wrong type counts as absent.

mod binary;
mod body;
mod encode;
mod envelope;
pub mod from_agent;
mod header_map;
mod request;
pub mod stream;
mod stream_credit;
pub mod to_agent;
pub mod tunnel;

pub use binary::{BinaryBody, BinaryBodyError, parse_binary_body};
pub use body::BodyText;
pub use encode::now_rfc3339;
pub use envelope::{Envelope, EnvelopeError, Payload};
pub use from_agent::FromAgent;
pub use request::{ProxyRequest, RequestBody, ServiceTarget};
pub use stream_credit::{Overrun, StreamReceiving, StreamSending};
pub use to_agent::ToAgent;

/// Decoded bytes in one response chunk at most (control-channel.md §8.6).
pub const MAX_CHUNK: usize = 32 * 1024;

/// The feature of `plane_hello` by which bodies have credit (decisions.md §6.2).
pub const FLOW: &str = "flow";

/// The feature of `plane_hello` by which a proxied WebSocket may be passed on untouched
/// (decisions.md §6.7).
pub const RAW_STREAMS: &str = "raw-streams";

/// The feature of `plane_hello` by which the header of a tunnel's stream may have its
/// version 2, with the client's address (decisions.md §6.6 "Client address").
pub const TUNNEL_HEADER_2: &str = "tunnel_header_2";

/// Credit that each direction of a request begins with, in decoded bytes
/// (decisions.md §6.2).
pub const INITIAL_CREDIT: u64 = 1024 * 1024;
