//! The thread behind what the registry writes lazily.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::hub::Hub;
use super::registry;
use crate::threads::{self, Stack};

/// Writes what the registry writes lazily.
pub(super) struct Flusher {
    stop: Sender<()>,
    thread: JoinHandle<Option<()>>,
}

impl Flusher {
    pub(super) fn start(hub: Arc<Hub>) -> io::Result<Self> {
        let (stop, stopped): (Sender<()>, Receiver<()>) = bounded(1);
        let thread = threads::spawn("plane-flush", Stack::Work, move || {
            while stopped.recv_timeout(registry::FLUSH) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = hub.registry.flush() {
                    log::warn!("last-seen times could not be saved: {error}");
                }
            }
            if let Err(error) = hub.registry.flush() {
                log::warn!("last-seen times could not be saved: {error}");
            }
        })
        .map_err(io::Error::other)?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        drop(self.thread.join());
    }
}
