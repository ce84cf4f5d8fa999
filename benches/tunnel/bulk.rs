//! Bulk transfer: bytes and the agent's CPU within a window of time.

use std::thread;
use std::time::{Duration, Instant};

use crate::agents::Agent;
use crate::common::process::Process;
use crate::far::Far;
use crate::roofline::{Peer, Roofline};
use crate::service::Service;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the service through the agent to the other end.
    Down,
    /// From the other end through the agent to the service.
    Up,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "down" => Ok(Self::Down),
            "up" => Ok(Self::Up),
            _ => Err("the direction is down or up".into()),
        }
    }
}

/// One kind of bulk transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) direction: Direction,
    pub(crate) streams: usize,
    pub(crate) carrier: Carrier,
}

/// What the streams are led over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// To the Go gateway.
    Tls,
    Plain,
    /// To our plane, which speaks TLS only.
    Plane,
}

/// What somebody made of it, medians over the rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figure {
    pub(crate) gb_per_second: f64,
    /// CPU seconds of its process per GB.
    pub(crate) cpu_per_gb: f64,
}

/// The figures of one round, of which medians are made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds {
    rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, bytes: u64, seconds: f64, cpu: Duration) {
        let gb = bytes as f64 / 1e9;
        self.rates.push(gb / seconds);
        self.costs.push(cpu.as_secs_f64() / gb);
    }

    /// `None`: it took no part.
    pub(crate) fn median(mut self) -> Option<Figure> {
        if self.rates.is_empty() {
            return None;
        }
        let middle = self.rates.len() / 2;
        self.rates.sort_by(f64::total_cmp);
        self.costs.sort_by(f64::total_cmp);
        Some(Figure {
            gb_per_second: self.rates[middle],
            cpu_per_gb: self.costs[middle],
        })
    }
}

/// One round through an agent.
pub(crate) fn through_agent<F: Far>(
    agent: &mut Agent<F>,
    service: &Service,
    cell: Cell,
    window: Duration,
    rounds: &mut Rounds,
) -> Result<(), String> {
    agent
        .far
        .start_bulk(service, cell.direction, cell.streams)?;
    thread::sleep(WARM_UP);
    let process = agent.process();
    let (cpu, before) = (cpu(process)?, agent.far.progress()?);
    thread::sleep(window);
    let after = agent.far.progress()?;
    let cpu = self::cpu(process)?.saturating_sub(cpu);
    agent.far.stop_bulk()?;
    let bytes = after.bytes - before.bytes;
    if bytes == 0 {
        return Err(agent.explain("no bytes have arrived"));
    }
    rounds.add(bytes, after.seconds - before.seconds, cpu);
    Ok(())
}

/// One round of the roofline.
pub(crate) fn of_roofline(
    service: &Service,
    cell: Cell,
    peer: Peer,
    window: Duration,
    rounds: &mut Rounds,
) -> Result<(), String> {
    let plain = cell.carrier == Carrier::Plain;
    let roofline = Roofline::start(service, cell.direction, cell.streams, plain, peer)
        .map_err(|error| format!("roofline: {error}"))?;
    thread::sleep(WARM_UP);
    let process = roofline.process();
    let (cpu, before, begun) = (cpu(process)?, roofline.moved(), Instant::now());
    thread::sleep(window);
    let (bytes, seconds) = (roofline.moved() - before, begun.elapsed().as_secs_f64());
    let cpu = self::cpu(process)?.saturating_sub(cpu);
    if bytes == 0 {
        return Err("roofline: no bytes have arrived".into());
    }
    rounds.add(bytes, seconds, cpu);
    Ok(())
}

pub(crate) fn cpu(process: Process) -> Result<Duration, String> {
    process.cpu().map_err(|error| error.to_string())
}

const WARM_UP: Duration = Duration::from_millis(400);
