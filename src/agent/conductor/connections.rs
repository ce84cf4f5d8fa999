//! The conductor's connections: dialling, and what they say of themselves.

use super::{CLOSE_NORMAL, Conductor};
use crate::agent::connection::{Connection, ConnectionEvent, Order};
use crate::control::session::{ConnectionState, Event, Failure, Generation, Target};
use crate::control::urls::{self, GatewayQuery};
use crate::link::EndedBy;
use crate::net::Reason;
use crate::telemetry;

impl Conductor {
    pub(super) fn dial(
        &mut self,
        generation: Generation,
        target: &Target,
        stays: bool,
    ) -> Result<(), Failure> {
        let other = |text: String| Failure::Other(text);
        // One over HTTP must not arrive behind the first over this connection.
        self.heartbeat_cancel.cancel(Reason::Cancelled);
        if !self.session.is_trial() {
            self.parts.health.dialing();
        }
        self.read_token()?;
        let url = match target {
            Target::Controller => self.controller.clone(),
            Target::Gateway { url, cluster_uuid } => {
                let query = GatewayQuery {
                    cluster_uuid,
                    agent_version: &self.parts.registrant.agent_version,
                };
                urls::gateway(url, &query, &self.session.settings().gateway_rules())
                    .map_err(|error| other(error.to_string()))?
            }
        };
        log::debug!("dialling {url}");
        let first = stays
            .then(|| self.heartbeat_message(ConnectionState::Connected))
            .flatten();
        self.first_sent = first.is_some().then_some(generation);
        let order = Order {
            generation,
            url,
            token: self.token.clone(),
            first,
            limit: self.parts.session.dial_limit,
        };
        let (parts, late) = (self.parts.clone(), self.late.clone());
        let connection = Connection::start(order, parts, late, self.sender.clone())
            .map_err(|error| other(error.to_string()))?;
        self.connections.insert(generation, connection);
        Ok(())
    }

    /// The token may have been rotated since the last time (T10).
    pub(super) fn read_token(&mut self) -> Result<(), Failure> {
        let token = self.parts.token.read();
        let token = token.map_err(|error| Failure::Other(error.to_string()))?;
        if token != self.token {
            telemetry::register(&token);
            self.token = token;
        }
        Ok(())
    }

    pub(super) fn on_connection(&mut self, generation: Generation, event: ConnectionEvent) {
        let event = match event {
            ConnectionEvent::Up(link) => {
                if let Some(connection) = self.connections.get_mut(&generation) {
                    connection.link = Some(link);
                }
                if generation == self.session.generation() && !self.session.is_trial() {
                    if !self.session.is_confirmed() {
                        // A socket alone says nothing when we must register again.
                        self.parts.health.unregistered();
                    }
                    self.parts.health.socket_up();
                }
                Event::Connected(generation)
            }
            ConnectionEvent::Failed(failure) => match self.remove(generation) {
                // Its thread panicked behind the dial.
                Some(connection) if connection.link.is_some() => Event::Lost(generation, None),
                _ => Event::DialFailed(generation, failure),
            },
            ConnectionEvent::Lost(ending) => {
                if let Some(connection) = self.remove(generation) {
                    let url = &connection.url;
                    if ending.by == EndedBy::Us {
                        log::info!("{url}: {ending}");
                    } else {
                        log::warn!("{url}: {ending}");
                    }
                }
                let code = ending.code.filter(|_| ending.by == EndedBy::Peer);
                Event::Lost(generation, code)
            }
        };
        self.step(event);
    }

    pub(super) fn remove(&mut self, generation: Generation) -> Option<Connection> {
        let connection = self.connections.remove(&generation)?;
        self.late.lost(generation);
        Some(connection)
    }

    /// Ends connections that the state machine has given up: a dial that took too
    /// long must not leave a second connection behind (T5).
    pub(super) fn drop_strays(&self) {
        let current = self.session.generation();
        for (generation, connection) in &self.connections {
            if *generation == current {
                continue;
            }
            match &connection.link {
                // A close that is under way is not disturbed.
                Some(link) if link.is_open() => link.close(CLOSE_NORMAL, ""),
                Some(_) => {}
                None => drop(connection.cancel.cancel(Reason::Cancelled)),
            }
        }
    }

    pub(super) fn close(&self, generation: Generation) {
        if let Some(connection) = self.connections.get(&generation) {
            match &connection.link {
                Some(link) => link.close(CLOSE_NORMAL, ""),
                None => drop(connection.cancel.cancel(Reason::Cancelled)),
            }
        }
    }
}
