//! Registering again while all goes on: the cluster token that the control plane
//! holds is no longer current (control-channel.md T14).
//!
//! Nothing is left for it. A controller that is connected gets another `register`,
//! as it does from the original after an error (§12.4); beside a gateway there is a
//! short connection to the controller; over HTTP it is a call like any other. What
//! fails is tried again later, by whoever asked.

use std::time::Instant;

use super::{Action, ConnectionState, Failure, Next, Phase, Session, names_unknown_cluster};
use crate::wire::to_agent::Registered;

impl Session {
    pub(super) fn renew(&mut self) {
        let generation = self.generation;
        let cluster_id = self.register_id();
        match self.phase {
            Phase::Serving {
                home: Next::Gateway,
                ..
            } if !self.beside => {
                self.beside = true;
                self.actions.push_back(Action::RegisterBeside {
                    generation,
                    cluster_id,
                });
            }
            Phase::Serving {
                home: Next::Controller,
                ..
            } => self.actions.push_back(Action::SendRegister {
                generation,
                cluster_id,
            }),
            Phase::HttpServing { .. } => self.actions.push_back(Action::HttpRegister {
                generation,
                cluster_id,
            }),
            _ => {}
        }
    }

    pub(super) fn on_renewal(&mut self, now: Instant, outcome: Result<Box<Registered>, Failure>) {
        match outcome {
            Ok(registered) if registered.cluster_id.is_some() => self.renewed(now, *registered),
            Ok(_) => log::warn!("the registration was confirmed without a cluster id"),
            Err(failure) if names_unknown_cluster(&failure.to_string()) => {
                self.want_reregistration(now);
            }
            Err(failure) => log::warn!("registering beside what runs failed: {failure}"),
        }
    }

    fn renewed(&mut self, now: Instant, registered: Registered) {
        let moved = registered.cluster_id != self.ids.cluster_id;
        self.accept(registered);
        let gateway = self.gateway().is_some();
        match self.phase {
            // Named now: at the next try of the WebSocket, which is at once.
            Phase::HttpServing { .. } if gateway => self.websocket_at = now,
            // Another cluster's connection, or one that the controller wants us to
            // leave. A gateway is not left for another one: the next dial goes there.
            Phase::Serving { home, .. } if moved || (gateway && home == Next::Controller) => {
                self.stop_serving();
                self.set_state(ConnectionState::Reconnecting);
                let next = if gateway {
                    Next::Gateway
                } else {
                    Next::Controller
                };
                self.leave(now, next);
            }
            _ => {}
        }
    }
}
