//! The rooms behind the commands, one call each.

use std::error::Error;
use std::sync::Arc;

use clap::ArgMatches;

use super::failure::Failure;
use crate::agent;
use crate::config::Config;
#[cfg(feature = "plane")]
use crate::config::{LogOutput, Logging};
use crate::net::Cancel;
#[cfg(feature = "plane")]
use crate::telemetry;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Runs the agent until `stop` is cancelled.
pub(super) fn agent(config: &Arc<Config>, stop: &Cancel) -> Outcome {
    Ok(agent::run(config, stop)?)
}

/// Runs the demo.
#[cfg(feature = "plane")]
pub(super) fn demo(matches: &ArgMatches, stop: &Cancel) -> Result<(), Failure> {
    let outcome = crate::demo::run(&super::args::demo(matches), stop);
    outcome.map_err(|error| Failure::Command(error.into()))
}

/// Runs a command of the control plane.
#[cfg(feature = "plane")]
pub(super) fn plane(matches: &ArgMatches, stop: &Cancel) -> Result<(), Failure> {
    let command = super::args::plane(matches).map_err(Failure::Usage)?;
    if let crate::plane::cli::Command::Run(args) = &command {
        // Its standard output is for the person who starts it.
        let logging = Logging {
            level: args.log_level,
            output: LogOutput::Stderr,
            ..Logging::default()
        };
        telemetry::start_logging(&logging).map_err(|error| Failure::Command(error.into()))?;
    }
    crate::plane::cli::run(&command, stop).map_err(|error| Failure::Command(error.into()))
}

#[cfg(not(feature = "plane"))]
pub(super) fn demo(_matches: &ArgMatches, _stop: &Cancel) -> Result<(), Failure> {
    Err(Failure::Command(SLIM.into()))
}

#[cfg(not(feature = "plane"))]
pub(super) fn plane(_matches: &ArgMatches, _stop: &Cancel) -> Result<(), Failure> {
    Err(Failure::Command(SLIM.into()))
}

#[cfg(not(feature = "plane"))]
const SLIM: &str = "this binary was built without demo and plane (cargo feature `plane`); use the \
                    full one";
