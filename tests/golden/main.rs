//! The messages of the original, recorded (README.md beside this file): what we
//! write has their shape, and both our decoders understand them.

#![allow(clippy::unwrap_used, reason = "tests")]

#[cfg(feature = "plane")]
mod asked;
#[cfg(feature = "plane")]
mod played;
#[cfg(feature = "plane")]
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use pipeops_agent::http::Headers;
use pipeops_agent::wire::from_agent::{self, Encoding, FromAgent, ResponseBody};
use pipeops_agent::wire::{Envelope, EnvelopeError, RequestBody, ToAgent, parse_binary_body};
use serde_json::Value;

fn recorded(file: &str) -> Vec<(u64, Value)> {
    let lines = file
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines
        .map(|entry| (entry["line"].as_u64().expect("a line number"), entry))
        .collect()
}

fn agent_messages() -> Vec<(u64, String)> {
    let entries = recorded(include_str!("agent-messages.jsonl"));
    entries
        .into_iter()
        .map(|(line, entry)| (line, entry["text"].as_str().expect("text").to_owned()))
        .collect()
}

/// One recorded message of the agent, parsed.
fn of_type(kind: &str) -> Vec<Value> {
    let messages = agent_messages()
        .into_iter()
        .map(|(_, text)| serde_json::from_str::<Value>(&text).unwrap());
    let found: Vec<Value> = messages.filter(|message| message["type"] == kind).collect();
    assert!(!found.is_empty(), "no {kind} was recorded");
    found
}

/// Paths and JSON types. Maps that hold whatever there is (headers, labels, the
/// metadata of `register`) have one key, `*`.
fn shape(message: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, free: &[&str], out: &mut BTreeSet<String>) {
        let kind = match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let key = if free.contains(&path) { "*" } else { key };
                    walk(value, &format!("{path}.{key}"), free, out);
                }
                "object"
            }
            Value::Array(items) => {
                for item in items {
                    walk(item, &format!("{path}[]"), free, out);
                }
                "array"
            }
            Value::String(_) => "string",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::Bool(_) => "bool",
            Value::Null => "null",
        };
        out.insert(format!("{path}: {kind}"));
    }
    let mut free = vec![".payload.headers", ".payload.labels"];
    if message["type"] == "register" {
        free.push(".payload.metadata");
    }
    let mut out = BTreeSet::new();
    walk(message, "", &free, &mut out);
    out
}

/// What the encoder writes: JSON, one line, fields in the order of the original.
fn buffered(buf: &mut Vec<u8>, headers: &Headers, body: &[u8]) {
    let written = from_agent::proxy_response(buf, "r", 200, headers, |text| {
        text.push(body);
        Ok::<_, Infallible>(Encoding::Base64)
    });
    let Ok(()) = written;
}

fn ours(encode: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut buf = Vec::new();
    encode(&mut buf);
    let text = String::from_utf8(buf).expect("text");
    assert_eq!(
        text.find('\n'),
        Some(text.len() - 1),
        "one line feed, at the end"
    );
    let order = ["{\"type\":", "\"payload\":", "\"timestamp\":"]
        .map(|field| text.find(field).expect(field));
    assert!(order.is_sorted(), "{text}");
    serde_json::from_str(&text).expect("JSON")
}

fn assert_shape(ours: &Value, recorded: &Value) {
    assert_eq!(
        shape(ours),
        shape(recorded),
        "ours: {ours}\nrecorded: {recorded}"
    );
}

#[test]
fn register_has_the_recorded_shape() {
    let recorded = &of_type("register")[0];
    let register = from_agent::Register {
        agent_id: "a",
        agent_version: "1",
        cloud_provider: "agent",
        cluster_id: None,
        features: from_agent::Features::default(),
        hostname: "h",
        k8s_service_token: Some("t"),
        k8s_version: "",
        labels: BTreeMap::from([("hostname", "h"), ("agent.pipeops.io/version", "1")]),
        metadata: BTreeMap::from([("agent_mode", "vm-agent")]),
        name: "n",
        region: "unknown-country",
        server_ip: "0.0.0.0",
        server_specs: from_agent::ServerSpecs {
            cpu_cores: 1,
            memory_gb: 1,
            disk_gb: 1,
            os: "Linux",
        },
        tunnel_port_config: from_agent::TunnelPortConfig::default(),
    };
    let ours = ours(|buf| from_agent::register(buf, "req_1_a", &register));
    assert_shape(&ours, recorded);
    assert_eq!(ours["payload"]["features"], recorded["payload"]["features"]);
    assert_eq!(
        ours["payload"]["tunnel_port_config"],
        recorded["payload"]["tunnel_port_config"]
    );
}

#[test]
fn heartbeat_has_the_recorded_shape() {
    let heartbeat = from_agent::Heartbeat {
        agent_id: "a",
        cluster_id: "c",
        metadata: from_agent::HeartbeatMetadata {
            agent_version: "1",
            cpu_usage: "0%",
            gateway_routes: 0,
            is_private: true,
            k8s_nodes: 1,
            k8s_pods: 2,
            k8s_version: "v1",
            memory_usage: "0%",
        },
        status: "healthy",
        tunnel_status: "connected",
        worker_join: None,
    };
    assert_shape(
        &ours(|buf| from_agent::heartbeat(buf, &heartbeat)),
        &of_type("heartbeat")[0],
    );
}

#[test]
fn answers_have_the_recorded_shape() {
    let headers: Headers = [("content-type", "a/b"), ("date", "x")]
        .into_iter()
        .collect();
    let with_body = |m: &Value| m["payload"].get("body").is_some();
    let responses = of_type("proxy_response");
    let full = responses
        .iter()
        .find(|m| with_body(m))
        .expect("one with a body");
    let empty = responses
        .iter()
        .find(|m| !with_body(m))
        .expect("one without");
    assert_shape(&ours(|b| buffered(b, &headers, b"x")), full);
    assert_shape(&ours(|b| buffered(b, &headers, b"")), empty);
    assert_shape(
        &ours(|b| from_agent::proxy_response_header(b, "r", 200, &headers)),
        &of_type("proxy_response_header")[0],
    );
    assert_shape(
        &ours(|b| from_agent::proxy_response_chunk(b, "r", |data| data.push(b"x"))),
        &of_type("proxy_response_chunk")[0],
    );
    assert_shape(
        &ours(|b| from_agent::proxy_response_end(b, "r")),
        &of_type("proxy_response_end")[0],
    );
    assert_shape(
        &ours(|b| from_agent::proxy_response_abort(b, "r", "e")),
        &of_type("proxy_response_abort")[0],
    );
}

#[test]
fn pong_and_fallback_have_the_recorded_shape() {
    let pongs = of_type("pong");
    let bare = pongs
        .iter()
        .find(|m| m.get("request_id").is_none())
        .expect("one without id");
    assert_shape(&ours(|b| from_agent::pong(b, Some("p"))), &pongs[0]);
    assert_shape(&ours(|b| from_agent::pong(b, None)), bare);
    let recorded = &of_type("protocol_fallback")[0];
    let ours = ours(|b| from_agent::protocol_fallback(b, "capture_unknown", Some("u-1")));
    assert_shape(&ours, recorded);
    for constant in [
        "agent_version",
        "fallback_mode",
        "protocol_version",
        "unknown_type",
        "original_request_id",
    ] {
        assert_eq!(ours["payload"][constant], recorded["payload"][constant]);
    }
    for name in recorded["payload"]["supported_types"].as_array().unwrap() {
        assert!(
            ours["payload"]["supported_types"]
                .as_array()
                .unwrap()
                .contains(name),
            "{name}"
        );
    }
}

#[test]
fn the_plane_understands_every_message_of_the_original_agent() {
    for (line, text) in agent_messages() {
        let envelope = Envelope::parse(&text).unwrap_or_else(|e| panic!("{line}: {e}"));
        assert!(envelope.timestamp.is_some(), "{line}");
        match FromAgent::parse(&envelope) {
            FromAgent::Register(registration) => {
                assert_eq!(registration.agent_id, "bench-agent");
                assert_eq!(
                    registration.k8s_service_token.as_deref(),
                    Some("bench-kube-token")
                );
            }
            FromAgent::Heartbeat(report) => {
                assert_eq!(
                    (report.status.as_str(), report.k8s_nodes),
                    ("healthy", 1),
                    "{line}"
                );
            }
            FromAgent::ProxyResponse {
                status,
                headers,
                body,
            } => {
                assert!((200..500).contains(&status), "{line}");
                assert!(headers.get("content-type").is_some(), "{line}");
                let gzip = line == 384;
                assert_eq!(matches!(body, ResponseBody::Gzip(_)), gzip, "{line}");
            }
            FromAgent::ProxyResponseHeader { status, .. } => {
                assert!((200..500).contains(&status), "{line}");
            }
            FromAgent::ProxyResponseChunk { data } => {
                let decoded = base64_simd::STANDARD
                    .decode_to_vec(data.as_bytes())
                    .expect("base64");
                let size = envelope.payload.integer("size").expect("size");
                assert_eq!(decoded.len() as i64, size, "{line}");
            }
            FromAgent::ProxyResponseAbort { error } | FromAgent::ProxyError { error, .. } => {
                assert!(!error.is_empty(), "{line}");
            }
            FromAgent::GatewayHelloAck { use_yamux } => assert!(use_yamux, "{line}"),
            FromAgent::ProtocolFallback { unknown_type } => {
                assert!(unknown_type.starts_with("capture"), "{line}");
            }
            FromAgent::ProxyResponseEnd | FromAgent::Pong => {}
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn the_plane_understands_what_was_said_on_streams() {
    let mut kinds = BTreeMap::new();
    for (line, entry) in recorded(include_str!("streams.jsonl")) {
        if entry["dir"] == "peer" {
            continue;
        }
        let envelope = Envelope::parse(entry["text"].as_str().unwrap()).unwrap();
        let kind = match FromAgent::parse(&envelope) {
            FromAgent::WebSocketData(data) => {
                let frame = data.frame().unwrap_or_else(|| panic!("{line}"));
                assert!(!frame.payload().is_empty(), "{line}");
                "data"
            }
            FromAgent::WebSocketClose { .. } => "close",
            FromAgent::Other => panic!("{line}"),
            _ => "answer",
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(
        kinds,
        BTreeMap::from([("answer", 16), ("close", 4), ("data", 9)])
    );
}

#[test]
fn the_agent_understands_every_message_of_the_original_peer() {
    let mut kinds = BTreeMap::new();
    for (line, entry) in recorded(include_str!("peer-messages.jsonl")) {
        let text = match entry["text"].as_str() {
            Some(text) => text.to_owned(),
            None => match String::from_utf8(unhex(entry["hex"].as_str().expect("text or hex"))) {
                Ok(text) if text.starts_with('{') => text,
                other => {
                    let bytes = other
                        .map_or_else(std::string::FromUtf8Error::into_bytes, String::into_bytes);
                    let body = parse_binary_body(&bytes).expect("a request body");
                    assert_eq!((line, body.request_id), (387, "bb-31"));
                    continue;
                }
            },
        };
        let text = text.as_str();
        let envelope = match Envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(EnvelopeError::NotAnObject(_)) if line == 338 => continue,
            Err(e) => panic!("{line}: {e}"),
        };
        let kind = envelope.kind.clone().into_owned();
        match ToAgent::parse(&envelope) {
            ToAgent::RegisterSuccess(registered) => {
                assert_eq!(registered.workspace_id, Some(42));
                assert!(
                    registered
                        .gateway_ws_url
                        .is_some_and(|url| url.starts_with("wss://"))
                );
            }
            ToAgent::GatewayHello(hello) => {
                assert_eq!(hello.use_yamux, line == 8 || line == 393, "{line}");
            }
            ToAgent::ProxyRequest(request) => {
                assert!(!request.upgrade, "{line}");
                let form = match request.body {
                    RequestBody::None => "none",
                    RequestBody::Base64(_) => "base64",
                    RequestBody::Text(_) => "text",
                    RequestBody::Json(_) => "json",
                    RequestBody::BinaryFollows => "binary",
                    RequestBody::Streamed => "streamed",
                };
                kinds.insert(format!("body {form}"), line);
            }
            ToAgent::ProxyRequestChunk { data } => assert!(data.is_some(), "{line}"),
            ToAgent::Ping if line == 356 => assert_eq!(envelope.request_id.as_deref(), Some("7")),
            ToAgent::Error(text) => assert_eq!(text, "something else"),
            ToAgent::Unknown => assert!(matches!(line, 332 | 334 | 335), "{line}: {kind}"),
            _ => {}
        }
        kinds.insert(kind, line);
    }
    for form in ["none", "base64", "text", "json", "binary", "streamed"] {
        assert!(
            kinds.contains_key(&format!("body {form}")),
            "no {form} body among the recorded requests"
        );
    }
    for kind in [
        "proxy_cancel",
        "proxy_request_stream_end",
        "heartbeat_ack",
        "ping",
    ] {
        assert!(kinds.contains_key(kind), "no {kind} was recorded");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits
        .map(|pair| u8::from_str_radix(pair, 16).expect("hex"))
        .collect()
}
