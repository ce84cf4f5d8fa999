//! A control plane that does what a test says, one message at a time, over TLS. It
//! says no `plane_hello` unless told to.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use pipeops_agent::http::server::{self, Handler, Request, RequestBody, Responder, Server};
use pipeops_agent::link::{self, Lane, Link, Message, Role, Settings, Slot};
use pipeops_agent::net::{Cancel, ServerTls};
use pipeops_agent::websocket::upgrade;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ca::Ca;
use super::wait::LIMIT;

/// Where agents are sent after their registration, and what they are called.
pub(crate) const CLUSTER: &str = "5f0c8a8e-6f4e-4b58-a1b1-6f1d1f7f3a11";

pub(crate) struct FakePlane {
    server: Server,
    ca: Ca,
    accepted: Receiver<Conn>,
    folder: TempDir,
}

impl FakePlane {
    pub(crate) fn start() -> Self {
        let ca = Ca::new("the plane's");
        let tls = ca.server(None);
        Self::with(ca, tls)
    }

    /// One that asks agents for a certificate of this authority.
    pub(crate) fn start_mtls(clients: &Ca) -> Self {
        let ca = Ca::new("the plane's");
        let tls = ca.server(Some(clients));
        Self::with(ca, tls)
    }

    fn with(ca: Ca, tls: ServerTls) -> Self {
        let (sender, accepted) = unbounded();
        let settings = server::Settings {
            name: "fake-plane",
            tls: Some(tls),
            ..server::Settings::default()
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let server = Server::start(listener, settings, Arc::new(Door { sender })).expect("started");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).expect("written");
        Self {
            server,
            ca,
            accepted,
            folder,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The next connection of an agent.
    pub(crate) fn accept(&self) -> Conn {
        self.accepted.recv_timeout(LIMIT).expect("an agent dials")
    }

    /// Takes a registration and sends the agent to `gateway` (`host:port`), where
    /// its connection is taken, too.
    pub(crate) fn register_at(&self, gateway: SocketAddr) -> Conn {
        let mut controller = self.accept();
        assert_eq!(controller.path(), "/api/v1/clusters/agent/ws");
        let register = controller.expect("register");
        controller.send(&json!({
            "type": "register_success", "request_id": register["request_id"], "payload": {
                "cluster_id": CLUSTER, "cluster_uuid": CLUSTER,
                "gateway_ws_url": format!("wss://{gateway}/ws"),
            },
        }));
        let mut gateway = self.accept();
        assert_eq!(gateway.path(), "/ws");
        gateway.acknowledge();
        gateway
    }

    pub(crate) fn register(&self) -> Conn {
        self.register_at(self.address())
    }

    pub(crate) fn ca(&self) -> &Ca {
        &self.ca
    }
}

/// One connection of an agent.
pub(crate) struct Conn {
    pub(crate) target: String,
    pub(crate) authorization: String,
    pub(crate) link: Link,
    messages: Receiver<Value>,
    kept: Vec<Value>,
}

impl Conn {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn send(&self, message: &Value) {
        assert!(self.try_send(message), "the agent's connection is gone");
    }

    pub(crate) fn try_send(&self, message: &Value) -> bool {
        self.try_send_text(&message.to_string())
    }

    /// A message as it is.
    pub(crate) fn send_text(&self, text: &str) {
        assert!(self.try_send_text(text), "the agent's connection is gone");
    }

    fn try_send_text(&self, text: &str) -> bool {
        let message = Message::text(text.len(), |buf| buf.extend_from_slice(text.as_bytes()));
        self.link.send(lane(), message, &Cancel::new()).is_ok()
    }

    pub(crate) fn send_binary(&self, bytes: &[u8]) {
        let message = Message::binary(bytes.len(), |buf| buf.extend_from_slice(bytes));
        let sent = self.link.send(lane(), message, &Cancel::new());
        sent.expect("the agent's connection is there");
    }

    /// A `proxy_request` with this payload.
    pub(crate) fn request(&self, id: &str, payload: &Value) {
        self.send(&json!({"type": "proxy_request", "request_id": id, "payload": payload}));
    }

    /// The next message, whatever it is; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Value> {
        if self.kept.is_empty() {
            match self.messages.recv_timeout(LIMIT) {
                Ok(message) => Some(message),
                Err(error) if error.is_timeout() => panic!("nothing came"),
                Err(_) => None,
            }
        } else {
            Some(self.kept.remove(0))
        }
    }

    /// The next message of that type; others are kept for later.
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        self.expect_that(kind, |message| message["type"] == kind)
    }

    /// The next message of this request.
    pub(crate) fn answer(&mut self, id: &str) -> Value {
        self.expect_that(id, |message| message["request_id"] == id)
    }

    /// The whole of a form S answer: status, headers, body. Panics if it is cut.
    pub(crate) fn streamed(&mut self, id: &str) -> (u64, Value, Vec<u8>) {
        let head = self.answer(id);
        assert_eq!(head["type"], "proxy_response_header", "{head}");
        let mut body = Vec::new();
        loop {
            let message = self.answer(id);
            match message["type"].as_str() {
                Some("proxy_response_chunk") => body.extend(chunk(&message)),
                Some("proxy_response_end") => break,
                _ => panic!("{message}"),
            }
        }
        let status = head["payload"]["status"].as_u64().expect("a status");
        (status, head["payload"]["headers"].clone(), body)
    }

    /// Answers the heartbeat that comes next.
    pub(crate) fn acknowledge(&mut self) -> Value {
        let heartbeat = self.expect("heartbeat");
        self.send(&json!({
            "type": "heartbeat_ack", "payload": {"received_at": "2026-11-20T12:00:00Z"},
        }));
        heartbeat
    }

    /// True when everything that was sent before has been read by the agent and no
    /// message but these kinds came as an answer.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.send(&json!({"type": "ping", "request_id": "quiet"}));
        self.expect_that("pong", |message| message["request_id"] == "quiet");
        self.kept.is_empty()
    }

    fn expect_that(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut others = Vec::new();
        loop {
            let message = self
                .next()
                .unwrap_or_else(|| panic!("the connection ended without {what}; {others:?}"));
            if wanted(&message) {
                others.append(&mut self.kept);
                self.kept = others;
                return message;
            }
            others.push(message);
        }
    }
}

/// The data of a `proxy_response_chunk`, whose other fields must agree.
pub(crate) fn chunk(message: &Value) -> Vec<u8> {
    let payload = &message["payload"];
    assert_eq!(payload["encoding"], "base64");
    let data = payload["data"].as_str().expect("data");
    let data = base64_simd::STANDARD.decode_to_vec(data).expect("base64");
    assert_eq!(payload["size"], data.len());
    assert!((1..=32 * 1024).contains(&data.len()), "{}", data.len());
    data
}

struct Door {
    sender: Sender<Conn>,
}

impl Handler for Door {
    fn handle(&self, request: Request, body: RequestBody, responder: Responder) {
        let Some(mut halves) = responder.take_over(body) else {
            return;
        };
        let headers: Vec<(&str, &str)> = request.headers.iter().collect();
        if upgrade::accept(&headers, &mut halves.write).is_err() {
            return;
        }
        let (inbox, messages) = unbounded();
        let settings = Settings {
            bulk_bytes: 16 << 20,
            ..Settings::new(Role::Server)
        };
        let started = Link::start(halves, settings, |_| Inbox(inbox));
        let Ok(link) = started else { return };
        let authorization = request.headers.get("Authorization").unwrap_or_default();
        // The plane may be gone.
        let _ = self.sender.send(Conn {
            authorization: authorization.to_owned(),
            target: request.target,
            link,
            messages,
            kept: Vec::new(),
        });
    }
}

struct Inbox(Sender<Value>);

/// All that it says, in the order in which tests say it.
fn lane() -> Lane {
    Lane::Bulk(Slot::of(""))
}

impl link::Receiver for Inbox {
    fn text(&mut self, message: &str) {
        let message = serde_json::from_str(message).expect("JSON");
        // Nobody waits for it any more.
        let _ = self.0.send(message);
    }

    fn binary(&mut self, message: &[u8]) {
        panic!(
            "an agent never sends binary messages: {} bytes",
            message.len()
        );
    }
}
