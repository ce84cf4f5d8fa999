//! What is asked of those who know the Services of the cluster, and the origins of a
//! plain machine: `agent` does, by the tunnels' targets and policy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::pools::Pools;
use super::target::{RouteTable, Target};
use crate::http::Headers;
use crate::net::{Cancel, Deadline};

/// Everything that is reached but the API server.
pub struct ServiceUpstreams {
    pub services: Arc<dyn Services>,
    pub routes: Arc<dyn RouteTable>,
    pub connections: ConnectionLimits,
}

/// Limits of the connections to Services and origins (control-channel.md §8.5).
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Idle ones that are kept, to all of them together (100).
    pub max_idle: usize,
    /// The same, to one of them (20).
    pub max_idle_each: usize,
    /// How long they are kept (90 s).
    pub idle_limit: Duration,
    /// Name, TCP and TLS together (30 s).
    pub dial_limit: Duration,
    /// Of that: TLS (10 s). A server that speaks none may wait for more, silently.
    pub handshake_limit: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_idle: 100,
            max_idle_each: 20,
            idle_limit: Duration::from_secs(90),
            dial_limit: Duration::from_secs(30),
            handshake_limit: Duration::from_secs(10),
        }
    }
}

/// The same in use, with the connections.
pub(super) struct Beside {
    pub(super) services: Arc<dyn Services>,
    routes: Arc<dyn RouteTable>,
    pub(super) pools: Pools,
}

impl Beside {
    pub(super) fn new(upstreams: ServiceUpstreams) -> Self {
        Self {
            pools: Pools::new(upstreams.connections),
            services: upstreams.services,
            routes: upstreams.routes,
        }
    }

    pub(super) fn routes(&self) -> &dyn RouteTable {
        &*self.routes
    }

    /// No Service sees a credential of the agent's own, whoever put it there. May read
    /// files.
    pub(super) fn take_own_credential(&self, headers: &mut Headers) {
        let authorization = headers.get("Authorization");
        if authorization.is_some_and(|value| self.services.is_own_credential(value)) {
            log::debug!("the agent's own token is not shown to a Service");
            headers.remove("Authorization");
        }
    }
}

/// Knows Services and origins, and what of them may be reached.
pub trait Services: Send + Sync {
    /// Finds it and asks the policy by name, for one call. Looks nothing up: asked on the
    /// `link-reader` thread.
    fn admit(&self, target: &Target) -> Result<Arc<dyn Service>, Unreached>;

    /// Whether this value of `Authorization` is a credential of the agent's own, which
    /// no Service must see. May read files.
    fn is_own_credential(&self, authorization: &str) -> bool;

    /// A call has ended that the policy denied, or would have judged otherwise if it
    /// didn't run dry. Never waits.
    fn note(&self, judged: JudgedCall<'_>);
}

/// A Service or an origin that the policy allows by name, for one call.
pub trait Service: Send + Sync {
    /// For people: `web.shop:80`, or the origin.
    fn name(&self) -> String;

    /// Two with the same key lead to the same place, by the same rules.
    fn key(&self) -> String;

    /// What `Host` says where the request says nothing; the part before the port is
    /// the name for TLS.
    fn authority(&self) -> String;

    /// Whether TLS is spoken there, where that is configured; else the request says.
    fn https(&self) -> Option<bool>;

    /// What the policy has said so far.
    fn verdict(&self) -> Verdict;

    /// Looks the name up, asks the policy about each address, and connects to one that
    /// passed; the socket is in blocking mode.
    fn dial(&self, deadline: Deadline, cancel: &Cancel) -> Result<Arc<Socket>, Unreached>;

    /// Whether the policy still allows the address of a connection that was kept; `None`
    /// for a Unix socket.
    fn allows(&self, address: Option<SocketAddr>) -> bool;

    /// Whether a connection may be kept: where it leads was judged by more than its
    /// address, then not.
    fn keeps(&self) -> bool;
}

/// What the policy says of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// One clause.
    pub reason: String,
    /// What rules that run dry would have said instead.
    pub dry_run: Option<String>,
    /// The address that was judged, once there is one.
    pub address: Option<SocketAddr>,
}

/// A call for the policy's own audit.
#[derive(Debug)]
pub struct JudgedCall<'a> {
    /// Of the request.
    pub id: &'a str,
    pub client: Option<IpAddr>,
    pub target: &'a str,
    pub verdict: &'a Verdict,
    pub denied: bool,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    /// How it ended.
    pub end: &'a str,
}

/// Why something is not reached. The text is one clause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// No such name, or one that leads nowhere here.
    #[error("{0}")]
    Unknown(String),
    #[error("the agent's policy denies it: {}", .0.reason)]
    Denied(Verdict),
    /// Nothing answers there.
    #[error("{0}")]
    Failed(String),
}
