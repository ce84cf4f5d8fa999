//! One cap for the memory of all streams (decisions.md §6.6, "Windows").

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all streams together may hold: bytes that arrived and weren't read, bytes
/// that wait to be sent, and the part of receive windows above the initial one,
/// because the peer may fill it at any time.
///
/// The initial windows are the protocol's: they count when bytes arrive, whatever
/// the limit is. Who sees [`Budget::is_full`] resets a [`victim`](super::victim).
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    charged: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            charged: AtomicUsize::new(0),
        }
    }

    /// Bytes that are taken.
    pub fn charged(&self) -> usize {
        // Relaxed, here and below: it is a sum, and nothing hangs on its order.
        self.charged.load(Ordering::Relaxed)
    }

    /// Windows don't grow any more, and those that grew shrink.
    pub fn is_near(&self) -> bool {
        self.charged() >= self.near()
    }

    /// Streams that nobody reads have to go, and who sends queues little.
    pub fn is_full(&self) -> bool {
        self.charged() >= self.limit
    }

    /// Takes so many bytes for what isn't a stream of yamux and has no window that the
    /// peer may fill; `None` when they are not left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let fits =
            |charged: usize| Some(charged.checked_add(bytes)?).filter(|sum| *sum <= self.limit);
        let taken = self
            .charged
            .try_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.ok().map(|_| Taken {
            budget: self.clone(),
            bytes,
        })
    }

    /// Takes `more` bytes for a window, if that leaves as much for others.
    fn reserve(&self, more: usize) -> bool {
        let near = self.near();
        let fits = |charged: usize| {
            let left = near.saturating_sub(charged);
            (more <= left / 2).then_some(charged + more)
        };
        self.charged
            .try_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    /// Where the space for bytes of initial windows begins.
    fn near(&self) -> usize {
        self.limit / 4 * 3
    }
}

/// Bytes that were taken; given back when it is dropped.
#[derive(Debug)]
pub struct Taken {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.charged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one stream takes of a budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    charged: usize,
}

impl Account {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { budget, charged: 0 }
    }

    pub(super) fn is_near(&self) -> bool {
        self.budget.is_near()
    }

    pub(super) fn is_full(&self) -> bool {
        self.budget.is_full()
    }

    pub(super) fn charged(&self) -> usize {
        self.charged
    }

    /// Takes `more` bytes for a window, if there is enough.
    pub(super) fn reserve(&mut self, more: usize) -> bool {
        let reserved = self.budget.reserve(more);
        if reserved {
            self.charged += more;
        }
        reserved
    }

    /// Makes it `bytes`.
    pub(super) fn set(&mut self, bytes: usize) {
        let total = &self.budget.charged;
        if bytes > self.charged {
            total.fetch_add(bytes - self.charged, Ordering::Relaxed);
        } else if bytes < self.charged {
            total.fetch_sub(self.charged - bytes, Ordering::Relaxed);
        }
        self.charged = bytes;
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_later_finds_something_left() {
        let budget = Arc::new(Budget::new(64));
        let mut accounts: Vec<_> = (0..4).map(|_| Account::new(budget.clone())).collect();
        assert!(!accounts[0].reserve(25));
        assert!(accounts[0].reserve(24));
        assert!(!accounts[1].reserve(13));
        assert!(accounts[1].reserve(12));
        assert!(accounts[2].reserve(6));
        assert!(!budget.is_near());
        accounts[3].set(6);
        assert!(budget.is_near());
        assert!(!budget.is_full());
        accounts[3].set(22);
        assert!(budget.is_full());
        assert!(!accounts[0].reserve(1));
        drop(accounts);
        assert_eq!(budget.charged(), 0);
    }

    #[test]
    fn what_was_taken_is_given_back_and_never_exceeds_the_limit() {
        let budget = Arc::new(Budget::new(64));
        let first = budget.take(60).expect("room");
        assert!(budget.take(5).is_none() && budget.take(usize::MAX).is_none());
        let second = budget.take(4).expect("room");
        assert!(budget.is_full());
        drop((first, second));
        assert_eq!(budget.charged(), 0);
    }
}
