//! The plane over real sockets and TLS, with an agent and clients played by hand.

mod agents;
mod front;
pub(super) mod house;
