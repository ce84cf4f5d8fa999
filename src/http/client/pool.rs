//! Idle connections to one server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::Halves;

/// Connections that wait to be used again; the one that waits longest is in front.
pub(super) struct Pool {
    idle: Mutex<VecDeque<Idle>>,
    /// Most connections kept.
    max: usize,
    /// Longest time one is kept.
    limit: Duration,
}

struct Idle {
    halves: Halves,
    since: Instant,
}

impl Pool {
    pub(super) fn new(max: usize, limit: Duration) -> Self {
        Self {
            idle: Mutex::default(),
            max,
            limit,
        }
    }

    /// The connection that was used last and is still good. What the server has
    /// closed meanwhile, or sent without being asked, makes one useless.
    pub(super) fn take(&self) -> Option<Halves> {
        loop {
            let mut idle = self.idle.lock().pop_back()?;
            if idle.since.elapsed() < self.limit && idle.halves.read.is_idle_alive() {
                return Some(idle.halves);
            }
        }
    }

    /// Keeps a connection whose last exchange is complete.
    pub(super) fn put(&self, halves: Halves) {
        let since = Instant::now();
        let surplus = {
            let mut idle = self.idle.lock();
            idle.push_back(Idle { halves, since });
            (idle.len() > self.max).then(|| idle.pop_front())
        };
        drop(surplus); // closes a socket: outside the lock
    }

    /// Closes what is too old or dead, and takes the buffers of what has been idle
    /// for a while.
    pub(super) fn sweep(&self) {
        let mut idle = std::mem::take(&mut *self.idle.lock());
        idle.retain_mut(|one| {
            let age = one.since.elapsed();
            let good = age < self.limit && one.halves.read.is_idle_alive();
            if good && age >= SHRINK_AFTER {
                one.halves.read.shrink();
            }
            good
        });
        let mut now = self.idle.lock();
        // What came back meanwhile is younger.
        idle.append(&mut now);
        *now = idle;
    }

    pub(super) fn clear(&self) {
        drop(std::mem::take(&mut *self.idle.lock()));
    }

    pub(super) fn len(&self) -> usize {
        self.idle.lock().len()
    }
}

/// A connection that is used all the time keeps its buffers.
const SHRINK_AFTER: Duration = Duration::from_secs(5);
