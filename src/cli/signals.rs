//! Signals: the first SIGINT or SIGTERM asks for an orderly end, the second ends the
//! process at once; SIGHUP opens the log file anew (config-and-state.md §10.3).

use std::io;

use log::{info, warn};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::net::{Cancel, Reason};
use crate::telemetry;
use crate::threads::{self, Stack};

/// Starts to listen for signals; `stop` is cancelled by the first that asks for an
/// end. Call it before anything that takes time.
pub(super) fn install(stop: Cancel) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    threads::spawn("signals", Stack::Work, move || {
        for signal in &mut signals {
            match signal {
                SIGHUP => match telemetry::reopen() {
                    Ok(()) => info!("SIGHUP: the log file is opened anew"),
                    Err(error) => warn!(error:% = error; "the log file cannot be opened anew"),
                },
                signal => {
                    if !stop.cancel(Reason::Shutdown) {
                        // The user has asked twice: whatever hangs, hangs.
                        telemetry::flush();
                        std::process::exit(128 + signal);
                    }
                    // Where the end is quick this line may not make it.
                    info!(signal; "shutting down");
                }
            }
        }
    })
    .map_err(io::Error::other)?;
    Ok(())
}
