//! What a registration gives, and when another one is due.

use std::time::Instant;

use super::{Action, ConnectionState, Ids, Next, Phase, Session, Target};
use crate::control::urls::{self, GatewayQuery};
use crate::wire::to_agent::Registered;

impl Session {
    /// Leaves what works to register again with the stored id, without a wait but
    /// at most once in a while (decisions.md §6.1 "Unknown cluster").
    pub(super) fn want_reregistration(&mut self, now: Instant) {
        let allowed = self.reregistration_allowed_at(now);
        let is_http = matches!(self.phase, Phase::HttpServing { .. });
        match &mut self.phase {
            Phase::Serving { reregister_at, .. } | Phase::HttpServing { reregister_at } => {
                if allowed > now {
                    *reregister_at = Some(allowed);
                    return;
                }
            }
            _ => return,
        }
        log::warn!("the control plane does not know this cluster: registering again");
        self.begin_reregistration(now);
        self.stop_serving();
        self.set_state(ConnectionState::Reconnecting);
        if is_http {
            self.go(now, Next::Http);
        } else {
            self.leave(now, Next::Controller);
        }
    }

    pub(super) fn reregistration_allowed_at(&self, now: Instant) -> Instant {
        self.last_reregister
            .map_or(now, |last| last + self.settings.reregister_interval)
    }

    pub(super) fn begin_reregistration(&mut self, now: Instant) {
        self.last_reregister = Some(now);
        self.need_register = true;
        self.gateway_in_turns = false;
    }

    /// Ids are kept before anything else happens, so that a gateway that can't be
    /// reached doesn't make us register again and again (decisions.md §6.1).
    pub(super) fn accept(&mut self, registered: Registered) {
        self.has_registered();
        if registered.token.is_some() {
            log::info!(
                "the controller handed a cluster token over; this version doesn't take it up \
                 (kubernetes.service_token sets one)"
            );
        }
        self.need_register = false;
        self.without_id = false;
        self.gateway_in_turns = false;
        self.gateway_failing_since = None;
        self.ids = Ids {
            cluster_id: registered.cluster_id,
            cluster_uuid: registered.cluster_uuid,
            gateway_ws_url: registered.gateway_ws_url,
        };
        self.actions.push_back(Action::Store(self.ids.clone()));
    }

    /// Registered or resumed: reconnecting has its own cap from now on.
    pub(super) fn has_registered(&mut self) {
        self.registered = true;
        self.back_off.set_cap(self.settings.reconnect_cap);
    }

    /// The gateway to dial: known, and dialling it is allowed (T30).
    pub(super) fn gateway(&self) -> Option<Target> {
        let url = self.ids.gateway_ws_url.clone()?;
        let cluster_uuid = self.ids.cluster_uuid.clone();
        let cluster_uuid = cluster_uuid.or_else(|| self.ids.cluster_id.clone())?;
        let query = GatewayQuery {
            cluster_uuid: &cluster_uuid,
            agent_version: "",
        };
        match urls::gateway(&url, &query, &self.settings.gateway_rules()) {
            Ok(_) => Some(Target::Gateway { url, cluster_uuid }),
            Err(error) => {
                log::error!("the gateway that the controller named is not used: {error}");
                None
            }
        }
    }

    /// The id to register with.
    pub(super) fn register_id(&self) -> Option<String> {
        self.ids.cluster_id.clone().filter(|_| !self.without_id)
    }
}
