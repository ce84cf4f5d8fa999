//! A point in time by which something must be done.

use std::time::{Duration, Instant};

/// One deadline for a chain of steps, so that the steps share what time there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(limit: Duration) -> Self {
        let now = Instant::now();
        // An absurd limit (a century) must not overflow the clock.
        Self(
            now.checked_add(limit)
                .unwrap_or(now + Duration::from_hours(365 * 24)),
        )
    }

    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left; `None` when it has passed. Never zero, because socket
    /// options read zero as "no limit".
    pub fn remaining(self) -> Option<Duration> {
        let left = self.0.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then_some(left)
    }

    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_has_nothing_left() {
        assert_eq!(Deadline::after(Duration::ZERO).remaining(), None);
    }

    #[test]
    fn an_absurd_limit_does_not_overflow() {
        assert!(Deadline::after(Duration::MAX).remaining().is_some());
    }
}
