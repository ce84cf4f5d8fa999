//! The rules of HTTP mode (decisions.md §6.1): for controllers, or middleboxes in
//! front of them, that take no WebSocket.

use std::time::{Duration, Instant};

use super::websocket::status;
use super::{
    Action, ConnectionState, Failure, Next, Phase, Session, Transport, names_unknown_cluster,
};
use crate::wire::to_agent::Registered;

impl Session {
    /// Registers, or goes on, over HTTP; the WebSocket first when it is its turn.
    pub(super) fn go_http(&mut self, now: Instant) {
        if !self.settings.http_only && now >= self.websocket_at {
            return self.try_websocket(now);
        }
        if !self.need_register {
            return self.serve_http(false);
        }
        // What waits from now on waits for a call, not for a dial.
        self.dialling_since = None;
        self.generation += 1;
        self.set_state(if self.registered {
            ConnectionState::Reconnecting
        } else {
            ConnectionState::Connecting
        });
        let cluster_id = self.register_id();
        self.phase = Phase::HttpRegistering {
            until: now + HTTP_LIMIT,
            with_id: cluster_id.is_some(),
        };
        self.actions.push_back(Action::HttpRegister {
            generation: self.generation,
            cluster_id,
        });
    }

    /// Every five minutes: the gateway if one is known, else the controller. Where
    /// HTTP serves, that is nobody's loss: no state changes unless the try succeeds.
    pub(super) fn try_websocket(&mut self, now: Instant) {
        self.websocket_at = now + self.settings.websocket_retry;
        if matches!(self.phase, Phase::HttpServing { .. }) {
            self.trial_until = Some(now + TRIAL_LIMIT);
            self.actions.push_back(Action::Rest);
        }
        let next = if self.need_register || self.gateway().is_none() {
            Next::Controller
        } else {
            Next::Gateway
        };
        self.go(now, next);
    }

    /// A try that failed: HTTP goes on as it was.
    pub(super) fn back_to_http(&mut self, now: Instant) {
        self.websocket_at = now + self.settings.websocket_retry;
        self.serve_http(false);
    }

    /// `confirmed`: an answer has just shown that this works.
    fn serve_http(&mut self, confirmed: bool) {
        self.generation += 1;
        self.phase = Phase::HttpServing {
            reregister_at: None,
        };
        self.actions.push_back(match self.trial_until.take() {
            Some(_) => {
                // What a try was told is not HTTP's: it goes on as who it was.
                self.without_id = false;
                Action::Resume(self.generation)
            }
            None => Action::Serve(self.generation, Transport::Http),
        });
        if confirmed {
            self.unauthorized.reset();
            self.set_state(ConnectionState::Connected);
        }
    }

    pub(super) fn on_http_register(
        &mut self,
        now: Instant,
        outcome: Result<Box<Registered>, Failure>,
    ) {
        let with_id = match self.phase {
            Phase::HttpRegistering { with_id, .. } => with_id,
            Phase::HttpServing { .. } => return self.on_renewal(now, outcome),
            _ => return,
        };
        self.generation += 1;
        let failure = match outcome {
            Ok(registered) if registered.cluster_id.is_some() => {
                self.accept(*registered);
                if self.settings.http_only || self.gateway().is_none() {
                    return self.serve_http(true);
                }
                return self.go(now, Next::Gateway);
            }
            Ok(_) => {
                Failure::Unusable("the registration was confirmed without a cluster id".to_owned())
            }
            Err(failure) => failure,
        };
        log::warn!("registering over HTTP failed: {failure}");
        match &failure {
            Failure::Status { text, .. } if with_id && names_unknown_cluster(text) => {
                self.without_id = true;
                self.go(now, Next::Http);
            }
            Failure::Unusable(why) => self.refuse(now, why.clone(), Next::Http),
            Failure::Status {
                code: 401 | 403, ..
            } => self.refuse(now, failure.to_string(), Next::Http),
            _ => {
                let (_, retry_after) = status(&failure);
                self.back_off.grow();
                self.wait(now, Next::Http, retry_after);
            }
        }
    }

    pub(super) fn on_http_heartbeat(&mut self, now: Instant, outcome: Result<(), Failure>) {
        if !matches!(self.phase, Phase::HttpServing { .. }) {
            return;
        }
        match outcome {
            Ok(()) => {
                self.back_off.reset();
                self.unauthorized.reset();
                self.set_state(ConnectionState::Connected);
            }
            Err(Failure::Status { text, .. }) if names_unknown_cluster(&text) => {
                self.want_reregistration(now);
            }
            Err(Failure::Status {
                code: 401 | 403, ..
            }) => {
                self.stop_serving();
                self.wait_slowly(now, Next::Http);
            }
            // Repeating is the heartbeat round's business.
            Err(_) => self.set_state(ConnectionState::Reconnecting),
        }
    }
}

/// A try of the WebSocket, the registration included: heartbeats rest meanwhile, and
/// probes take one for old after 90 s (local-server.md §4).
const TRIAL_LIMIT: Duration = Duration::from_secs(45);

/// An HTTP call has a limit of its own of 30 s; this is for the case that it isn't kept.
const HTTP_LIMIT: Duration = Duration::from_secs(45);
