//! What the state machine wants kept, served and shown.

use std::time::Instant;

use super::{Conductor, endpoint};
use crate::control::session::{ConnectionState, Event, Generation, Ids, Transport};
use crate::identity::{Identity, credentials_hash};
use crate::resident;

impl Conductor {
    /// Ids are written down before the gateway is dialled (decisions.md §6.1).
    pub(super) fn store(&mut self, ids: Ids) {
        let cluster_id = ids.cluster_id.clone().unwrap_or_default();
        let identity = Identity {
            cluster_id: ids.cluster_id,
            cluster_uuid: ids.cluster_uuid,
            gateway_ws_url: ids.gateway_ws_url,
            credentials_hash: Some(credentials_hash(
                &endpoint(&self.controller),
                self.token.expose(),
            )),
            service_token_hash: self.handover.confirmed(),
            ..self.parts.store.identity()
        };
        log::info!(cluster_id = cluster_id.as_str(); "registered");
        if let Err(error) = self.parts.store.save(&identity) {
            log::error!("the state could not be written, the next start registers anew: {error}");
        }
    }

    pub(super) fn serve(&mut self, generation: Generation, transport: Transport) {
        self.serving = Some((generation, transport));
        let now = Instant::now();
        let url = self.connections.get(&generation).map(|c| &c.url);
        let endpoint = url.map_or_else(|| self.parts.api_url.to_string(), ToString::to_string);
        log::info!("serving over {endpoint}");
        let cluster_id = self.session.ids().cluster_id.clone();
        // The first heartbeat went out with the connection if it was known to stay.
        let first_sent = self.first_sent == Some(generation);
        self.pace.serve(now, first_sent);
        if first_sent {
            self.parts.health.heartbeat();
        } else if self.pace.due(now).is_some() {
            self.send_heartbeat();
        }
        self.watch.update(|status| {
            status.endpoint = Some(endpoint);
            status.cluster_id = cluster_id;
            status.connections += 1;
            status.heartbeats += u64::from(first_sent);
        });
        self.check_handover();
        // What dialling and registering took, on this thread.
        resident::give_back();
    }

    /// Hands the cluster token over anew when there is another one (T14).
    pub(super) fn check_handover(&mut self) {
        if self.serving.is_none() || self.stopping.is_some() {
            return;
        }
        let now = Instant::now();
        if self.handover.is_due(now, &self.gatherer.tokens()) {
            log::info!("the cluster token has changed since it was handed over: registering again");
            self.session.handle(now, Event::Renew);
        }
    }

    pub(super) fn on_state(&mut self, state: ConnectionState) {
        let health = &self.parts.health;
        match state {
            ConnectionState::Connected => {
                health.socket_up();
                health.registered();
            }
            ConnectionState::Connecting => health.dialing(),
            ConnectionState::Reconnecting => {
                health.dialing();
                if !self.session.is_confirmed() {
                    health.unregistered();
                }
            }
            ConnectionState::Disconnected => health.stopped(),
        }
        self.watch.update(|status| {
            status.state = state;
            if state != ConnectionState::Connected {
                status.endpoint = None;
            }
        });
    }
}
