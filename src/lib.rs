//! The library behind `pipeops-agent`.

pub mod agent;
pub mod cli;
pub mod config;
pub mod control;
#[cfg(feature = "plane")]
pub mod demo;
pub mod duration;
pub mod http;
pub mod identity;
pub mod kube;
pub mod link;
pub mod net;
#[cfg(feature = "plane")]
pub mod plane;
pub mod proxy;
pub mod server;
pub mod telemetry;
pub mod threads;
pub mod wire;

// Tested wherever it can run; only the static build links it.
#[cfg(all(target_arch = "x86_64", any(test, target_env = "musl")))]
mod copy;
