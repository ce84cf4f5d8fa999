//! One limit for all bodies that are held in memory (decisions.md §6.2 "Memory").

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What may be held, and what is.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the agent's limit of {} for all buffered bodies (proxy.memory_limit) is reached", mib(*.limit))]
pub(super) struct OverBudget {
    limit: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Takes room for so many bytes; never waits.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, OverBudget> {
        let mut reservation = Reservation {
            budget: self.clone(),
            bytes: 0,
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Bytes in use now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Room that is taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    pub(super) fn grow(&mut self, more: usize) -> Result<(), OverBudget> {
        let limit = self.budget.limit;
        let take = |used: usize| used.checked_add(more).filter(|sum| *sum <= limit);
        let order = Ordering::Relaxed;
        match self.budget.used.fetch_update(order, order, take) {
            Ok(_) => {
                self.bytes += more;
                Ok(())
            }
            Err(_) => Err(OverBudget { limit }),
        }
    }

    /// Gives a part back; more than there is counts as all of it.
    pub(super) fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.budget.used.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

/// Bytes that hold a reservation as long as they live.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Vec<u8>,
    _room: Reservation,
}

impl Held {
    pub(super) fn new(bytes: Vec<u8>, room: Reservation) -> Self {
        Self { bytes, _room: room }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A size for people.
pub(super) fn mib(bytes: usize) -> String {
    if bytes.is_multiple_of(1 << 20) {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{bytes} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_limited_and_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.reserve(60).expect("room");
        let error = budget.reserve(41).expect_err("no room");
        assert!(error.to_string().contains("proxy.memory_limit"), "{error}");
        let second = budget.reserve(40).expect("room");
        assert!(first.grow(1).is_err());
        first.shrink(10);
        first.grow(10).expect("room again");
        assert!(first.grow(usize::MAX).is_err());
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(mib(256 << 20), "256 MiB");
        assert_eq!(mib(1000), "1000 bytes");
    }
}
