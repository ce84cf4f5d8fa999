//! Heartbeats: when, what, and what became of them (control-channel.md §7, T40).

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::facts::Facts;
use super::session::ConnectionState;
use crate::wire::from_agent::{Heartbeat, HeartbeatMetadata, WorkerJoin};

/// `agent.heartbeat_interval_*` and `pipeops.reconnect.*`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub connected: Duration,
    /// Pace of the checks while the socket is down.
    pub reconnecting: Duration,
    pub disconnected: Duration,
    /// Attempts in one round, at least 1.
    pub attempts: u32,
    /// First wait between attempts; doubles to 30 s.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connected: Duration::from_secs(30),
            reconnecting: Duration::from_mins(1),
            disconnected: Duration::from_secs(15),
            attempts: 3,
            retry: Duration::from_secs(5),
        }
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send one.
    Send,
    /// It was its turn, but there is no connection: skipped, and not a success.
    Skip,
}

/// The pace of heartbeats. Pure: time is an argument.
#[derive(Debug)]
pub struct Pace {
    settings: Settings,
    rng: Rng,
    serving: bool,
    next: Instant,
    /// Sent over HTTP and not answered yet, or at rest.
    pending: bool,
    attempt: u32,
    failed_rounds: u32,
    unacknowledged: u32,
    /// When the one was written whose ack is the next, if that can be told.
    unanswered: Option<Instant>,
}

impl Pace {
    pub fn new(settings: Settings, rng: Rng, now: Instant) -> Self {
        let next = now + settings.disconnected;
        Self {
            settings,
            rng,
            serving: false,
            next,
            pending: false,
            attempt: 0,
            failed_rounds: 0,
            unacknowledged: 0,
            unanswered: None,
        }
    }

    /// There is a connection. `first_sent`: its first heartbeat went out with it.
    pub fn serve(&mut self, now: Instant, first_sent: bool) {
        self.serving = true;
        self.pending = false;
        self.attempt = 0;
        self.unacknowledged = 0;
        self.unanswered = None;
        self.next = now;
        if first_sent {
            self.written(now);
        }
    }

    /// Nothing is due, and nothing is counted, until the next [`serve`](Self::serve).
    pub fn rest(&mut self) {
        self.pending = true;
    }

    pub fn stop_serving(&mut self, now: Instant) {
        self.serving = false;
        self.pending = false;
        self.attempt = 0;
        self.next = now + self.idle_interval();
    }

    /// What is due by now. Whoever gets [`Due::Send`] reports what became of it:
    /// [`written`](Self::written), or [`succeeded`](Self::succeeded) or
    /// [`failed`](Self::failed).
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        if self.pending || now < self.next {
            return None;
        }
        if self.serving {
            self.pending = true;
            return Some(Due::Send);
        }
        self.next = now + self.idle_interval();
        Some(Due::Skip)
    }

    /// When [`due`](Self::due) is to be asked again.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.pending).then_some(self.next)
    }

    /// It went into the WebSocket; whether an ack comes is a hint only (T16).
    pub fn written(&mut self, now: Instant) {
        self.unanswered = (self.unacknowledged == 0).then_some(now);
        self.unacknowledged = self.unacknowledged.saturating_add(1);
        self.succeeded(now);
    }

    pub fn succeeded(&mut self, now: Instant) {
        self.pending = false;
        self.attempt = 0;
        self.failed_rounds = 0;
        self.next = now + self.jittered(self.settings.connected);
    }

    /// An attempt failed. True when the round is over with it.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.pending = false;
        self.attempt += 1;
        if self.attempt < self.settings.attempts.max(1) {
            let factor = 1u32 << (self.attempt - 1).min(16);
            let wait = self.settings.retry.saturating_mul(factor);
            self.next = now + wait.min(RETRY_CAP);
            return false;
        }
        self.attempt = 0;
        self.failed_rounds = self.failed_rounds.saturating_add(1);
        self.next = now + self.jittered(self.idle_interval());
        true
    }

    /// An ack has come: how long its heartbeat and it took. `None`: more than one
    /// was without, and an ack doesn't say which it means.
    pub fn acknowledged(&mut self, now: Instant) -> Option<Duration> {
        self.unacknowledged = 0;
        let written = self.unanswered.take()?;
        Some(now.saturating_duration_since(written))
    }

    /// True once, when several heartbeats in a row got no ack.
    pub fn acks_are_missing(&self) -> bool {
        self.unacknowledged == MISSING_ACKS
    }

    /// Ten failed rounds in a row (control-channel.md §7.3).
    pub fn is_disconnected(&self) -> bool {
        self.failed_rounds >= DISCONNECTED_AFTER
    }

    fn idle_interval(&self) -> Duration {
        if self.is_disconnected() {
            self.settings.disconnected
        } else {
            self.settings.reconnecting
        }
    }

    /// Agents that were started together must not stay together.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.rng.f64())
    }
}

/// What a heartbeat says; what stays the same for the process's life.
#[derive(Clone, Debug)]
pub struct Reporter {
    pub agent_id: String,
    pub agent_version: String,
    /// Tunnel mode is forced, or the cluster is private (decisions.md §6.1).
    pub is_private: bool,
}

impl Reporter {
    pub fn payload<'a>(
        &'a self,
        cluster_id: &'a str,
        state: ConnectionState,
        facts: &'a Facts,
        worker_join: Option<&'a WorkerJoin>,
    ) -> Heartbeat<'a> {
        let (status, tunnel_status) = match state {
            ConnectionState::Connected => ("healthy", "connected"),
            ConnectionState::Connecting | ConnectionState::Reconnecting => {
                ("reconnecting", "disconnected")
            }
            ConnectionState::Disconnected => ("disconnected", "disconnected"),
        };
        Heartbeat {
            agent_id: &self.agent_id,
            cluster_id,
            metadata: HeartbeatMetadata {
                agent_version: &self.agent_version,
                cpu_usage: "0%",
                gateway_routes: 0,
                is_private: self.is_private,
                k8s_nodes: facts.nodes,
                k8s_pods: facts.pods,
                k8s_version: &facts.k8s_version,
                memory_usage: "0%",
            },
            status,
            tunnel_status,
            worker_join,
        }
    }
}

/// Longest wait between the attempts of a round.
const RETRY_CAP: Duration = Duration::from_secs(30);

const DISCONNECTED_AFTER: u32 = 10;

/// Peers may not ack at all; when those that do fall silent, it is worth a line.
const MISSING_ACKS: u32 = 3;

const JITTER: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn pace(settings: Settings) -> (Pace, Instant) {
        let now = Instant::now();
        (Pace::new(settings, Rng::with_seed(5), now), now)
    }

    #[test]
    fn the_first_is_due_at_once_and_then_every_interval() {
        let (mut pace, now) = pace(Settings::default());
        pace.serve(now, false);
        assert_eq!(pace.due(now), Some(Due::Send));
        assert_eq!(
            (pace.due(now), pace.deadline()),
            (None, None),
            "one at a time"
        );
        pace.written(now);
        let next = pace.deadline().expect("a time") - now;
        assert!(next >= S(28) && next <= S(32), "{next:?}");
        pace.serve(now, true);
        assert_eq!(
            pace.due(now),
            None,
            "the first went out with the connection"
        );
    }

    #[test]
    fn while_the_socket_is_down_turns_are_skipped_at_their_own_pace() {
        let (mut pace, now) = pace(Settings::default());
        pace.serve(now, true);
        pace.stop_serving(now);
        assert_eq!(pace.due(now + S(59)), None);
        assert_eq!(pace.due(now + S(60)), Some(Due::Skip));
        assert_eq!(pace.due(now + S(61)), None);
        assert_eq!(pace.due(now + S(120)), Some(Due::Skip));
    }

    #[test]
    fn t40_a_round_has_attempts_with_doubling_waits() {
        let settings = Settings {
            attempts: 5,
            retry: S(5),
            ..Settings::default()
        };
        let (mut pace, mut now) = pace(settings);
        pace.serve(now, false);
        for wait in [5, 10, 20, 30] {
            assert_eq!(pace.due(now), Some(Due::Send));
            assert!(!pace.failed(now));
            assert_eq!(pace.deadline(), Some(now + S(wait)));
            now += S(wait);
        }
        assert_eq!(pace.due(now), Some(Due::Send));
        assert!(pace.failed(now), "the round is over");
    }

    #[test]
    fn ten_failed_rounds_mean_disconnected_and_one_success_ends_it() {
        let settings = Settings {
            attempts: 1,
            ..Settings::default()
        };
        let (mut pace, mut now) = pace(settings);
        pace.serve(now, false);
        for round in 0..10 {
            assert!(!pace.is_disconnected(), "{round}");
            now = pace.deadline().expect("a time").max(now);
            assert_eq!(pace.due(now), Some(Due::Send));
            assert!(pace.failed(now));
        }
        assert!(pace.is_disconnected());
        let next = pace.deadline().expect("a time") - now;
        assert!(next <= S(16), "{next:?}");
        pace.succeeded(now);
        assert!(!pace.is_disconnected());
    }

    #[test]
    fn t16_missing_acks_are_a_hint_given_once() {
        let (mut pace, now) = pace(Settings::default());
        pace.serve(now, false);
        let hints = (0..6).filter(|_| {
            pace.written(now);
            pace.acks_are_missing()
        });
        assert_eq!(hints.count(), 1);
        assert_eq!(pace.acknowledged(now), None);
        pace.written(now);
        assert!(!pace.acks_are_missing());
    }

    #[test]
    fn an_ack_says_how_long_it_took_where_one_heartbeat_waits() {
        let (mut pace, now) = pace(Settings::default());
        let later = now + Duration::from_millis(7);
        pace.serve(now, true);
        assert_eq!(pace.acknowledged(later), Some(later - now));
        assert_eq!(pace.acknowledged(later), None, "nothing was asked");
        pace.written(now);
        pace.written(later);
        assert_eq!(
            pace.acknowledged(later),
            None,
            "the first's or the second's"
        );
        pace.written(now);
        pace.serve(later, false);
        assert_eq!(pace.acknowledged(later), None, "of another connection");
    }

    /// What the original sent (captures, line 10), but for the time.
    #[test]
    fn the_payload_is_the_originals() {
        let reporter = Reporter {
            agent_id: "bench-agent".into(),
            agent_version: "1.0.0-dev".into(),
            is_private: true,
        };
        let facts = Facts {
            nodes: 1,
            pods: 0,
            k8s_version: "v1.36.2".into(),
        };
        let payload = reporter.payload("6f0c", ConnectionState::Connected, &facts, None);
        assert_eq!(
            serde_json::to_string(&payload).expect("JSON"),
            r#"{"agent_id":"bench-agent","cluster_id":"6f0c","metadata":{"agent_version":"1.0.0-dev","cpu_usage":"0%","gateway_routes":0,"is_private":true,"k8s_nodes":1,"k8s_pods":0,"k8s_version":"v1.36.2","memory_usage":"0%"},"status":"healthy","tunnel_status":"connected"}"#
        );
        let payload = reporter.payload("6f0c", ConnectionState::Reconnecting, &facts, None);
        assert_eq!(
            (payload.status, payload.tunnel_status),
            ("reconnecting", "disconnected")
        );
    }
}
