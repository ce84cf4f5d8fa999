//! Sockets: dialling out, TLS, and the two halves of a connection.
//!
//! Everything that leaves this process goes through [`Dialer`]: the control
//! channel, calls to the cluster's API, HTTP to the control plane. One TLS
//! configuration and one way through a corporate proxy serve all of them.

mod cancel;
mod deadline;
mod dial;
mod stream;
#[cfg(test)]
pub(crate) mod testing;

pub use cancel::{Cancel, Guard, Reason};
pub use deadline::Deadline;
pub use dial::{DialError, Dialer, Endpoint, Phase};
pub use stream::{Halves, HandshakeError, ReadHalf, WriteHalf};
