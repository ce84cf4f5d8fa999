//! What the integration tests share: both ends of the wire, the API server behind the
//! agent, and ways to break what is in between.

#![allow(dead_code, unused_imports)] // each target uses a part of it

pub(crate) mod ca;
pub(crate) mod connect_proxy;
pub(crate) mod fake_agent;
pub(crate) mod fake_plane;
pub(crate) mod fault_proxy;
pub(crate) mod front;
pub(crate) mod house;
pub(crate) mod pattern;
pub(crate) mod process;
pub(crate) mod sockets;
pub(crate) mod upstream;
pub(crate) mod wait;
