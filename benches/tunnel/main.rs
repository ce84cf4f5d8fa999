//! The tunnel benchmark: our agent beside one in Go made of the original's parts, and
//! the roofline, in turns, in one run, against the Go gateway of the interop tests.
//! `benches/run tunnel` builds everything and starts it; what is measured and how is
//! in `benches/README.md`.

// A program for people: it prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod agents;
mod aims;
mod bulk;
mod cells;
mod cgroup;
mod clients;
#[allow(dead_code)] // the other benchmark uses all of it
#[path = "../common/mod.rs"]
mod common;
mod far;
mod gateway;
mod heartbeats;
mod latency;
mod memory;
mod plane;
mod report;
mod roofline;
mod service;
mod times;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustix::process::{Resource, getrlimit, setrlimit};

use agents::{Agent, For, Programs};
use bulk::{Carrier, Rounds};
use cells::{Cell, End};
use common::program::Kind;
use common::{machine, page};
use far::Far;
use gateway::Gateway;
use plane::PlaneSide;
use report::{Report, Row};
use roofline::Peer;
use service::Service;

/// As the binary that ships.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [first, rest @ ..] if first == "roofline" => {
            return match roofline::main(rest) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE, // its other end is gone
            };
        }
        [first, config] if first == heartbeats::COMMAND => {
            return match heartbeats::main(Path::new(config)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            };
        }
        _ => {}
    }
    let matches = command().get_matches();
    let Some(gateway) = path(&matches, "gateway") else {
        eprintln!("nothing to measure against: see benches/README.md");
        return ExitCode::SUCCESS;
    };
    let agents = [(Kind::Ours, "ours"), (Kind::Go, "go")]
        .into_iter()
        .filter_map(|(kind, name)| Some((kind, path(&matches, name)?)))
        .collect();
    match run(&matches, &Programs { gateway, agents }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tunnel benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Each agent runs in a folder of its own.
fn path(matches: &ArgMatches, name: &str) -> Option<PathBuf> {
    let given = matches.get_one::<PathBuf>(name)?;
    Some(std::path::absolute(given).unwrap_or_else(|_| given.clone()))
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    window: Duration,
    rounds: usize,
}

fn run(matches: &ArgMatches, programs: &Programs) -> Result<(), String> {
    let quick = matches.get_flag("quick");
    let seconds = matches.get_one::<f64>("seconds").copied();
    let seconds = seconds.unwrap_or(if quick { 0.5 } else { SECONDS });
    let pace = Pace {
        window: Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
        rounds: matches
            .get_one::<usize>("rounds")
            .copied()
            .unwrap_or(if quick { 1 } else { ROUNDS })
            .max(1),
    };
    let cells: Vec<Cell> = match matches.get_many::<Cell>("cell") {
        Some(cells) => cells.copied().collect(),
        None if quick => cells::quick(),
        None => cells::all(),
    };
    raise_files();
    let began = Instant::now();
    let load = machine::load();
    let service = Service::start().map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for cell in cells {
        eprintln!("{cell:?}");
        rows.push(measure(cell, programs, &service, pace)?);
    }
    let report = Report {
        rows: &rows,
        tls: roofline::tls_version(),
        load: (load, machine::load()),
        took: began.elapsed(),
    };
    println!("{report}");
    if let Some(file) = matches.get_one::<PathBuf>("write") {
        write(matches, file, &report)?;
    }
    Ok(())
}

fn write(matches: &ArgMatches, file: &Path, report: &Report<'_>) -> Result<(), String> {
    let about = matches
        .get_one::<String>("about")
        .map_or("", String::as_str);
    let text = format!(
        "{}{}{}\n{report}",
        report::INTRODUCTION,
        machine::describe("agents, the other ends, clients and service"),
        about.trim_end()
    );
    page::write_section(file, "tunnels", &text)
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// Thousands of streams are thousands of sockets of the service.
fn raise_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Fewer streams then, and an error that says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Who is compared where the other end is the Go gateway, in this order.
const BOTH: [Kind; 2] = [Kind::Ours, Kind::Go];
const OURS: [Kind; 1] = [Kind::Ours];

/// Those that don't take part have `None` in the row. The Go agent meets the Go
/// gateway only, whose windows are the original's.
fn measure(cell: Cell, programs: &Programs, service: &Service, pace: Pace) -> Result<Row, String> {
    let setting = Setting { programs, service };
    let gateway = || Gateway::start(&programs.gateway, false);
    Ok(match cell {
        Cell::Bulk(cell) => {
            let plain = cell.carrier == Carrier::Plain;
            let peers: &[Peer] = match cell.carrier {
                Carrier::Tls | Carrier::Plain => &[Peer::Itself],
                Carrier::Plane => &[Peer::Itself, Peer::Client],
            };
            let figures = match cell.carrier {
                Carrier::Tls | Carrier::Plain => {
                    let far = || Gateway::start(&programs.gateway, plain);
                    let agents = setting.agents(&BOTH, For::Streams, far)?;
                    bulk_rounds(cell, agents, peers, service, pace)?
                }
                Carrier::Plane => {
                    let agents = setting.agents(&OURS, For::Streams, PlaneSide::start)?;
                    bulk_rounds(cell, agents, peers, service, pace)?
                }
            };
            Row::Bulk(cell, figures)
        }
        Cell::Opens(end, at_once) => Row::Opens(
            (end, at_once),
            match end {
                End::Gateway => setting.each(&BOTH, For::Streams, gateway, |agent| {
                    latency::opens(agent, service, at_once, pace.window)
                })?,
                End::Plane => setting.each(&OURS, For::Streams, PlaneSide::start, |agent| {
                    latency::opens(agent, service, at_once, pace.window)
                })?,
            },
        ),
        Cell::Trips(end, beside) => Row::Trips(
            (end, beside),
            match end {
                End::Gateway => setting.each(&BOTH, For::Streams, gateway, |agent| {
                    latency::small(agent, service, beside, pace.window * 2)
                })?,
                End::Plane => setting.each(&OURS, For::Streams, PlaneSide::start, |agent| {
                    latency::small(agent, service, beside, pace.window * 2)
                })?,
            },
        ),
        Cell::Beats(end, beside) => Row::Beats(
            (end, beside),
            match end {
                End::Gateway => setting.each(&BOTH, For::Heartbeats, gateway, |agent| {
                    latency::beats(agent, service, beside, pace.window * 4)
                })?,
                End::Plane => setting.each(&OURS, For::Heartbeats, PlaneSide::start, |agent| {
                    latency::beats(agent, service, beside, pace.window * 4)
                })?,
            },
        ),
        Cell::Idle(streams) => Row::Idle(
            streams,
            setting.each(&BOTH, For::Streams, gateway, |agent| {
                memory::idle(agent, service, streams)
            })?,
        ),
    })
}

/// What agents are started with.
struct Setting<'a> {
    programs: &'a Programs,
    service: &'a Service,
}

impl Setting<'_> {
    fn agents<F: Far>(
        &self,
        kinds: &[Kind],
        what: For,
        far: impl Fn() -> Result<F, String>,
    ) -> Result<Vec<Option<Agent<F>>>, String> {
        let start = |kind: &Kind| Agent::start((*kind, what), self.programs, self.service, &far);
        kinds.iter().map(start).collect()
    }

    /// Measures them one after the other; only one runs at a time.
    fn each<F: Far, T>(
        &self,
        kinds: &[Kind],
        what: For,
        far: impl Fn() -> Result<F, String>,
        measure: impl Fn(&mut Agent<F>) -> Result<T, String>,
    ) -> Result<Vec<Option<T>>, String> {
        let one = |kind: &Kind| {
            let started = Agent::start((*kind, what), self.programs, self.service, &far)?;
            let Some(mut agent) = started else {
                return Ok(None);
            };
            let result = measure(&mut agent).map_err(|error| agent.explain(&error));
            result.map(Some)
        };
        kinds.iter().map(one).collect()
    }
}

/// Agents and rooflines in turns.
fn bulk_rounds<F: Far>(
    cell: bulk::Cell,
    mut agents: Vec<Option<Agent<F>>>,
    peers: &[Peer],
    service: &Service,
    pace: Pace,
) -> Result<Vec<Option<bulk::Figure>>, String> {
    let mut rounds = vec![Rounds::default(); agents.len()];
    let mut rooflines = vec![Rounds::default(); peers.len()];
    for _ in 0..pace.rounds {
        for (agent, rounds) in agents.iter_mut().zip(&mut rounds) {
            if let Some(agent) = agent {
                bulk::through_agent(agent, service, cell, pace.window, rounds)?;
            }
        }
        for (peer, rounds) in peers.iter().zip(&mut rooflines) {
            bulk::of_roofline(service, cell, *peer, pace.window, rounds)?;
        }
    }
    let all = rounds.into_iter().chain(rooflines);
    Ok(all.map(Rounds::median).collect())
}

fn command() -> Command {
    let program = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("binary")
            .value_parser(value_parser!(PathBuf))
    };
    Command::new("tunnel")
        .about("Measures tunnels through our agent, one in Go, and the roofline")
        .arg(program("ours").help("Our agent"))
        .arg(program("go").help("The agent of benches/go-agent"))
        .arg(program("gateway").help("The gateway of tests/interop/gateway"))
        .arg(
            Arg::new("cell")
                .long("cell")
                .value_name("cell")
                .action(ArgAction::Append)
                .value_parser(cells::parse)
                .help(format!("Only this, as in {}", cells::EXAMPLES)),
        )
        .arg(
            Arg::new("quick")
                .long("quick")
                .action(ArgAction::SetTrue)
                .help("A few cells, short and once: whether it works"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_parser(value_parser!(f64))
                .help(format!("Of each turn [default: {SECONDS}]")),
        )
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .value_parser(value_parser!(usize))
                .help(format!(
                    "Turns that each has per bulk cell; medians count [default: {ROUNDS}]"
                )),
        )
        .arg(
            Arg::new("write")
                .long("write")
                .value_name("file")
                .value_parser(value_parser!(PathBuf))
                .help("Write the figures into this page too, with the machine"),
        )
        .arg(
            Arg::new("about")
                .long("about")
                .help("Further lines for that page"),
        )
        // What `cargo bench` adds.
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

const SECONDS: f64 = 1.5;
const ROUNDS: usize = 3;
