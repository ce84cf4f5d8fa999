//! The one loop that everything meets in. It never waits for the network: what may
//! wait has a thread and reports back.

mod calls;
mod connections;
mod finish;
mod heartbeats;
mod serving;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use fastrand::Rng;

use super::background::{Background, Done};
use super::connection::{Connection, ConnectionEvent};
use super::error::AgentError;
use super::handover::Handover;
use super::parts::Parts;
use super::status::Watch;
use crate::config::Secret;
use crate::control::dispatch::PeerMessage;
use crate::control::facts::Gatherer;
use crate::control::heartbeat::{Due, Pace, Reporter};
use crate::control::late::LateAnswers;
use crate::control::session::{Action, Answers, End, Event, Generation, Ids, Session, Transport};
use crate::control::urls;
use crate::identity::credentials_hash;
use crate::net::{Cancel, Deadline, Reason};
use crate::telemetry;
use crate::threads::{self, Stack};
use crate::url::Url;

/// What reaches the conductor.
#[derive(Debug)]
pub(super) enum Input {
    Stop,
    Connection(Generation, ConnectionEvent),
    PeerMessage(Generation, PeerMessage),
    /// New facts about the cluster.
    Facts,
    Done(Done),
    /// A `register` is about to go out with the cluster token of this hash.
    HandedOver(Option<String>),
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
    /// Ends the latest heartbeat over HTTP.
    heartbeat_cancel: Cancel,
    gatherer: Gatherer,
    handover: Handover,
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
        let controller = urls::controller(&parts.api_url);
        if !controller.tls && !controller.is_loopback() {
            log::warn!("{controller}: the token and everything else travel in plain text");
        }
        let now = Instant::now();
        let identity = parts.store.identity();
        // Without one the first dial says what is wrong.
        let token = parts.token.read().unwrap_or_default();
        telemetry::register(&token);
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
            heartbeat_cancel: Cancel::new(),
            gatherer,
            handover: Handover::new(identity.service_token_hash),
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
            Some(at) => self.inbox.recv_deadline(at).ok(),
            None => self.inbox.recv().ok(),
        }
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Stop => self.on_stop(),
            Input::Connection(generation, event) => self.on_connection(generation, event),
            Input::PeerMessage(generation, message) => self.on_peer_message(generation, message),
            Input::Facts => {
                if self.heartbeat_until.take().is_some() {
                    self.send_heartbeat();
                }
                self.check_handover();
            }
            Input::HandedOver(hash) => self.handover.sent(hash),
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
        // A heartbeat that could not even begin has told the state machine.
        self.act_on_all();
    }

    fn on_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let now = Instant::now();
        self.stopping = Some(now + self.parts.shutdown_limit);
        let (proxy, tunnels) = (self.parts.proxy.clone(), self.parts.tunnels.clone());
        let most = self.parts.shutdown_limit / 2;
        let deadline = Deadline::after(DRAIN_LIMIT.min(most));
        let streams = Deadline::after(tunnels.drain_limit().min(most));
        let spawned = self
            .background
            .spawn("agent-drain", Done::Drained, move || {
                let beside = threads::spawn("tunnel-drain", Stack::Work, move || {
                    tunnels.drain(streams.instant());
                });
                proxy.drain(deadline);
                match beside {
                    Ok(thread) => drop(thread.join()),
                    Err(error) => log::warn!("streams are not waited for: {error}"),
                }
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
        self.act_on_all();
    }

    fn act_on_all(&mut self) {
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
            Action::RegisterBeside {
                generation,
                cluster_id,
            } => self.register_beside(generation, cluster_id),
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
            Action::Rest => {
                self.serving = None;
                self.heartbeat_until = None;
                self.pace.rest();
            }
            Action::Resume(generation) => {
                self.serving = Some((generation, Transport::Http));
                self.pace.serve(Instant::now(), false);
            }
            Action::State(state) => self.on_state(state),
            Action::End(end) => self.end = Some(end),
        }
    }

    fn on_peer_message(&mut self, generation: Generation, message: PeerMessage) {
        let pending = self
            .register
            .as_ref()
            .filter(|(of, _)| *of == generation)
            .map(|(_, id)| id.as_str());
        let event = match message {
            PeerMessage::RegisterSuccess {
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
            PeerMessage::RegisterInProgress => Event::RegisterInProgress(generation),
            PeerMessage::HeartbeatAck => {
                if generation == self.session.generation() {
                    let took = self.pace.acknowledged(Instant::now());
                    self.parts.health.heartbeat();
                    self.watch.update(|status| {
                        status.heartbeat_acks += 1;
                        status.heartbeat_took = took.or(status.heartbeat_took);
                    });
                }
                Event::HeartbeatAck(generation)
            }
            PeerMessage::Error { request_id, text } => Event::PeerError {
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
}

/// What identifies a controller: its URL, query included.
fn endpoint(url: &Url) -> String {
    format!("{url}?{}", url.query.as_deref().unwrap_or_default())
}

pub(super) const CLOSE_NORMAL: u16 = 1000;

/// A heartbeat waits so long for fresh facts (control-channel.md §7.3).
const FACTS_WAIT: Duration = Duration::from_secs(5);

/// What runs may finish within this after a stop (config-and-state.md §10.3).
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
