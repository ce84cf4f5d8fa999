//! WebSocket frames (RFC 6455 §5) as pure functions of bytes: no sockets, no
//! threads, no clock.
//!
//! [`FrameReader`] turns received bytes into messages and works where they lie;
//! [`Header`], [`mask`] and [`CloseFrame`] are what the writer builds frames from.

mod close;
#[cfg(test)]
mod differential;
mod header;
mod mask;
mod reader;
mod text;

pub(super) use close::CloseFrame;
pub(super) use header::{Header, MAX_CONTROL, MAX_HEADER, Opcode};
pub(super) use mask::mask;
#[cfg(test)]
pub(super) use reader::whole;
pub(super) use reader::{Event, FrameReader, Listener, Refusal};
