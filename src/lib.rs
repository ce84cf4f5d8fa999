//! The library behind `pipeops-agent`.

pub mod cli;
pub mod config;
pub mod link;
pub mod net;
pub mod server;
pub mod telemetry;
pub mod threads;
