//! One limit for all bodies that are held in memory (decisions.md §6.2 "Memory").

use std::ops::Deref;
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

    /// Makes room for `more` bytes at the end of `bytes`, which this reservation pays
    /// for: all that it can hold, and while it moves the old place as well.
    pub(super) fn extend(&mut self, bytes: &mut Vec<u8>, more: usize) -> Result<(), OverBudget> {
        let (had, needed) = (bytes.capacity(), bytes.len() + more);
        if needed <= had {
            return Ok(());
        }
        // Twice as much, so that it isn't moved often; or as much as there is.
        let capacity = needed.max(had.saturating_mul(2));
        match self.enlarge(bytes, capacity) {
            Err(_) if capacity > needed => self.enlarge(bytes, needed),
            done => done,
        }
    }

    fn enlarge(&mut self, bytes: &mut Vec<u8>, capacity: usize) -> Result<(), OverBudget> {
        let had = bytes.capacity();
        self.grow(capacity)?;
        bytes.reserve_exact(capacity - bytes.len());
        self.shrink(had);
        Ok(())
    }

    /// What it is for.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what is beyond so many bytes.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.shrink(self.bytes.saturating_sub(bytes));
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

/// Bytes that grow, and the room for all that they can hold.
#[derive(Debug)]
pub(super) struct Paid {
    bytes: Vec<u8>,
    room: Reservation,
}

impl Paid {
    pub(super) fn new(budget: &Arc<Budget>) -> Result<Self, OverBudget> {
        Ok(Self {
            bytes: Vec::new(),
            room: budget.reserve(0)?,
        })
    }

    /// Makes room for so many bytes more.
    pub(super) fn make_room(&mut self, more: usize) -> Result<(), OverBudget> {
        self.room.extend(&mut self.bytes, more)
    }

    pub(super) fn extend(&mut self, more: &[u8]) -> Result<(), OverBudget> {
        self.make_room(more.len())?;
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// The bytes go, the room stays.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }
}

impl Deref for Paid {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
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
    fn what_grows_is_paid_for_while_it_moves_too() {
        let budget = Budget::new(100);
        let mut room = budget.reserve(0).expect("room");
        let mut bytes = Vec::new();
        room.extend(&mut bytes, 20).expect("room");
        assert_eq!((bytes.capacity(), budget.used()), (20, 20));
        bytes.extend_from_slice(&[0; 15]);
        room.extend(&mut bytes, 5).expect("room");
        assert_eq!((bytes.capacity(), budget.used()), (20, 20));
        room.extend(&mut bytes, 6).expect("room");
        assert_eq!((bytes.capacity(), budget.used()), (40, 40));
        bytes.resize(40, 0);
        // No room for twice as much beside what there is.
        room.extend(&mut bytes, 10).expect("room");
        assert_eq!((bytes.capacity(), budget.used()), (50, 50));
        bytes.resize(50, 0);
        assert!(room.extend(&mut bytes, 1).is_err());
        assert_eq!((bytes.capacity(), budget.used()), (50, 50));
        room.shrink_to(30);
        assert_eq!(budget.used(), 30);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(mib(256 << 20), "256 MiB");
        assert_eq!(mib(1000), "1000 bytes");
    }
}
