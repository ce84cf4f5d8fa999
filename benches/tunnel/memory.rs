//! Idle streams: memory and threads while they are open, and after.

use std::thread;
use std::time::Duration;

use crate::agents::Agent;
use crate::cgroup::Cgroup;
use crate::gateway::Gateway;
use crate::service::Service;

/// An agent with so many idle streams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    pub(crate) streams: usize,
    pub(crate) before: Held,
    pub(crate) open: Held,
    /// [`LATER`] after the last one was closed.
    pub(crate) later: Held,
}

impl Idle {
    /// KiB of RSS that came with each stream.
    pub(crate) fn per_stream(&self) -> f64 {
        let more = self.open.resident.saturating_sub(self.before.resident);
        more as f64 / self.streams as f64
    }

    /// The share of those that went again.
    pub(crate) fn given_back(&self) -> f64 {
        let taken = self.open.resident.saturating_sub(self.before.resident);
        let back = self.open.resident.saturating_sub(self.later.resident);
        back as f64 / taken as f64
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// KiB.
    pub(crate) resident: u64,
    /// KiB, of its control group; `None`: the machine lets us make none.
    pub(crate) cgroup: Option<u64>,
    pub(crate) threads: u64,
}

/// Opens streams, moves [`MOVED`] bytes each way through each, and lets them be.
pub(crate) fn idle(
    agent: &mut Agent<Gateway>,
    service: &Service,
    streams: usize,
) -> Result<Idle, String> {
    let before = held(agent)?;
    agent.far.open_idle(service, streams, MOVED, AT_ONCE)?;
    thread::sleep(SETTLE);
    let open = held(agent)?;
    agent.far.close_idle(streams)?;
    thread::sleep(LATER);
    Ok(Idle {
        streams,
        before,
        open,
        later: held(agent)?,
    })
}

fn held(agent: &Agent<Gateway>) -> Result<Held, String> {
    let memory = agent
        .process()
        .memory()
        .map_err(|error| error.to_string())?;
    Ok(Held {
        resident: memory.resident,
        cgroup: agent.cgroup.as_ref().and_then(Cgroup::memory),
        threads: memory.threads,
    })
}

const MOVED: usize = 1024 * 1024;

/// Streams that move bytes at a time.
const AT_ONCE: usize = 32;

const SETTLE: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);
