//! Executes `proxy_request`s against the Kubernetes API, Services of the cluster and
//! configured origins (control-channel.md §8, decisions.md §6.2).
//!
//! One request, file by file:
//!
//! 1. [`requests`](Requests) hears it on the `link-reader` thread, which must not
//!    wait. `target` says where it goes; `plan` turns it into a call: path and headers
//!    checked and encoded, so that nothing a peer says changes the framing, the place or
//!    the identity.
//!    `times` says how long it may take; `memory` makes room for its body, which
//!    `inbound` takes in if it comes in chunks. What is wrong with it is refused
//!    here, through a small thread of its `connection`.
//! 2. [`executor`](Executor) admits it: `places` lets it run, wait or go away, and
//!    `crate::workers` has a thread (`proxy-N`) for it.
//! 3. `job`, on that thread, makes the call with [`http::Client`](crate::http::Client)
//!    (that of a Service is in `pools`; whether it may be reached, [`Services`] says)
//!    and passes the answer on as it comes (form S) or as a whole (form B, through
//!    `gzip`), while `credit` and the lane have room.
//! 4. `answer` encodes it (`wire::from_agent`; a whole body through `body`) and gives it to the [`Outlet`]. It sees
//!    to it that there is exactly one end, also when the thread panics; none only when
//!    the peer cancelled before anything was sent, or is gone.
//!
//! Proxied WebSockets have a room of their own in `streams`; they share places, threads
//! and limits with requests.
//!
//! What is known of a request, its limits of time among it, is its `ticket`. Ending it
//! early is one thing, whoever does it (the peer, the `timer`, the loss of the
//! connection, a body that overflows or stalls): its [`Cancel`] fires, which closes
//! the socket to the API server and wakes what waits.

mod answer;
mod audit;
mod body;
mod connection;
mod credit;
mod executor;
mod gzip;
mod inbound;
mod job;
mod memory;
mod places;
mod plan;
mod pools;
mod refusal;
mod requests;
mod services;
mod streams;
mod target;
mod ticket;
mod timer;
mod times;

use std::sync::Arc;
use std::time::Duration;

pub use executor::{Executor, Load};
pub use places::{Crowd, PlaceLimits};
pub use requests::Requests;
pub use services::{
    ConnectionLimits, JudgedCall, Service, ServiceUpstreams, Services, Unreached, Verdict,
};
pub use target::{RouteTable, StaticRoutes, Target};

use crate::config::Secret;
use crate::http::{Client, Headers};
use crate::link::{Message, SendError};
use crate::net::Cancel;
use crate::telemetry::RateLimit;
use crate::websocket::Keepalive;

/// The way back to the peer, for the requests of one connection. In production
/// `control::outlet::ConnectionOutlet`.
pub trait Outlet: Send + Sync {
    /// Queues a message of a request, behind the others of that id; waits for room
    /// until there is some, its turn has come, the connection ends or `cancel` fires.
    fn send(&self, request_id: &str, message: Message, cancel: &Cancel) -> Result<(), SendError>;

    /// The whole answer of a form B request. Outlives the connection: when that is
    /// gone or goes before the answer was written, it goes to the next one to the
    /// same endpoint within 30 s, or is dropped and counted (decisions.md §6.2 "Lost
    /// connection"), which is no error here. [`SendError::Cancelled`]: it was not
    /// sent, and won't be.
    fn send_late(
        &self,
        request_id: &str,
        message: Message,
        cancel: &Cancel,
    ) -> Result<(), SendError>;

    /// Ends the connection: the peer makes it impossible to keep the rules.
    fn abort(&self, why: &str);
}

/// The API server.
pub struct Upstreams {
    /// Shows no credential of its own: what callers ask for travels here, under
    /// their own `Authorization` or none.
    pub callers: Client,
    /// The agent's own way there (`kubernetes.impersonate_agent`), for requests
    /// without `Authorization`. Never shares a connection with `callers`.
    pub agent: Option<Agent>,
    /// What paths there begin with; mostly empty. No slash at its end.
    pub base: String,
}

/// The agent's own connections and credential.
pub struct Agent {
    pub client: Client,
    pub identity: Arc<dyn AgentIdentity>,
}

impl Agent {
    /// Puts the agent's own credential among these headers, where one belongs there.
    fn authorize(&self, headers: &mut Headers, cancel: &Cancel) -> Result<(), NoIdentity> {
        static COMPLAINTS: RateLimit = RateLimit::new(1, Duration::from_mins(1));
        let value = self.identity.authorization(cancel).map_err(|error| {
            // Names files: for the log, not for the peer (T38).
            if let Some(skipped) = COMPLAINTS.pass() {
                log::warn!(skipped; "no credential for the Kubernetes API: {error}");
            }
            NoIdentity
        })?;
        if let Some(value) = value {
            headers.set("Authorization", value.expose());
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the agent has no usable credential of its own")]
struct NoIdentity;

/// Knows the agent's own credential.
pub trait AgentIdentity: Send + Sync {
    /// The value of `Authorization`; `None` when the connection itself (a client
    /// certificate) says who it is. May wait, until `cancel` fires. The error is
    /// logged.
    fn authorization(&self, cancel: &Cancel) -> Result<Option<Secret>, String>;

    /// The API server answered 401.
    fn refused(&self) {}
}

/// Limits; the defaults are those of decisions.md §6.2.
#[derive(Clone, Debug)]
pub struct Settings {
    pub places: PlaceLimits,
    /// All that is held of requests and buffered answers together, in bytes
    /// (`proxy.memory_limit`): heads and bodies, and the messages that answers become,
    /// until they are written; of streams their queues, and large messages, also half
    /// ones. Beside it are the buffers of connections, a chunk for
    /// each streamed answer, what the link is just reading, and 8 MiB of buffers that
    /// wait to be used again.
    pub memory_limit: usize,
    /// One buffered body or answer, decoded, in bytes.
    pub body_limit: usize,
    /// A streamed answer or upload of this age makes room for short requests.
    pub long_after: Duration,
    /// A request body on its way in that makes no progress for so long fails its
    /// request, unless that brings a `deadline`: a `timeout` begins only at its end.
    pub body_idle: Duration,
    /// Total for form B requests that say nothing themselves.
    pub default_timeout: Duration,
    /// A Service's answer begins within so long, where its request has no total limit
    /// and says nothing itself.
    pub first_byte: Duration,
    /// A Service's answer of which nothing comes for so long has failed, where its
    /// request has no total limit; never a watch or an event stream (decisions.md §6.7).
    pub stall: Duration,
    /// The dial and the upgrade of a WebSocket together, to the API server
    /// (control-channel.md T26) and to a Service (§9.2).
    pub handshake: Duration,
    pub service_handshake: Duration,
    /// How a Service at the other end of a WebSocket is asked for signs of life.
    pub keepalive: Keepalive,
    /// How long a thread without work is kept.
    pub worker_idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            places: PlaceLimits::default(),
            memory_limit: 256 << 20,
            body_limit: 64 << 20,
            long_after: Duration::from_secs(30),
            body_idle: Duration::from_mins(1),
            default_timeout: Duration::from_mins(2),
            first_byte: Duration::from_mins(2),
            stall: Duration::from_mins(5),
            handshake: Duration::from_secs(30),
            service_handshake: Duration::from_secs(10),
            keepalive: Keepalive {
                every: Duration::from_secs(30),
                silence: Duration::from_secs(90),
                misses: 3,
            },
            worker_idle: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests;
