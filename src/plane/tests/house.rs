//! A plane on loopback, an agent and a client that the tests play by hand.

// `json!(…)` as an argument reads better without an ampersand.
#![allow(clippy::needless_pass_by_value)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::plane::*;

/// Nothing that goes well takes this long: a test that hangs fails.
const LIMIT: Duration = Duration::from_secs(30);

pub(in crate::plane) struct House {
    pub(in crate::plane) plane: Plane,
    pub(in crate::plane) config: PlaneConfig,
    _directory: tempfile::TempDir,
}

impl House {
    pub(in crate::plane) fn new() -> Self {
        Self::with_gateway(GatewayUrl::Stay)
    }

    pub(in crate::plane) fn with_gateway(gateway: GatewayUrl) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = PlaneConfig {
            data_dir: directory.path().join("plane"),
            listen: "127.0.0.1:0".parse().expect("an address"),
            certificate: CertificateSource::Generated { names: Vec::new() },
            gateway,
            http: ([127, 0, 0, 1], 0).into(),
        };
        Self {
            plane: Plane::start(config.clone()).expect("starts"),
            config,
            _directory: directory,
        }
    }

    /// Stops the plane and starts it again on the same data.
    pub(in crate::plane) fn restart(self) -> Self {
        self.plane.stop();
        let plane = Plane::start(self.config.clone()).expect("starts again");
        Self { plane, ..self }
    }

    pub(in crate::plane) fn agent_token(&self, cluster: &str) -> String {
        self.token(Grant::Agent {
            cluster: name(cluster),
        })
    }

    pub(in crate::plane) fn user_token(&self) -> String {
        self.token(Grant::User {
            scope: Scope::All,
            access: Access::Use,
        })
    }

    pub(in crate::plane) fn token(&self, grant: Grant) -> String {
        let (_, text) = self.plane.create_token(grant).expect("made");
        text.reveal().to_owned()
    }

    pub(in crate::plane) fn dial(&self) -> Tls {
        dial(self.plane.addr(), self.plane.ca_pem())
    }

    pub(in crate::plane) fn client(&self) -> Client {
        Client {
            stream: self.dial(),
            unread: Vec::new(),
        }
    }

    /// An agent on a WebSocket; the status of the refusal otherwise.
    pub(in crate::plane) fn agent(&self, path: &str, token: &str) -> Result<Agent, u16> {
        let url = format!("wss://127.0.0.1:{}{path}", self.plane.addr().port());
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {token}").parse().expect("a value");
        request.headers_mut().insert("Authorization", bearer);
        match tungstenite::client(request, self.dial()) {
            Ok((socket, _)) => Ok(Agent {
                socket,
                kept: VecDeque::new(),
            }),
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// An agent that is registered as `cluster`, knows `flow` and gets requests.
    pub(in crate::plane) fn registered(&self, cluster: &str) -> Agent {
        let mut agent = self
            .agent(CONTROLLER, &self.agent_token(cluster))
            .expect("let in");
        agent.answer_hello(true);
        agent.register(cluster, "agent-1");
        assert!(agent.expect("register_success")["cluster_id"].is_string());
        self.attached(cluster);
        agent
    }

    /// Waits until requests go to the cluster's agent.
    pub(in crate::plane) fn attached(&self, cluster: &str) {
        self.until(|plane| {
            let name = name(cluster);
            let mut views = plane.clusters().into_iter();
            views.any(|view| view.cluster.name == name && view.connected)
        });
    }

    pub(in crate::plane) fn until(&self, condition: impl Fn(&Plane) -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition(&self.plane) {
            assert!(Instant::now() < end, "it never came true");
            std::thread::yield_now();
        }
    }
}

pub(in crate::plane) const CONTROLLER: &str = "/api/v1/clusters/agent/ws";

pub(in crate::plane) fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).expect("a name")
}

pub(in crate::plane) type Tls = StreamOwned<ClientConnection, TcpStream>;

fn dial(address: SocketAddr, ca: &str) -> Tls {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::try_from("127.0.0.1").expect("a name");
    let session = ClientConnection::new(Arc::new(config), server).expect("a session");
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_nodelay(true).expect("set");
    socket.set_read_timeout(Some(LIMIT)).expect("set");
    socket.set_write_timeout(Some(LIMIT)).expect("set");
    StreamOwned::new(session, socket)
}

/// The agent's end of a connection.
pub(in crate::plane) struct Agent {
    socket: WebSocket<Tls>,
    kept: VecDeque<Value>,
}

impl Agent {
    pub(in crate::plane) fn send(&mut self, kind: &str, id: &str, payload: Value) {
        let mut message = json!({"type": kind, "payload": payload});
        if !id.is_empty() {
            message["request_id"] = id.into();
        }
        self.socket
            .send(Message::text(message.to_string()))
            .expect("sent");
    }

    /// As [`send`](Self::send), for an agent that may have been cut off.
    pub(in crate::plane) fn try_send(&mut self, kind: &str, id: &str, payload: Value) -> bool {
        let message = json!({"type": kind, "request_id": id, "payload": payload});
        self.socket.send(Message::text(message.to_string())).is_ok()
    }

    pub(in crate::plane) fn send_binary(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).expect("sent");
    }

    /// The next message; `None` when the connection has ended.
    pub(in crate::plane) fn next(&mut self) -> Option<Value> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        let end = Instant::now() + LIMIT;
        loop {
            // Pings keep the socket's own limit from passing.
            assert!(Instant::now() < end, "nothing came");
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    return Some(serde_json::from_str(&text).expect("JSON"));
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next message of that type, its payload with the id in it as `id`; others
    /// are kept for later.
    pub(in crate::plane) fn expect(&mut self, kind: &str) -> Value {
        let mut others = VecDeque::new();
        loop {
            let mut message = self
                .next()
                .unwrap_or_else(|| panic!("ended without {kind}; {others:?}"));
            if message["type"] == kind {
                others.append(&mut self.kept);
                self.kept = others;
                let mut payload = message["payload"].take();
                payload["id"] = message["request_id"].take();
                return payload;
            }
            others.push_back(message);
        }
    }

    pub(in crate::plane) fn answer_hello(&mut self, knows: bool) {
        assert_eq!(
            self.expect("plane_hello")["features"],
            json!(["flow", "tunnel_header_2"])
        );
        if knows {
            self.send("plane_hello_ack", "", json!({"features": ["flow"]}));
        } else {
            self.send(
                "protocol_fallback",
                "",
                json!({"unknown_type": "plane_hello"}),
            );
        }
    }

    pub(in crate::plane) fn register(&mut self, cluster: &str, agent_id: &str) {
        let payload = json!({
            "agent_id": agent_id, "name": cluster, "agent_version": "1.0", "k8s_version": "v1.36.3",
        });
        self.send("register", "req_1", payload);
    }

    pub(in crate::plane) fn heartbeat(&mut self, cluster_id: &str, agent_id: &str) {
        let metadata = json!({"k8s_nodes": 3, "k8s_pods": 41});
        let payload = json!({"cluster_id": cluster_id, "agent_id": agent_id, "metadata": metadata});
        self.send("heartbeat", "", payload);
    }

    /// The id of the next request.
    pub(in crate::plane) fn request(&mut self) -> String {
        id(&self.expect("proxy_request"))
    }

    /// The credit for `id` that has come by now; messages of others are kept.
    pub(in crate::plane) fn grants(&mut self, id: &str) -> u64 {
        // What the plane has sent before the answer to this is here before it.
        self.send("ping", "grants", json!({}));
        let mut sum = 0;
        let mut others = VecDeque::new();
        loop {
            let message = self.next().expect("goes on");
            match message["type"].as_str() {
                Some("pong") => break,
                Some("proxy_flow") if message["request_id"] == id => {
                    sum += message["payload"]["credit"].as_u64().expect("a number");
                }
                _ => others.push_back(message),
            }
        }
        self.kept = others;
        sum
    }

    pub(in crate::plane) fn header(&mut self, id: &str, status: u16, headers: Value) {
        let payload = json!({"status": status, "headers": headers});
        self.send("proxy_response_header", id, payload);
    }

    pub(in crate::plane) fn chunk(&mut self, id: &str, data: &[u8]) {
        self.send("proxy_response_chunk", id, chunk(data));
    }

    pub(in crate::plane) fn end(&mut self, id: &str) {
        self.send("proxy_response_end", id, json!({}));
    }

    /// Cuts the connection without a word.
    pub(in crate::plane) fn cut(self) {
        drop(self.socket.get_ref().sock.shutdown(Shutdown::Both));
    }
}

pub(in crate::plane) fn id(payload: &Value) -> String {
    payload["id"].as_str().expect("an id").to_owned()
}

pub(in crate::plane) fn chunk(data: &[u8]) -> Value {
    let text = base64_simd::STANDARD.encode_to_string(data);
    json!({"data": text, "encoding": "base64", "size": data.len()})
}

pub(in crate::plane) fn unchunk(payload: &Value) -> Vec<u8> {
    let data = payload["data"].as_str().expect("data");
    base64_simd::STANDARD.decode_to_vec(data).expect("base64")
}

/// The client's end of a connection.
pub(in crate::plane) struct Client {
    stream: Tls,
    unread: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub(in crate::plane) struct Head {
    pub(in crate::plane) status: u16,
    text: String,
}

impl Head {
    pub(in crate::plane) fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    pub(in crate::plane) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
        self.stream.flush().expect("sent");
    }

    pub(in crate::plane) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok() && self.stream.flush().is_ok()
    }

    /// A request without a body.
    pub(in crate::plane) fn get(&mut self, path: &str, token: &str) {
        self.ask("GET", path, token, "");
    }

    pub(in crate::plane) fn ask(&mut self, method: &str, path: &str, token: &str, more: &str) {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: plane\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
        ));
    }

    pub(in crate::plane) fn head(&mut self) -> Head {
        let text = self.read_until(b"\r\n\r\n").expect("a head");
        let text = String::from_utf8(text).expect("text");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        Head {
            status: status.expect("a status"),
            text,
        }
    }

    /// One chunk of a chunked body; `None` when the connection broke off instead.
    pub(in crate::plane) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.read_until(b"\r\n")?;
        let line = std::str::from_utf8(&line).expect("text").trim_end();
        let length = usize::from_str_radix(line, 16).expect("a length");
        let chunk = self.read(length)?;
        assert_eq!(self.read(2)?, b"\r\n");
        Some(chunk)
    }

    /// The rest of the body; `None` when it broke off.
    pub(in crate::plane) fn body(&mut self, head: &Head) -> Option<Vec<u8>> {
        if let Some(length) = head.field("content-length") {
            return self.read(length.parse().expect("a length"));
        }
        let mut body = Vec::new();
        loop {
            match self.chunk()? {
                chunk if chunk.is_empty() => return Some(body),
                chunk => body.extend(chunk),
            }
        }
    }

    /// Status and JSON body of an answer.
    pub(in crate::plane) fn json(&mut self) -> (u16, Value) {
        let head = self.head();
        let body = self.body(&head).expect("a body");
        (head.status, serde_json::from_slice(&body).expect("JSON"))
    }

    fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.more()?;
        }
        Some(self.unread.drain(..length).collect())
    }

    fn read_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|w| w == end) {
                return Some(self.unread.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut buf = [0; 16 * 1024];
        match self.stream.read(&mut buf) {
            Ok(0) => None,
            Ok(count) => {
                self.unread.extend_from_slice(&buf[..count]);
                Some(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("nothing came")
            }
            Err(_) => None,
        }
    }
}
