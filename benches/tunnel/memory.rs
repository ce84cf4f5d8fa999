//! Idle streams: memory and threads while they are open, and after.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::agents::Agent;
use crate::bulk;
use crate::cgroup::Cgroup;
use crate::service::{Part, Service};

/// An agent with so many idle streams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Idle {
    pub(crate) streams: usize,
    pub(crate) before: Held,
    pub(crate) open: Held,
    /// [`LATER`] after the last one was closed.
    pub(crate) later: Held,
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
pub(crate) fn idle(agent: &mut Agent, service: &Service, streams: usize) -> Result<Idle, String> {
    let before = held(agent)?;
    // A gate can be opened once only.
    let gate = format!("close-{streams}");
    let there = json!([{"send": MOVED}]);
    let back = json!([{"receive": MOVED}]);
    let steps = json!([{"both": [there, back]}, {"gate": gate}, {"finish": true}, {"drain": true}]);
    let mut plan = bulk::plan(service, "idle", Part::Echo, &steps);
    plan["count"] = streams.into();
    plan["at_once"] = AT_ONCE.into();
    agent.peer.streams(&plan)?;
    let limit = Instant::now() + LIMIT;
    loop {
        let progress = agent.peer.progress("idle")?;
        if progress.waiting as usize == streams {
            break;
        }
        if Instant::now() > limit {
            return Err(format!("{} of {streams} streams idle", progress.waiting));
        }
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(SETTLE);
    let open = held(agent)?;
    agent.peer.run(&json!({"cmd": "gate", "key": gate}))?;
    let done = json!({"cmd": "wait", "key": "idle", "timeout_ms": 60_000});
    let done = agent.peer.run(&done)?;
    if done["ends"]["eof"].as_u64() != Some(streams as u64) {
        return Err(format!("the streams ended as {done}"));
    }
    thread::sleep(LATER);
    Ok(Idle {
        streams,
        before,
        open,
        later: held(agent)?,
    })
}

fn held(agent: &Agent) -> Result<Held, String> {
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
const LIMIT: Duration = Duration::from_mins(5);
