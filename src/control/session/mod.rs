//! The life cycle of the control channel as a pure state machine
//! (control-channel.md §1, §6, §12; decisions.md §2, §6.1, §6.3).
//!
//! Events go in with the time at which they happened; actions come out by
//! [`Session::poll`]; [`Session::deadline`] says when to send [`Event::Tick`] if
//! nothing else happens. Everything that belongs to one connection (or one HTTP
//! call) carries its generation: what comes late from an old one changes nothing
//! (T5).
//!
//! ```text
//! start ─► resume: dial gateway ─► serve
//!   │              └ fails ─┐
//!   └► dial controller ◄────┘──► register ─► leave with 1000 ─► dial gateway ─► serve
//!         │      ▲                   └ no gateway ─► serve here
//!         │      └ unknown cluster · 404 · 5 minutes without the gateway
//!         └ 404, 405, 426, 501 ─► HTTP mode
//! ```

mod http;
mod ids;
mod renewal;
mod types;
mod websocket;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;

pub use types::{
    Action, Answers, ConnectionState, End, Event, Failure, Generation, Ids, Settings, Target,
    Transport,
};

use super::backoff::BackOff;

/// The life cycle of one agent process.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    rng: Rng,
    phase: Phase,
    actions: VecDeque<Action>,
    state: ConnectionState,
    generation: Generation,
    ids: Ids,
    /// The stored ids may be used without registering.
    resumable: bool,
    /// Registered or resumed at least once: nothing is fatal from then on.
    registered: bool,
    /// The next controller connection begins with `register`.
    need_register: bool,
    /// The stored id was rejected as unknown: register without it.
    without_id: bool,
    /// The controller didn't answer while the gateway might: try that in turns.
    gateway_in_turns: bool,
    http_mode: bool,
    websocket_at: Instant,
    /// When the dial began that hasn't succeeded.
    dialling_since: Option<Instant>,
    /// A WebSocket is being tried while HTTP serves: HTTP rests, and goes on as if
    /// nothing had been unless the WebSocket serves by then.
    trial_until: Option<Instant>,
    /// A registration beside the gateway's connection is under way.
    beside: bool,
    gateway_failing_since: Option<Instant>,
    last_reregister: Option<Instant>,
    give_up_at: Option<Instant>,
    back_off: BackOff,
    unauthorized: BackOff,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Waiting {
        until: Instant,
        next: Next,
    },
    Dialing {
        target: Target,
        until: Instant,
    },
    Registering {
        since: Instant,
        until: Instant,
        with_id: bool,
    },
    /// The old connection is being closed.
    Leaving {
        until: Instant,
        next: Next,
    },
    Serving {
        home: Next,
        since: Instant,
        acked: bool,
        reregister_at: Option<Instant>,
    },
    HttpRegistering {
        until: Instant,
        with_id: bool,
    },
    HttpServing {
        reregister_at: Option<Instant>,
    },
    Stopping {
        until: Instant,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Controller,
    Gateway,
    Http,
}

impl Session {
    /// `resumable`: the stored ids come from the same controller URL and token.
    pub fn new(settings: Settings, stored: Ids, resumable: bool, rng: Rng, now: Instant) -> Self {
        let back_off = BackOff::new(
            settings.reconnect_first,
            settings.registration_cap.unwrap_or(settings.reconnect_cap),
            settings.reconnect_jitter,
        );
        let unauthorized = BackOff::at_least(
            settings.unauthorized_first,
            settings.unauthorized_cap,
            UNAUTHORIZED_JITTER,
        );
        Self {
            rng,
            phase: Phase::New,
            actions: VecDeque::new(),
            state: ConnectionState::default(),
            generation: 0,
            resumable: resumable && stored.cluster_id.is_some(),
            ids: stored,
            registered: false,
            need_register: true,
            without_id: false,
            gateway_in_turns: false,
            http_mode: settings.http_only,
            websocket_at: now,
            trial_until: None,
            dialling_since: None,
            beside: false,
            gateway_failing_since: None,
            last_reregister: None,
            give_up_at: None,
            back_off,
            unauthorized,
            settings,
        }
    }

    pub fn handle(&mut self, now: Instant, event: Event) {
        if self.phase == Phase::Ended {
            return;
        }
        if self.give_up_at.is_some_and(|at| now >= at) && !self.registered {
            self.leave_connection();
            return self.end(End::GaveUp);
        }
        match event {
            Event::Start => self.start(now),
            Event::Stop => self.stop(now),
            Event::Tick => {}
            event => self.on_event(now, event),
        }
        self.on_time(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::New | Phase::Ended => return None,
            Phase::Waiting { until, .. }
            | Phase::Dialing { until, .. }
            | Phase::Registering { until, .. }
            | Phase::Leaving { until, .. }
            | Phase::HttpRegistering { until, .. }
            | Phase::Stopping { until } => Some(*until),
            Phase::Serving { reregister_at, .. } => *reregister_at,
            Phase::HttpServing { reregister_at } => {
                let websocket = (!self.settings.http_only).then_some(self.websocket_at);
                reregister_at.iter().copied().chain(websocket).min()
            }
        };
        let give_up = self.give_up_at.filter(|_| !self.registered);
        phase.into_iter().chain(give_up).min()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn state(&self) -> ConnectionState {
        self.state
    }

    /// The connection or call that counts; whatever belongs to another one is late.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// False before the first registration, and when the control plane has said that
    /// it doesn't know this cluster.
    pub fn is_confirmed(&self) -> bool {
        self.registered && !self.need_register
    }

    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// A WebSocket is being tried while HTTP serves.
    pub fn is_trial(&self) -> bool {
        self.trial_until.is_some()
    }

    /// The cluster id that heartbeats name.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    fn start(&mut self, now: Instant) {
        if self.phase != Phase::New {
            return;
        }
        self.give_up_at = self.settings.give_up_after.and_then(|d| now.checked_add(d));
        if self.settings.http_only {
            self.go(now, Next::Http);
        } else if self.resumable && self.gateway().is_some() {
            log::info!("resuming with the stored cluster id");
            self.go(now, Next::Gateway);
        } else {
            self.go(now, Next::Controller);
        }
    }

    fn stop(&mut self, now: Instant) {
        match self.phase {
            Phase::Registering { .. } | Phase::Serving { .. } | Phase::Leaving { .. } => {
                self.stop_serving();
                self.actions.push_back(Action::Close(self.generation));
                let until = now + STOP_LIMIT;
                self.phase = Phase::Stopping { until };
            }
            Phase::Stopping { .. } => {}
            _ => {
                self.stop_serving();
                self.end(End::Stopped);
            }
        }
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::HttpRegister(generation, outcome) if generation == self.generation => {
                self.on_http_register(now, outcome);
            }
            Event::HttpHeartbeat(generation, outcome) if generation == self.generation => {
                self.on_http_heartbeat(now, outcome);
            }
            Event::Renew => self.renew(),
            Event::RegisteredBeside(generation, outcome) => {
                self.beside = false;
                // One that is being left goes on as was decided then.
                let serves = matches!(self.phase, Phase::Serving { .. });
                if serves && generation == self.generation {
                    self.on_renewal(now, outcome);
                }
            }
            event => self.on_websocket_event(now, event),
        }
    }

    /// What is due by now.
    fn on_time(&mut self, now: Instant) {
        let due = |at: Instant| now >= at;
        match &self.phase {
            Phase::Waiting { until, next } if due(*until) => {
                let next = *next;
                self.go(now, next);
            }
            Phase::Dialing { until, .. } if due(*until) => {
                let failure = Failure::Other("the dial did not end in time".to_owned());
                self.on_dial_failed(now, &failure);
            }
            Phase::Registering { until, .. } if due(*until) => {
                log::warn!("the controller did not answer the registration in time");
                let why = "registration timed out";
                self.actions.push_back(Action::Abort(self.generation, why));
                self.retry_registration(now, None);
            }
            Phase::Leaving { until, next } if due(*until) => {
                let next = *next;
                let why = "the close was not answered";
                self.actions.push_back(Action::Abort(self.generation, why));
                self.go(now, next);
            }
            Phase::Serving { reregister_at, .. } | Phase::HttpServing { reregister_at }
                if reregister_at.is_some_and(due) =>
            {
                self.want_reregistration(now);
            }
            Phase::HttpServing { .. } if !self.settings.http_only && due(self.websocket_at) => {
                self.try_websocket(now);
            }
            Phase::HttpRegistering { until, .. } if due(*until) => {
                let failure = Failure::Other("no answer in time".to_owned());
                self.on_http_register(now, Err(failure));
            }
            Phase::Stopping { until } if due(*until) => self.end(End::Stopped),
            _ => {}
        }
    }

    fn go(&mut self, now: Instant, next: Next) {
        match (next, self.gateway()) {
            (Next::Http, _) => self.go_http(now),
            (Next::Gateway, Some(target)) => self.dial(now, target),
            // A gateway that isn't known any more: ask for one.
            (Next::Gateway, None) | (Next::Controller, _) => self.dial(now, Target::Controller),
        }
    }

    /// Fatal before the first success, a slow retry after it.
    fn refuse(&mut self, now: Instant, why: String, next: Next) {
        self.leave_connection();
        if self.registered {
            log::error!("registering again was refused: {why}");
            self.wait_slowly(now, next);
        } else {
            self.end(End::Refused(why));
        }
    }

    fn wait(&mut self, now: Instant, next: Next, retry_after: Option<Duration>) {
        if self.is_trial() {
            return self.back_to_http(now);
        }
        let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        let delay = self.back_off.wait(&mut self.rng);
        // The delay runs from the beginning of the dial: one that hung for half a
        // minute has waited already, and a peer that came back meanwhile shall see us
        // within one delay (decisions.md §6.3).
        let hung = self
            .dialling_since
            .take()
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let least = self.back_off.first(&mut self.rng).min(delay);
        let wait = delay.saturating_sub(hung).max(least).max(asked);
        log::info!("next attempt in {:.1} s", wait.as_secs_f64());
        self.phase = Phase::Waiting {
            until: now + wait,
            next,
        };
    }

    /// 401 and 403 of a registered agent: the token may be rotated meanwhile (T10).
    fn wait_slowly(&mut self, now: Instant, next: Next) {
        if self.is_trial() {
            return self.back_to_http(now);
        }
        let wait = self.unauthorized.wait(&mut self.rng);
        self.unauthorized.grow();
        log::info!(
            "next attempt, with the token read again, in {:.0} s",
            wait.as_secs_f64()
        );
        self.set_state(ConnectionState::Reconnecting);
        self.phase = Phase::Waiting {
            until: now + wait,
            next,
        };
    }

    fn stop_serving(&mut self) {
        if matches!(
            self.phase,
            Phase::Serving { .. } | Phase::HttpServing { .. }
        ) {
            self.actions.push_back(Action::StopServing);
        }
    }

    /// Closes the connection that the phase stands on, if any.
    fn leave_connection(&mut self) {
        self.stop_serving();
        if matches!(
            self.phase,
            Phase::Registering { .. } | Phase::Serving { .. }
        ) {
            self.actions.push_back(Action::Close(self.generation));
        }
    }

    fn set_state(&mut self, state: ConnectionState) {
        if self.state != state {
            self.state = state;
            self.actions.push_back(Action::State(state));
        }
    }

    fn end(&mut self, end: End) {
        self.set_state(ConnectionState::Disconnected);
        // Whatever still comes belongs to an old generation.
        self.generation += 1;
        self.phase = Phase::Ended;
        self.actions.push_back(Action::End(end));
    }
}

/// decisions.md §6.1 "Unknown cluster".
pub(crate) fn names_unknown_cluster(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("not registered") || text.contains("cluster not found")
}

/// 60 s plus 0 to 25 % (decisions.md §2).
const UNAUTHORIZED_JITTER: f64 = 0.25;

/// A peer may ask for patience, not for silence.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// How long shutdown waits for the close frame and what is queued before it.
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
