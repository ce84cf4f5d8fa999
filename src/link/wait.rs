//! Where a sender waits.

use crate::sync::{AtomicU8, Ordering, Thread, current};

/// Where a sender waits until its message has room or is taken by the writer. Its
/// thread sleeps until this is settled.
#[derive(Debug)]
pub(super) struct Wait {
    outcome: AtomicU8,
    sender: Thread,
}

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Admitted,
    Closed,
}

impl Wait {
    /// For the calling thread.
    pub(super) fn here() -> Self {
        Self {
            outcome: AtomicU8::new(WAITING),
            sender: current(),
        }
    }

    /// Decides it; whoever does wakes the sender afterwards, without a lock that the
    /// sender would run into.
    pub(super) fn settle(&self, outcome: Waited) {
        let outcome = match outcome {
            Waited::Admitted => ADMITTED,
            Waited::Closed => CLOSED,
        };
        self.outcome.store(outcome, Ordering::Release);
    }

    /// Makes the sender look again.
    pub(super) fn wake(&self) {
        self.sender.unpark();
    }

    pub(super) fn outcome(&self) -> Option<Waited> {
        match self.outcome.load(Ordering::Acquire) {
            ADMITTED => Some(Waited::Admitted),
            CLOSED => Some(Waited::Closed),
            _ => None,
        }
    }
}

const WAITING: u8 = 0;
const ADMITTED: u8 = 1;
const CLOSED: u8 = 2;
