//! Waiting longer each time, and never at the same moment as everybody else.

use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

/// A delay that doubles up to a cap; jitter comes on top of it at each wait.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: Duration,
    cap: Duration,
    /// What a wait is multiplied with, at least and at most.
    jitter: RangeInclusive<f64>,
    delay: Duration,
}

impl BackOff {
    /// Reconnecting (decisions.md §6.3): `jitter` 0.25 means ±25 %.
    pub fn new(first: Duration, cap: Duration, jitter: f64) -> Self {
        let jitter = jitter.clamp(0.0, 0.9);
        Self::between(first, cap, 1.0 - jitter..=1.0 + jitter)
    }

    /// A delay that jitter only makes longer: somebody asked for at least that much.
    pub fn at_least(first: Duration, cap: Duration, jitter: f64) -> Self {
        Self::between(first, cap, 1.0..=1.0 + jitter.clamp(0.0, 1.0))
    }

    fn between(first: Duration, cap: Duration, jitter: RangeInclusive<f64>) -> Self {
        // Zero would never grow, and a loop without a wait is an attack.
        let first = first.max(MIN_DELAY);
        Self {
            first,
            cap: cap.max(first),
            jitter,
            delay: first,
        }
    }

    pub fn set_cap(&mut self, cap: Duration) {
        self.cap = cap.max(self.first);
        self.delay = self.delay.min(self.cap);
    }

    pub fn grow(&mut self) {
        self.delay = self.delay.saturating_mul(2).min(self.cap);
    }

    pub fn reset(&mut self) {
        self.delay = self.first;
    }

    /// How long to wait now.
    pub fn wait(&self, rng: &mut Rng) -> Duration {
        self.jittered(self.delay, rng)
    }

    /// The shortest wait: that of the first delay.
    pub fn first(&self, rng: &mut Rng) -> Duration {
        self.jittered(self.first, rng)
    }

    fn jittered(&self, delay: Duration, rng: &mut Rng) -> Duration {
        let (low, high) = (*self.jitter.start(), *self.jitter.end());
        delay.mul_f64(low + (high - low) * rng.f64())
    }
}

const MIN_DELAY: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_with_jitter_on_both_sides() {
        let (ms, mut rng) = (Duration::from_millis, Rng::with_seed(7));
        let mut back = BackOff::new(ms(500), ms(15_000), 0.25);
        for base in [500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000] {
            for _ in 0..50 {
                let wait = back.wait(&mut rng);
                assert!(
                    wait >= ms(base * 3 / 4) && wait <= ms(base * 5 / 4),
                    "{wait:?}"
                );
            }
            back.grow();
        }
        back.reset();
        assert!(back.wait(&mut rng) <= ms(625));
    }

    #[test]
    fn what_was_asked_for_is_never_undercut() {
        let mut rng = Rng::with_seed(7);
        let minute = Duration::from_mins(1);
        let back = BackOff::at_least(minute, minute * 5, 0.25);
        for _ in 0..100 {
            let wait = back.wait(&mut rng);
            assert!(wait >= minute && wait <= minute * 5 / 4);
        }
    }

    #[test]
    fn settings_of_zero_still_wait() {
        let mut back = BackOff::new(Duration::ZERO, Duration::ZERO, 9.0);
        back.grow();
        assert!(!back.wait(&mut Rng::with_seed(1)).is_zero());
    }
}
