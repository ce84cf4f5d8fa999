//! The rules of the WebSocket: dialling, registering, switching, losing.

use std::time::{Duration, Instant};

use super::{
    Action, Answers, ConnectionState, Event, Failure, Next, Phase, Session, Target, Transport,
    names_unknown_cluster,
};
use crate::wire::to_agent::Registered;

impl Session {
    pub(super) fn on_websocket_event(&mut self, now: Instant, event: Event) {
        let current = self.generation;
        match event {
            Event::Connected(generation) if generation == current => self.on_connected(now),
            Event::DialFailed(generation, failure) if generation == current => {
                if matches!(self.phase, Phase::Dialing { .. }) {
                    self.on_dial_failed(now, &failure);
                }
            }
            Event::RegisterSuccess(generation, registered) if generation == current => {
                self.on_register_success(now, *registered);
            }
            Event::RegisterInProgress(generation) if generation == current => {
                let trial = self.trial_until;
                let limit = self.settings.register_limit_in_progress;
                if let Phase::Registering { since, until, .. } = &mut self.phase {
                    *until = trial.unwrap_or((*until).max(*since + limit));
                }
            }
            Event::PeerError {
                generation,
                text,
                answers,
            } if generation == current => self.on_peer_error(now, &text, answers),
            Event::HeartbeatAck(generation) if generation == current => {
                if let Phase::Serving { acked, .. } = &mut self.phase {
                    *acked = true;
                }
            }
            Event::Lost(generation, code) if generation == current => self.on_lost(now, code),
            // A late event of an old generation.
            _ => {}
        }
    }

    pub(super) fn dial(&mut self, now: Instant, target: Target) {
        self.generation += 1;
        if !self.is_trial() {
            self.set_state(if self.registered {
                ConnectionState::Reconnecting
            } else {
                ConnectionState::Connecting
            });
        }
        let stays = match target {
            Target::Controller => !self.registers_on_controller(),
            Target::Gateway { .. } => true,
        };
        self.actions.push_back(Action::Dial {
            generation: self.generation,
            target: target.clone(),
            stays,
        });
        let until = self.within_trial(now + self.settings.dial_limit + DIAL_GRACE);
        self.dialling_since = Some(now);
        self.phase = Phase::Dialing { target, until };
    }

    /// Closes the connection in order and goes on when it is gone, so that the
    /// agent never has two.
    pub(super) fn leave(&mut self, now: Instant, next: Next) {
        self.actions.push_back(Action::Close(self.generation));
        let until = now + self.settings.leave_limit;
        self.phase = Phase::Leaving { until, next };
    }

    fn within_trial(&self, until: Instant) -> Instant {
        self.trial_until.map_or(until, |trial| trial.min(until))
    }

    /// A known cluster that lives on the controller goes on there without
    /// registering (control-channel.md §12.3).
    fn registers_on_controller(&self) -> bool {
        self.need_register || self.http_mode
    }

    fn on_connected(&mut self, now: Instant) {
        self.dialling_since = None;
        let Phase::Dialing { target, .. } = &self.phase else {
            return;
        };
        match target {
            Target::Gateway { .. } => {
                self.gateway_failing_since = None;
                self.gateway_in_turns = false;
                self.has_registered();
                self.need_register = false;
                self.serve(now, Next::Gateway);
            }
            Target::Controller if self.registers_on_controller() => {
                if !self.is_trial() {
                    self.need_register = true;
                    self.http_mode = false;
                }
                self.send_register(now);
            }
            Target::Controller => self.serve(now, Next::Controller),
        }
    }

    fn serve(&mut self, now: Instant, home: Next) {
        self.http_mode = false;
        self.trial_until = None;
        self.unauthorized.reset();
        self.phase = Phase::Serving {
            home,
            since: now,
            acked: false,
            reregister_at: None,
        };
        let serve = Action::Serve(self.generation, Transport::WebSocket);
        self.actions.push_back(serve);
        self.set_state(ConnectionState::Connected);
    }

    fn send_register(&mut self, now: Instant) {
        let cluster_id = self.register_id();
        self.phase = Phase::Registering {
            since: now,
            until: self.within_trial(now + self.settings.register_limit),
            with_id: cluster_id.is_some(),
        };
        self.actions.push_back(Action::SendRegister {
            generation: self.generation,
            cluster_id,
        });
    }

    fn on_register_success(&mut self, now: Instant, registered: Registered) {
        match self.phase {
            Phase::Registering { .. } => {}
            Phase::Serving { .. } => return self.on_renewal(now, Ok(Box::new(registered))),
            _ => return,
        }
        if registered.cluster_id.is_none() {
            let why = "the registration was confirmed without a cluster id".to_owned();
            return self.refuse(now, why, Next::Controller);
        }
        self.accept(registered);
        if self.gateway().is_some() {
            self.leave(now, Next::Gateway);
        } else {
            self.serve(now, Next::Controller);
        }
    }

    fn on_peer_error(&mut self, now: Instant, text: &str, answers: Answers) {
        let unknown = names_unknown_cluster(text);
        match self.phase {
            Phase::Registering { with_id, .. } => {
                let retry = unknown && with_id && answers != Answers::Other;
                if retry {
                    log::warn!(
                        "the controller does not know the stored cluster id: registering without it"
                    );
                    self.without_id = true;
                    self.send_register(now);
                } else if answers == Answers::Register {
                    self.refuse(now, text.to_owned(), Next::Controller);
                }
            }
            Phase::Serving { .. } if unknown => self.want_reregistration(now),
            Phase::Serving { .. } if answers == Answers::Register => {
                self.on_renewal(now, Err(Failure::Other(text.to_owned())));
            }
            _ => {}
        }
    }

    fn on_lost(&mut self, now: Instant, code: Option<u16>) {
        match &self.phase {
            Phase::Serving {
                home, since, acked, ..
            } => {
                let (home, acked) = (*home, *acked);
                let was_well = acked && now.saturating_duration_since(*since) >= WELL_AFTER;
                if was_well {
                    self.back_off.reset();
                } else if !acked {
                    self.back_off.grow();
                }
                self.stop_serving();
                self.set_state(ConnectionState::Reconnecting);
                self.wait(now, home, None);
            }
            Phase::Registering { .. } if code == Some(POLICY_VIOLATION) => {
                // The connection is gone: nothing is left to close.
                let why =
                    format!("the controller closed the connection with code {POLICY_VIOLATION}");
                self.phase = Phase::New;
                self.refuse(now, why, Next::Controller);
            }
            Phase::Registering { .. } => self.retry_registration(now, None),
            Phase::Leaving { next, .. } => {
                let next = *next;
                self.go(now, next);
            }
            Phase::Stopping { .. } => self.end(super::End::Stopped),
            _ => {}
        }
    }

    /// After a registration that got no answer, or a controller that couldn't be
    /// reached.
    pub(super) fn retry_registration(&mut self, now: Instant, retry_after: Option<Duration>) {
        self.back_off.grow();
        self.wait(now, self.controller_or_turn(), retry_after);
    }

    fn controller_or_turn(&self) -> Next {
        if self.gateway_in_turns {
            Next::Gateway
        } else {
            Next::Controller
        }
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, failure: &Failure) {
        let Phase::Dialing { target, .. } = &self.phase else {
            return;
        };
        let is_gateway = matches!(target, Target::Gateway { .. });
        // A result that still comes is late.
        self.generation += 1;
        if is_gateway {
            log::warn!("the gateway could not be dialled: {failure}");
            self.on_gateway_failed(now, failure);
        } else {
            log::warn!("the controller could not be dialled: {failure}");
            self.on_controller_failed(now, failure);
        }
    }

    fn on_gateway_failed(&mut self, now: Instant, failure: &Failure) {
        if self.http_mode {
            return self.back_to_http(now);
        }
        let since = *self.gateway_failing_since.get_or_insert(now);
        let (code, retry_after) = status(failure);
        let unknown = matches!(code, Some(404 | 410));
        let unauthorized = matches!(code, Some(401 | 403));
        if !self.registered {
            // Resuming is an optimisation: any failure means a full registration
            // (T2). Where the gateway only couldn't be reached, both are tried in
            // turns.
            self.need_register = true;
            self.gateway_in_turns = !unknown && !unauthorized;
            if self.gateway_in_turns {
                self.back_off.grow();
                return self.wait(now, Next::Controller, retry_after);
            }
            return self.go(now, Next::Controller);
        }
        let impatient = now.saturating_duration_since(since) >= self.settings.gateway_patience;
        let allowed = self.reregistration_allowed_at(now) <= now;
        if (unknown || impatient) && allowed {
            log::warn!("leaving the gateway to register again");
            self.begin_reregistration(now);
            self.gateway_in_turns = !unknown;
            return self.go(now, Next::Controller);
        }
        if unauthorized {
            return self.wait_slowly(now, Next::Gateway);
        }
        self.back_off.grow();
        self.wait(now, Next::Gateway, retry_after);
    }

    fn on_controller_failed(&mut self, now: Instant, failure: &Failure) {
        let (code, retry_after) = status(failure);
        match code {
            Some(_) if failure.takes_no_websocket() && !self.settings.websocket_only => {
                if !self.http_mode {
                    log::warn!("the controller takes no WebSocket: going on over HTTP");
                }
                self.websocket_at = now + self.settings.websocket_retry;
                if self.http_mode && self.registered && !self.need_register {
                    return self.back_to_http(now);
                }
                self.http_mode = true;
                self.go(now, Next::Http);
            }
            _ if self.http_mode && self.registered && !self.need_register => {
                self.back_to_http(now);
            }
            Some(401 | 403) if !self.registered => {
                self.refuse(now, failure.to_string(), Next::Controller);
            }
            Some(401 | 403) => self.wait_slowly(now, self.controller_or_turn()),
            _ => self.retry_registration(now, retry_after),
        }
    }
}

/// The status of the control plane's own answer, and how long it asked us to wait.
pub(super) fn status(failure: &Failure) -> (Option<u16>, Option<Duration>) {
    match failure {
        Failure::Status {
            code, retry_after, ..
        } => (Some(*code), *retry_after),
        Failure::Unusable(_) | Failure::Other(_) => (None, None),
    }
}

/// A connection that lived this long and had a `heartbeat_ack` was well.
const WELL_AFTER: Duration = Duration::from_secs(5);

/// The dial has a limit of its own; this is for the case that it is not kept.
const DIAL_GRACE: Duration = Duration::from_secs(10);

/// Close code 1008 before an answer is a refusal (decisions.md §6.1).
const POLICY_VIOLATION: u16 = 1008;
