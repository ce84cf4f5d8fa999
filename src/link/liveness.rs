//! `link-clock`: judges a connection without ever touching it, so that nothing
//! that blocks a reader or a writer can block the judgement.
//!
//! Any received byte counts as a sign of life (decisions.md §6.3). A write that
//! makes no progress is noticed by the kernel (`SO_SNDTIMEO`), which sees progress
//! that nobody else sees.

use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::Settings;
use super::shared::Shared;
use crate::threads;

/// Watches the link until reader and writer have ended.
pub(super) fn run(shared: &Shared) {
    let mut liveness = Liveness::new(&shared.settings, Instant::now());
    let mut second = Instant::now();
    threads::prompt();
    let mut life = shared.life.lock();
    while life.running > 1 {
        if shared.is_cut() {
            shared.changed.wait(&mut life);
            continue;
        }
        let now = Instant::now();
        if life.cut_at.is_some_and(|at| at <= now) {
            shared.expire(&mut life, None);
            continue;
        }
        if life.drain_until.is_some_and(|at| at <= now) {
            life.drain_until = None;
            shared.outbox.hurry();
        }
        let tick = liveness.tick(now, shared.traffic.last_received());
        if let Some(age) = tick.dead {
            let why = format!("nothing was received for {:.1} s", age.as_secs_f64());
            shared.expire(&mut life, Some(why));
            continue;
        }
        if tick.ping {
            shared.outbox.ping();
            continue;
        }
        if second <= now
            && let Some(carrier) = life.carrier.clone()
        {
            second = now + SECOND;
            MutexGuard::unlocked(&mut life, || {
                carrier.tick(now);
                drop(carrier);
            });
            continue;
        }
        let second = life.carrier.as_ref().map(|_| second);
        let limits = [life.cut_at, life.drain_until, second];
        let next = limits.into_iter().flatten().fold(tick.next, Instant::min);
        shared.changed.wait_until(&mut life, next);
    }
}

/// When to ping, and when to give up. Pure: time is an argument.
#[derive(Debug)]
struct Liveness {
    ping_interval: Duration,
    read_limit: Duration,
    next_ping: Instant,
    /// When the last tick asked to be called again.
    planned: Instant,
    /// Silence before this doesn't count: we weren't there to listen.
    awake_since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
struct Tick {
    /// Send a ping.
    ping: bool,
    /// The peer is dead; for how long it has been silent.
    dead: Option<Duration>,
    /// Call again at this time at the latest.
    next: Instant,
}

impl Liveness {
    fn new(settings: &Settings, now: Instant) -> Self {
        // A limit of zero would be no time at all, and an absurd one no date.
        let sane = |limit: Duration| limit.clamp(SHORTEST, LONGEST);
        Self {
            ping_interval: sane(settings.ping_interval),
            read_limit: sane(settings.read_limit),
            next_ping: now + sane(settings.ping_interval),
            planned: now,
            awake_since: now,
        }
    }

    fn tick(&mut self, now: Instant, last_received: Instant) -> Tick {
        if now.saturating_duration_since(self.planned) > self.read_limit / 4 {
            // This process was stopped, or the machine: bytes may have arrived that
            // nobody has read yet. The peer gets another chance, and a ping.
            self.awake_since = now;
            self.next_ping = now;
        }
        let heard = last_received.max(self.awake_since);
        let silence = now.saturating_duration_since(heard);
        let ping = now >= self.next_ping;
        if ping {
            self.next_ping = now + self.ping_interval;
        }
        self.planned = self.next_ping.min(heard + self.read_limit);
        Tick {
            ping,
            dead: (silence >= self.read_limit)
                .then(|| now.saturating_duration_since(last_received)),
            next: self.planned,
        }
    }
}

/// How often a carrier is told the time.
const SECOND: Duration = Duration::from_secs(1);

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Role;

    fn liveness(now: Instant) -> Liveness {
        Liveness::new(&Settings::new(Role::Client), now)
    }

    #[test]
    fn a_ping_each_interval_and_death_after_the_limit() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        let mut now = start;
        let mut pings = Vec::new();
        loop {
            let tick = liveness.tick(now, start);
            if tick.ping {
                pings.push((now - start).as_secs());
            }
            if let Some(age) = tick.dead {
                assert_eq!(age, 25 * SECOND);
                break;
            }
            now = tick.next;
        }
        assert_eq!((pings, now - start), (vec![10, 20], 25 * SECOND));
    }

    #[test]
    fn any_received_byte_keeps_it_alive() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        let (mut now, mut heard) = (start, start);
        for _ in 0..1000 {
            let tick = liveness.tick(now, heard);
            assert_eq!(tick.dead, None);
            now = tick.next;
            while heard + 20 * SECOND < now {
                heard += 20 * SECOND;
            }
        }
    }

    #[test]
    fn a_suspended_machine_gives_the_peer_another_chance() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        let tick = liveness.tick(start, start);
        let woken = tick.next + 3600 * SECOND;
        let tick = liveness.tick(woken, start);
        assert_eq!((tick.dead, tick.ping), (None, true));
        let mut now = tick.next;
        let dead = loop {
            let tick = liveness.tick(now, start);
            if tick.dead.is_some() {
                break now;
            }
            now = tick.next;
        };
        assert_eq!(dead - woken, 25 * SECOND);
    }
}
