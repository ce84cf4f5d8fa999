//! What all connections share: the registry, and which agent is connected where.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::REQUESTS_PER_TOKEN;
use super::agent_connection::AgentConnection;
use super::agent_event::RegisterRequest;
use super::budget::Budget;
use super::name::ClusterName;
use super::registry::{Cluster, Registry, RegistryError, UnixTime};
use super::token::{Grant, TokenText};
use super::token_quota::TokenQuota;
use super::tunnels;
use crate::net::Reason;
use crate::tunnel::header::Version;
use crate::tunnel::session::{Memory, Session};

pub(crate) struct Hub {
    pub(crate) registry: Registry,
    /// For the answers that wait for slow clients.
    pub(crate) budget: Arc<Budget>,
    /// For the requests of users.
    pub(crate) quota: Arc<TokenQuota>,
    /// For what waits in tunnels.
    pub(crate) tunnel_memory: Memory,
    table: Mutex<Table>,
    /// A connection has left.
    left: Condvar,
}

#[derive(Default)]
struct Table {
    /// The plane stops: nobody comes in.
    closed: bool,
    /// Every live connection of an agent, by its id.
    connections: HashMap<u64, Arc<AgentConnection>>,
    /// The one that requests go to, with who is at its other end.
    attached: HashMap<ClusterName, Attached>,
}

struct Attached {
    connection: Arc<AgentConnection>,
    agent_id: String,
}

/// Another agent has the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) by: String,
}

/// Why a registration came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRegistered {
    /// The agent must not try again like this.
    #[error("{0}")]
    Refused(String),
    /// Our fault: the agent may try again.
    #[error(transparent)]
    Failed(#[from] RegistryError),
}

/// What is shown of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterView {
    #[serde(flatten)]
    pub cluster: Cluster,
    pub connected: bool,
    /// When the present connection was made.
    pub since: Option<UnixTime>,
    /// Requests in flight.
    pub requests: usize,
}

/// Too many connections with one token, or none allowed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyConnections;

impl Hub {
    pub(crate) fn new(registry: Registry) -> Self {
        Self {
            registry,
            budget: Budget::new(MEMORY_LIMIT),
            quota: TokenQuota::new(REQUESTS_PER_TOKEN),
            tunnel_memory: Memory::new(tunnels::MEMORY_LIMIT).looked_after(),
            table: Mutex::default(),
            left: Condvar::new(),
        }
    }

    /// Counts a connection in. It must be taken out with [`leave`](Self::leave).
    ///
    /// An agent whose network swallows connections leaves dead ones behind: from
    /// [`CONNECTIONS_PER_TOKEN`] on, the oldest that isn't in use gives way.
    pub(crate) fn enter(
        &self,
        connection: &Arc<AgentConnection>,
    ) -> Result<(), TooManyConnections> {
        let mut table = self.table.lock();
        // A token that is revoked from now on finds the connection in the table.
        if table.closed || !self.registry.has_token(connection.token()) {
            return Err(TooManyConnections);
        }
        let of_token = |other: &&Arc<AgentConnection>| other.token() == connection.token();
        let same: Vec<&Arc<AgentConnection>> =
            table.connections.values().filter(of_token).collect();
        if same.len() >= 2 * CONNECTIONS_PER_TOKEN {
            return Err(TooManyConnections);
        }
        if same.len() >= CONNECTIONS_PER_TOKEN {
            let in_use = |id| table.attached.values().any(|a| a.connection.id() == id);
            let idle = same.iter().filter(|other| !in_use(other.id()));
            if let Some(oldest) = idle.min_by_key(|other| other.id()) {
                oldest.abort("its token has newer connections");
            }
        }
        table
            .connections
            .insert(connection.id(), connection.clone());
        Ok(())
    }

    pub(crate) fn leave(&self, connection: &AgentConnection) {
        let mut table = self.table.lock();
        table.connections.remove(&connection.id());
        table
            .attached
            .retain(|_, a| a.connection.id() != connection.id());
        drop(table);
        self.left.notify_all();
    }

    /// Disconnects all agents and waits for them to be gone.
    pub(crate) fn close(&self, until: Instant) {
        let mut table = self.table.lock();
        table.closed = true;
        for connection in table.connections.values() {
            connection.close(1001, "the plane stops");
        }
        while !table.connections.is_empty() {
            if self.left.wait_until(&mut table, until).timed_out() {
                break;
            }
        }
        for connection in table.connections.values() {
            connection.abort("the plane stops");
        }
    }

    /// `register`, by WebSocket or HTTP: the cluster that the token was made for,
    /// by one agent at a time. An agent whose own dead connection is still there
    /// is not locked out by it.
    pub(crate) fn register(
        &self,
        cluster: &ClusterName,
        registration: RegisterRequest,
    ) -> Result<Cluster, NotRegistered> {
        if registration.name != cluster.as_str() {
            return Err(NotRegistered::Refused(format!(
                "this token registers the cluster {:?}, not {:?}",
                cluster.as_str(),
                registration.name
            )));
        }
        if registration.agent.id.is_empty() {
            return Err(NotRegistered::Refused("the agent has no agent_id".into()));
        }
        if let Some(holder) = self.holder(cluster).filter(|h| *h != registration.agent.id) {
            return Err(NotRegistered::Refused(format!(
                "another agent ({holder}) is connected as {:?}",
                cluster.as_str()
            )));
        }
        Ok(self
            .registry
            .register(cluster, registration.agent, registration.service_token)?)
    }

    /// The agent that is connected as `cluster` now.
    fn holder(&self, cluster: &ClusterName) -> Option<String> {
        let table = self.table.lock();
        table.attached.get(cluster).map(|a| a.agent_id.clone())
    }

    /// Sends the cluster's requests to `connection` from now on. A connection of the
    /// same agent gives way; one of another agent doesn't. Nobody does for one that has
    /// ended: what it said may have waited for the disk.
    pub(crate) fn attach(
        &self,
        cluster: &ClusterName,
        connection: &Arc<AgentConnection>,
        agent_id: &str,
    ) -> Result<(), Taken> {
        let replaced = {
            let mut table = self.table.lock();
            if !connection.is_live() {
                return Ok(());
            }
            match table.attached.get(cluster) {
                Some(attached) if attached.agent_id != agent_id => {
                    return Err(Taken {
                        by: attached.agent_id.clone(),
                    });
                }
                Some(attached) if attached.connection.id() == connection.id() => return Ok(()),
                _ => {}
            }
            let attached = Attached {
                connection: connection.clone(),
                agent_id: agent_id.to_owned(),
            };
            table.attached.insert(cluster.clone(), attached)
        };
        if let Some(old) = replaced {
            old.connection
                .abort("the same agent has a newer connection");
        }
        Ok(())
    }

    /// As [`attach`](Self::attach), where nobody is attached yet: for a connection
    /// whose agent hasn't said yet who it is.
    pub(crate) fn attach_if_free(
        &self,
        cluster: &ClusterName,
        connection: &Arc<AgentConnection>,
        agent_id: &str,
    ) -> bool {
        if self.holder(cluster).is_some() {
            return false;
        }
        // Between the two somebody may have come; then `attach` says so.
        self.attach(cluster, connection, agent_id).is_ok()
    }

    /// No requests to `connection` any more.
    pub(crate) fn detach(&self, connection: &AgentConnection) {
        let mut table = self.table.lock();
        table
            .attached
            .retain(|_, a| a.connection.id() != connection.id());
    }

    /// The connection that requests to `cluster` go to.
    pub(crate) fn connection(&self, cluster: &ClusterName) -> Option<Arc<AgentConnection>> {
        let table = self.table.lock();
        table.attached.get(cluster).map(|a| a.connection.clone())
    }

    /// The session that streams to `cluster` go over, and the newest header that may
    /// be sent on them; `None` while the agent is away, or has no tunnels.
    pub(crate) fn tunnels(&self, cluster: &ClusterName) -> Option<(Session, Version)> {
        self.connection(cluster)?.tunnels()
    }

    pub(crate) fn create_token(
        &self,
        grant: Grant,
        label: Option<String>,
    ) -> Result<(super::registry::Token, TokenText), RegistryError> {
        self.registry.create_token(grant, label)
    }

    /// Takes a token back, and with it what runs on it now: the agent's connection,
    /// the user's requests.
    pub(crate) fn revoke_token(
        &self,
        id: &str,
    ) -> Result<Option<super::registry::Token>, RegistryError> {
        let revoked = self.registry.revoke_token(id)?;
        if revoked.is_some() {
            for connection in self.connections() {
                if connection.token() == id {
                    connection.abort("its token was revoked");
                }
                connection.end_requests_of(id, Reason::Cancelled);
            }
        }
        Ok(revoked)
    }

    /// All connections of agents.
    pub(crate) fn connections(&self) -> Vec<Arc<AgentConnection>> {
        self.table.lock().connections.values().cloned().collect()
    }

    /// All clusters, by name, and whether they are connected.
    pub(crate) fn clusters(&self) -> Vec<ClusterView> {
        let clusters = self.registry.clusters();
        let table = self.table.lock();
        clusters
            .into_iter()
            .map(|cluster| {
                let connection = table.attached.get(&cluster.name).map(|a| &a.connection);
                ClusterView {
                    connected: connection.is_some(),
                    since: connection.map(|s| s.since()),
                    requests: connection.map_or(0, |s| s.load()),
                    cluster,
                }
            })
            .collect()
    }
}

/// What all answers that wait for their clients may hold, in bytes: the agent's
/// `proxy.memory_limit` has the same default.
const MEMORY_LIMIT: usize = 256 * 1024 * 1024;

/// One for use, one that is dead and not noticed yet, and a few for an agent that
/// changes between controller and gateway.
const CONNECTIONS_PER_TOKEN: usize = 8;
