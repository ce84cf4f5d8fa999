//! Streams from a gateway in memory to real sockets.

mod aborting;
mod client;
mod opening;
mod stage;
mod tcp;
mod udp;
