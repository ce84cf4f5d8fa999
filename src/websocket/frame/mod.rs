//! WebSocket frames (RFC 6455 §5) as pure functions of bytes: no sockets, no
//! threads, no clock.
//!
//! [`FrameReader`] turns received bytes into messages and works where they lie;
//! [`Header`], [`mask`] and [`CloseFrame`] are what the writer builds frames from.

mod body;
mod close;
#[cfg(test)]
mod differential;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod header;
mod mask;
mod reader;
mod text;

pub(crate) use close::CloseFrame;
pub(crate) use header::{Header, MAX_CONTROL, MAX_HEADER, Opcode};
pub(crate) use mask::mask;
#[cfg(test)]
pub(crate) use reader::whole;
pub(crate) use reader::{Event, FrameReader, Listener, Refusal};
