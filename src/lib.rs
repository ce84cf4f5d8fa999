//! The library behind `pipeops-agent`.

pub mod link;
pub mod net;
pub mod threads;
