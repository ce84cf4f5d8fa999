//! The protocol of the control channel.

pub mod backoff;
pub mod session;
pub mod urls;
