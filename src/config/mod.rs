//! File, environment and flags become one immutable [`Config`].
//!
//! There is one table of keys (`keys/`); everything else reads it: the loader here,
//! the flags and `--help` in `cli`, and `docs/configuration.md`. Precedence is flag,
//! explicit environment name, automatic environment name, file, default
//! (config-and-state.md §2.1); all problems are reported at once.

pub mod docs;
mod expand;
mod file;
mod finish;
mod keys;
mod load;
mod origin;
mod secret;
mod service;
mod surroundings;
mod table;
mod token;
mod types;
mod value;

pub use load::{Args, ConfigErrors, Warning};
pub use origin::{Origin, Place};
pub use secret::Secret;
pub use service::{ServicePort, is_label};
pub use surroundings::{Process, Surroundings};
pub use table::{Key, Kind, Section, Status, keys, nearest, sections};
pub use token::{TokenError, TokenSource};
pub use types::{
    Agent, Audit, ClientCertificate, Config, Daemon, DialFailure, Forward, Kubernetes, LogFormat,
    LogOutput, Logging, OutboundProxy, PipeOps, Proxy, ProxyProtocol, Reconnect, Registration,
    State, StateBackend, TcpTunnels, Timeouts, Tls, Transport, Tunnels, UdpTunnels,
};
pub(crate) use value::size;

#[cfg(test)]
mod tests;
