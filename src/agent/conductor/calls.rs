//! Registrations.

use std::time::{Duration, Instant};

use super::Conductor;
use crate::agent::background::Done;
use crate::control::facts::FactsHandle;
use crate::control::http_mode::HttpApi;
use crate::control::registration::Attempt;
use crate::control::session::{Event, Failure, Generation};
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
        let (parts, facts) = (self.parts.clone(), self.gatherer.handle());
        let spawned = self.background.spawn("register", Done::Nothing, move || {
            let attempt = attempt(&facts, cluster_id);
            let message = parts.registrant.payload(&attempt, |payload| {
                Message::text(2048, |buf| from_agent::register(buf, &id, payload))
            });
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
        let (parts, facts) = (self.parts.clone(), self.gatherer.handle());
        let panicked = Done::Event(failed("the call panicked".to_owned()));
        let spawned = self.background.spawn("http-register", panicked, move || {
            let attempt = attempt(&facts, cluster_id);
            let outcome = parts
                .registrant
                .payload(&attempt, |payload| api.register(payload, &token, &cancel));
            Done::Event(Event::HttpRegister(generation, outcome.map(Box::new)))
        });
        if let Err(error) = spawned {
            let event = failed(error.to_string());
            self.session.handle(Instant::now(), event);
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

fn attempt(facts: &FactsHandle, cluster_id: Option<String>) -> Attempt {
    Attempt {
        cluster_id,
        facts: facts.first(Deadline::after(FIRST_FACTS_WAIT)),
        service_token: facts.service_token(Deadline::after(SERVICE_TOKEN_WAIT)),
    }
}

/// `register` waits so long for the first facts: the API server's version is worth
/// a moment, not more.
const FIRST_FACTS_WAIT: Duration = Duration::from_secs(2);

/// config-and-state.md §9.3.
const SERVICE_TOKEN_WAIT: Duration = Duration::from_secs(10);
