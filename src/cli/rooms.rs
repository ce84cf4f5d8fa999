//! The rooms behind the commands. STUBS: each body becomes one call into its room
//! (`agent::run`, `demo::run`, `plane::run`) when that room is merged.

use std::error::Error;
use std::sync::Arc;

use super::args::{DemoArgs, PlaneCommand};
use crate::config::Config;
use crate::net::Cancel;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Runs the agent until `stop` is cancelled.
pub(super) fn agent(config: &Arc<Config>, stop: &Cancel) -> Outcome {
    Ok(crate::agent::run(config, stop)?)
}

/// Runs the demo. (Stub.)
#[cfg(feature = "plane")]
pub(super) fn demo(_args: &DemoArgs, _stop: &Cancel) -> Outcome {
    Err("the demo is not built yet".into())
}

/// Runs a command of the control plane. (Stub.)
#[cfg(feature = "plane")]
pub(super) fn plane(_command: &PlaneCommand, _stop: &Cancel) -> Outcome {
    Err("the plane is not built yet".into())
}

#[cfg(not(feature = "plane"))]
pub(super) fn demo(_args: &DemoArgs, _stop: &Cancel) -> Outcome {
    Err(SLIM.into())
}

#[cfg(not(feature = "plane"))]
pub(super) fn plane(_command: &PlaneCommand, _stop: &Cancel) -> Outcome {
    Err(SLIM.into())
}

#[cfg(not(feature = "plane"))]
const SLIM: &str = "this binary was built without demo and plane (cargo feature `plane`); use the \
                    full one";
