//! Small things: how fast streams open, how long an echo, a ping and a heartbeat take
//! alone and beside bulk streams, with a quiet TCP pair beside it that has nothing to
//! do with any of it: what the machine itself makes of 64 bytes at that time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::agents::Agent;
use crate::bulk::{self, Direction};
use crate::far::{Far, Opened};
use crate::heartbeats;
use crate::service::Service;
use crate::times::{BYTES, Times, trips};

/// Opening, one byte there and back, closing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opens {
    pub(crate) per_second: f64,
    /// CPU of the agent, ms each.
    pub(crate) cpu_ms: f64,
    pub(crate) times: Times,
}

/// An agent's round trips, and the quiet pair's in the same time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trips {
    pub(crate) echo: Times,
    /// Of the session; `None`: this other end can't tell.
    pub(crate) ping: Option<Times>,
    pub(crate) quiet: Times,
}

/// Heartbeats with their acks, and the quiet pair in the same time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beats {
    pub(crate) beat: Times,
    pub(crate) quiet: Times,
}

pub(crate) fn opens<F: Far>(
    agent: &mut Agent<F>,
    service: &Service,
    at_once: usize,
    window: Duration,
) -> Result<Opens, String> {
    let cpu = bulk::cpu(agent.process())?;
    let opened = agent.far.open_and_close(service, at_once, window)?;
    let cpu = bulk::cpu(agent.process())?.saturating_sub(cpu);
    let Opened {
        count,
        seconds,
        times,
    } = opened;
    if count == 0 {
        return Err("no stream ended as it should".to_owned());
    }
    Ok(Opens {
        per_second: count as f64 / seconds,
        cpu_ms: cpu.as_secs_f64() * 1e3 / count as f64,
        times,
    })
}

/// Round trips alone, or beside [`BESIDE`] bulk streams.
pub(crate) fn small<F: Far>(
    agent: &mut Agent<F>,
    service: &Service,
    beside: Option<Direction>,
    window: Duration,
) -> Result<Trips, String> {
    let (outcome, quiet) = under_load(agent, service, beside, |agent| {
        agent.far.echo_and_ping(service, window)
    })?;
    let (echo, ping) = outcome?;
    Ok(Trips { echo, ping, quiet })
}

/// Heartbeats alone, or beside [`BESIDE`] bulk streams.
pub(crate) fn beats<F: Far>(
    agent: &mut Agent<F>,
    service: &Service,
    beside: Option<Direction>,
    window: Duration,
) -> Result<Beats, String> {
    let (beat, quiet) = under_load(agent, service, beside, |agent| {
        heartbeats::measure(agent, window)
    })?;
    if beat.count == 0 {
        return Err("no heartbeat was answered".to_owned());
    }
    Ok(Beats { beat, quiet })
}

/// Beside bulk streams, if so, and a quiet pair.
fn under_load<F: Far, R>(
    agent: &mut Agent<F>,
    service: &Service,
    beside: Option<Direction>,
    measure: impl FnOnce(&mut Agent<F>) -> R,
) -> Result<(R, Times), String> {
    if let Some(direction) = beside {
        agent.far.start_bulk(service, direction, BESIDE)?;
        thread::sleep(WARM_UP);
    }
    let quiet = Quiet::start().map_err(|error| error.to_string())?;
    let result = measure(agent);
    let quiet = quiet.end();
    if beside.is_some() {
        agent.far.stop_bulk()?;
    }
    Ok((result, quiet))
}

/// Two threads of this process that send each other 64 bytes over TCP.
struct Quiet {
    stop: Arc<AtomicBool>,
    measuring: thread::JoinHandle<std::io::Result<Vec<f64>>>,
}

impl Quiet {
    fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut near = TcpStream::connect(listener.local_addr()?)?;
        let (mut far, _) = listener.accept()?;
        far.set_nodelay(true)?;
        thread::spawn(move || {
            let mut bytes = [0; BYTES];
            // Until the near end is closed.
            while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let measuring = thread::spawn(move || trips(&mut near, QUIET_PAUSE, &stopped));
        Ok(Self { stop, measuring })
    }

    fn end(self) -> Times {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.measuring.join();
        Times::of(times.map_or(Vec::new(), Result::unwrap_or_default))
    }
}

/// Bulk streams beside which small things are measured.
pub(crate) const BESIDE: usize = 16;

const WARM_UP: Duration = Duration::from_millis(300);

/// Quiet: it is no load of its own.
const QUIET_PAUSE: Duration = Duration::from_micros(500);
