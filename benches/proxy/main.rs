//! The proxy benchmark: our agent beside a small one in Go, the same requests, in
//! turns, in one run. `benches/run` builds everything and starts it; what is
//! measured and how is in `benches/README.md`.

// A program for people: it prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod agents;
mod body;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod gateway;
mod load;
mod measure;
mod report;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use pipeops_agent::net::{PemSource, ServerTls, ServerTlsSettings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use agents::Surroundings;
use body::Content;
use cluster::{Cluster, SIZES};
use common::program::Kind;
use common::{machine, page};
use load::{Cell, Form, Target};
use report::{Report, Row};
use streams::Echo;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let binaries: Vec<(Kind, PathBuf)> = [(Kind::Ours, "ours"), (Kind::Go, "go")]
        .into_iter()
        .filter_map(|(kind, name)| Some((kind, matches.get_one::<PathBuf>(name)?.clone())))
        // Each agent runs in a folder of its own.
        .map(|(kind, path)| (kind, std::path::absolute(&path).unwrap_or(path)))
        .collect();
    if binaries.is_empty() {
        eprintln!("no agent to measure: see benches/README.md");
        return ExitCode::SUCCESS;
    }
    match run(&matches, &binaries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches, binaries: &[(Kind, PathBuf)]) -> Result<(), String> {
    let seconds = matches
        .get_one::<f64>("seconds")
        .copied()
        .unwrap_or(SECONDS);
    let window = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let rounds = matches
        .get_one::<usize>("rounds")
        .copied()
        .unwrap_or(ROUNDS);
    let cells: Vec<Asked> = match matches.get_many::<Asked>("cell") {
        Some(cells) => cells.copied().collect(),
        None if matches.get_flag("no-load") => Vec::new(),
        None => all_cells(),
    };
    let requests = |target: Target| -> Vec<Cell> {
        let cells = cells.iter().filter_map(|asked| match asked {
            Asked::Requests(cell) if cell.target == target => Some(*cell),
            _ => None,
        });
        cells.collect()
    };

    let began = Instant::now();
    let load = machine::load();
    let (ca_pem, tls) = certificate()?;
    let cluster = Cluster::start(Some(tls.clone())).map_err(|error| error.to_string())?;
    let around = |target, url| Surroundings {
        ca_pem: ca_pem.clone(),
        tls: tls.clone(),
        target,
        url,
    };
    let api = around(Target::Api, format!("https://{}", cluster.address()));
    let (starts, agents) = measure::starts(binaries, &api)?;
    let mut rows: Vec<Row> = Vec::new();
    let own = measure::own_cpu();
    for cell in requests(Target::Api) {
        eprintln!("{cell:?}");
        let figures = measure::cell(cell, &cluster, &agents, window, rounds)?;
        rows.push((cell, figures));
    }
    drop(agents);
    let services = requests(Target::Service);
    if !services.is_empty() {
        let cluster = Cluster::start(None).map_err(|error| error.to_string())?;
        let service = around(Target::Service, format!("http://{}", cluster.address()));
        let agents = measure::agents(binaries, &service)?;
        for cell in services {
            eprintln!("{cell:?}");
            let figures = measure::cell(cell, &cluster, &agents, window, rounds)?;
            rows.push((cell, figures));
        }
    }
    let mut streams = Vec::new();
    let echoes = cells.iter().filter_map(|asked| match asked {
        Asked::Streams(cell) => Some(*cell),
        Asked::Requests(_) => None,
    });
    let echoes: Vec<streams::Cell> = echoes.collect();
    if !echoes.is_empty() {
        let echo = Echo::start().map_err(|error| error.to_string())?;
        let service = around(Target::Service, format!("http://{}", echo.address()));
        let agents = measure::agents(binaries, &service)?;
        for cell in echoes {
            eprintln!("{cell:?}");
            let figures = measure::streams(cell, &agents, window, rounds)?;
            streams.push((cell, figures));
        }
    }
    let report = Report {
        starts: &starts,
        rows: &rows,
        streams: &streams,
        load_cpu: measure::own_cpu().saturating_sub(own),
        took: began.elapsed(),
    };
    println!("{report}");
    if let Some(file) = matches.get_one::<PathBuf>("write") {
        let about = matches
            .get_one::<String>("about")
            .map_or("", String::as_str);
        let page = format!(
            "{PAGE}\n{}* load before {load}, after {}\n{}\n\n{report}",
            machine::describe("agents, load, gateway and API server"),
            machine::load(),
            about.trim_end()
        );
        page::write_section(file, "proxied requests", &page)
            .map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// Forms, bodies and numbers in flight; the body that isn't gzipped
/// tells what of form B's cost is gzip.
fn all_cells() -> Vec<Asked> {
    let kinds = [
        (Target::Api, Form::S, Content::Json),
        (Target::Api, Form::B, Content::Json),
        (Target::Api, Form::B, Content::Octets),
        (Target::Service, Form::S, Content::Json),
    ];
    let mut cells = Vec::new();
    for (target, form, content) in kinds {
        for size in SIZES {
            for at_once in [1, 16, 128] {
                cells.push(Asked::Requests(Cell {
                    target,
                    form,
                    content,
                    size,
                    at_once,
                }));
            }
        }
    }
    for size in streams::SIZES {
        for at_once in [1, 16, 128] {
            cells.push(Asked::Streams(streams::Cell { size, at_once }));
        }
    }
    cells
}

/// A certificate for loopback, of an authority made for this run.
fn certificate() -> Result<(String, ServerTls), String> {
    let failed = |error: rcgen::Error| error.to_string();
    let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().map_err(failed)?)
        .map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|params| params.signed_by(&key, &authority))
        .map_err(failed)?;
    let given = |name: &str, pem: String| PemSource::Given {
        name: name.into(),
        pem: pem.into_bytes(),
    };
    let tls = ServerTls::new(&ServerTlsSettings {
        certificate: given("certificate", certificate.pem()),
        key: given("key", key.serialize_pem()),
        client_ca: None,
    })
    .map_err(|error| error.to_string())?;
    Ok((authority.pem(), tls))
}

/// What a cell can be.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Requests(Cell),
    Streams(streams::Cell),
}

/// `s/1024/16`, `b/65536/1`, `b-octets/1048576/128`, `service/1024/16`, `ws/64/1`.
fn parse_cell(text: &str) -> Result<Asked, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [kind, size, at_once] = parts[..] else {
        return Err("form/bytes/number, as in s/1024/16".into());
    };
    let sizes = if kind == "ws" { streams::SIZES } else { SIZES };
    let size = size.parse().ok().filter(|size| sizes.contains(size));
    let size = size.ok_or_else(|| format!("bodies have one of {sizes:?} bytes"))?;
    let at_once = at_once
        .parse()
        .ok()
        .filter(|number| (1..=256).contains(number))
        .ok_or("1 to 256 at once")?;
    let (target, form, content) = match kind {
        "s" => (Target::Api, Form::S, Content::Json),
        "b" => (Target::Api, Form::B, Content::Json),
        "b-octets" => (Target::Api, Form::B, Content::Octets),
        "service" => (Target::Service, Form::S, Content::Json),
        "ws" => return Ok(Asked::Streams(streams::Cell { size, at_once })),
        _ => return Err("the form is s, b, b-octets, service or ws".into()),
    };
    Ok(Asked::Requests(Cell {
        target,
        form,
        content,
        size,
        at_once,
    }))
}

fn command() -> Command {
    let binary = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("binary")
            .value_parser(value_parser!(PathBuf))
    };
    Command::new("proxy")
        .about("Measures proxied requests through our agent and one in Go")
        .arg(binary("ours").help("Our agent"))
        .arg(binary("go").help("The agent of benches/go-agent"))
        .arg(
            Arg::new("cell")
                .long("cell")
                .value_name("form/bytes/number")
                .action(ArgAction::Append)
                .value_parser(parse_cell)
                .help("Only this load, as in s/1024/16, b/65536/1, b-octets/1048576/128, service/1024/1, ws/64/16"),
        )
        .arg(
            Arg::new("no-load")
                .long("no-load")
                .action(ArgAction::SetTrue)
                .help("Start and rest only"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_parser(value_parser!(f64))
                .help(format!("Of load per agent and round [default: {SECONDS}]")),
        )
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .value_parser(value_parser!(usize))
                .help(format!(
                    "Turns that each agent has per load [default: {ROUNDS}]"
                )),
        )
        .arg(
            Arg::new("write")
                .long("write")
                .value_name("file")
                .value_parser(value_parser!(PathBuf))
                .help("Write the figures there too, with the machine"),
        )
        .arg(
            Arg::new("about")
                .long("about")
                .help("Further lines for that file"),
        )
        // What `cargo bench` adds.
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

const SECONDS: f64 = 1.25;
const ROUNDS: usize = 2;

const PAGE: &str = "\
## Proxied requests, in one run

Proxied GETs of the Kubernetes API and of a Service through our agent and through a small one in plain Go (net/http,
gorilla/websocket; `benches/go-agent`), in turns, in one run. How it is measured, and what not to read into it: `benches/README.md`.
";
