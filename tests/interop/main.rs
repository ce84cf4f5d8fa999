//! The agent against a Go peer, over TLS: `gateway/` is strict, so each test here
//! proves, besides what its name says, that nothing the agent sent was wrong or out
//! of order (README.md lists what is checked).
//!
//! ```text
//! a test ─► Stage ─┬─► Agent (in this process, or the real binary)
//!                  └─► Gateway ─► the Go program, by lines of JSON
//! ```

// Values are literals here, which read better without `&`.
#![allow(clippy::needless_pass_by_value)]

mod driver;
mod endurance;
mod exec;
mod exec_ends;
mod http_mode;
mod json_tunnels;
mod log_lines;
mod losing;
mod messages;
mod origins;
mod process;
mod proxying;
mod proxying_ends;
mod refusals;
mod registering;
mod resuming;
mod scripts;
mod session_ends;
mod socket_stage;
mod sockets;
mod sockets_ends;
mod stage;
mod stalled;
mod tunnel_driver;
mod tunnels;
mod upstream;
