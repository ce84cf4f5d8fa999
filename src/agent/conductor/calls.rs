//! Registrations.

use std::time::{Duration, Instant};

use super::{Conductor, Input};
use crate::agent::background::Done;
use crate::agent::beside;
use crate::agent::connection::Order;
use crate::control::facts::FactsHandle;
use crate::control::http_mode::HttpApi;
use crate::control::registration::{Attempt, Registrant};
use crate::control::session::{Event, Failure, Generation};
use crate::identity::token_hash;
use crate::link::{Lane, Message};
use crate::net::{Cancel, Deadline};
use crate::wire::from_agent;

impl Conductor {
    /// Facts and token may have to be waited for, so this has a thread; the answer's
    /// time runs already.
    pub(super) fn send_register(&mut self, generation: Generation, cluster_id: Option<String>) {
        let link = self
            .connections
            .get(&generation)
            .and_then(|connection| connection.link.clone());
        let Some(link) = link else { return };
        let id = self.parts.registrant.request_id();
        self.register = Some((generation, id.clone()));
        let attempt = self.attempt(cluster_id);
        let parts = self.parts.clone();
        let spawned = self.background.spawn("register", Done::Nothing, move || {
            let message = message(&parts.registrant, &id, &attempt());
            // A link that is gone reports that itself.
            let _ = link.send(Lane::Control, message, &Cancel::new());
            Done::Nothing
        });
        if let Err(error) = spawned {
            // The registration's time limit takes it from here.
            log::error!("{error}");
        }
    }

    pub(super) fn http_register(&mut self, generation: Generation, cluster_id: Option<String>) {
        let failed = |text: String| Event::HttpRegister(generation, Err(Failure::Other(text)));
        if let Err(failure) = self.read_token() {
            let event = Event::HttpRegister(generation, Err(failure));
            return self.session.handle(Instant::now(), event);
        }
        let (api, token, cancel) = (
            self.api(self.parts.http_limit),
            self.token.clone(),
            self.cancel.clone(),
        );
        let attempt = self.attempt(cluster_id);
        let parts = self.parts.clone();
        let panicked = Done::Event(failed("the call panicked".to_owned()));
        let spawned = self.background.spawn("http-register", panicked, move || {
            let outcome = parts
                .registrant
                .http_payload(&attempt(), |payload| api.register(payload, &token, &cancel));
            Done::Event(Event::HttpRegister(generation, outcome.map(Box::new)))
        });
        if let Err(error) = spawned {
            let event = failed(error.to_string());
            self.session.handle(Instant::now(), event);
        }
    }

    /// On the controller, while the gateway's connection goes on (T14).
    pub(super) fn register_beside(&mut self, generation: Generation, cluster_id: Option<String>) {
        let event = move |outcome| Event::RegisteredBeside(generation, outcome);
        if let Err(failure) = self.read_token() {
            return self.session.handle(Instant::now(), event(Err(failure)));
        }
        let order = Order {
            generation,
            url: self.controller.clone(),
            token: self.token.clone(),
            first: None,
            limit: self.parts.session.dial_limit,
        };
        let attempt = self.attempt(cluster_id);
        let (parts, cancel) = (self.parts.clone(), self.cancel.clone());
        let (api, token) = (self.api(parts.http_limit), self.token.clone());
        let failed = |text: String| event(Err(Failure::Other(text)));
        let panicked = Done::Event(failed("the call panicked".to_owned()));
        let spawned = self.background.spawn("register-beside", panicked, move || {
            let id = parts.registrant.request_id();
            let attempt = attempt();
            let message = message(&parts.registrant, &id, &attempt);
            let mut outcome = beside::register(&order, &id, message, &parts, &cancel);
            if let Err(failure) = &outcome
                && failure.takes_no_websocket()
                && !parts.session.websocket_only
            {
                // A gateway may take WebSockets while the controller takes none.
                outcome = parts
                    .registrant
                    .http_payload(&attempt, |payload| api.register(payload, &token, &cancel))
                    .map(Box::new);
            }
            Done::Event(event(outcome))
        });
        if let Err(error) = spawned {
            let event = failed(error.to_string());
            self.session.handle(Instant::now(), event);
        }
    }

    /// What is registered, gathered where it is called; the handover hears of the
    /// token before anybody else.
    fn attempt(&self, cluster_id: Option<String>) -> impl FnOnce() -> Attempt + Send + use<> {
        let (facts, sender) = (self.gatherer.handle(), self.sender.clone());
        move || {
            let attempt = attempt(&facts, cluster_id);
            let hash = attempt.service_token.as_ref().map(token_hash);
            // The conductor has ended: nobody wants to know.
            let _ = sender.send(Input::HandedOver(hash));
            attempt
        }
    }

    /// `limit` is that of one call.
    pub(super) fn api(&self, limit: Duration) -> HttpApi {
        HttpApi {
            dialer: self.parts.dialer.clone(),
            api_url: self.parts.api_url.clone(),
            limit,
        }
    }
}

fn message(registrant: &Registrant, id: &str, attempt: &Attempt) -> Message {
    registrant.payload(attempt, |payload| {
        Message::text(2048, |buf| from_agent::register(buf, id, payload))
    })
}

fn attempt(facts: &FactsHandle, cluster_id: Option<String>) -> Attempt {
    Attempt {
        cluster_id,
        facts: facts.first(Deadline::after(FIRST_FACTS_WAIT)),
        service_token: facts.service_token(Deadline::after(SERVICE_TOKEN_WAIT)),
        ca_certificates: facts.ca_certificates(),
    }
}

/// `register` waits so long for the first facts: the API server's version is worth
/// a moment, not more.
const FIRST_FACTS_WAIT: Duration = Duration::from_secs(2);

/// config-and-state.md §9.3.
const SERVICE_TOKEN_WAIT: Duration = Duration::from_secs(10);
