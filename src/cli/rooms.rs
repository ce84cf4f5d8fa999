//! The rooms behind the commands, one call each.

use std::error::Error;
use std::sync::Arc;

use clap::ArgMatches;

use super::failure::Failure;
use crate::agent;
use crate::config::Config;
use crate::net::Cancel;

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
