//! The two forms of an answer, and as whom a request is made.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn c7_a_small_answer_comes_as_a_whole_and_plain() {
    let mut house = House::new();
    house.request(
        "r",
        json!({"path": "/api/v1/pods", "query": "limit=5", "headers": {"Authorization": ["Bearer t"], "Accept": "a/b"}}),
    );
    let mut peer = house.upstream.accept();
    let request = peer.request();
    assert_eq!(request.line, "GET /api/v1/pods?limit=5 HTTP/1.1");
    assert_eq!(request.headers.get("Authorization"), Some("Bearer t"));
    assert_eq!(request.headers.get("Accept"), Some("a/b"));
    assert!(!request.headers.contains("Accept-Encoding"));
    peer.send(
        "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
         Transfer-Encoding: chunked\r\nTrailer: T\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\n2\r\n{}\r\n0\r\nT: x\r\n\r\n",
    );
    let payload = house.expect("proxy_response", "r");
    assert_eq!(payload["status"], 201);
    assert_eq!(payload["encoding"], "base64");
    assert_eq!(decode(&payload["body"]), b"{}");
    let want = json!({"Content-Type": ["application/json"], "Set-Cookie": ["a", "b"]});
    assert_eq!(payload["headers"], want);
    house.expect_rest();
}

#[test]
fn c7_a_large_text_is_gzipped_and_everything_else_is_not() {
    let mut house = House::new();
    let body = "{\"a\":1}".repeat(5000);
    for (kind, gzipped) in [
        ("application/json", true),
        ("application/octet-stream", false),
    ] {
        house.get("r", "/api");
        let mut peer = house.upstream.accept();
        peer.request();
        let length = body.len();
        // The connection is closed, so that each round has its own.
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ));
        let payload = house.expect("proxy_response", "r");
        let mut bytes = decode(&payload["body"]);
        if gzipped {
            assert_eq!(payload["encoding"], "gzip");
            let packed = std::mem::take(&mut bytes);
            flate2::read::GzDecoder::new(&packed[..])
                .read_to_end(&mut bytes)
                .expect("gzip");
        } else {
            assert_eq!(payload["encoding"], "base64");
        }
        assert_eq!(bytes, body.as_bytes());
        // The target's own headers stay as they were.
        assert_eq!(
            payload["headers"]["Content-Length"],
            json!([length.to_string()])
        );
    }
    house.expect_rest();
}

/// The recorder of these tests takes text only; the original sent a body of this
/// size in a binary message (control-channel.md §5.2).
#[test]
fn t29_a_large_answer_is_never_a_binary_message() {
    let mut house = House::new();
    house.get("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", &"x".repeat(100_000));
    let payload = house.expect("proxy_response", "r");
    assert_eq!(decode(&payload["body"]).len(), 100_000);
    house.expect_rest();
}

#[test]
fn empty_answers_errors_and_head_in_form_b() {
    let mut house = House::new();
    house.get("a", "/api/x");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    let payload = house.expect("proxy_response", "a");
    assert_eq!(payload["status"], 404);
    assert!(payload.get("body").is_none() && payload.get("encoding").is_none());
    house.request("b", json!({"path": "/api", "method": "head"}));
    assert_eq!(peer.request().line, "HEAD /api HTTP/1.1");
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n");
    let payload = house.expect("proxy_response", "b");
    assert_eq!(payload["headers"]["Content-Length"], json!(["200"]));
    assert!(payload.get("body").is_none());
    house.get("c", "/api");
    peer.request();
    peer.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(house.expect("proxy_response", "c")["headers"], Value::Null);
    house.expect_rest();
}

#[test]
fn c8_a_streamed_answer_comes_as_it_arrives() {
    let mut house = House::new();
    house.stream("s", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n");
    let header = house.expect("proxy_response_header", "s");
    assert_eq!(header["status"], 200);
    assert_eq!(header["headers"], json!({"Content-Type": ["text/plain"]}));
    for piece in ["f", "second piece"] {
        peer.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(house.expect_chunk("s"), piece.as_bytes());
    }
    peer.send("0\r\n\r\n");
    assert_eq!(house.expect("proxy_response_end", "s"), json!({}));
    house.expect_rest();
}

#[test]
fn c8_what_arrives_together_goes_together() {
    let mut house = House::new();
    house.stream("s", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    let pieces = "3\r\nabc\r\n".repeat(20);
    peer.send(format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n"
    ));
    house.expect("proxy_response_header", "s");
    assert_eq!(house.expect_chunk("s"), "abc".repeat(20).as_bytes());
    house.expect("proxy_response_end", "s");
    house.expect_rest();
}

#[test]
fn what_came_before_a_mistake_is_delivered() {
    let mut house = House::new();
    house.stream("s", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno chunk");
    house.expect("proxy_response_header", "s");
    assert_eq!(house.expect_chunk("s"), b"abc");
    assert!(house.expect_abort("s").contains("malformed chunk"));
    house.expect_rest();
}

#[test]
fn c8_chunks_are_small_and_never_gzipped() {
    let mut house = House::new();
    house.stream("s", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    let body = "0123456789,".repeat(30_000);
    let length = body.len();
    peer.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    house.expect("proxy_response_header", "s");
    let mut got = Vec::new();
    while got.len() < length {
        got.extend(house.expect_chunk("s"));
    }
    assert_eq!(got, body.as_bytes());
    house.expect("proxy_response_end", "s");
    house.expect_rest();
}

#[test]
fn head_and_empty_answers_in_form_s() {
    let mut house = House::new();
    house.request(
        "s",
        json!({"path": "/api", "method": "HEAD", "supports_response_streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n");
    let header = house.expect("proxy_response_header", "s");
    assert_eq!(header["headers"]["Content-Length"], json!(["200"]));
    house.expect("proxy_response_end", "s");
    house.expect_rest();
}

#[test]
fn an_answer_that_breaks_off_is_no_whole_answer() {
    let mut house = House::new();
    for form_s in [true, false] {
        house.request(
            "r",
            json!({"path": "/api", "supports_response_streaming": form_s}),
        );
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel");
        let text = if form_s {
            house.expect("proxy_response_header", "r");
            assert_eq!(house.expect_chunk("r"), b"hel");
            drop(peer);
            house.expect_abort("r")
        } else {
            drop(peer);
            house.expect_error("r")
        };
        assert!(
            text.starts_with("kubernetes API request failed: "),
            "{text}"
        );
    }
    house.expect_rest();
}

#[test]
fn t38_an_error_names_neither_query_nor_header() {
    let upstream = Upstream::new();
    let mut house = House::new();
    let nobody = upstream.client();
    drop(upstream); // nobody listens there any more
    house.executor = Executor::new(
        Settings::default(),
        Some(Upstreams {
            callers: nobody,
            agent: None,
            base: String::new(),
        }),
    );
    house.reconnect();
    let secret = json!({"path": "/api", "query": "token=hunter2", "headers": {"Authorization": "Bearer hunter2"}});
    house.request("r", secret);
    let text = house.expect_error("r");
    assert!(
        text.starts_with("kubernetes API request failed: "),
        "{text}"
    );
    assert!(
        !text.contains("hunter2") && !text.contains("token="),
        "{text}"
    );
    house.expect_rest();
}

#[test]
fn without_a_cluster_every_request_is_refused() {
    let mut house = House::on(Settings::default(), Upstream::new(), None);
    house.get("b", "/api");
    assert_eq!(house.expect_error("b"), "kubernetes client not initialized");
    house.stream("s", "/api");
    assert_eq!(house.expect_abort("s"), "kubernetes client not initialized");
    house.expect_rest();
}

#[test]
fn what_is_not_built_is_refused_in_its_form() {
    let mut house = House::new();
    house.request(
        "b",
        json!({"path": "/", "service_name": "a", "namespace": "b", "service_port": 80, "supports_response_streaming": true}),
    );
    assert!(house.expect_abort("b").contains("reaches no Services"));
    house.expect_rest();
}

struct Token(AtomicUsize);

impl AgentIdentity for Token {
    fn authorization(&self, _: &Cancel) -> Result<Option<Secret>, String> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(Some(Secret::new("Bearer agent"))),
            1 => Err("cannot read /secret/path".to_owned()),
            _ => panic!("on purpose"),
        }
    }

    fn refused(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_agents_identity_never_mixes_with_a_callers() {
    let callers = Upstream::new();
    let agents = Upstream::new();
    let token = Arc::new(Token(AtomicUsize::new(0)));
    let upstreams = Upstreams {
        callers: callers.client(),
        agent: Some(Agent {
            client: agents.client(),
            identity: token.clone(),
        }),
        base: "/base".to_owned(),
    };
    let mut house = House::on(Settings::default(), callers, Some(upstreams));
    // With a credential of its own: on the connections that show none.
    house.request(
        "a",
        json!({"path": "/api", "headers": {"authorization": "Bearer me", "Impersonate-User": "u"}}),
    );
    let mut peer = house.upstream.accept();
    let request = peer.request();
    assert_eq!(request.line, "GET /base/api HTTP/1.1");
    assert_eq!(request.headers.get("Authorization"), Some("Bearer me"));
    assert_eq!(request.headers.get("Impersonate-User"), Some("u"));
    peer.answer("200 OK", "");
    house.expect("proxy_response", "a");
    // Without: as the agent, and as nobody else.
    house.request(
        "b",
        json!({"path": "/api", "headers": {"Impersonate-User": "u"}}),
    );
    let mut peer = agents.accept();
    let request = peer.request();
    assert_eq!(request.headers.get("Authorization"), Some("Bearer agent"));
    assert!(!request.headers.contains("Impersonate-User"));
    peer.answer("401 Unauthorized", "");
    assert_eq!(house.expect("proxy_response", "b")["status"], 401);
    // The 401 made it look again; what it finds is not for the peer.
    house.get("c", "/api");
    let text = house.expect_error("c");
    assert!(
        text.contains("no usable credential") && !text.contains("/secret"),
        "{text}"
    );
    // A panic is an answer too, and gives the place back.
    token.refused();
    house.get("d", "/api");
    assert_eq!(house.expect_error("d"), "internal error of the agent");
    house.expect_rest();
}

#[test]
fn the_callers_connections_show_no_credential_when_none_is_lent() {
    let mut house = House::new();
    house.get("r", "/api");
    let mut peer = house.upstream.accept();
    let request = peer.request();
    assert_eq!(request.headers.len(), 1, "{:?}", request.headers); // Host
    peer.answer("403 Forbidden", "{}");
    assert_eq!(house.expect("proxy_response", "r")["status"], 403);
    house.expect_rest();
}
