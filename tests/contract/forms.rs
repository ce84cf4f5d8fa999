//! Every message about a request, on the wire itself: the agent before a control
//! plane that isn't ours and says no `plane_hello`. Form B is an answer in one
//! message, form S one that is sent as it comes (control-channel.md §8.6).

use std::io::Read;

use crossbeam_channel::unbounded;
use pipeops_agent::agent::Agent;
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use pipeops_agent::kube::Credentials;
use serde_json::{Value, json};

use crate::held::held;
use crate::support::fake_plane::{Conn, FakePlane, chunk};
use crate::support::house::{agent_config, start};
use crate::support::pattern::whole;
use crate::support::upstream::{Upstream, content, credentials};
use crate::support::wait::{LIMIT, until};

/// An agent in front of this API server, on the fake plane's gateway.
pub(crate) fn connected(credentials: Credentials) -> (FakePlane, Agent, Conn) {
    let plane = FakePlane::start();
    let url = format!("https://{}", plane.address());
    let config = agent_config(&url, "t-1", &plane.ca_file());
    let agent = start(&config, Some(credentials));
    let conn = plane.register();
    (plane, agent, conn)
}

/// The body of a form B answer, by the encoding that it says.
pub(crate) fn body_of(answer: &Value) -> Vec<u8> {
    assert_eq!(answer["type"], "proxy_response", "{answer}");
    let payload = &answer["payload"];
    let Some(body) = payload["body"].as_str() else {
        assert!(payload.get("encoding").is_none(), "{answer}");
        return Vec::new();
    };
    let decoded = base64_simd::STANDARD.decode_to_vec(body).expect("base64");
    match payload["encoding"].as_str() {
        Some("base64") => decoded,
        Some("gzip") => {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(decoded.as_slice())
                .read_to_end(&mut unpacked)
                .expect("gzip");
            unpacked
        }
        other => panic!("encoding {other:?}"),
    }
}

/// Answers with what came: method, target, some fields, and the body.
#[allow(clippy::needless_pass_by_value)] // as upstreams take it
fn echo(request: Request, mut body: RequestBody, responder: Responder) {
    let bytes = body.read_all(64 << 20).expect("a whole body");
    drop(body);
    let field = |name| request.headers.get(name);
    let answer = json!({
        "method": request.method, "target": request.target,
        "length": field("Content-Length"), "chunked": field("Transfer-Encoding"),
        "accept": request.headers.get_all("Accept").collect::<Vec<_>>(),
        "authorization": field("Authorization"), "host": field("Host"),
        "body": String::from_utf8_lossy(&bytes),
    });
    let headers = content("application/json");
    let answer = answer.to_string();
    responder
        .respond(200, &headers, answer.as_bytes())
        .expect("answered");
}

fn ask(conn: &mut Conn, id: &str, payload: &Value) -> Value {
    conn.request(id, payload);
    let answer = conn.answer(id);
    serde_json::from_slice(&body_of(&answer)).expect("JSON")
}

#[test]
fn one_request_in_both_forms() {
    let upstream = Upstream::start_tls(echo);
    let (_plane, _agent, mut conn) = connected(upstream.credentials());
    assert_eq!(conn.authorization, "Bearer t-1");
    let payload = json!({
        "method": "get", "path": "/api/v1/pods", "query": "limit=1&x=%2F",
        "headers": {"Accept": ["a", "b"], "Authorization": "Bearer caller", "Host": ["evil"]},
        "timeout": 20_000,
    });
    let expected = json!({
        "method": "GET", "target": "/api/v1/pods?limit=1&x=%2F", "length": null, "chunked": null,
        "accept": ["a", "b"], "authorization": "Bearer caller",
        "host": upstream.address().to_string(), "body": "",
    });
    assert_eq!(ask(&mut conn, "b", &payload), expected);
    let mut streamed = payload.clone();
    streamed["supports_response_streaming"] = true.into();
    conn.request("s", &streamed);
    let (status, headers, body) = conn.streamed("s");
    assert_eq!(
        (status, &headers["Content-Type"]),
        (200, &json!(["application/json"]))
    );
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body, expected);
    assert!(conn.is_quiet(), "nothing comes after the end");
}

#[test]
fn c7_t7_t29_buffered_answers_say_how_they_are_encoded_and_are_never_binary() {
    let upstream = Upstream::start_tls(|request, _, responder| {
        let (kind, size) = request.target["/api/".len()..]
            .split_once('?')
            .expect("both");
        let kind = kind.replace("%2B", "+");
        let mut headers = content(&kind);
        headers.push("Connection", "close");
        headers.push("ETag", "\"7\"");
        let body = vec![b'x'; size.parse().expect("a size")];
        responder.respond(200, &headers, &body).expect("answered");
    });
    let (_plane, _agent, mut conn) = connected(upstream.credentials());
    for (kind, size, encoding) in [
        ("application/json", 0, None),
        ("application/json", 1023, Some("base64")),
        ("application/json", 1024, Some("gzip")),
        ("application/json", 200_000, Some("gzip")),
        ("text/plain", 1024, Some("gzip")),
        ("application/yaml", 5000, Some("gzip")),
        ("application/octet-stream", 5000, Some("base64")),
        ("application/octet-stream", 200_000, Some("base64")),
        ("image/svg+xml", 5000, Some("base64")),
        ("application/zip", 20_000, Some("base64")),
    ] {
        let query = size.to_string();
        conn.request(
            "r",
            &json!({"path": format!("/api/{kind}"), "query": query}),
        );
        let answer = conn.answer("r");
        let payload = &answer["payload"];
        assert_eq!(payload["encoding"].as_str(), encoding, "{kind} {size}");
        assert_eq!(body_of(&answer).len(), size, "{kind}");
        assert_eq!(payload["status"], 200);
        assert_eq!(payload["headers"]["Content-Type"], json!([kind]));
        assert_eq!(payload["headers"]["Etag"], json!(["\"7\""]));
        assert!(payload["headers"].get("Connection").is_none(), "{answer}");
    }
}

#[test]
fn c8_streamed_answers_have_small_pieces_and_one_end() {
    let upstream = Upstream::start_tls(|request, _, responder| {
        let size: usize = request.target["/api/".len()..].parse().expect("a size");
        let headers = content("application/octet-stream");
        responder
            .respond(200, &headers, &whole(size))
            .expect("answered");
    });
    let (_plane, _agent, mut conn) = connected(upstream.credentials());
    for size in [0, 1, 32 * 1024, 32 * 1024 + 1, 3 << 20] {
        let path = format!("/api/{size}");
        conn.request(
            "r",
            &json!({"path": path, "supports_response_streaming": true}),
        );
        // `streamed` looks at each piece.
        let (status, headers, body) = conn.streamed("r");
        assert_eq!(status, 200);
        assert_eq!(headers["Content-Length"], json!([size.to_string()]));
        assert!(body == whole(size), "{size}");
        assert!(conn.is_quiet(), "one end is enough");
    }
}

#[test]
fn c9_t41_a_request_body_in_each_of_its_forms() {
    let upstream = Upstream::start_tls(echo);
    let (_plane, _agent, mut conn) = connected(upstream.credentials());
    let request = |more: Value| {
        let mut payload = json!({"method": "POST", "path": "/api/v1/things"});
        let fields = payload.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        payload
    };
    for (what, more, body) in [
        ("plain", json!({"body": "hällo"}), "hällo"),
        (
            "base64",
            json!({"body": "aMOkbGxv", "body_encoding": "BASE64"}),
            "hällo",
        ),
        (
            "seed 002",
            json!({"body": "aMOkbGxv", "encoding": "base64"}),
            "hällo",
        ),
        ("empty", json!({"body": ""}), ""),
        (
            "object",
            json!({"body": {"n": 1, "a": {"b": [1, null]}}}),
            r#"{"a":{"b":[1,null]},"n":1}"#,
        ),
        ("array", json!({"body": [1, "two"]}), r#"[1,"two"]"#),
    ] {
        for caller_says in [None, Some("3")] {
            let mut payload = request(more.clone());
            if let Some(length) = caller_says {
                payload["headers"] = json!({"Content-Length": [length]});
            }
            let got = ask(&mut conn, what, &payload);
            assert_eq!(got["body"], body, "{what}");
            if !body.is_empty() {
                assert_eq!(got["length"], body.len().to_string(), "{what}");
                assert_eq!(got["chunked"], Value::Null, "{what}");
            }
        }
    }
    // What a number looks like is its sender's business.
    let text = r#"{"type":"proxy_request","request_id":"n","payload":{"method":"PUT",
        "path":"/api/v1/x","body":{"n":12345678901234567890,"s":"<&>"}}}"#;
    conn.send_binary(text.as_bytes());
    let got: Value = serde_json::from_slice(&body_of(&conn.answer("n"))).expect("JSON");
    assert_eq!(got["body"], r#"{"n":12345678901234567890,"s":"<&>"}"#);
    // The next binary message.
    conn.request(
        "bin",
        &request(json!({"body_binary": true, "body_size": 5})),
    );
    let mut frame = vec![0, 3];
    frame.extend_from_slice(b"binhello");
    conn.send_binary(&frame);
    let answer = conn.answer("bin");
    let got: Value = serde_json::from_slice(&body_of(&answer)).expect("JSON");
    assert_eq!(
        (&got["body"], &got["length"]),
        (&json!("hello"), &json!("5"))
    );
    // Chunks, by both names of everything.
    for (flag, field) in [("use_streaming", "data"), ("streaming", "chunk")] {
        conn.request("chunks", &request(json!({(flag): true, "body": "ignored"})));
        for data in ["aGVs", "bG8="] {
            conn.send(&json!({
                "type": "proxy_request_chunk", "request_id": "chunks", "payload": {(field): data},
            }));
        }
        conn.send(&json!({"type": "proxy_request_stream_end", "request_id": "chunks"}));
        let got: Value = serde_json::from_slice(&body_of(&conn.answer("chunks"))).expect("JSON");
        assert_eq!(
            (&got["body"], &got["chunked"]),
            (&json!("hello"), &json!("chunked"))
        );
    }
}

#[test]
fn t15_a_request_that_cannot_be_understood_is_answered_in_its_form() {
    let upstream = Upstream::start_tls(echo);
    let (_plane, _agent, mut conn) = connected(upstream.credentials());
    for (what, payload) in [
        (
            "bad base64",
            json!({"path": "/api/x", "body": "a!", "body_encoding": "base64"}),
        ),
        ("a path that climbs", json!({"path": "/api/../x"})),
        (
            "a method that is none",
            json!({"path": "/api/x", "method": "G T"}),
        ),
        (
            "a header that is none",
            json!({"path": "/api/x", "headers": {"A": ["x\r\nB: y"]}}),
        ),
        (
            "two identities",
            json!({"path": "/api/x", "headers": {"Authorization": ["a", "b"]}}),
        ),
        (
            "an upgrade to nowhere",
            json!({"path": "/shop", "is_websocket": true}),
        ),
        (
            "a Service that is none",
            json!({"path": "/x", "service_name": "a.b", "namespace": "b", "service_port": 1}),
        ),
    ] {
        conn.request("b", &payload);
        let answer = conn.answer("b");
        assert_eq!(answer["type"], "proxy_error", "{what}: {answer}");
        let text = answer["payload"]["error"].as_str().expect("a text");
        assert!(!text.is_empty() && !text.contains("\r\n"), "{what}: {text}");
        let mut streamed = payload.clone();
        streamed["supports_response_streaming"] = true.into();
        conn.request("s", &streamed);
        let answer = conn.answer("s");
        assert_eq!(answer["type"], "proxy_response_abort", "{what}: {answer}");
        assert_eq!(answer["payload"]["error"], text);
    }
    // No payload at all.
    for text in [
        r#"{"type":"proxy_request","request_id":"p","payload":7}"#,
        r#"{"type":"proxy_request","request_id":"p","payload":null}"#,
    ] {
        conn.send_binary(text.as_bytes());
        let answer = conn.answer("p");
        assert_eq!(answer["type"], "proxy_error", "{answer}");
    }
    // A binary body that doesn't come: the text is handled, the request fails.
    conn.request(
        "bin",
        &json!({"method": "PUT", "path": "/api/x", "body_binary": true}),
    );
    conn.request("next", &json!({"path": "/api/x"}));
    assert_eq!(conn.answer("bin")["type"], "proxy_error");
    assert_eq!(conn.answer("next")["type"], "proxy_response");
    assert!(conn.is_quiet());
}

#[test]
fn deadlines_and_timeouts_end_what_they_are_for() {
    let held = held();
    let (_plane, _agent, mut conn) = connected(held.upstream.credentials());
    let deadline = |payload: Value| {
        let mut message = json!({
            "type": "proxy_request", "request_id": "d", "payload": payload,
            // Whose clock is years behind.
            "timestamp": "2020-01-01T00:00:00Z",
        });
        message["payload"]["deadline"] = "2020-01-01T00:00:00.3Z".into();
        message
    };
    conn.send(&deadline(json!({"path": "/api/x"})));
    assert_eq!(conn.answer("d")["type"], "proxy_error");
    held.gone();
    let streaming = json!({"path": "/api/x", "query": "head", "supports_response_streaming": true});
    conn.send(&deadline(streaming.clone()));
    for kind in [
        "proxy_response_header",
        "proxy_response_chunk",
        "proxy_response_abort",
    ] {
        assert_eq!(conn.answer("d")["type"], kind);
    }
    held.gone();
    // Form B: the whole.
    conn.request("t", &json!({"path": "/api/x", "timeout": 200}));
    assert_eq!(conn.answer("t")["type"], "proxy_error");
    held.gone();
    // Form S: until the head; what came in time goes on after it.
    let mut live = streaming;
    live["timeout"] = "200ms".into();
    conn.request("live", &live);
    assert_eq!(conn.answer("live")["type"], "proxy_response_header");
    assert_eq!(chunk(&conn.answer("live")), b"one");
    conn.request(
        "t",
        &json!({
            "path": "/api/x", "timeout": 300, "supports_response_streaming": true,
        }),
    );
    // By now the first one's limit has passed, too.
    assert_eq!(conn.answer("t")["type"], "proxy_response_abort");
    held.release();
    assert_eq!(conn.answer("live")["type"], "proxy_response_end");
}

#[test]
fn t42_an_id_that_is_in_use_is_not_taken_over() {
    let held = held();
    let (_plane, _agent, mut conn) = connected(held.upstream.credentials());
    conn.request("r", &json!({"path": "/api/first"}));
    held.begun();
    conn.request("r", &json!({"path": "/api/second"}));
    let refusal = conn.answer("r");
    assert_eq!(refusal["type"], "proxy_error", "{refusal}");
    held.release();
    assert_eq!(body_of(&conn.answer("r")), b"late");
    assert!(held.begun.is_empty(), "the second was not executed");
    // Now it is free.
    conn.request("r", &json!({"path": "/api/third"}));
    assert_eq!(body_of(&conn.answer("r")), b"late");
}

#[test]
fn t38_an_error_shows_no_query() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let (_plane, _agent, mut conn) = connected(credentials(address, None));
    conn.request("r", &json!({"path": "/api/x", "query": "token=geheim"}));
    let answer = conn.answer("r");
    let text = answer["payload"]["error"].as_str().expect("a text");
    assert!(
        text.starts_with("kubernetes API request failed: "),
        "{text}"
    );
    assert!(
        !text.contains("geheim") && !text.contains("token="),
        "{text}"
    );
}

#[test]
fn t9_a_body_that_nobody_takes_stops_only_its_own_request() {
    let (begins, begun) = unbounded();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let upstream = Upstream::start_tls(move |request, body, responder| {
        if request.method == "PUT" {
            begins.send(()).expect("the test waits");
            let _ = stopped.recv();
            drop(body);
        } else {
            responder
                .respond(200, &content("text/plain"), b"ok")
                .expect("answered");
        }
    });
    let (_plane, _agent, mut conn) = connected(upstream.credentials());
    for form in [false, true] {
        conn.request(
            "slow",
            &json!({
                "method": "PUT", "path": "/api/x", "use_streaming": true,
                "supports_response_streaming": form,
            }),
        );
        begun.recv_timeout(LIMIT).expect("it arrives");
        let data = base64_simd::STANDARD.encode_to_string(vec![7; 1 << 20]);
        let chunk = json!({
            "type": "proxy_request_chunk", "request_id": "slow", "payload": {"data": data},
        });
        // More than the agent keeps for one request, and than all buffers on the way.
        for _ in 0..96 {
            conn.send(&chunk);
        }
        // Nobody else notices.
        conn.request("quick", &json!({"path": "/api/y"}));
        assert_eq!(body_of(&conn.answer("quick")), b"ok");
        conn.send(&json!({"type": "ping", "request_id": "p"}));
        assert_eq!(conn.answer("p")["type"], "pong");
        let end = conn.answer("slow");
        let kind = if form {
            "proxy_response_abort"
        } else {
            "proxy_error"
        };
        assert_eq!(end["type"], kind, "{end}");
        let text = end["payload"]["error"].as_str().expect("a text");
        assert!(text.contains("MiB"), "it names the limit: {text}");
        // What still comes for it is nobody's.
        conn.send(&json!({"type": "proxy_request_stream_end", "request_id": "slow"}));
        assert!(conn.is_quiet());
    }
    drop(stop);
}

#[test]
fn t43_a_lost_connection_breaks_off_unfinished_bodies_and_streamed_answers() {
    let held = held();
    let (plane, _agent, mut conn) = connected(held.upstream.credentials());
    conn.request(
        "body",
        &json!({"method": "PUT", "path": "/api/body", "use_streaming": true}),
    );
    conn.send(&json!({
        "type": "proxy_request_chunk", "request_id": "body", "payload": {"data": "aGVs"},
    }));
    conn.request(
        "stream",
        &json!({
            "path": "/api/stream", "query": "head", "supports_response_streaming": true,
        }),
    );
    assert_eq!(conn.answer("stream")["type"], "proxy_response_header");
    held.begun();
    held.begun();
    conn.link.abort("cut by the test");
    let mut gone = [held.gone(), held.gone()];
    gone.sort();
    assert_eq!(gone, ["/api/body (its body broke off)", "/api/stream?head"]);
    // Nothing of them appears on the next connection.
    let mut next = plane.accept();
    next.acknowledge();
    next.request("new", &json!({"path": "/api/new"}));
    held.begun();
    held.release();
    assert_eq!(body_of(&next.answer("new")), b"late");
    assert!(next.is_quiet());
}

#[test]
fn c15_a_buffered_answer_arrives_on_the_next_connection() {
    let held = held();
    let (plane, _agent, conn) = connected(held.upstream.credentials());
    conn.request(
        "late",
        &json!({"method": "POST", "path": "/api/x", "body": "whole"}),
    );
    conn.request("used", &json!({"path": "/api/used"}));
    held.begun();
    held.begun();
    conn.link.abort("cut by the test");
    let mut next = plane.accept();
    next.acknowledge();
    // An id that is used again belongs to the new request alone.
    next.request("used", &json!({"path": "/api/used-again"}));
    assert_eq!(held.begun(), "/api/used-again");
    held.release();
    assert_eq!(body_of(&next.answer("late")), b"late");
    assert_eq!(body_of(&next.answer("used")), b"late");
    until("the API server is at rest", || {
        held.upstream.connections() <= 3
    });
    assert!(next.is_quiet(), "each is answered once");
}
