//! The executor alone, as the agent builds it for this cluster; the test is the
//! peer. What our plane never sends is sent here: buffered answers (form B), callers
//! with tokens of their own, all forms of a body.

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use base64_simd::STANDARD as BASE64;
use flate2::read::GzDecoder;
use pipeops_agent::agent::{self, Proxying};
use pipeops_agent::config::Config;
use pipeops_agent::control::sinks::RequestSink;
use pipeops_agent::kube::Credentials;
use pipeops_agent::link::{Message, SendError};
use pipeops_agent::net::Cancel;
use pipeops_agent::proxy::Outlet;
use pipeops_agent::wire::{Envelope, ProxyRequest};
use serde_json::{Value, json};

use crate::api_server::shared;
use crate::identity::SELF;
use crate::{LIMIT, wait_for};

struct Peer {
    requests: Box<dyn RequestSink>,
    messages: Receiver<Value>,
    _proxy: Arc<dyn Proxying>,
}

struct Out(Sender<Value>);

impl Outlet for Out {
    fn send(&self, _id: &str, message: Message, _cancel: &Cancel) -> Result<(), SendError> {
        let message = serde_json::from_slice(message.payload()).expect("JSON");
        // The test has seen enough.
        let _ = self.0.send(message);
        Ok(())
    }

    fn send_late(&self, id: &str, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        self.send(id, message, cancel)
    }

    fn abort(&self, why: &str) {
        panic!("the connection is given up: {why}");
    }
}

impl Peer {
    fn new(credentials: Credentials, lend: bool) -> Self {
        let mut config = Config::defaults();
        config.kubernetes.impersonate_agent = lend;
        let (proxy, _) = agent::reach(Some(credentials), &config).expect("usable");
        let (sender, messages) = mpsc::channel();
        Self {
            requests: proxy.connection(Arc::new(Out(sender))),
            messages,
            _proxy: proxy,
        }
    }

    fn request(&mut self, id: &str, payload: &Value) {
        let text = json!({"type": "proxy_request", "request_id": id, "payload": payload});
        let text = text.to_string();
        let envelope = Envelope::parse(&text).expect("an envelope");
        let request = ProxyRequest::parse(&envelope.payload, envelope.timestamp);
        self.requests.request(id, request);
    }

    /// The next message, which must be of this type.
    #[track_caller]
    fn message(&self, kind: &str) -> Value {
        let message = self.messages.recv_timeout(LIMIT).expect("a message");
        assert_eq!(message["type"], kind, "{message}");
        message["payload"].clone()
    }

    /// The whole of a form B answer.
    #[track_caller]
    fn answer(&self) -> (u64, Vec<u8>) {
        let answer = self.message("proxy_response");
        let body = answer["body"].as_str().unwrap_or_default();
        let mut body = BASE64.decode_to_vec(body).expect("base64");
        if answer["encoding"] == "gzip" {
            let mut plain = Vec::new();
            let done = GzDecoder::new(&body[..]).read_to_end(&mut plain);
            done.expect("gzip");
            body = plain;
        }
        (answer["status"].as_u64().expect("a status"), body)
    }

    /// Who the API server says we are, or its refusal.
    #[track_caller]
    fn who(&mut self, headers: &Value) -> Result<String, u64> {
        let mut headers = headers.clone();
        headers["Content-Type"] = "application/json".into();
        let payload = json!({"method": "POST", "path": SELF, "headers": headers, "body": {}});
        self.request("who", &payload);
        let (status, body) = self.answer();
        if status != 201 {
            return Err(status);
        }
        let review: Value = serde_json::from_slice(&body).expect("JSON");
        let name = &review["status"]["userInfo"]["username"];
        Ok(name.as_str().expect("a name").to_owned())
    }
}

fn bearer(token: &str) -> Value {
    json!({"Authorization": [format!("Bearer {token}")]})
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_buffered_answer_is_whole_and_gzipped() {
    let api = shared();
    let mut peer = Peer::new(api.admin(), true);
    peer.request("1", &json!({"path": "/api/v1/nodes/node-1"}));
    let (status, body) = peer.answer();
    let direct = api.as_admin().get("/api/v1/nodes/node-1");
    assert_eq!((status, body), (200, direct.body));
    peer.request("2", &json!({"path": "/healthz"}));
    assert_eq!(peer.answer(), (200, b"ok".to_vec()));
    peer.request("3", &json!({"path": "/api/v1/nothing"}));
    assert_eq!(peer.answer().0, 404);
    peer.request("4", &json!({"method": "HEAD", "path": "/healthz"}));
    assert_eq!(peer.answer(), (200, Vec::new()));
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_streamed_answer_is_a_header_chunks_and_one_end() {
    let api = shared();
    let mut peer = Peer::new(api.admin(), true);
    let path = "/openapi/v2";
    peer.request(
        "1",
        &json!({"path": path, "supports_response_streaming": true}),
    );
    assert_eq!(peer.message("proxy_response_header")["status"], 200);
    let mut body = Vec::new();
    let end = loop {
        let message = peer.messages.recv_timeout(LIMIT).expect("a message");
        if message["type"] != "proxy_response_chunk" {
            break message;
        }
        let payload = &message["payload"];
        let data = payload["data"].as_str().expect("data");
        let data = BASE64.decode_to_vec(data).expect("base64");
        assert_eq!(payload["size"], data.len());
        assert!((1..=32 * 1024).contains(&data.len()));
        body.extend(data);
    };
    assert_eq!(end["type"], "proxy_response_end");
    assert!(body.len() > 1 << 20 && body == api.as_admin().get(path).body);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_certificate_of_an_administrator_and_a_token_of_a_nobody_are_a_nobody() {
    let api = shared();
    let nodes = |headers: &Value| json!({"path": "/api/v1/nodes", "headers": headers});
    let nobody = "system:serviceaccount:default:nobody";
    for lend in [false, true] {
        let mut peer = Peer::new(api.admin(), lend);
        // Also on a connection that was used before, whoever used it.
        for _ in 0..2 {
            let who = peer.who(&bearer(&api.facts.nobody_token));
            assert_eq!(who.as_deref(), Ok(nobody), "lend: {lend}");
            peer.request("n", &nodes(&bearer(&api.facts.nobody_token)));
            assert_eq!(peer.answer().0, 403);
            peer.request("n", &nodes(&bearer("nonsense")));
            assert_eq!(peer.answer().0, 401);
            peer.request("n", &nodes(&bearer(&api.facts.reader_token)));
            assert_eq!(peer.answer().0, 200);
            peer.request("n", &nodes(&json!({})));
            assert_eq!(peer.answer().0, if lend { 200 } else { 403 });
        }
    }
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn nobody_becomes_somebody_else_by_a_header() {
    let api = shared();
    let mut peer = Peer::new(api.admin(), true);
    let other = "system:serviceaccount:default:reader";
    let mut headers = json!({"Impersonate-User": [other], "X-Remote-User": [other]});
    // Never lent together with the agent's own identity.
    assert_eq!(peer.who(&headers).as_deref(), Ok("admin"));
    // Beside the caller's own token the API server decides.
    headers["Authorization"] = bearer(&api.facts.nobody_token)["Authorization"].clone();
    assert_eq!(peer.who(&headers), Err(403));
    let mut peer = Peer::new(api.admin(), false);
    headers["Authorization"] = Value::Null;
    let who = peer.who(&headers);
    assert!(
        who == Err(403) || who.as_deref() == Ok("system:anonymous"),
        "{who:?}"
    );
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_body_arrives_in_all_its_forms() {
    let api = shared();
    let namespace = api.namespace("bodies");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut peer = Peer::new(api.admin(), true);
    let object = |name: &str| json!({"metadata": {"name": name}, "data": {"form": name}});
    let payload = |more: &Value| {
        let mut payload = json!({
            "method": "POST",
            "path": path,
            "headers": {"Content-Type": ["application/json"], "Content-Length": ["1"]},
        });
        let more = more.as_object().expect("an object").clone();
        payload.as_object_mut().expect("an object").extend(more);
        payload
    };
    let names = ["text", "base64", "object", "binary", "chunks"];
    for name in names {
        let body = object(name).to_string();
        let more = match name {
            "text" => json!({"body": body}),
            "base64" => {
                json!({"body": BASE64.encode_to_string(&body), "body_encoding": "base64"})
            }
            "object" => json!({"body": object(name)}),
            "binary" => json!({"body_binary": true}),
            _ => json!({"use_streaming": true}),
        };
        let mut payload = payload(&more);
        if name == "chunks" {
            payload["headers"]["Content-Length"] = json!([body.len().to_string()]);
        }
        peer.request(name, &payload);
        if name == "binary" {
            assert!(peer.requests.binary(&binary_body(name, body.as_bytes())));
        }
        if name == "chunks" {
            for part in body.as_bytes().chunks(7) {
                let data = BASE64.encode_to_string(part);
                peer.requests.chunk(name, Some(&data));
            }
            peer.requests.end(name);
        }
        let (status, answer) = peer.answer();
        assert_eq!(status, 201, "{name}: {}", String::from_utf8_lossy(&answer));
        let found = api.as_admin().get(&format!("{path}/{name}")).json();
        assert_eq!(found["data"]["form"], name);
    }
}

/// control-channel.md §5.3.
fn binary_body(id: &str, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(id.len()).expect("short");
    [&length.to_be_bytes(), id.as_bytes(), body].concat()
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_cancelled_watch_ends_at_the_api_server() {
    let api = shared();
    let mut peer = Peer::new(api.admin(), true);
    let query = "watch=true&labelSelector=test%3Dcancelled";
    let watch = json!({
        "path": "/api/v1/pods",
        "query": query,
        "supports_response_streaming": true,
        // It limits the time to the header, and no more than that.
        "timeout": 1500,
    });
    peer.request("w", &watch);
    assert_eq!(peer.message("proxy_response_header")["status"], 200);
    let later = peer.messages.recv_timeout(Duration::from_secs(2));
    later.expect_err("nothing happens");
    peer.requests.cancel("w");
    peer.message("proxy_response_abort");
    wait_for("the end of the watch in the audit log", || {
        let is_end = |line: &Value| {
            let uri = line["requestURI"].as_str().unwrap_or_default();
            uri.contains("test%3Dcancelled") && line["stage"] == "ResponseComplete"
        };
        api.audit(is_end).pop()
    });
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_watch_ends_at_its_deadline() {
    let api = shared();
    let mut peer = Peer::new(api.admin(), true);
    let now = jiff::Timestamp::now();
    let deadline = now + jiff::SignedDuration::from_millis(700);
    let watch = json!({
        "path": "/api/v1/pods",
        "query": "watch=true&labelSelector=test%3Ddeadline",
        "supports_response_streaming": true,
        "deadline": deadline.to_string(),
    });
    peer.request("w", &watch);
    assert_eq!(peer.message("proxy_response_header")["status"], 200);
    peer.message("proxy_response_abort");
    assert!(jiff::Timestamp::now() >= deadline);
}
