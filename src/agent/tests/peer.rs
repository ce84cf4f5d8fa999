//! The other side: a WebSocket server of tungstenite's that does what a test says,
//! one step at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::agent::{Agent, Parts};
use crate::config::{Secret, TokenSource};
use crate::control::facts::NoCluster;
use crate::control::registration::tests::registrant;
use crate::control::{heartbeat, session};
use crate::identity::{MemoryStore, Store};
use crate::link;
use crate::net::{ClientTls, ClientTlsSettings, Deadline, Dialer};
use crate::proxy::{self, Executor};
use crate::server::HealthState;
use crate::tunnel::connection::NoTargets;
use crate::tunnel::{self, Tunnels};
use crate::url::Url;

/// Only a hung test reaches it.
pub(super) fn far() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

pub(super) struct Peer {
    pub(super) listener: TcpListener,
}

impl Peer {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        Self { listener }
    }

    pub(super) fn authority(&self) -> String {
        self.listener.local_addr().expect("address").to_string()
    }

    pub(super) fn api_url(&self) -> Url {
        Url::parse(&format!("http://{}", self.authority())).expect("a URL")
    }

    pub(super) fn gateway_url(&self) -> String {
        format!("ws://{}", self.authority())
    }

    pub(super) fn stream(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("accept");
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .expect("set");
        stream
    }

    /// Takes the upgrade.
    pub(super) fn accept(&self) -> Conn {
        Self::accept_on(self.stream())
    }

    /// Whether what comes on a connection is an upgrade.
    pub(super) fn is_upgrade(stream: &TcpStream) -> bool {
        let mut first = [0];
        stream.peek(&mut first).is_ok() && first == *b"G"
    }

    #[allow(clippy::result_large_err)] // tungstenite's own callback type
    pub(super) fn accept_on(stream: TcpStream) -> Conn {
        let (mut uri, mut authorization) = (String::new(), String::new());
        let note = |request: &Request, response: Response| {
            uri = request.uri().to_string();
            let value = request.headers().get("authorization");
            value
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .clone_into(&mut authorization);
            Ok(response)
        };
        let socket = tungstenite::accept_hdr(stream, note).expect("the upgrade");
        Conn {
            socket,
            uri,
            authorization,
        }
    }

    /// Answers the next HTTP request (or upgrade) with this, and says what it was.
    pub(super) fn answer(&self, status: &str, body: &str) -> (String, String) {
        Self::answer_on(&self.stream(), status, body)
    }

    /// The same on a connection that was taken before.
    pub(super) fn answer_on(stream: &TcpStream, status: &str, body: &str) -> (String, String) {
        Self::try_answer_on(stream, status, body).expect("a request")
    }

    /// The same where the agent may break it off.
    pub(super) fn try_answer_on(
        mut stream: &TcpStream,
        status: &str,
        body: &str,
    ) -> std::io::Result<(String, String)> {
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut sent = vec![0; length];
        reader.read_exact(&mut sent)?;
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes())?;
        let _ = stream.shutdown(Shutdown::Write);
        Ok((first, String::from_utf8(sent).expect("text")))
    }

    /// Takes a controller connection and answers its registration.
    pub(super) fn register(&self, gateway: Option<&str>) -> Value {
        let mut controller = self.accept();
        assert_eq!(controller.uri, "/api/v1/clusters/agent/ws");
        let register = controller.expect("register");
        controller.send(&json!({
            "type": "register_success", "request_id": register["request_id"],
            "payload": {"cluster_id": "c-1", "cluster_uuid": "u-1", "gateway_ws_url": gateway},
        }));
        if gateway.is_some() {
            assert_eq!(controller.closed(), Some(1000));
        } else {
            controller.expect("heartbeat");
        }
        register
    }
}

pub(super) struct Conn {
    pub(super) socket: WebSocket<TcpStream>,
    pub(super) uri: String,
    pub(super) authorization: String,
}

impl Conn {
    pub(super) fn send(&mut self, message: &Value) {
        let text = Message::text(message.to_string());
        self.socket.send(text).expect("sent");
    }

    /// The next text message, which must be of this type.
    pub(super) fn expect(&mut self, kind: &str) -> Value {
        loop {
            match self.socket.read().expect("a message") {
                Message::Text(text) => {
                    let value: Value = serde_json::from_str(text.as_str()).expect("JSON");
                    assert_eq!(value["type"], kind, "{value}");
                    return value;
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?} instead of {kind}"),
            }
        }
    }

    /// The next text message.
    pub(super) fn next_text(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.socket.read().expect("a message") {
                return serde_json::from_str(text.as_str()).expect("JSON");
            }
        }
    }

    /// Reads to the end; the code of the agent's close frame.
    pub(super) fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        loop {
            match self.socket.read() {
                Ok(Message::Close(frame)) => code = frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => return code,
            }
        }
    }

    pub(super) fn close(&mut self, code: u16) {
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: "".into(),
        };
        self.socket.close(Some(frame)).expect("a close frame");
        self.closed();
        // The server's part is to end the connection.
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }

    pub(super) fn cut(self) {
        let stream = self.socket.get_ref();
        stream.shutdown(Shutdown::Both).expect("cut");
    }

    pub(super) fn ack(&mut self) {
        self.expect("heartbeat");
        self.send(&json!({"type": "heartbeat_ack", "payload": {}}));
    }
}

/// Refuses every request.
pub(super) fn no_cluster() -> Arc<Executor> {
    Executor::new(proxy::Settings::default(), None)
}

pub(super) fn parts(api_url: Url, store: Arc<dyn Store>) -> Parts {
    let tls = ClientTls::new(ClientTlsSettings::default()).expect("settings");
    let quick = Duration::from_millis(5);
    Parts {
        session: session::Settings {
            reconnect_first: quick,
            reconnect_cap: quick * 4,
            ..session::Settings::default()
        },
        heartbeat: heartbeat::Settings::default(),
        link: link::Settings::new(link::Role::Client),
        api_url,
        token: TokenSource::Literal(Secret::new("t-1")),
        registrant: registrant(),
        is_private: true,
        report_worker_join: false,
        node_token: "/nowhere/node-token".into(),
        http_limit: Duration::from_secs(30),
        heartbeat_limit: Duration::from_secs(10),
        shutdown_limit: Duration::from_secs(25),
        dialer: Dialer::new(Arc::new(tls)),
        proxy: Arc::new(no_cluster()),
        tunnels: Tunnels::new(
            tunnel::connection::Settings::default(),
            tunnel::session::Memory::new(64 << 20),
            NoTargets,
        ),
        json_tunnels: None,
        facts: Arc::new(NoCluster),
        store,
        health: Arc::new(HealthState::new(Duration::from_secs(30))),
    }
}

pub(super) fn start(peer: &Peer) -> (Agent, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    let agent = Agent::start(parts(peer.api_url(), store.clone())).expect("started");
    (agent, store)
}
