//! Credit for a streamed answer (feature `flow`, decisions.md §6.2).

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::net::{Cancel, Reason};
use crate::wire::INITIAL_CREDIT;

/// Decoded bytes that may still be sent for one request.
#[derive(Debug)]
pub(super) struct Credit {
    left: Mutex<u64>,
    changed: Condvar,
}

impl Credit {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            left: Mutex::new(INITIAL_CREDIT),
            changed: Condvar::new(),
        })
    }

    /// The peer takes so many bytes more.
    pub(super) fn add(&self, bytes: u64) {
        let mut left = self.left.lock();
        *left = left.saturating_add(bytes);
        self.changed.notify_all();
    }

    /// Gives back what was taken and not used.
    pub(super) fn put_back(&self, bytes: usize) {
        if bytes > 0 {
            self.add(bytes as u64);
        }
    }

    /// Takes credit for at most `wanted` bytes, at least one; waits for it.
    pub(super) fn take(self: &Arc<Self>, wanted: usize, cancel: &Cancel) -> Result<usize, Reason> {
        if let Some(count) = self.take_now(&mut self.left.lock(), wanted) {
            return Ok(count);
        }
        let waiting = self.clone();
        let wake = move || {
            // Under the lock: who looked before can't be on his way to sleep.
            let _left = waiting.left.lock();
            waiting.changed.notify_all();
        };
        let _guard = cancel.on_wake(Arc::new(wake))?;
        let mut left = self.left.lock();
        loop {
            if let Some(count) = self.take_now(&mut left, wanted) {
                return Ok(count);
            }
            if let Some(reason) = cancel.reason() {
                return Err(reason);
            }
            self.changed.wait(&mut left);
        }
    }

    #[allow(clippy::unused_self)] // reads better at its uses
    fn take_now(&self, left: &mut u64, wanted: usize) -> Option<usize> {
        let count = (*left).min(wanted as u64);
        *left -= count;
        (count > 0).then_some(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn credit_is_taken_and_waited_for() {
        let credit = Credit::new();
        let all = INITIAL_CREDIT as usize;
        assert_eq!(credit.take(all + 5, &Cancel::new()), Ok(all));
        let waits = credit.clone();
        let waiting = thread::spawn(move || waits.take(10, &Cancel::new()));
        credit.add(7);
        assert_eq!(waiting.join().expect("joined"), Ok(7));
        credit.add(u64::MAX);
        credit.add(u64::MAX);
        assert_eq!(credit.take(10, &Cancel::new()), Ok(10));
    }

    #[test]
    fn cancelling_ends_the_wait() {
        let credit = Credit::new();
        let cancel = Cancel::new();
        let taken = credit.take(INITIAL_CREDIT as usize, &cancel);
        assert!(taken.is_ok());
        let (waits, ends) = (credit.clone(), cancel.clone());
        let waiting = thread::spawn(move || waits.take(10, &ends));
        cancel.cancel(Reason::Deadline);
        assert_eq!(waiting.join().expect("joined"), Err(Reason::Deadline));
        assert_eq!(credit.take(1, &cancel), Err(Reason::Deadline));
    }
}
