//! The tunnel benchmark: our agent beside one in Go made of the original's parts, and
//! the roofline, in turns, in one run, against the Go gateway of the interop tests.
//! `benches/run tunnel` builds everything and starts it; what is measured and how is
//! in `benches/README.md`.

// A program for people: it prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod agents;
mod bulk;
mod cells;
mod cgroup;
mod latency;
mod memory;
#[path = "../proxy/page.rs"]
mod page;
mod peer;
#[allow(dead_code)] // the other benchmark uses all of it
#[path = "../proxy/process.rs"]
mod process;
mod report;
mod roofline;
mod service;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use rustix::process::{Resource, getrlimit, setrlimit};

use agents::{Agent, Kind, Programs};
use bulk::Rounds;
use cells::Cell;
use report::{Report, Row};
use service::Service;

/// As the binary that ships.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|first| first == "roofline") {
        return match roofline::main(&args[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE, // its other end is gone
        };
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
    let service = Service::start().map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for cell in cells {
        eprintln!("{cell:?}");
        rows.push(measure(cell, programs, &service, pace)?);
    }
    let report = Report {
        rows: &rows,
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
    let today = jiff::Zoned::now().date();
    let text = format!(
        "{}{}* date: {today}\n{}\n\n{report}",
        report::INTRODUCTION,
        report::machine(),
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

/// Agents that don't take part have `None` in the row.
fn measure(cell: Cell, programs: &Programs, service: &Service, pace: Pace) -> Result<Row, String> {
    const KINDS: [Kind; 2] = [Kind::Ours, Kind::Go];
    let plain = matches!(cell, Cell::Bulk(cell) if cell.plain);
    let mut agents = Vec::new();
    for kind in KINDS {
        agents.push(Agent::start(kind, programs, service, plain)?);
    }
    let mut each = KINDS.into_iter().zip(&mut agents);
    match cell {
        Cell::Bulk(cell) => {
            let mut rounds = vec![Rounds::default(); KINDS.len()];
            let mut roofline = Rounds::default();
            for _ in 0..pace.rounds {
                for ((kind, agent), rounds) in KINDS.into_iter().zip(&mut agents).zip(&mut rounds) {
                    if let Some(agent) = agent {
                        bulk::through_agent(kind, agent, service, cell, pace.window, rounds)?;
                    }
                }
                bulk::of_roofline(service, cell, pace.window, &mut roofline)?;
            }
            rounds.push(roofline);
            let figures = rounds.into_iter().map(Rounds::median).collect();
            Ok(Row::Bulk(cell, figures))
        }
        Cell::Opens(at_once) => Ok(Row::Opens(
            at_once,
            all(&mut each, |agent| {
                latency::opens(agent, service, at_once, pace.window)
            })?,
        )),
        Cell::Trips(beside) => Ok(Row::Trips(
            beside,
            all(&mut each, |agent| {
                latency::trips(agent, service, beside, pace.window * 2)
            })?,
        )),
        Cell::Idle(streams) => Ok(Row::Idle(
            streams,
            all(&mut each, |agent| memory::idle(agent, service, streams))?,
        )),
    }
}

fn all<T>(
    agents: &mut dyn Iterator<Item = (Kind, &mut Option<Agent>)>,
    mut measure: impl FnMut(&mut Agent) -> Result<T, String>,
) -> Result<Vec<Option<T>>, String> {
    agents
        .map(|(kind, agent)| {
            let Some(agent) = agent else { return Ok(None) };
            let result = measure(agent).map_err(|error| agent.explain(kind, &error));
            result.map(Some)
        })
        .collect()
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
                .help("Only this, as in down/8/tls, up/1/plain, opens/16, echo/alone, echo/down, idle/1000"),
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
