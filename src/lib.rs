//! The library behind `pipeops-agent`.

pub mod http;
pub mod kube;
pub mod link;
pub mod net;
pub mod proxy;
pub mod secret;
pub mod threads;
pub mod wire;
