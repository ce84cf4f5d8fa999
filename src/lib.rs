//! The library behind `pipeops-agent`: the map of the house.
//!
//! Rooms depend downwards only. From the wire up:
//!
//! * [`net`]: sockets. One dialer (resolve, TCP, CONNECT proxy, TLS, one deadline),
//!   the two halves of a connection, and [`net::Cancel`]: work ends early by
//!   closing or waking what it blocks on.
//! * [`http`]: HTTP/1.1, both sides: framing, a client with a pool, a bounded server.
//! * [`websocket`]: frames, the upgrade, and one WebSocket as two blocking halves.
//! * [`link`]: one WebSocket as three threads: frames read in place by one, a control
//!   lane that goes first, turns for everything else, liveness judged by the third.
//! * [`wire`]: the messages of the control channel as pure types, both directions.
//! * [`yamux`]: many streams in one byte stream, pure: frames, states, windows, and
//!   the memory that they may take.
//! * [`kube`]: which cluster, under whose identity: kubeconfigs, a pod's own
//!   credentials, the two ways to the API server.
//! * [`proxy`]: executes `proxy_request`s within limits; exactly one outcome each, none
//!   only for whoever cancelled in time or is gone.
//! * [`tunnel`]: sessions of yamux on a link, and what flows on their streams: header,
//!   policy, dial, audit.
//! * [`control`]: the protocol. A pure state machine of the life cycle, and thin
//!   shells: registration, heartbeat, dispatch, HTTP mode, late answers.
//! * [`agent`]: the conductor. It knows every room, and no room knows it.
//! * `plane`, `demo` (feature `plane`): our own control plane, and the demo on it.
//!
//! * [`identity`]: what is remembered. [`server`]: the local `/health` and `/ready`.
//!   [`cli`]: the command line, on top of all.
//!
//! Used by any of them: [`config`] (one table of keys), [`telemetry`] (logs),
//! [`threads`] (the one way to start a thread), `workers` (threads used again),
//! [`turns`] (whose turn it is to write), [`duration`], [`url`] and [`percent`] (their
//! texts).

pub mod agent;
#[cfg(target_env = "musl")]
pub mod allocator;
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
pub mod percent;
#[cfg(feature = "plane")]
pub mod plane;
pub mod proxy;
#[cfg(test)]
mod rooms;
pub mod server;
mod sync;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod tunnel;
pub mod turns;
pub mod url;
pub mod websocket;
pub mod wire;
mod workers;
pub mod yamux;

mod buffers;
mod resident;

// Tested wherever it can run; only the static build links it.
#[cfg(all(target_arch = "x86_64", any(test, target_env = "musl")))]
mod copy;
