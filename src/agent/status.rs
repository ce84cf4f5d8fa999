//! What a running agent says of itself, and waiting for it to change.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::control::session::ConnectionState;
use crate::net::Deadline;

/// One moment of a running agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub state: ConnectionState,
    pub agent_id: String,
    /// What heartbeats name, once registered or resumed.
    pub cluster_id: Option<String>,
    /// The endpoint that is connected, without its query.
    pub endpoint: Option<String>,
    /// Connections that were made to serve, resumed ones included.
    pub connections: u64,
    pub heartbeats: u64,
    pub heartbeat_acks: u64,
    /// The newest heartbeat that was answered, and its ack: there and back.
    pub heartbeat_took: Option<Duration>,
    /// It has ended; nothing changes any more.
    pub ended: bool,
}

/// A shared view of the [`Status`].
#[derive(Clone, Debug)]
pub struct Watch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Status>,
    changed: Condvar,
}

impl Watch {
    pub(super) fn new(agent_id: &str) -> Self {
        let watch = Self(Arc::default());
        agent_id.clone_into(&mut watch.0.status.lock().agent_id);
        watch
    }

    pub fn status(&self) -> Status {
        self.0.status.lock().clone()
    }

    /// See [`Agent::wait_until`](super::Agent::wait_until).
    pub fn wait_until(
        &self,
        deadline: Deadline,
        mut condition: impl FnMut(&Status) -> bool,
    ) -> Option<Status> {
        let mut status = self.0.status.lock();
        loop {
            if condition(&status) {
                return Some(status.clone());
            }
            if status.ended {
                return None;
            }
            let wait = self.0.changed.wait_until(&mut status, deadline.instant());
            if wait.timed_out() {
                return condition(&status).then(|| status.clone());
            }
        }
    }

    /// As [`wait_until`](Self::wait_until), for as long as the agent runs.
    pub fn wait_for(&self, mut condition: impl FnMut(&Status) -> bool) -> Option<Status> {
        let mut status = self.0.status.lock();
        loop {
            if condition(&status) {
                return Some(status.clone());
            }
            if status.ended {
                return None;
            }
            self.0.changed.wait(&mut status);
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.status.lock());
        self.0.changed.notify_all();
    }

    pub(super) fn end_on_drop(&self) -> Ended {
        Ended(self.clone())
    }
}

/// Marks the end when it is dropped.
pub(super) struct Ended(Watch);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.update(|status| {
            status.state = ConnectionState::Disconnected;
            status.endpoint = None;
            status.ended = true;
        });
    }
}
