//! The plane over real sockets and TLS, with an agent and clients played by hand.

mod agents;
pub(super) mod house;
mod limits;
mod refusals;
mod requests;
mod sockets;
