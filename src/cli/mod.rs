//! The command line: parse, start logging, call one room, make its error an exit code.
//!
//! Exit codes are 0, 1 (any failure), 2 (a panic) and 128 + signal (a second signal
//! during shutdown): config-and-state.md §10.2.

#[cfg(feature = "plane")]
mod args;
mod command;
mod failure;
mod rooms;
mod signals;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use clap::ArgMatches;
use log::info;

use crate::config::{Config, Process, docs};
use crate::net::Cancel;
use crate::telemetry;
use failure::Failure;

/// Everything that the binary does.
pub fn main(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line: Vec<OsString> = line.into_iter().collect();
    let ended = catch_unwind(AssertUnwindSafe(|| dispatch(&line)));
    telemetry::flush();
    let code = match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            failure.report();
            ExitCode::from(1)
        }
        // The panic hook has logged it.
        Err(_) => ExitCode::from(2),
    };
    telemetry::flush();
    code
}

fn dispatch(line: &[OsString]) -> Result<(), Failure> {
    let matches = match command::command().try_get_matches_from(line) {
        Ok(matches) => matches,
        Err(error) => {
            let command = command::command();
            let commands: Vec<String> = command
                .get_subcommands()
                .map(|command| command.get_name().to_owned())
                .collect();
            let flags = command::flags(&command);
            if let Some(text) = failure::usage(&error, &flags, &commands) {
                return Err(Failure::Usage(text));
            }
            print(&rendered(&error));
            return Ok(());
        }
    };
    match matches.subcommand() {
        None => run(&[&matches]),
        Some(("run", below)) => run(&[&matches, below]),
        Some(("config", below)) => {
            if let Some(("validate", last)) = below.subcommand() {
                return validate(&[&matches, last]);
            }
            print(&docs::markdown());
            Ok(())
        }
        Some((name, below)) => {
            only_with_run(&matches, name)?;
            other(name, below)
        }
    }
}

/// `run`: configuration, logging, signals, then the agent.
fn run(levels: &[&ArgMatches]) -> Result<(), Failure> {
    let stop = Cancel::new();
    let unable =
        |error: Box<dyn std::error::Error + Send + Sync>| Failure::Agent { error, log: None };
    signals::install(stop.clone()).map_err(|error| unable(error.into()))?;
    let args = command::settings(levels);
    let (config, warnings) = Config::load(&args, &Process).map_err(Failure::Config)?;
    telemetry::start(&config).map_err(|error| unable(error.into()))?;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = config.file.as_deref().map(|path| path.display().to_string()).unwrap_or_default(),
        cluster_name = config.agent.cluster_name.as_str(),
        api_url:% = config.pipeops.api_url,
        ingress_sync = config.agent.enable_ingress_sync;
        "starting PipeOps Agent"
    );
    for warning in &warnings {
        log::log!(target: "pipeops_agent::config", warning.level, "{}", warning.text);
    }
    let config = Arc::new(config);
    rooms::agent(&config, &stop).map_err(|error| Failure::Agent {
        error,
        log: Some(config.logging.output.clone()),
    })?;
    info!("stopped");
    Ok(())
}

fn validate(levels: &[&ArgMatches]) -> Result<(), Failure> {
    let (config, warnings) =
        Config::load(&command::settings(levels), &Process).map_err(Failure::Config)?;
    let mut text = String::new();
    for warning in &warnings {
        let level = warning.level.as_str().to_lowercase();
        text.extend([&level, ": ", &warning.text, "\n"]);
    }
    let file = match &config.file {
        Some(path) => path.display().to_string(),
        None => "no file".to_owned(),
    };
    text.extend(["the configuration is valid (", &file, ")\n"]);
    print(&text);
    Ok(())
}

fn other(name: &str, matches: &ArgMatches) -> Result<(), Failure> {
    match name {
        "version" => {
            print(&format!("pipeops-agent {}\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        "completions" => {
            let shell = *matches
                .get_one::<clap_complete::Shell>("shell")
                .expect("the argument is required");
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command::command(), "pipeops-agent", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(())
        }
        "demo" => {
            let stop = stoppable()?;
            rooms::demo(matches, &stop)
        }
        "plane" => {
            let stop = stoppable()?;
            rooms::plane(matches, &stop)
        }
        other => Err(Failure::Usage(format!("unknown command {other:?}"))),
    }
}

fn stoppable() -> Result<Cancel, Failure> {
    let stop = Cancel::new();
    signals::install(stop.clone()).map_err(|error| Failure::Command(error.into()))?;
    Ok(stop)
}

/// `pipeops-agent --token x demo` would silently do without the token.
fn only_with_run(matches: &ArgMatches, name: &str) -> Result<(), Failure> {
    let args = command::settings(&[matches]);
    if args.config_file.is_none() && args.flags.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "flags before `{name}` belong to `run`; put flags of `{name}` after it"
    )))
}

fn rendered(message: &clap::Error) -> String {
    let styled = message.render();
    if io::stdout().is_terminal() {
        styled.ansi().to_string()
    } else {
        styled.to_string()
    }
}

/// Output that somebody asked for. A reader that left early is no error.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
