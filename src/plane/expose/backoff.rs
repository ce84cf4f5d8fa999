//! How long a client of datagrams waits for its next stream when the last ones came to
//! nothing: each costs the agent a thread, a look-up and a dial, and a client whose
//! target is denied would ask for one with every datagram. Pure: time is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The clients that wait.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    failed: HashMap<SocketAddr, Failed>,
}

#[derive(Debug)]
struct Failed {
    pause: Duration,
    until: Instant,
}

impl Failed {
    /// Long enough after its pause it begins anew.
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.until) > LONGEST
    }
}

impl Backoff {
    /// `first` is the pause after one failure; it doubles up to [`LONGEST`].
    pub(super) fn new(first: Duration) -> Self {
        Self {
            first,
            failed: HashMap::new(),
        }
    }

    /// Whether this client may have a stream now.
    pub(super) fn allows(&self, client: SocketAddr, now: Instant) -> bool {
        self.failed
            .get(&client)
            .is_none_or(|failed| failed.until <= now)
    }

    /// Its stream has failed.
    pub(super) fn fail(&mut self, client: SocketAddr, now: Instant) {
        let last = self.failed.remove(&client);
        let pause = match last.filter(|failed| !failed.is_old(now)) {
            Some(failed) => (failed.pause * 2).min(LONGEST.max(self.first)),
            None => self.first,
        };
        if self.failed.len() >= MAX_CLIENTS {
            self.failed.retain(|_, failed| !failed.is_old(now));
        }
        // Whoever finds no room here has made up that many addresses.
        if self.failed.len() < MAX_CLIENTS {
            let until = now + pause;
            self.failed.insert(client, Failed { pause, until });
        }
    }

    /// Its stream does what it should.
    pub(super) fn succeed(&mut self, client: SocketAddr) {
        self.failed.remove(&client);
    }
}

/// Clients that are remembered.
const MAX_CLIENTS: usize = 4096;

/// A target that is back is found after this long at the latest.
const LONGEST: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(250);

    fn client(number: usize) -> SocketAddr {
        let [.., a, b, c] = number.to_be_bytes();
        ([10, a, b, c], 53).into()
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let mut backoff = Backoff::new(FIRST);
        let mut now = Instant::now();
        for millis in [250, 500, 1000, 2000, 4000, 8000, 8000] {
            let pause = Duration::from_millis(millis);
            assert!(backoff.allows(client(1), now));
            backoff.fail(client(1), now);
            assert!(!backoff.allows(client(1), now + pause / 2));
            assert!(backoff.allows(client(2), now), "another one");
            now += pause;
        }
        backoff.succeed(client(1));
        backoff.fail(client(1), now);
        assert!(backoff.allows(client(1), now + FIRST));
        // Or it was quiet for long.
        now += FIRST + LONGEST + FIRST;
        backoff.fail(client(1), now);
        assert!(backoff.allows(client(1), now + FIRST));
    }

    #[test]
    fn no_more_than_so_many_are_remembered_and_old_ones_make_room() {
        let mut backoff = Backoff::new(FIRST);
        let now = Instant::now();
        for number in 0..=MAX_CLIENTS {
            backoff.fail(client(number), now);
        }
        assert_eq!(backoff.failed.len(), MAX_CLIENTS);
        let later = now + LONGEST * 2;
        backoff.fail(client(MAX_CLIENTS), later);
        assert_eq!(backoff.failed.len(), 1);
    }
}
