//! Reads the policy file again when it has changed. Editors and ConfigMap mounts
//! replace files in ways of their own, so that a look at the file's state now and
//! then is what finds out about all of them (config-and-state.md §12.4).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::Policy;
use crate::threads::{self, SpawnError, Stack};

/// Looks after the policy file until it is dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<()>>>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    size: u64,
    inode: (u64, u64),
}

/// `None` when there is no file.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let about = fs::metadata(path).ok()?;
    Some(Stamp {
        modified: about.modified().ok()?,
        size: about.len(),
        inode: (about.dev(), about.ino()),
    })
}

impl Watch {
    /// Looks every `period` (10 s).
    pub fn start(policy: Arc<Policy>, period: Duration) -> Result<Self, SpawnError> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = threads::spawn("tunnel-policy", Stack::Work, move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(period) {
                policy.reload_if_changed();
            }
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The root has caught and logged a panic.
            let _ = thread.join();
        }
    }
}

impl Policy {
    /// Reads the file again if it isn't what was tried last. What is wrong with it is
    /// said once; the old rules stay in force.
    pub fn reload_if_changed(&self) {
        let Some(path) = self.settings.file.as_deref() else {
            return;
        };
        if *self.seen.lock() == stamp(path) {
            return;
        }
        if let Err(error) = self.reload() {
            log::error!("{error}; the old tunnel policy stays in force");
        }
    }
}
