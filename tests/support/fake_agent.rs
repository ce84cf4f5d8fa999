//! An agent that does what a test says, on another WebSocket than ours. It knows no
//! `plane_hello` unless told to.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{HandshakeError, Message, WebSocket};

use super::house::House;
use super::wait::LIMIT;

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// TLS as rustls alone makes it.
fn session(ca_pem: &[u8]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem).expect("a certificate");
    roots.add(ca).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().expect("an address");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// A connection to the plane, of another TLS than ours.
pub(crate) fn dial_tls(house: &House) -> Tls {
    let session = session(house.plane.ca_pem().as_bytes());
    let stream = TcpStream::connect(house.address()).expect("connected");
    stream.set_nodelay(true).expect("set");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    stream.set_write_timeout(Some(LIMIT)).expect("set");
    StreamOwned::new(session, stream)
}

pub(crate) struct FakeAgent {
    socket: WebSocket<Tls>,
    kept: VecDeque<Value>,
    pub(crate) cluster_id: String,
}

impl FakeAgent {
    /// Dials an endpoint; the status of the refusal otherwise.
    pub(crate) fn dial(house: &House, path: &str, token: &str) -> Result<Self, u16> {
        let url = format!("wss://{}{path}", house.address());
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert("Authorization", bearer);
        match tungstenite::client(request, dial_tls(house)) {
            Ok((socket, _)) => Ok(Self {
                socket,
                kept: VecDeque::new(),
                cluster_id: String::new(),
            }),
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Registered at a plane that keeps agents at its controller, and attached. It
    /// answers the hello as an agent that has never heard of it.
    pub(crate) fn registered(house: &House, cluster: &str) -> Self {
        let token = house.agent_token(cluster);
        let mut agent = Self::dial(house, "/api/v1/clusters/agent/ws", &token).expect("let in");
        agent.expect("plane_hello");
        agent.send(
            "protocol_fallback",
            "",
            &json!({"unknown_type": "plane_hello"}),
        );
        let payload = json!({"agent_id": "fake", "name": cluster, "agent_version": "1.0"});
        agent.send("register", "req_1", &payload);
        let success = agent.expect("register_success");
        let id = success["payload"]["cluster_id"].as_str().expect("an id");
        id.clone_into(&mut agent.cluster_id);
        house.attached(cluster);
        agent
    }

    pub(crate) fn send(&mut self, kind: &str, id: &str, payload: &Value) {
        assert!(self.try_send(kind, id, payload), "the connection is gone");
    }

    pub(crate) fn try_send(&mut self, kind: &str, id: &str, payload: &Value) -> bool {
        let mut message = json!({"type": kind, "payload": payload});
        if !id.is_empty() {
            message["request_id"] = id.into();
        }
        self.socket.send(Message::text(message.to_string())).is_ok()
    }

    /// A message as it stands.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("sent");
    }

    pub(crate) fn send_binary(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).expect("sent");
    }

    /// The next message; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Value> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        let end = Instant::now() + LIMIT;
        loop {
            // Pings keep the socket's own limit from passing.
            assert!(Instant::now() < end, "nothing came");
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    return Some(serde_json::from_str(text.as_str()).expect("JSON"));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next message of that type; others are kept for later.
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        let mut others = VecDeque::new();
        loop {
            let message = self
                .next()
                .unwrap_or_else(|| panic!("ended without {kind}; {others:?}"));
            if message["type"] == kind {
                others.append(&mut self.kept);
                self.kept = others;
                return message;
            }
            others.push_back(message);
        }
    }

    pub(crate) fn chunk(&mut self, id: &str, data: &[u8]) -> bool {
        let text = base64_simd::STANDARD.encode_to_string(data);
        let payload = json!({"data": text, "encoding": "base64", "size": data.len()});
        self.try_send("proxy_response_chunk", id, &payload)
    }
}
