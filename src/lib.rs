//! The library behind `pipeops-agent`.

pub mod config;
pub mod http;
pub mod kube;
pub mod link;
pub mod net;
#[cfg(feature = "plane")]
pub mod plane;
pub mod proxy;
pub mod telemetry;
pub mod threads;
pub mod wire;
