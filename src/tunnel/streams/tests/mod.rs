//! Streams from a gateway in memory to real sockets.

mod aborting;
mod client;
#[cfg(feature = "plane")]
mod joined;
mod opening;
mod stage;
mod tcp;
mod udp;
