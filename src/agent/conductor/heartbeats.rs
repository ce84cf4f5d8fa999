//! Heartbeats over both transports.

use std::time::Instant;

use super::Conductor;
use crate::agent::background::Done;
use crate::control::session::{ConnectionState, Event, Failure, Generation, Transport};
use crate::control::worker_join::worker_join;
use crate::link::{Lane, Message};
use crate::net::Cancel;
use crate::wire::from_agent::{self, WorkerJoin};

impl Conductor {
    pub(super) fn send_heartbeat(&mut self) {
        match self.serving {
            Some((generation, Transport::WebSocket)) => self.websocket_heartbeat(generation),
            Some((generation, Transport::Http)) => self.http_heartbeat(generation),
            None => {}
        }
    }

    fn websocket_heartbeat(&mut self, generation: Generation) {
        let now = Instant::now();
        let link = self
            .connections
            .get(&generation)
            .and_then(|c| c.link.as_ref());
        let message = self.heartbeat_message(self.session.state());
        let sent = match (link, message) {
            (Some(link), Some(message)) => {
                link.send(Lane::Control, message, &Cancel::new()).is_ok()
            }
            _ => false,
        };
        if !sent {
            self.pace.failed(now);
            return self.parts.health.heartbeat_failed();
        }
        self.pace.written(now);
        if self.pace.acks_are_missing() {
            log::warn!("several heartbeats in a row got no ack; the connection looks alive");
        }
        self.parts.health.heartbeat();
        self.watch.update(|status| status.heartbeats += 1);
    }

    fn http_heartbeat(&mut self, generation: Generation) {
        let failed = |failure| Event::HttpHeartbeat(generation, Err(failure));
        let event = if let Err(failure) = self.read_token() {
            Some(failed(failure))
        } else {
            self.heartbeat_cancel = Cancel::new();
            let (api, token, cancel) = (
                self.api(self.parts.heartbeat_limit),
                self.token.clone(),
                self.heartbeat_cancel.clone(),
            );
            let (reporter, facts) = (self.reporter.clone(), self.gatherer.latest());
            let cluster_id = self.session.ids().cluster_id.clone().unwrap_or_default();
            // control-channel.md §7.3; there is no socket whose state would say it.
            let state = if self.pace.is_disconnected() {
                ConnectionState::Disconnected
            } else {
                self.session.state()
            };
            let panicked = failed(Failure::Other("the call panicked".to_owned()));
            let spawned =
                self.background
                    .spawn("http-heartbeat", Done::Event(panicked), move || {
                        let payload = reporter.payload(&cluster_id, state, &facts, None);
                        let outcome = api.heartbeat(&payload, &token, &cancel);
                        Done::Event(Event::HttpHeartbeat(generation, outcome))
                    });
            spawned
                .err()
                .map(|error| failed(Failure::Other(error.to_string())))
        };
        if let Some(event) = event {
            self.note_http_heartbeat(&event);
            self.session.handle(Instant::now(), event);
        }
    }

    /// Rounds and their repetitions are the pace's business (T40).
    pub(super) fn note_http_heartbeat(&mut self, event: &Event) {
        let Event::HttpHeartbeat(generation, outcome) = event else {
            return;
        };
        if self.serving != Some((*generation, Transport::Http)) {
            return;
        }
        let now = Instant::now();
        match outcome {
            Ok(()) => {
                self.pace.succeeded(now);
                self.parts.health.heartbeat();
                self.watch.update(|status| {
                    status.heartbeats += 1;
                    status.heartbeat_acks += 1;
                });
            }
            Err(failure) => {
                log::warn!("heartbeat failed: {failure}");
                if self.pace.failed(now) {
                    self.parts.health.heartbeat_failed();
                }
            }
        }
    }

    /// `None` while there is no cluster id to speak for.
    pub(super) fn heartbeat_message(&self, state: ConnectionState) -> Option<Message> {
        let cluster_id = self.session.ids().cluster_id.as_deref()?;
        let facts = self.gatherer.latest();
        let join = self.worker_join();
        let payload = self
            .reporter
            .payload(cluster_id, state, &facts, join.as_ref());
        Some(Message::text(1024, |buf| {
            from_agent::heartbeat(buf, &payload);
        }))
    }

    fn worker_join(&self) -> Option<WorkerJoin> {
        let parts = &self.parts;
        parts
            .report_worker_join
            .then(|| worker_join(&parts.node_token, &parts.registrant.host.server_ip))
            .flatten()
    }
}
