//! The measurements: starts, rest, and the cells of load, agents in turns.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::agents::{Agent, Surroundings};
use crate::cluster::Cluster;
use crate::common::process::{Memory, Process};
use crate::common::program::Kind;
use crate::load::{Cell, Outcome};
use crate::streams;

/// A start, and the agent at rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) kind: Kind,
    /// Bytes of the binary.
    pub(crate) binary: u64,
    /// Medians over [`STARTS`].
    pub(crate) registered: Duration,
    pub(crate) heartbeat: Duration,
    /// [`REST`] after the first heartbeat; the peak since exec.
    pub(crate) idle: Memory,
}

/// One agent under one kind of load, over all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// µs, sorted.
    latencies: Vec<u32>,
    elapsed: Duration,
    /// Of the agent's process.
    pub(crate) cpu: Duration,
    /// KiB.
    pub(crate) peak: u64,
}

impl Figures {
    pub(crate) fn requests(&self) -> usize {
        self.latencies.len()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.requests() as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU of the agent for a request, in ms.
    pub(crate) fn cpu_ms(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / self.requests() as f64
    }

    /// The latency that `share` of all requests don't exceed, in ms.
    pub(crate) fn latency_ms(&self, share: f64) -> f64 {
        let index = (self.latencies.len() as f64 * share) as usize;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies
            .get(index.min(last))
            .map_or(0.0, |us| f64::from(*us) / 1e3)
    }
}

/// Starts each agent several times, in turns. The last ones stay.
pub(crate) fn starts(
    binaries: &[(Kind, PathBuf)],
    around: &Surroundings,
) -> Result<(Vec<Start>, Vec<Agent>), String> {
    let mut times = vec![Vec::new(); binaries.len()];
    let mut agents = Vec::new();
    for round in 0..STARTS {
        for ((kind, binary), times) in binaries.iter().zip(&mut times) {
            let agent = Agent::start(*kind, binary, around)?;
            times.push((agent.registered, agent.heartbeat));
            if round + 1 == STARTS {
                agents.push(agent);
            }
        }
    }
    // Not waiting for anything: "idle" is defined as this long after the start.
    thread::sleep(REST);
    let starts = binaries.iter().zip(&agents).zip(times);
    let starts = starts.map(|(((kind, binary), agent), times)| {
        let idle = agent.process().memory().map_err(|e| e.to_string())?;
        let median = |pick: fn(&(Duration, Duration)) -> Duration| {
            let mut picked: Vec<Duration> = times.iter().map(pick).collect();
            picked.sort_unstable();
            picked[picked.len() / 2]
        };
        Ok(Start {
            kind: *kind,
            binary: size(binary)?,
            registered: median(|time| time.0),
            heartbeat: median(|time| time.1),
            idle,
        })
    });
    let starts: Result<Vec<Start>, String> = starts.collect();
    Ok((starts?, agents))
}

/// Each agent once.
pub(crate) fn agents(
    binaries: &[(Kind, PathBuf)],
    around: &Surroundings,
) -> Result<Vec<Agent>, String> {
    binaries
        .iter()
        .map(|(kind, binary)| Agent::start(*kind, binary, around))
        .collect()
}

/// Puts the load on the agents in turns; who begins changes from round to round.
pub(crate) fn cell(
    cell: Cell,
    cluster: &Cluster,
    agents: &[Agent],
    window: Duration,
    rounds: usize,
) -> Result<Vec<Figures>, String> {
    let body = cluster.body(cell.size).ok_or("no body of that size")?;
    turns(agents, window, rounds, |agent, window| {
        agent.gateway.load.run(cell, body.clone(), window)
    })
}

/// The same with streams, which stay open for all turns.
pub(crate) fn streams(
    cell: streams::Cell,
    agents: &[Agent],
    window: Duration,
    rounds: usize,
) -> Result<Vec<Figures>, String> {
    for agent in agents {
        let opened = agent.gateway.streams.open(cell);
        opened.map_err(|error| agent.explain(&error))?;
    }
    let figures = turns(agents, window, rounds, |agent, window| {
        agent.gateway.streams.run(window)
    })?;
    for agent in agents {
        agent.gateway.streams.close()?;
    }
    Ok(figures)
}

/// A warm-up for each, then the rounds.
fn turns(
    agents: &[Agent],
    window: Duration,
    rounds: usize,
    run: impl Fn(&Agent, Duration) -> Result<Outcome, String>,
) -> Result<Vec<Figures>, String> {
    let run = |agent: &Agent, window| run(agent, window).map_err(|error| agent.explain(&error));
    let mut figures = vec![Figures::default(); agents.len()];
    for agent in agents {
        run(agent, window.min(WARM_UP))?;
    }
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..agents.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (agent, figures) = (&agents[index], &mut figures[index]);
            let process = agent.process();
            let failed = |error: std::io::Error| agent.explain(&error.to_string());
            process.reset_peak().map_err(failed)?;
            let before = process.cpu().map_err(failed)?;
            let outcome = run(agent, window)?;
            figures.cpu += process.cpu().map_err(failed)?.saturating_sub(before);
            figures.peak = figures.peak.max(process.memory().map_err(failed)?.peak);
            figures.elapsed += outcome.elapsed;
            figures.latencies.extend(outcome.latencies);
        }
    }
    for figures in &mut figures {
        figures.latencies.sort_unstable();
    }
    Ok(figures)
}

/// CPU time of this process: gateway, load and cluster.
pub(crate) fn own_cpu() -> Duration {
    Process::current().cpu().unwrap_or_default()
}

fn size(binary: &Path) -> Result<u64, String> {
    let data = std::fs::metadata(binary).map_err(|error| error.to_string())?;
    Ok(data.len())
}

const STARTS: usize = 5;
const REST: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(300);
