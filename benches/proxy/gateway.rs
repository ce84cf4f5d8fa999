//! The control plane of the benchmark: controller and gateway on one TLS port.
//! It sends no `plane_hello`, so that both agents are treated alike.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use pipeops_agent::http::server::{Handler, Request, RequestBody, Responder, Server};
use pipeops_agent::http::{Headers, server};
use pipeops_agent::link::{self, Lane, Link, Message, Role, Settings};
use pipeops_agent::net::{Cancel, ServerTls};
use pipeops_agent::websocket::upgrade;
use pipeops_agent::wire::{Envelope, FromAgent, from_agent, to_agent};

use crate::load::Load;
use crate::streams::{self, Streams};

/// What the start of an agent is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// `register` was read.
    Registered(Instant),
    /// A heartbeat was read on the gateway's connection.
    Heartbeat(Instant),
}

/// The control plane of one agent.
pub(crate) struct Gateway {
    server: Server,
    pub(crate) load: Load,
    pub(crate) streams: Streams,
    pub(crate) events: Receiver<Event>,
}

impl Gateway {
    pub(crate) fn start(tls: ServerTls) -> io::Result<Self> {
        let load = Load::default();
        let streams = Streams::default();
        let (sender, events) = bounded(16);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let door = Door {
            gateway_url: format!("wss://{}/ws", listener.local_addr()?),
            load: load.clone(),
            streams: streams.clone(),
            events: sender,
        };
        let settings = server::Settings {
            name: "gateway",
            tls: Some(tls),
            ..server::Settings::default()
        };
        let server = Server::start(listener, settings, Arc::new(door))?;
        Ok(Self {
            server,
            load,
            streams,
            events,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

/// Takes connections in.
struct Door {
    gateway_url: String,
    load: Load,
    streams: Streams,
    events: Sender<Event>,
}

impl Handler for Door {
    fn handle(&self, request: Request, body: RequestBody, responder: Responder) {
        let is_gateway = match request.target.split('?').next() {
            Some("/ws") => true,
            Some("/api/v1/clusters/agent/ws") => false,
            _ => return drop(responder.respond(404, &Headers::new(), b"")),
        };
        let Some(mut halves) = responder.take_over(body) else {
            return;
        };
        let headers: Vec<(&str, &str)> = request.headers.iter().collect();
        if let Err(error) = upgrade::accept(&headers, &mut halves.write) {
            return self.load.fail(format!("upgrade: {error}"));
        }
        let mut settings = Settings::new(Role::Server);
        settings.bulk_bytes = BULK;
        let started = Link::start(halves, settings, |link| {
            if is_gateway {
                self.load.connect(link.clone());
                self.streams.connect(link.clone());
            }
            Inbox {
                link: link.clone(),
                is_gateway,
                gateway_url: self.gateway_url.clone(),
                load: self.load.clone(),
                streams: self.streams.clone(),
                events: self.events.clone(),
            }
        });
        if let Err(error) = started {
            self.load.fail(error.to_string());
        }
    }
}

/// Takes the messages of one connection.
struct Inbox {
    link: Link,
    is_gateway: bool,
    gateway_url: String,
    load: Load,
    streams: Streams,
    events: Sender<Event>,
}

impl Inbox {
    fn dispatch(&self, text: &str) -> Result<(), String> {
        let envelope = Envelope::parse(text).map_err(|error| error.to_string())?;
        let id = envelope.request_id.as_deref();
        match FromAgent::parse(&envelope) {
            FromAgent::Register(_) => {
                self.tell(Event::Registered(Instant::now()));
                self.reply(|buf| {
                    let payload = to_agent::RegisterSuccess {
                        cluster_id: CLUSTER,
                        cluster_uuid: CLUSTER,
                        gateway_ws_url: Some(&self.gateway_url),
                        name: "bench",
                        status: "registered",
                        workspace_id: 1,
                    };
                    to_agent::register_success(buf, id.unwrap_or_default(), &payload);
                })
            }
            FromAgent::Heartbeat(_) => {
                if self.is_gateway {
                    self.tell(Event::Heartbeat(Instant::now()));
                }
                self.reply(to_agent::heartbeat_ack)
            }
            FromAgent::Ping => self.reply(|buf| from_agent::pong(buf, id)),
            FromAgent::Pong | FromAgent::Other => Ok(()),
            message => {
                match id {
                    Some(id) if streams::is_ours(id) => self.streams.take(id, &message),
                    _ => self.load.take(id, &message),
                }
                Ok(())
            }
        }
    }

    fn reply(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), String> {
        self.link
            .send(Lane::Control, Message::text(512, encode), &Cancel::new())
            .map_err(|error| error.to_string())
    }

    fn tell(&self, event: Event) {
        // Later heartbeats are of no interest.
        let _ = self.events.try_send(event);
    }
}

impl link::Receiver for Inbox {
    fn text(&mut self, message: &str) {
        if let Err(error) = self.dispatch(message) {
            self.load.fail(error);
        }
    }

    fn binary(&mut self, _message: &[u8]) {
        self.load.fail("a binary message");
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The controller's connection is left on purpose.
        if self.is_gateway {
            self.load.fail("the agent's connection is lost");
            self.streams.fail("the agent's connection is lost");
        }
    }
}

const CLUSTER: &str = "6d1f6f7a-5f43-4f0e-8f0a-3c1d2b9e7a55";

/// More than all requests that can be in flight.
const BULK: usize = 4 * 1024 * 1024;
