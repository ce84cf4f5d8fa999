//! HTTP/1.1, as much of it as the agent needs, both sides.
//!
//! Ours and not a library's for four reasons, each a test here: a call can be
//! cancelled at any moment by closing its socket, also on a re-used connection;
//! no header given to it changes the framing; an early answer arrives while the
//! request body is still being sent; and idle connections are few, known and
//! small. The pure parts are [`body`](Decoder), [`head`](RequestHead) and target;
//! [`Client`] and [`Server`] are the shells around them.

mod body;
pub mod client;
mod head;
mod headers;
mod incoming;
pub mod server;
mod target;
#[cfg(test)]
pub(crate) mod testing;

pub use body::{BodyError, CHUNK_END, Decoder, Framing, LAST_CHUNK, Step, chunk_head};
pub use client::Client;
pub use head::{HeadError, MAX_FIELDS, MAX_HEAD, RequestHead, ResponseHead, allows_body};
pub use headers::{Headers, canonical_name, is_field_value, is_token, trim_blanks};
pub use incoming::ReadError;
pub use server::Server;
pub use target::{decode_query, encode_path, encode_query};
