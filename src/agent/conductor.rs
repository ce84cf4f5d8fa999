//! The one loop that everything meets in. It never waits for the network: what may
//! wait has a thread and reports back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use fastrand::Rng;

use super::background::{Background, Done};
use super::connection::{Connection, News, Order};
use super::error::AgentError;
use super::parts::Parts;
use super::status::Watch;
use crate::config::Secret;
use crate::control::dispatch::Heard;
use crate::control::facts::{FactsHandle, Gatherer};
use crate::control::heartbeat::{Due, Pace, Reporter};
use crate::control::http_mode::HttpApi;
use crate::control::late::LateAnswers;
use crate::control::registration::Attempt;
use crate::control::session::{
    Action, Answers, ConnectionState, End, Event, Failure, Generation, Ids, Session, Target,
    Transport,
};
use crate::control::urls::{self, GatewayQuery, Url};
use crate::control::worker_join::{NODE_TOKEN, worker_join};
use crate::identity::{Identity, credentials_hash};
use crate::link::{EndedBy, Lane, Message};
use crate::net::{Cancel, Deadline, Reason};
use crate::telemetry;
use crate::wire::from_agent::{self, WorkerJoin};

/// What reaches the conductor.
#[derive(Debug)]
pub(super) enum Input {
    Stop,
    Connection(Generation, News),
    Heard(Generation, Heard),
    /// New facts about the cluster.
    Facts,
    Done(Done),
}

pub(super) struct Conductor {
    parts: Arc<Parts>,
    controller: Url,
    inbox: Receiver<Input>,
    sender: Sender<Input>,
    watch: Watch,
    session: Session,
    late: Arc<LateAnswers>,
    connections: HashMap<Generation, Connection>,
    background: Background,
    /// Ends what runs in the background.
    cancel: Cancel,
    gatherer: Gatherer,
    pace: Pace,
    reporter: Reporter,
    serving: Option<(Generation, Transport)>,
    /// A heartbeat waits for fresh facts until then.
    heartbeat_until: Option<Instant>,
    /// The connection that began with a heartbeat.
    first_sent: Option<Generation>,
    /// The `register` that waits for its answer.
    register: Option<(Generation, String)>,
    /// As read for the latest dial or call.
    token: Secret,
    stopping: Option<Instant>,
    end: Option<End>,
}

impl Conductor {
    pub(super) fn new(
        parts: Arc<Parts>,
        sender: Sender<Input>,
        inbox: Receiver<Input>,
        watch: Watch,
    ) -> Result<Self, AgentError> {
        let controller = urls::controller(&parts.api_url).map_err(AgentError::ApiUrl)?;
        if !controller.tls && !controller.is_loopback() {
            log::warn!("{controller}: the token and everything else travel in plain text");
        }
        let now = Instant::now();
        let identity = parts.store.identity();
        let token = parts.token.read().unwrap_or_default();
        let hash = credentials_hash(&endpoint(&controller), token.expose());
        let resumable = identity.credentials_hash.as_deref() == Some(hash.as_str());
        let stored = Ids {
            cluster_id: identity.cluster_id,
            cluster_uuid: identity.cluster_uuid,
            gateway_ws_url: identity.gateway_ws_url,
        };
        let mut settings = parts.session.clone();
        settings.controller_tls = controller.tls;
        let gatherer = Gatherer::start(parts.facts.clone(), {
            let sender = sender.clone();
            move || {
                // A full inbox: the heartbeat goes out when its wait is over.
                let _ = sender.try_send(Input::Facts);
            }
        })?;
        Ok(Self {
            controller,
            session: Session::new(settings, stored, resumable, Rng::new(), now),
            late: LateAnswers::new(),
            connections: HashMap::new(),
            background: Background::new(sender.clone()),
            cancel: Cancel::new(),
            gatherer,
            pace: Pace::new(parts.heartbeat.clone(), Rng::new(), now),
            reporter: Reporter {
                agent_id: parts.registrant.agent_id.clone(),
                agent_version: parts.registrant.agent_version.clone(),
                is_private: parts.is_private,
            },
            serving: None,
            heartbeat_until: None,
            first_sent: None,
            register: None,
            token,
            stopping: None,
            end: None,
            parts,
            inbox,
            sender,
            watch,
        })
    }

    pub(super) fn run(mut self) -> Result<(), AgentError> {
        self.step(Event::Start);
        while self.end.is_none() {
            match self.next_input() {
                Some(input) => self.on_input(input),
                None => self.on_time(),
            }
        }
        self.finish()
    }

    fn next_input(&self) -> Option<Input> {
        let wake = [
            self.session.deadline(),
            self.pace.deadline(),
            self.heartbeat_until,
        ];
        // The conductor holds a sender itself: the channel never closes.
        match wake.into_iter().flatten().min() {
            Some(at) => match self.inbox.recv_deadline(at) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
            },
            None => self.inbox.recv().ok(),
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Stop => self.on_stop(),
            Input::Connection(generation, news) => self.on_connection(generation, news),
            Input::Heard(generation, heard) => self.on_heard(generation, heard),
            Input::Facts => {
                if self.heartbeat_until.take().is_some() {
                    self.send_heartbeat();
                }
            }
            Input::Done(done) => {
                self.background.reported();
                match done {
                    Done::Event(event) => {
                        self.note_http_heartbeat(&event);
                        self.step(event);
                    }
                    Done::Drained => self.step(Event::Stop),
                    Done::Nothing => {}
                }
            }
        }
        self.on_time();
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.session.deadline().is_some_and(|at| now >= at) {
            self.step(Event::Tick);
        }
        self.late.tick(now);
        if self.heartbeat_until.is_some_and(|until| now >= until) {
            self.heartbeat_until = None;
            self.send_heartbeat();
        }
        match self.pace.due(now) {
            Some(Due::Send) => {
                // Old facts may be all there are, but fresh ones are worth a moment.
                self.heartbeat_until = Some(now + FACTS_WAIT);
                self.gatherer.refresh();
            }
            Some(Due::Skip) => self.parts.health.heartbeat_failed(),
            None => {}
        }
    }

    fn on_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let now = Instant::now();
        self.stopping = Some(now + self.parts.shutdown_limit);
        let proxy = self.parts.proxy.clone();
        let deadline = Deadline::after(DRAIN_LIMIT.min(self.parts.shutdown_limit / 2));
        let spawned = self
            .background
            .spawn("agent-drain", Done::Drained, move || {
                proxy.drain(deadline);
                Done::Drained
            });
        if let Err(error) = spawned {
            log::warn!("what runs is not waited for: {error}");
            self.step(Event::Stop);
        }
    }

    /// One event through the state machine, and what it wants done.
    fn step(&mut self, event: Event) {
        self.session.handle(Instant::now(), event);
        while let Some(action) = self.session.poll() {
            self.act(action);
        }
        self.drop_strays();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Dial {
                generation,
                target,
                stays,
            } => {
                if let Err(failure) = self.dial(generation, &target, stays) {
                    self.session
                        .handle(Instant::now(), Event::DialFailed(generation, failure));
                }
            }
            Action::SendRegister {
                generation,
                cluster_id,
            } => self.send_register(generation, cluster_id),
            Action::HttpRegister {
                generation,
                cluster_id,
            } => self.http_register(generation, cluster_id),
            Action::Close(generation) => self.close(generation),
            Action::Abort(generation, why) => {
                if let Some(connection) = self.connections.get(&generation) {
                    match &connection.link {
                        Some(link) => link.abort(why),
                        None => drop(connection.cancel.cancel(Reason::Cancelled)),
                    }
                }
            }
            Action::Store(ids) => self.store(ids),
            Action::Serve(generation, transport) => self.serve(generation, transport),
            Action::StopServing => {
                self.serving = None;
                self.heartbeat_until = None;
                self.pace.stop_serving(Instant::now());
            }
            Action::State(state) => self.on_state(state),
            Action::End(end) => self.end = Some(end),
        }
    }

    fn dial(
        &mut self,
        generation: Generation,
        target: &Target,
        stays: bool,
    ) -> Result<(), Failure> {
        let other = |text: String| Failure::Other(text);
        self.parts.health.dialing();
        self.read_token()?;
        let url = match target {
            Target::Controller => self.controller.clone(),
            Target::Gateway { url, cluster_uuid } => {
                let query = GatewayQuery {
                    cluster_uuid,
                    agent_version: &self.parts.registrant.agent_version,
                    supports_yamux: false,
                };
                let plaintext = self.parts.session.allow_plaintext_gateway;
                urls::gateway(url, &query, self.controller.tls, plaintext)
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
    fn read_token(&mut self) -> Result<(), Failure> {
        let token = self.parts.token.read();
        let token = token.map_err(|error| Failure::Other(error.to_string()))?;
        if token != self.token {
            telemetry::register(&token);
            self.token = token;
        }
        Ok(())
    }

    fn on_connection(&mut self, generation: Generation, news: News) {
        let event = match news {
            News::Up(link) => {
                if let Some(connection) = self.connections.get_mut(&generation) {
                    connection.link = Some(link);
                }
                if generation == self.session.generation() {
                    self.parts.health.socket_up();
                }
                Event::Connected(generation)
            }
            News::Failed(failure) => match self.remove(generation) {
                // Its thread panicked behind the dial.
                Some(connection) if connection.link.is_some() => Event::Lost(generation, None),
                _ => Event::DialFailed(generation, failure),
            },
            News::Lost(ending) => {
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

    fn remove(&mut self, generation: Generation) -> Option<Connection> {
        let connection = self.connections.remove(&generation)?;
        self.late.lost(generation);
        Some(connection)
    }

    /// Ends connections that the state machine has given up: a dial that took too
    /// long must not leave a second connection behind (T5).
    fn drop_strays(&self) {
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

    fn close(&self, generation: Generation) {
        if let Some(connection) = self.connections.get(&generation) {
            match &connection.link {
                Some(link) => link.close(CLOSE_NORMAL, ""),
                None => drop(connection.cancel.cancel(Reason::Cancelled)),
            }
        }
    }

    fn on_heard(&mut self, generation: Generation, heard: Heard) {
        let pending = self
            .register
            .as_ref()
            .filter(|(of, _)| *of == generation)
            .map(|(_, id)| id.as_str());
        let event = match heard {
            Heard::RegisterSuccess {
                request_id,
                registered,
            } => {
                if pending.is_none() || request_id.as_deref() != pending {
                    log::debug!("an answer to no registration of ours was dropped");
                    return;
                }
                self.register = None;
                Event::RegisterSuccess(generation, registered)
            }
            Heard::RegisterInProgress => Event::RegisterInProgress(generation),
            Heard::HeartbeatAck => {
                if generation == self.session.generation() {
                    self.pace.acknowledged();
                    self.parts.health.heartbeat();
                    self.watch.update(|status| status.heartbeat_acks += 1);
                }
                Event::HeartbeatAck(generation)
            }
            Heard::Error { request_id, text } => Event::PeerError {
                generation,
                answers: match request_id {
                    None => Answers::Nobody,
                    Some(id) if Some(id.as_str()) == pending => Answers::Register,
                    Some(_) => Answers::Other,
                },
                text,
            },
        };
        self.step(event);
    }

    /// Facts and token may have to be waited for, so this has a thread; the answer's
    /// time runs already.
    fn send_register(&mut self, generation: Generation, cluster_id: Option<String>) {
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

    fn http_register(&mut self, generation: Generation, cluster_id: Option<String>) {
        let failed = |text: String| Event::HttpRegister(generation, Err(Failure::Other(text)));
        if let Err(failure) = self.read_token() {
            let event = Event::HttpRegister(generation, Err(failure));
            return self.session.handle(Instant::now(), event);
        }
        let (api, token, cancel) = (self.api(), self.token.clone(), self.cancel.clone());
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

    fn api(&self) -> HttpApi {
        HttpApi {
            dialer: self.parts.dialer.clone(),
            api_url: self.parts.api_url.clone(),
            limit: self.parts.http_limit,
        }
    }

    /// Ids are written down before the gateway is dialled (decisions.md §6.1).
    fn store(&self, ids: Ids) {
        let cluster_id = ids.cluster_id.clone().unwrap_or_default();
        let identity = Identity {
            cluster_id: ids.cluster_id,
            cluster_uuid: ids.cluster_uuid,
            gateway_ws_url: ids.gateway_ws_url,
            credentials_hash: Some(credentials_hash(
                &endpoint(&self.controller),
                self.token.expose(),
            )),
            ..self.parts.store.identity()
        };
        log::info!(cluster_id = cluster_id.as_str(); "registered");
        if let Err(error) = self.parts.store.save(&identity) {
            log::error!("the state could not be written, the next start registers anew: {error}");
        }
    }

    fn serve(&mut self, generation: Generation, transport: Transport) {
        self.serving = Some((generation, transport));
        let now = Instant::now();
        let url = self.connections.get(&generation).map(|c| &c.url);
        let endpoint = url.map_or_else(|| self.parts.api_url.clone(), ToString::to_string);
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
    }

    fn send_heartbeat(&mut self) {
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
        let event = match self.read_token() {
            Err(failure) => Some(failed(failure)),
            Ok(()) => {
                let (api, token, cancel) = (self.api(), self.token.clone(), self.cancel.clone());
                let (reporter, facts) = (self.reporter.clone(), self.gatherer.latest());
                let cluster_id = self.session.ids().cluster_id.clone().unwrap_or_default();
                let state = self.session.state();
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
            }
        };
        if let Some(event) = event {
            self.note_http_heartbeat(&event);
            self.session.handle(Instant::now(), event);
        }
    }

    /// Rounds and their repetitions are the pace's business (T40).
    fn note_http_heartbeat(&mut self, event: &Event) {
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
    fn heartbeat_message(&self, state: ConnectionState) -> Option<Message> {
        let cluster_id = self.session.ids().cluster_id.as_deref()?;
        let facts = self.gatherer.latest();
        let join = self.worker_join();
        let payload = self
            .reporter
            .payload(cluster_id, state, &facts, join.as_ref());
        Some(Message::text(1024, |buf| {
            from_agent::heartbeat(buf, &payload)
        }))
    }

    fn worker_join(&self) -> Option<WorkerJoin> {
        let path = std::path::Path::new(NODE_TOKEN);
        let server_ip = &self.parts.registrant.host.server_ip;
        self.parts
            .report_worker_join
            .then(|| worker_join(path, server_ip))
            .flatten()
    }

    fn on_state(&mut self, state: ConnectionState) {
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

    /// Ends every thread that was started, within what is left of the time.
    fn finish(mut self) -> Result<(), AgentError> {
        let limit = Instant::now() + self.parts.shutdown_limit;
        let limit = self
            .stopping
            .unwrap_or(limit)
            .max(Instant::now() + LEAST_END);
        self.cancel.cancel(Reason::Shutdown);
        for connection in self.connections.values() {
            match &connection.link {
                // What was asked to close goes on closing.
                Some(link) if !link.is_open() => {}
                Some(link) => link.close(CLOSE_NORMAL, ""),
                None => drop(connection.cancel.cancel(Reason::Shutdown)),
            }
        }
        let mut threads = Vec::new();
        let mut aborted = false;
        while !(self.connections.is_empty() && self.background.is_idle()) {
            let until = if aborted {
                limit
            } else {
                limit.min(Instant::now() + CLOSE_PATIENCE)
            };
            match self.inbox.recv_deadline(until) {
                Ok(Input::Connection(generation, News::Up(link))) => {
                    link.abort("the agent has ended");
                    if let Some(connection) = self.connections.get_mut(&generation) {
                        connection.link = Some(link);
                    }
                }
                Ok(Input::Connection(generation, _)) => {
                    threads.extend(self.remove(generation).map(|c| c.thread));
                }
                Ok(Input::Done(_)) => self.background.reported(),
                Ok(_) => {}
                Err(_) if Instant::now() >= limit => return Err(AgentError::ShutdownTimedOut),
                Err(_) => {
                    aborted = true;
                    for link in self.connections.values().filter_map(|c| c.link.as_ref()) {
                        link.abort("the peer did not answer the close");
                    }
                }
            }
        }
        for thread in threads {
            // Their last word has been heard: they end now.
            let _ = thread.join();
        }
        self.background.join();
        self.gatherer.stop();
        match self.end {
            None | Some(End::Stopped) => Ok(()),
            Some(End::Refused(why)) => Err(AgentError::Refused(why)),
            Some(End::GaveUp) => Err(AgentError::GaveUp),
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

/// What identifies a controller: its URL, query included.
fn endpoint(url: &Url) -> String {
    format!("{url}?{}", url.query.as_deref().unwrap_or_default())
}

const CLOSE_NORMAL: u16 = 1000;

/// A heartbeat waits so long for fresh facts (control-channel.md §7.3).
const FACTS_WAIT: Duration = Duration::from_secs(5);

/// `register` waits so long for the first facts: the API server's version is worth
/// a moment, not more.
const FIRST_FACTS_WAIT: Duration = Duration::from_secs(2);

/// config-and-state.md §9.3.
const SERVICE_TOKEN_WAIT: Duration = Duration::from_secs(10);

/// What runs may finish within this after a stop (config-and-state.md §10.3).
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// After a refusal, too, threads get a moment to end.
const LEAST_END: Duration = Duration::from_secs(5);

/// A close frame is waited for this long before the connection is cut.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
