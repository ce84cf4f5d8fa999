//! What is said on an agent's connection besides requests: hello, registration,
//! heartbeats (control-channel.md §6, §7; decisions.md §6.1, §6.4).
//!
//! Runs on the connection's own thread, event by event, because a registration waits
//! for the disk; `now` is an argument.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agent_connection::AgentConnection;
use super::agent_event::{AgentEvent, Heartbeat, RegisterRequest};
use super::hub::{Hub, NotRegistered};
use super::name::ClusterName;
use crate::link::SendError;
use crate::wire::to_agent::{self, RegisterSuccess};
use crate::wire::{FLOW, RAW_STREAMS, TUNNEL_HEADER_2, from_agent};

/// Which endpoint an agent has dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Registration. The URL of the gateway that it is sent on to; `None`: it stays.
    Controller { gateway: Option<String> },
    /// Requests; with the `cluster_uuid` of the query, and whether it says that the
    /// agent has tunnels (`supports_yamux=true`).
    Gateway { cluster_id: String, yamux: bool },
}

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    /// Over: the code and the reason of the close frame.
    Close(u16, &'static str),
    /// Over, at once.
    Abort(&'static str),
}

pub(crate) struct Dialogue {
    hub: Arc<Hub>,
    connection: Arc<AgentConnection>,
    /// The cluster that the agent's token was made for.
    cluster: ClusterName,
    endpoint: Endpoint,
    /// Until then an answer to our hello is waited for. No request is sent before
    /// it: one that crossed the answer would be counted by one side only.
    hello: Hello,
    /// A heartbeat came before the answer to our hello.
    owes_ack: bool,
    /// The agent has said that it can do yamux.
    has_tunnels: bool,
    identity: Identity,
    /// Without a registration or heartbeat until then the connection is closed.
    idle_until: Option<Instant>,
}

/// Who is at the other end.
enum Identity {
    Unknown,
    /// A gateway's connection doesn't say: whoever registered last, most likely.
    Presumed(String),
    /// It has said so.
    Known(String),
}

impl Identity {
    fn id(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Presumed(id) | Self::Known(id) => Some(id),
        }
    }
}

enum Hello {
    Awaited {
        until: Instant,
    },
    Answered,
    /// Too late for an answer: this connection goes on without features.
    TimedOut,
}

impl Dialogue {
    pub(crate) fn new(
        hub: Arc<Hub>,
        connection: Arc<AgentConnection>,
        cluster: ClusterName,
        endpoint: Endpoint,
        now: Instant,
    ) -> Self {
        Self {
            hub,
            connection,
            cluster,
            hello: Hello::Awaited {
                until: now + HELLO_LIMIT,
            },
            owes_ack: false,
            has_tunnels: matches!(endpoint, Endpoint::Gateway { yamux: true, .. }),
            endpoint,
            identity: Identity::Unknown,
            idle_until: Some(now + IDLE_LIMIT),
        }
    }

    /// The connection stands: what is sent before anything has come.
    pub(crate) fn start(&mut self) -> Next {
        let sent = self.connection.send_control(128, |buf| {
            to_agent::plane_hello(buf, &[FLOW, RAW_STREAMS, TUNNEL_HEADER_2]);
        });
        if sent.is_err() {
            return next_after(sent);
        }
        if let Endpoint::Gateway { cluster_id, .. } = &self.endpoint {
            let known = self.hub.registry.cluster(&self.cluster);
            match known.filter(|known| known.id == *cluster_id) {
                Some(known) => self.identity = Identity::Presumed(known.agent.id),
                None => return self.unknown_cluster(None),
            }
        }
        Next::Continue
    }

    /// When [`timeout`](Self::timeout) is to be called if nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let hello = match self.hello {
            Hello::Awaited { until } => Some(until),
            Hello::Answered | Hello::TimedOut => None,
        };
        [hello, self.idle_until].into_iter().flatten().min()
    }

    pub(crate) fn timeout(&mut self, now: Instant) -> Next {
        if self.idle_until.is_some_and(|until| until <= now) {
            return Next::Close(1000, "nothing was registered");
        }
        if matches!(self.hello, Hello::Awaited { until } if until <= now) {
            self.hello = Hello::TimedOut;
            return self.settled();
        }
        Next::Continue
    }

    pub(crate) fn handle(&mut self, event: AgentEvent) -> Next {
        match event {
            AgentEvent::Hello {
                flow,
                raw_streams,
                client_addresses,
            } => match self.hello {
                Hello::Awaited { .. } => {
                    self.hello = Hello::Answered;
                    if flow {
                        self.connection.set_metered();
                    }
                    // Without credit there is no bound on what one side holds.
                    if flow && raw_streams {
                        self.connection.set_raw_streams();
                    }
                    if client_addresses {
                        self.connection.set_client_addresses();
                        // The controller's query doesn't say it.
                        self.has_tunnels = true;
                    }
                    self.settled()
                }
                // It counts credit for requests for which we don't.
                Hello::TimedOut if flow => Next::Abort("the answer to plane_hello came too late"),
                Hello::Answered | Hello::TimedOut => Next::Continue,
            },
            AgentEvent::Register {
                request_id,
                registration,
            } => self.register(&request_id, *registration),
            AgentEvent::Heartbeat(beat) => self.heartbeat(&beat),
            AgentEvent::Ping { request_id } => {
                let id = request_id.as_deref();
                next_after(
                    self.connection
                        .send_control(128, |buf| from_agent::pong(buf, id)),
                )
            }
        }
    }

    fn register(&mut self, request_id: &str, registration: RegisterRequest) -> Next {
        let Endpoint::Controller { gateway } = &self.endpoint else {
            return self.error(
                Some(request_id),
                "register at the controller, not at the gateway",
            );
        };
        let agent_id = registration.agent.id.clone();
        let cluster = match self.hub.register(&self.cluster, registration) {
            Ok(cluster) => cluster,
            Err(NotRegistered::Refused(text)) => {
                log::info!(cluster = self.cluster.as_str(); "registration refused: {text}");
                return match self.error(Some(request_id), &text) {
                    Next::Continue => Next::Close(1008, "registration refused"),
                    over => over,
                };
            }
            Err(NotRegistered::Failed(error)) => {
                log::error!(cluster = self.cluster.as_str(); "registration failed: {error}");
                // An `error` would be a refusal, which ends the agent.
                return Next::Close(1011, "the registration could not be saved");
            }
        };
        log::info!(cluster = self.cluster.as_str(), agent = agent_id.as_str(); "registered");
        let gateway = gateway.as_deref();
        let success = RegisterSuccess {
            cluster_id: &cluster.id,
            cluster_uuid: &cluster.id,
            gateway_ws_url: gateway,
            name: cluster.name.as_str(),
            status: "registered",
            workspace_id: 1,
        };
        let sent = self.connection.send_control(512, |buf| {
            to_agent::register_success(buf, request_id, &success);
        });
        self.idle_until = None;
        if gateway.is_none() {
            return match next_after(sent) {
                Next::Continue => self.identified(&agent_id),
                over => over,
            };
        }
        // It leaves for the gateway; requests would be lost on the way.
        next_after(sent)
    }

    fn heartbeat(&mut self, beat: &Heartbeat) -> Next {
        let known = self.hub.registry.cluster(&self.cluster);
        if known.is_none_or(|known| known.id != beat.cluster_id) {
            return self.unknown_cluster(None);
        }
        self.idle_until = None;
        match self.identified(&beat.agent_id) {
            Next::Continue => {}
            over => return over,
        }
        self.hub
            .registry
            .seen(&self.cluster, Some((beat.nodes, beat.pods)));
        // Who has an acknowledged heartbeat can be reached: not before the hello is
        // settled.
        if matches!(self.hello, Hello::Awaited { .. }) {
            self.owes_ack = true;
            return Next::Continue;
        }
        self.acknowledge()
    }

    fn acknowledge(&self) -> Next {
        next_after(self.connection.send_control(128, to_agent::heartbeat_ack))
    }

    /// The hello is: what waited for that is done.
    fn settled(&mut self) -> Next {
        // Not before: the version of streams' headers hangs on it.
        if self.has_tunnels && self.connection.offer_tunnels().is_err() {
            return next_after(Err(SendError::Closed));
        }
        match self.attach() {
            Next::Continue if std::mem::take(&mut self.owes_ack) => self.acknowledge(),
            next => next,
        }
    }

    /// The agent has said who it is.
    fn identified(&mut self, agent_id: &str) -> Next {
        if self.identity.id().is_some_and(|known| known != agent_id) {
            // Not whom we took it for: another agent has registered since.
            self.hub.detach(&self.connection);
            return self.not_that_agent(agent_id);
        }
        self.identity = Identity::Known(agent_id.to_owned());
        self.attach()
    }

    /// Lets requests come, as soon as the hello is settled and the agent is known.
    fn attach(&self) -> Next {
        if matches!(self.hello, Hello::Awaited { .. }) {
            return Next::Continue;
        }
        match &self.identity {
            Identity::Unknown => Next::Continue,
            Identity::Presumed(id) => {
                self.hub.attach_if_free(&self.cluster, &self.connection, id);
                Next::Continue
            }
            Identity::Known(id) => match self.hub.attach(&self.cluster, &self.connection, id) {
                Ok(()) => Next::Continue,
                Err(_) => self.not_that_agent(id),
            },
        }
    }

    /// Makes the agent register, where it will hear why it can't.
    fn not_that_agent(&self, agent_id: &str) -> Next {
        let text = format!(
            "agent {agent_id} is not registered for cluster {:?}: another one is",
            self.cluster.as_str()
        );
        self.error(None, &text)
    }

    fn unknown_cluster(&self, request_id: Option<&str>) -> Next {
        self.error(request_id, "cluster not registered")
    }

    fn error(&self, request_id: Option<&str>, text: &str) -> Next {
        next_after(
            self.connection
                .send_control(256, |buf| to_agent::error(buf, request_id, text)),
        )
    }
}

fn next_after(sent: Result<(), SendError>) -> Next {
    match sent {
        Ok(()) => Next::Continue,
        Err(_) => Next::Abort("the connection was lost"),
    }
}

/// An agent answers the hello in its first message; the original likewise, because
/// it doesn't know it.
const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// The original's first heartbeat comes 30 s after it has connected at the latest.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests;
