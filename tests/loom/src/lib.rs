//! The rooms whose locks are tried in every order, from their source. `sync`,
//! `link`, `buffers` and `resident` stand in for the agent's own.

pub mod buffers;
pub mod link;
pub mod resident;
pub mod sync;

#[path = "../../../src/tunnel/session/mod.rs"]
pub mod session;
#[path = "../../../src/turns.rs"]
pub mod turns;
#[path = "../../../src/yamux/mod.rs"]
pub mod yamux;
