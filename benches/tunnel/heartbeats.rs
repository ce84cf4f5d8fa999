//! Heartbeats and their acks, as an agent sees them. Both agents are asked for more of
//! them than they are for, and print a line for each ack: the Go agent has a flag; the
//! interval of ours has a least value of 1 s, so the same library runs in a process
//! of this program that sets it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pipeops_agent::agent::{self, Agent};
use pipeops_agent::config::{Args, Config, Process};
use pipeops_agent::server::HealthState;

use crate::agents;
use crate::far::Far;
use crate::times::Times;

/// How the subcommand is called: `beating-agent CONFIG`.
pub(crate) const COMMAND: &str = "beating-agent";

pub(crate) const INTERVAL: Duration = Duration::from_millis(50);

/// Those of an agent that was started for that, within a while.
pub(crate) fn measure<F: Far>(agent: &agents::Agent<F>, window: Duration) -> Times {
    let before = agent.log().len();
    thread::sleep(window);
    let log = agent.log();
    let new = log.get(before..).unwrap_or_default();
    let us = new.lines().filter_map(|line| {
        let (_, took) = line.split_once(ANSWERED)?;
        took.strip_suffix(" us")?.parse::<f64>().ok()
    });
    Times::of(us.map(|us| us / 1e3).collect())
}

/// The process that is measured: runs until it is killed.
pub(crate) fn main(file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let args = Args {
        config_file: Some(file.to_owned()),
        flags: BTreeMap::new(),
    };
    let (mut config, _) = Config::load(&args, &Process)?;
    config.agent.heartbeat_interval_connected = INTERVAL;
    let health = Arc::new(HealthState::new(INTERVAL));
    let cluster = agent::find_cluster(&config)?;
    let (proxy, facts) = agent::reach(cluster, &config)?;
    let agent = Agent::start(agent::parts(&config, health, proxy, facts)?)?;
    let watch = agent.watch();
    let mut seen = 0;
    while let Some(status) = watch.wait_for(|status| status.heartbeat_acks > seen) {
        seen = status.heartbeat_acks;
        if let Some(took) = status.heartbeat_took {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{ANSWERED}{} us", took.as_micros())?;
        }
    }
    Ok(agent.wait()?)
}

/// As the Go agent says it.
const ANSWERED: &str = "heartbeat answered after ";
