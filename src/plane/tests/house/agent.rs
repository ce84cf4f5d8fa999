//! The agent that a test plays.

// `json!(…)` as an argument reads better without an ampersand.
#![allow(clippy::needless_pass_by_value)]

use std::collections::VecDeque;
use std::net::Shutdown;
use std::time::Instant;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{LIMIT, Tls};

/// The agent's end of a connection.
pub(in crate::plane) struct Agent {
    socket: WebSocket<Tls>,
    kept: VecDeque<Value>,
}

impl Agent {
    pub(super) fn new(socket: WebSocket<Tls>) -> Self {
        Self {
            socket,
            kept: VecDeque::new(),
        }
    }

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
            json!(["flow", "raw-streams", "tunnel_header_2"])
        );
        if knows {
            let features = json!(["flow", "raw-streams"]);
            self.send("plane_hello_ack", "", json!({"features": features}));
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

    /// Answers the next start of a WebSocket, with the first subprotocol that is offered.
    pub(in crate::plane) fn open_stream(&mut self) -> String {
        let start = self.expect("proxy_websocket_start");
        let id = id(&start);
        let offered = start["protocol"].as_str().expect("text");
        let protocol = offered.split(',').next().expect("one").trim();
        let payload = json!({"stream_id": &*id, "protocol": protocol});
        self.send("proxy_websocket_started", &id, payload);
        id
    }

    /// A message; `kind` is 1 for a text and 2 for a binary one.
    pub(in crate::plane) fn say(&mut self, id: &str, kind: u8, payload: &[u8]) {
        self.send("proxy_websocket_data", id, said(id, kind, payload));
    }

    /// The next message on that stream; others are kept.
    pub(in crate::plane) fn hear(&mut self, stream: &str) -> (u8, Vec<u8>) {
        let message = self.expect_of("proxy_websocket_data", stream);
        let data = message["data"].as_str().expect("data");
        let mut data = base64_simd::STANDARD.decode_to_vec(data).expect("base64");
        let kind = data.remove(0);
        (kind, data)
    }

    /// The next message of that type and id; others are kept.
    pub(in crate::plane) fn expect_of(&mut self, kind: &str, id: &str) -> Value {
        let mut others = VecDeque::new();
        loop {
            let mut message = self.next().expect("goes on");
            if message["type"] == kind && message["request_id"] == id {
                others.append(&mut self.kept);
                self.kept = others;
                return message["payload"].take();
            }
            others.push_back(message);
        }
    }

    /// Cuts the connection without a word.
    pub(in crate::plane) fn cut(self) {
        drop(self.socket.get_ref().sock.shutdown(Shutdown::Both));
    }
}

pub(in crate::plane) fn id(payload: &Value) -> String {
    payload["id"].as_str().expect("an id").to_owned()
}

/// The payload of a message on a stream.
fn said(id: &str, kind: u8, payload: &[u8]) -> Value {
    let data = base64_simd::STANDARD.encode_to_string([&[kind], payload].concat());
    json!({"stream_id": id, "data": data})
}

pub(in crate::plane) fn chunk(data: &[u8]) -> Value {
    let text = base64_simd::STANDARD.encode_to_string(data);
    json!({"data": text, "encoding": "base64", "size": data.len()})
}

pub(in crate::plane) fn unchunk(payload: &Value) -> Vec<u8> {
    let data = payload["data"].as_str().expect("data");
    base64_simd::STANDARD.decode_to_vec(data).expect("base64")
}
