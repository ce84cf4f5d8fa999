//! Streams from a gateway in memory to real sockets.

mod aborting;
mod opening;
mod stage;
mod tcp;
mod udp;
