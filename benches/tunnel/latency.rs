//! Small things: how fast streams open, how long an echo and a ping take alone and
//! beside bulk streams, with a quiet TCP pair beside it that has nothing to do with
//! any of it: what the machine itself makes of 64 bytes at that time.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agents::Agent;
use crate::bulk::{self, Direction};
use crate::service::{Part, Service};

/// Opening, one byte there and back, closing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opens {
    pub(crate) at_once: usize,
    pub(crate) per_second: f64,
    /// CPU of the agent, ms each.
    pub(crate) cpu_ms: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// An agent's round trips, and the quiet pair's in the same time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trips {
    pub(crate) echo: Times,
    pub(crate) ping: Times,
    pub(crate) quiet: Times,
}

pub(crate) fn opens(
    agent: &mut Agent,
    service: &Service,
    at_once: usize,
    window: Duration,
) -> Result<Opens, String> {
    let steps = json!([{"say": "x"}, {"expect": "x"}, {"finish": true}, {"drain": true}]);
    let mut plan = bulk::plan(service, "opens", Part::Echo, &steps);
    plan["count"] = (-1).into();
    plan["parallel"] = at_once.into();
    let cpu = bulk::cpu(agent.process())?;
    agent.peer.streams(&plan)?;
    thread::sleep(window);
    let done = agent.peer.stop("opens")?;
    let cpu = bulk::cpu(agent.process())?.saturating_sub(cpu);
    let count = done["ends"]["eof"].as_f64().unwrap_or(0.0);
    if count == 0.0 {
        return Err(format!("no stream ended as it should: {done}"));
    }
    let times = times(&done);
    Ok(Opens {
        at_once,
        per_second: count / (done["us"].as_f64().unwrap_or(f64::NAN) / 1e6),
        cpu_ms: cpu.as_secs_f64() * 1e3 / count,
        p50: times.p50,
        p99: times.p99,
    })
}

/// Round trips alone, or beside [`BESIDE`] bulk streams.
pub(crate) fn trips(
    agent: &mut Agent,
    service: &Service,
    beside: Option<Direction>,
    window: Duration,
) -> Result<Trips, String> {
    if let Some(direction) = beside {
        bulk::start(agent, service, "beside", direction, BESIDE)?;
        thread::sleep(Duration::from_millis(300));
    }
    let steps = json!([{"trips": -1, "size": BYTES}]);
    let quiet = Quiet::start().map_err(|error| error.to_string())?;
    agent
        .peer
        .streams(&bulk::plan(service, "trips", Part::Echo, &steps))?;
    let mut pings = Vec::new();
    let end = Instant::now() + window;
    while Instant::now() < end {
        let done = agent.peer.run(&json!({"cmd": "session_ping"}))?;
        pings.push(done["us"].as_f64().unwrap_or(f64::NAN) / 1e3);
        thread::sleep(Duration::from_millis(2));
    }
    let done = agent.peer.stop("trips")?;
    let quiet = quiet.end();
    if beside.is_some() {
        agent.peer.stop("beside")?;
    }
    Ok(Trips {
        echo: times(&done),
        ping: of(pings),
        quiet,
    })
}

fn times(done: &Value) -> Times {
    let ms = |name: &str| done[name].as_f64().unwrap_or(f64::NAN) / 1e3;
    Times {
        p50: ms("p50_us"),
        p99: ms("p99_us"),
    }
}

fn of(mut ms: Vec<f64>) -> Times {
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (ms.len() as f64 * share) as usize;
        let last = ms.len().saturating_sub(1);
        ms.get(index.min(last)).copied().unwrap_or(f64::NAN)
    };
    Times {
        p50: at(0.5),
        p99: at(0.99),
    }
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
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        thread::spawn(move || {
            let mut bytes = [0; BYTES];
            // Until the near end is closed.
            while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
        });
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let measuring = thread::spawn(move || {
            let mut times = Vec::new();
            let mut bytes = [0; BYTES];
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                near.write_all(&bytes)?;
                near.read_exact(&mut bytes)?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                // Quiet: it is no load of its own.
                thread::sleep(Duration::from_micros(500));
            }
            Ok(times)
        });
        Ok(Self { stop, measuring })
    }

    fn end(self) -> Times {
        self.stop.store(true, Ordering::Relaxed);
        of(self
            .measuring
            .join()
            .map_or(Vec::new(), Result::unwrap_or_default))
    }
}

/// Bulk streams beside which small things are measured.
pub(crate) const BESIDE: usize = 16;

const BYTES: usize = 64;
