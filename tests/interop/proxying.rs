//! Proxied requests in all their forms (control-channel.md §5.3, §8, decisions.md
//! §6.2): what reaches the API server, and what comes back.

use base64_simd::STANDARD as BASE64;
use pipeops_agent::agent::Agent;
use pipeops_agent::config::Config;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::stage::Stage;
use crate::upstream::{ECHO, MISSING, Upstream, bytes};

/// An agent with a cluster, connected.
pub(crate) struct Proxied {
    pub(crate) stage: Stage,
    pub(crate) upstream: Upstream,
    agent: Option<Agent>,
    pub(crate) conn: String,
}

impl Proxied {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (stage, upstream) = (Stage::new(), Upstream::start());
        let mut config = stage.config();
        change(&mut config);
        let mut parts = stage.parts(&config);
        (parts.proxy, parts.facts) = upstream.reach(&config);
        parts.registrant.has_cluster = true;
        let agent = Some(Agent::start(parts).expect("started"));
        let conn = stage.arrived();
        Self {
            stage,
            upstream,
            agent,
            conn,
        }
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("until the end")
    }

    /// Sends a request for `/api/v1/{path}`.
    pub(crate) fn ask(&self, id: &str, path: &str, more: Value) {
        let mut payload =
            json!({"method": "GET", "path": format!("/api/v1/{path}"), "headers": {}});
        let members = payload.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        self.stage.gateway.send("proxy_request", id, payload);
    }

    /// The outcome of a request.
    pub(crate) fn outcome(&self, id: &str, result: &str) -> Value {
        self.stage
            .gateway
            .expect(json!({"event": "outcome", "request_id": id, "result": result}))
    }

    /// The request has ended well, in its form, with this status and body.
    pub(crate) fn answered(&self, id: &str, streamed: bool, status: u16, body: &[u8]) {
        let outcome = self.outcome(id, if streamed { "end" } else { "response" });
        let sum: Vec<String> = Sha256::digest(body)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(outcome["status"], status, "{id}");
        assert_eq!(outcome["size"], body.len(), "{id}");
        assert_eq!(outcome["sha256"], sum.concat(), "{id}");
    }

    /// A message of this type about this request.
    pub(crate) fn message(&self, kind: &str, id: &str) -> Value {
        let pattern = json!({"event": "message", "type": kind, "request_id": id});
        self.stage.gateway.expect(pattern)["envelope"]["payload"].clone()
    }

    /// The agent was asked to stop and has said goodbye.
    pub(crate) fn finish(mut self) {
        let agent = self.agent.take().expect("until the end");
        agent.wait().expect("an orderly end");
        self.stage.gateway.finish();
    }

    pub(crate) fn end(mut self) {
        let agent = self.agent.take().expect("until the end");
        self.stage.end(agent, &self.conn.clone());
    }
}

fn form(streamed: bool) -> Value {
    json!({"supports_response_streaming": streamed})
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn what_is_known_of_the_cluster_goes_into_registration_and_heartbeat() {
    let proxied = Proxied::new();
    let register = proxied.stage.gateway.message("register");
    assert_eq!(register["payload"]["k8s_version"], "v1.36.2");
    assert!(
        register["payload"].get("k8s_service_token").is_none(),
        "a kubeconfig is a person's"
    );
    proxied.end();
}

/// C7 and T7: sizes and types on both sides of every border of the gzip rule, which
/// the gateway checks; each body arrives as it left.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c07_buffered_answers_arrive_whole_plain_or_gzipped() {
    let proxied = Proxied::new();
    for kind in ["text", "json", "png"] {
        for size in [0, 1, 1023, 1024, 10_239, 10_240, 300_000] {
            let id = format!("{kind}-{size}");
            proxied.ask(&id, &format!("bytes/{size}/{kind}"), json!({}));
            proxied.answered(&id, false, 200, &bytes(size));
            let payload = proxied.message("proxy_response", &id);
            let encoding = match size {
                0 => json!(null),
                1024.. if kind != "png" => json!("gzip"),
                _ => json!("base64"),
            };
            assert_eq!(payload["encoding"], encoding, "{id}");
        }
    }
    proxied.end();
}

/// C8: header, chunks of at most 32 KiB (checked by the gateway), end.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c08_streamed_answers_arrive_whole_in_chunks() {
    let proxied = Proxied::new();
    for size in [0, 1, 32_768, 32_769, 1_000_000] {
        let id = format!("s-{size}");
        proxied.ask(&id, &format!("bytes/{size}/text"), form(true));
        proxied.answered(&id, true, 200, &bytes(size));
    }
    proxied.end();
}

/// T29: no answer is ever sent in a binary message, which a gateway would take for
/// yamux; one would be a failure of its.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t29_large_answers_are_text_also_after_a_gateway_hello() {
    let proxied = Proxied::new();
    proxied.ask("before", "bytes/50000/png", json!({}));
    proxied
        .stage
        .gateway
        .send("gateway_hello", "", json!({"use_yamux": true}));
    proxied.ask("after", "bytes/50000/png", json!({}));
    proxied.answered("before", false, 200, &bytes(50_000));
    proxied.answered("after", false, 200, &bytes(50_000));
    proxied.end();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn answers_without_a_body_and_of_other_statuses_pass() {
    let proxied = Proxied::new();
    for streamed in [false, true] {
        let ask = |name: &str, path: &str, method: &str| {
            let id = format!("{name}-{streamed}");
            let mut more = form(streamed);
            more["method"] = method.into();
            proxied.ask(&id, path, more);
            id
        };
        proxied.answered(&ask("head", "bytes/5000/text", "HEAD"), streamed, 200, b"");
        proxied.answered(&ask("empty", "empty", "DELETE"), streamed, 204, b"");
        proxied.answered(&ask("bare", "bare", "GET"), streamed, 200, b"");
        proxied.answered(&ask("missing", "missing", "GET"), streamed, 404, MISSING);
        proxied.answered(&ask("lower", "echo", "patch"), streamed, 200, ECHO);
    }
    proxied.end();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn hop_by_hop_headers_stay_and_the_others_pass() {
    let proxied = Proxied::new();
    for streamed in [false, true] {
        let id = format!("h-{streamed}");
        proxied.ask(&id, "echo", form(streamed));
        proxied.answered(&id, streamed, 200, ECHO);
        let kind = if streamed {
            "proxy_response_header"
        } else {
            "proxy_response"
        };
        let headers = &proxied.message(kind, &id)["headers"];
        assert_eq!(headers["X-Several"], json!(["one", "two"]), "{headers}");
        assert_eq!(headers["Content-Type"], json!(["application/json"]));
        for hop in ["Connection", "Keep-Alive", "Te", "TE", "Proxy-Authenticate"] {
            assert!(headers.get(hop).is_none(), "{hop} in {headers}");
        }
    }
    proxied.end();
}

/// What the peer says about framing, target and connection isn't passed on; who
/// calls is.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn the_request_that_arrives_is_the_one_that_was_meant() {
    let proxied = Proxied::new();
    let headers = json!({
        "Authorization": ["Bearer callers-own"],
        "Accept": "application/json",
        "X-Several": ["one", "two"],
        "Host": ["evil.example.net"],
        "Content-Length": ["5"],
        "Transfer-Encoding": ["chunked"],
        "Connection": ["keep-alive, X-Hop"],
        "X-Hop": ["1"],
        "Expect": "100-continue",
        "Impersonate-User": ["jane"],
        "X-Odd": 7,
    });
    let more = json!({"query": "a=%2F&b&watch=false", "headers": headers});
    proxied.ask("r", "echo/sp ace/50%/ünï", more);
    proxied.answered("r", false, 200, ECHO);
    let seen = proxied
        .upstream
        .seen("/api/v1/echo/sp%20ace/50%25/%C3%BCn%C3%AF");
    assert_eq!(seen.method, "GET");
    assert!(
        seen.target.ends_with("?a=%2F&b&watch=false"),
        "{}",
        seen.target
    );
    assert_eq!((seen.length, seen.body.len()), (Some(0), 0));
    assert_eq!(
        seen.headers.get("Authorization"),
        Some("Bearer callers-own")
    );
    assert_eq!(seen.headers.get("Accept"), Some("application/json"));
    assert_eq!(seen.headers.get("Impersonate-User"), Some("jane"));
    let several: Vec<&str> = seen.headers.get_all("X-Several").collect();
    assert_eq!(several, ["one", "two"]);
    for name in ["X-Hop", "Expect", "Transfer-Encoding", "X-Odd"] {
        assert!(!seen.headers.contains(name), "{name}");
    }
    let host: Vec<&str> = seen.headers.get_all("Host").collect();
    assert!(
        matches!(host[..], [host] if host.starts_with("127.0.0.1:")),
        "{host:?}"
    );

    // Without a credential of the caller's there is none at all.
    proxied.ask(
        "anonymous",
        "echo/anonymous",
        json!({"headers": {"Impersonate-User": ["root"]}}),
    );
    proxied.answered("anonymous", false, 200, ECHO);
    let seen = proxied.upstream.seen("/api/v1/echo/anonymous");
    assert!(!seen.headers.contains("Authorization"));
    assert!(!seen.headers.contains("Impersonate-User"));
    proxied.end();
}

/// C9: text, base64, object, array, binary message, and chunks in both spellings.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c09_a_request_body_arrives_in_each_of_its_forms() {
    let proxied = Proxied::new();
    let gateway = &proxied.stage.gateway;
    let raw = bytes(20_000);
    let encoded = BASE64.encode_to_string(&raw);
    // §8.1: an object's text passes as it came, big numbers and all.
    let object = r#"{"z":1,"a":12345678901234567890, "html":"<&>"}"#;
    let inline: [(&str, String, Vec<u8>); 7] = [
        (
            "text",
            r#""body":"plain é \n""#.to_owned(),
            "plain é \n".into(),
        ),
        (
            "base64",
            format!(r#""body":"{encoded}","body_encoding":"base64""#),
            raw.clone(),
        ),
        (
            "upper",
            format!(r#""body":"{encoded}","body_encoding":"BASE64""#),
            raw.clone(),
        ),
        (
            "alias",
            format!(r#""body":"{encoded}","encoding":"base64""#),
            raw.clone(),
        ),
        ("object", format!(r#""body":{object}"#), object.into()),
        (
            "array",
            r#""body":[1, {"x":null}]"#.to_owned(),
            r#"[1, {"x":null}]"#.into(),
        ),
        ("none", r#""body":"""#.to_owned(), Vec::new()),
    ];
    for (name, member, expected) in inline {
        gateway.send_text(&format!(
            r#"{{"type":"proxy_request","request_id":"{name}","payload":{{"method":"POST","path":"/api/v1/echo/{name}",
               "headers":{{"Content-Type":["application/json"],"Content-Length":["3"]}},{member}}}}}"#
        ));
        proxied.answered(name, false, 200, ECHO);
        let seen = proxied.upstream.seen(&format!("/api/v1/echo/{name}"));
        assert_eq!(seen.body, expected, "{name}");
        // T41: the true length, whatever the caller said.
        assert_eq!(seen.length, Some(expected.len() as u64), "{name}");
    }

    proxied.ask(
        "binary",
        "echo/binary",
        json!({"method": "PUT", "body_binary": true, "body_size": 3}),
    );
    gateway.send_binary(&[&[0, 6][..], b"binary", &raw].concat());
    proxied.answered("binary", false, 200, ECHO);
    assert_eq!(proxied.upstream.seen("/api/v1/echo/binary").body, raw);

    for (announced, member) in [("use_streaming", "data"), ("streaming", "chunk")] {
        let path = format!("echo/{announced}");
        let mut more = json!({"method": "POST", "body": "ignored"});
        more[announced] = true.into();
        proxied.ask(announced, &path, more);
        for piece in raw.chunks(7001) {
            let mut payload = json!({});
            payload[member] = BASE64.encode_to_string(piece).into();
            gateway.send("proxy_request_chunk", announced, payload);
        }
        gateway.send("proxy_request_stream_end", announced, json!({}));
        proxied.answered(announced, false, 200, ECHO);
        let seen = proxied.upstream.seen(&format!("/api/v1/{path}"));
        assert!(seen.whole && seen.body == raw, "{announced}");
    }
    proxied.end();
}

/// Many at once, in fragments, in both forms; none gets another's answer.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn many_requests_at_once_are_not_mixed_up() {
    let proxied = Proxied::new();
    let size = |n: usize| 500 * n + 1;
    for n in 0..60 {
        proxied.stage.gateway.command(json!({
            "cmd": "send_envelope", "type": "proxy_request", "request_id": format!("m-{n}"), "frame": 50,
            "payload": {"path": format!("/api/v1/bytes/{}/png", size(n)),
                        "supports_response_streaming": n % 2 == 1},
        }));
    }
    for n in 0..60 {
        proxied.answered(&format!("m-{n}"), n % 2 == 1, 200, &bytes(size(n)));
    }
    proxied.end();
}
