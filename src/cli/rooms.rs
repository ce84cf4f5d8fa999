//! The rooms behind the commands. STUBS: each body becomes one call into its room
//! (`agent::run`, `demo::run`, `plane::run`) when that room is merged.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::args::{DemoArgs, PlaneCommand};
use crate::config::Config;
use crate::net::Cancel;
use crate::server::{HealthState, LocalServer};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Runs the agent until `stop` is cancelled. (Stub: the local server alone.)
pub(super) fn agent(config: &Arc<Config>, stop: &Cancel) -> Outcome {
    let health = Arc::new(HealthState::new(config.agent.heartbeat_interval_connected));
    let server = LocalServer::start(&config.agent, health)?;
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let waker = Arc::new(move || {
        // One place in the channel, one call of the waker.
        let _ = sender.try_send(());
    });
    // Already cancelled: nothing to wait for.
    if let Ok(guard) = stop.on_wake(waker) {
        receiver.recv()?;
        drop(guard);
    }
    server.stop(Duration::from_secs(10));
    Ok(())
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
