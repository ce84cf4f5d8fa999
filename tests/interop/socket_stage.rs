//! An agent between the gateway's wire and the gateway's own WebSockets: those of a
//! Service on a plain machine, or of an API server.

use std::io::Write;

use base64_simd::STANDARD as BASE64;
use pipeops_agent::agent::{self, Agent, Parts};
use pipeops_agent::config::{Config, Origin};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::driver::Gateway;
use crate::stage::Stage;

pub(crate) const EXEC: &str = "/api/v1/namespaces/default/pods/web-0/exec";
pub(crate) const V4: &str = "v4.channel.k8s.io";

/// Types of WebSocket messages, as in frames (§5.4).
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

pub(crate) struct Sockets {
    stage: Stage,
    agent: Agent,
    conn: String,
}

impl Sockets {
    /// On a plain machine.
    pub(crate) fn machine(change: impl FnOnce(&mut Config)) -> Self {
        let (mut stage, [plain, secured]) = stage();
        let origin = |host: &str, port: u16| {
            let origin = Origin::parse(&format!("127.0.0.1:{port}"));
            (host.to_owned(), origin.expect("an origin"))
        };
        stage.routes = vec![
            origin("chat.test", plain),
            // As a Service's fields name it.
            origin("web", plain),
            origin("tls.test", secured),
            origin("none.test", 1),
        ];
        let mut config = stage.config();
        change(&mut config);
        let parts = stage.parts(&config);
        Self::over(stage, parts)
    }

    pub(crate) fn cluster() -> Self {
        let (stage, [port, _]) = stage();
        let kubeconfig = kubeconfig(port);
        let mut config = stage.config();
        config.kubernetes.kubeconfig = Some(kubeconfig.path().to_owned());
        let found = agent::find_cluster(&config).expect("a kubeconfig");
        let mut parts = stage.parts(&config);
        (parts.proxy, parts.facts) = agent::reach(found, &config).expect("a cluster");
        parts.registrant.has_cluster = true;
        Self::over(stage, parts)
    }

    fn over(stage: Stage, parts: Parts) -> Self {
        let agent = Agent::start(parts).expect("started");
        let conn = stage.arrived();
        Self { stage, agent, conn }
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.stage.gateway
    }

    /// The connection was cut: waits for the next one.
    pub(crate) fn reconnected(&mut self) {
        self.conn = self.gateway().connection("gateway");
        self.stage.heartbeat_on(&self.conn);
    }

    /// Ends it all; nothing was wrong, and no stream has a close too many.
    pub(crate) fn end(self) {
        self.stage.end(self.agent, &self.conn);
    }

    /// An upgrade of `chat.test`, whose Service does what `query` says.
    pub(crate) fn upgrade(&self, id: &str, query: &str, more: Value) {
        let mut payload = json!({
            "method": "GET", "path": "/chat", "query": format!("socket={id}&{query}"),
            "headers": {"Host": ["chat.test"]}, "is_websocket": true,
            "supports_response_streaming": false,
        });
        merge(&mut payload, more);
        self.gateway().send("proxy_request", id, payload);
    }

    /// An app stream that runs, in form B.
    pub(crate) fn open_app(&self, id: &str, query: &str) {
        self.upgrade(id, query, json!({}));
        assert_eq!(self.outcome(id, "response")["status"], 101);
        self.far("socket_open", id);
    }

    /// A K8s stream: no message says that it runs.
    pub(crate) fn start(&self, id: &str, path: &str, query: &str, more: Value) {
        let mut payload = json!({
            "stream_id": id, "method": "GET", "path": path, "protocol": V4,
            "query": format!("socket={id}&{query}"),
            "headers": {"Authorization": ["Bearer callers-own"]},
        });
        merge(&mut payload, more);
        self.gateway().send("proxy_websocket_start", id, payload);
    }

    pub(crate) fn open_exec(&self, id: &str, query: &str) {
        self.start(id, EXEC, query, json!({}));
        self.far("socket_open", id);
    }

    /// A message in the shape of an app stream's, framed.
    pub(crate) fn say_app(&self, id: &str, kind: u8, bytes: &[u8]) {
        let data = framed(kind, bytes);
        let payload =
            json!({"data": data, "message_type": kind, "request_id": id, "stream_id": id});
        self.gateway().send("proxy_websocket_data", id, payload);
    }

    /// A message in the shape of a K8s stream's.
    pub(crate) fn say(&self, id: &str, kind: u8, bytes: &[u8]) {
        let payload = json!({"data": framed(kind, bytes), "stream_id": id});
        self.gateway().send("proxy_websocket_data", id, payload);
    }

    /// The peer's close.
    pub(crate) fn close(&self, id: &str) {
        let payload = json!({"stream_id": id});
        self.gateway().send("proxy_websocket_close", id, payload);
    }

    /// What the other end says.
    pub(crate) fn far_says(&self, id: &str, kind: u8, bytes: &[u8]) {
        self.far_does(json!({"cmd": "socket_say", "socket": id, "kind": kind, "base64": BASE64.encode_to_string(bytes)}));
    }

    pub(crate) fn far_closes(&self, id: &str, code: u16, reason: &str) {
        self.far_does(json!({"cmd": "socket_say", "socket": id, "kind": CLOSE, "code": code, "reason": reason}));
    }

    pub(crate) fn far_does(&self, command: Value) {
        self.gateway().command(command);
    }

    /// The next event of this kind at the other end.
    pub(crate) fn far(&self, event: &str, id: &str) -> Value {
        self.gateway().expect(json!({"event": event, "socket": id}))
    }

    /// The next message at the other end is this one.
    pub(crate) fn far_hears(&self, id: &str, kind: u8, bytes: &[u8]) {
        let heard = self.far("socket_message", id);
        let want = json!({"kind": kind, "size": bytes.len(), "sha256": sum(bytes)});
        let got = json!({"kind": heard["kind"], "size": heard["size"], "sha256": heard["sha256"]});
        assert_eq!(got, want, "{heard}");
    }

    /// The other end was closed with this code and reason.
    pub(crate) fn far_was_closed(&self, id: &str, code: u16, reason: &str) {
        let end = self.far("socket_end", id);
        assert_eq!(end["code"], code, "{end}");
        assert_eq!(end["reason"], reason, "{end}");
    }

    /// The other end's connection ended without a close frame.
    pub(crate) fn far_was_cut(&self, id: &str) {
        let end = self.far("socket_end", id);
        assert_eq!(end["end"], "cut", "{end}");
    }

    /// The next message of the stream that the peer gets is this one. (Its shape is
    /// checked there.)
    pub(crate) fn hears(&self, id: &str, kind: u8, bytes: &[u8]) {
        let data = self.message("proxy_websocket_data", id)["data"].clone();
        let data = BASE64.decode_to_vec(data.as_str().expect("a text"));
        let data = data.expect("base64");
        assert_eq!(data[0], kind);
        assert!(
            data[1..] == *bytes,
            "{:?}",
            String::from_utf8_lossy(&data[1..])
        );
    }

    /// The payload of the next message of this type.
    pub(crate) fn message(&self, kind: &str, id: &str) -> Value {
        let pattern = json!({"event": "message", "type": kind, "request_id": id});
        self.gateway().expect(pattern)["envelope"]["payload"].clone()
    }

    pub(crate) fn hears_close(&self, id: &str) {
        self.message("proxy_websocket_close", id);
    }

    /// What came of this type so far.
    pub(crate) fn count(&self, kind: &str, id: &str) -> usize {
        let pattern = json!({"event": "message", "type": kind, "request_id": id});
        self.gateway().seen(&pattern).len()
    }

    pub(crate) fn outcome(&self, id: &str, result: &str) -> Value {
        let pattern = json!({"event": "outcome", "request_id": id, "result": result});
        self.gateway().expect(pattern)
    }

    /// The error of a request or a stream that came to nothing.
    pub(crate) fn error(&self, id: &str) -> String {
        let payload = self.message("proxy_error", id);
        payload["error"].as_str().expect("a text").to_owned()
    }
}

pub(crate) fn framed(kind: u8, bytes: &[u8]) -> String {
    BASE64.encode_to_string([&[kind], bytes].concat())
}

fn sum(bytes: &[u8]) -> String {
    let sum: Vec<String> = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    sum.concat()
}

fn merge(payload: &mut Value, more: Value) {
    let members = payload.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
}

fn stage() -> (Stage, [u16; 2]) {
    let gateway = Gateway::start_with(&["--sockets"]);
    let ports = gateway.sockets_ports.expect("--sockets");
    (Stage::over(gateway), ports)
}

/// Of a person with a token, which is nobody else's.
fn kubeconfig(port: u16) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
        "users": [{"name": "agent", "user": {"token": "the-agents-own"}}],
    });
    let written = file.write_all(text.to_string().as_bytes());
    written.expect("written");
    file
}
