//! Log lines that a peer can provoke must not fill the disk.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets `burst` lines pass per `period`, and counts the rest. One `static` per place
/// that logs:
///
/// ```
/// use std::time::Duration;
/// use pipeops_agent::telemetry::RateLimit;
///
/// static UNKNOWN: RateLimit = RateLimit::new(5, Duration::from_secs(60));
/// if let Some(skipped) = UNKNOWN.pass() {
///     log::warn!(skipped; "unknown message type");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimit {
    burst: u32,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Option<Instant>,
    passed: u32,
    skipped: u64,
}

impl RateLimit {
    pub const fn new(burst: u32, period: Duration) -> Self {
        Self {
            burst,
            period,
            state: Mutex::new(State {
                since: None,
                passed: 0,
                skipped: 0,
            }),
        }
    }

    /// Whether to log now; if so, how many were skipped since the last line.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let begins = state
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= self.period);
        if begins {
            state.since = Some(now);
            state.passed = 0;
        }
        if state.passed >= self.burst {
            state.skipped += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_the_rest_is_counted() {
        let limit = RateLimit::new(2, Duration::from_mins(1));
        let now = Instant::now();
        assert_eq!(limit.pass_at(now), Some(0));
        assert_eq!(limit.pass_at(now), Some(0));
        assert_eq!(limit.pass_at(now), None);
        assert_eq!(limit.pass_at(now + Duration::from_secs(59)), None);
        assert_eq!(limit.pass_at(now + Duration::from_mins(1)), Some(2));
        assert_eq!(limit.pass_at(now + Duration::from_mins(1)), Some(0));
    }
}
