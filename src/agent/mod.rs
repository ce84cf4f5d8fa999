//! The conductor: it knows every room and nobody knows it. It runs the life cycle
//! of [`crate::control::session`] over real connections, in one loop.
//!
//! ```text
//! cli ─► run ─► Agent::start ─► thread "agent": events ─► Session ─► actions
//!                                  ▲   ▲   ▲                          │ dial, close, register,
//!   one thread per connection ─────┘   │   │                          │ heartbeat, store, end
//!   its reader (control::dispatch) ────┘   │                          ▼
//!   facts, HTTP calls, drain ──────────────┘◄──────────── threads that may wait
//! ```

mod background;
mod beside;
mod cluster;
mod conductor;
mod connection;
mod error;
mod handover;
mod identify;
mod parts;
mod run;
mod service_names;
mod services;
mod status;
mod tunnels;

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};

pub use cluster::{Reach, find_cluster, reach};
pub use error::AgentError;
pub use identify::{agent_id, open_store};
pub use parts::{Parts, Proxying};
pub use run::{parts, run};
pub use status::{Status, Watch};
pub use tunnels::{Surroundings, Tunnelling};

use crate::net::Deadline;
use crate::threads::{self, Stack};
use conductor::{Conductor, Input};

/// A running agent. It also runs inside other programs: demo and tests start it
/// beside a plane.
pub struct Agent {
    input: Sender<Input>,
    watch: Watch,
    thread: Option<JoinHandle<Option<Result<(), AgentError>>>>,
}

impl Agent {
    /// Starts the conductor, which dials at once.
    pub fn start(parts: Parts) -> Result<Self, AgentError> {
        let (input, inbox) = bounded(INBOX);
        let watch = Watch::new(&parts.registrant.agent_id);
        let conductor = Conductor::new(Arc::new(parts), input.clone(), inbox, watch.clone())?;
        let ending = watch.clone();
        let thread = threads::spawn("agent", Stack::Work, move || {
            // Whoever waits is told, also after a panic.
            let _ended = ending.end_on_drop();
            threads::prompt();
            conductor.run()
        })?;
        Ok(Self {
            input,
            watch,
            thread: Some(thread),
        })
    }

    /// Asks for an orderly end: nothing new, what runs is finished, close code
    /// 1000. Returns at once; see [`wait`](Self::wait).
    pub fn stop(&self) {
        self.stopper().stop();
    }

    /// For those who stop the agent without owning it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.input.clone())
    }

    pub fn status(&self) -> Status {
        self.watch.status()
    }

    /// Waits until `condition` holds; `None` when `deadline` passes first or the
    /// agent ends without it.
    pub fn wait_until(
        &self,
        deadline: Deadline,
        condition: impl FnMut(&Status) -> bool,
    ) -> Option<Status> {
        self.watch.wait_until(deadline, condition)
    }

    /// For threads that follow the status without owning the agent.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Waits for the end: after [`stop`](Self::stop), or because the control plane
    /// refused us.
    pub fn wait(mut self) -> Result<(), AgentError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), AgentError> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(Some(outcome))) => outcome,
            // The hook of telemetry has logged it.
            Some(Ok(None) | Err(_)) => Err(AgentError::Panicked),
        }
    }
}

impl Drop for Agent {
    /// An agent that nobody holds any more ends in order, and is waited for.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
            let _ = self.join();
        }
    }
}

/// Asks an agent for its end.
#[derive(Clone)]
pub struct Stopper(Sender<Input>);

impl Stopper {
    pub fn stop(&self) {
        // It has ended already: nothing to ask for.
        let _ = self.0.send(Input::Stop);
    }
}

/// Events that wait for the conductor. Threads of ours wait for room; what a peer
/// provokes beyond it is dropped.
const INBOX: usize = 256;

#[cfg(test)]
mod tests;
