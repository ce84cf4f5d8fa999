//! What is asked of those who know the Services of the cluster, and the origins of a
//! plain machine: `agent` does, by the tunnels' targets and policy.

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use super::pools::Pools;
use super::target::{RouteTable, Target};
use crate::http::client;
use crate::net::{Cancel, Deadline};

/// Everything that is reached but the API server.
pub struct ServiceUpstreams {
    pub services: Arc<dyn Services>,
    pub routes: Arc<dyn RouteTable>,
    /// Limits of the connections to one of them.
    pub connections: client::Settings,
}

/// The same in use, with the connections.
pub(super) struct Beside {
    upstreams: ServiceUpstreams,
    pub(super) pools: Pools,
}

impl Beside {
    pub(super) fn new(upstreams: ServiceUpstreams) -> Self {
        Self {
            pools: Pools::new(upstreams.connections.clone()),
            upstreams,
        }
    }

    pub(super) fn services(&self) -> &dyn Services {
        &*self.upstreams.services
    }

    pub(super) fn routes(&self) -> &dyn RouteTable {
        &*self.upstreams.routes
    }
}

/// Knows Services and origins, and what of them may be reached.
pub trait Services: Send + Sync {
    /// Finds it and asks the policy by name. Looks nothing up.
    fn admit(&self, target: &Target) -> Result<Arc<dyn Service>, Refused>;

    /// Whether this value of `Authorization` is a credential of the agent's own, which
    /// no Service must see. May read files.
    fn is_own_credential(&self, authorization: &str) -> bool;
}

/// A Service or an origin that the policy allows by name.
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

    /// Why the policy allows it.
    fn reason(&self) -> String;

    /// Looks the name up, asks the policy about each address, and connects to one that
    /// passed; the socket is in blocking mode.
    fn dial(&self, deadline: Deadline, cancel: &Cancel) -> Result<Arc<Socket>, Refused>;

    /// Whether the policy still allows the address of a connection that was kept; `None`
    /// for a Unix socket.
    fn allows(&self, address: Option<SocketAddr>) -> bool;
}

/// Why something is not reached. The text is one clause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No such name, or one that leads nowhere here.
    #[error("{0}")]
    Unknown(String),
    #[error("the agent's policy denies it: {0}")]
    Denied(String),
    /// Nothing answers there.
    #[error("{0}")]
    Unreachable(String),
}
