//! Keepalive and the round trip (tunnels.md §2.8).

use std::time::{Duration, Instant};

use super::{Config, Fatal};

/// Our pings. The first is due at once, because windows don't grow before a round
/// trip is known.
#[derive(Debug)]
pub(super) struct Pings {
    interval: Duration,
    timeout: Duration,
    /// The value of the current, or next, ping.
    value: u32,
    state: State,
    /// When something arrived last.
    heard: Option<Instant>,
    round_trips: [Duration; SAMPLES],
}

#[derive(Debug)]
enum State {
    /// The next one is due then; none: now.
    Idle(Option<Instant>),
    /// To be written.
    Due,
    /// Waiting for the answer.
    Sent(Instant),
}

impl Pings {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            interval: config.keepalive,
            timeout: config.timeout,
            value: 0,
            state: State::Idle(None),
            heard: None,
            round_trips: [Duration::MAX; SAMPLES],
        }
    }

    /// Something arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// An answer arrived: the round trip, if it is to our question.
    pub(super) fn answered(&mut self, value: u32, now: Instant) -> Option<Duration> {
        let State::Sent(at) = self.state else {
            return None;
        };
        if value != self.value {
            return None;
        }
        self.round_trips[self.value as usize % SAMPLES] = now.saturating_duration_since(at);
        self.value = self.value.wrapping_add(1);
        self.state = State::Idle(Some(now + self.interval));
        self.round_trips.iter().min().copied()
    }

    /// Time has passed. A ping that isn't answered while other bytes arrive is slow,
    /// not lost: any byte is a sign of life.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Fatal> {
        match self.state {
            State::Idle(at) if at.is_none_or(|at| at <= now) => self.state = State::Due,
            State::Idle(_) | State::Due => {}
            State::Sent(at) => {
                let alive = self.heard.map_or(at, |heard| heard.max(at));
                if now.saturating_duration_since(alive) >= self.timeout {
                    return Err(Fatal::Keepalive);
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_due(&self) -> bool {
        matches!(self.state, State::Due)
    }

    /// The value of the ping to write now.
    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        if !self.is_due() {
            return None;
        }
        self.state = State::Sent(now);
        Some(self.value)
    }
}

/// Round trips that are remembered. A route that got longer is noticed after so
/// many pings.
const SAMPLES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yamux::Role;

    const SECOND: Duration = Duration::from_secs(1);

    fn sent(at: Instant) -> Pings {
        let mut pings = Pings::new(&Config::new(Role::Client));
        pings.tick(at).expect("nothing is late");
        assert_eq!(pings.take(at), Some(0));
        pings
    }

    #[test]
    fn the_first_is_due_at_once_and_the_next_an_interval_after_the_answer() {
        let start = Instant::now();
        let mut pings = sent(start);
        assert_eq!(pings.answered(7, start + SECOND), None);
        assert_eq!(pings.answered(0, start + SECOND), Some(SECOND));
        assert_eq!(pings.answered(0, start + SECOND), None);
        pings.tick(start + 30 * SECOND).expect("not late");
        assert!(!pings.is_due());
        pings.tick(start + 31 * SECOND).expect("not late");
        assert_eq!(pings.take(start + 31 * SECOND), Some(1));
        assert_eq!(pings.take(start + 31 * SECOND), None);
    }

    #[test]
    fn the_shortest_of_the_last_few_round_trips_counts() {
        let mut now = Instant::now();
        let mut pings = Pings::new(&Config::new(Role::Client));
        let mut measure = |took: u32| {
            pings.tick(now).expect("not late");
            let value = pings.take(now).expect("due");
            now += took * SECOND;
            let shortest = pings.answered(value, now);
            now += 30 * SECOND;
            shortest.expect("ours")
        };
        assert_eq!(measure(3), 3 * SECOND);
        assert_eq!(measure(1), 1 * SECOND);
        for _ in 0..7 {
            assert_eq!(measure(2), 1 * SECOND);
        }
        assert_eq!(measure(2), 2 * SECOND);
    }

    #[test]
    fn a_silent_peer_is_dead_and_a_busy_one_is_not() {
        let start = Instant::now();
        let mut pings = sent(start);
        assert_eq!(pings.tick(start + 29 * SECOND), Ok(()));
        assert_eq!(pings.tick(start + 30 * SECOND), Err(Fatal::Keepalive));
        pings.heard(start + 20 * SECOND);
        assert_eq!(pings.tick(start + 49 * SECOND), Ok(()));
        assert_eq!(pings.tick(start + 50 * SECOND), Err(Fatal::Keepalive));
    }
}
