//! Request bodies in their six forms.

use super::*;
use crate::http::testing::Peer;

fn binary(id: &str, body: &[u8]) -> Vec<u8> {
    let mut message = (id.len() as u16).to_be_bytes().to_vec();
    message.extend_from_slice(id.as_bytes());
    message.extend_from_slice(body);
    message
}

#[test]
fn c9_t41_a_body_in_every_buffered_form_has_its_true_length() {
    let mut house = House::new();
    let mut peer: Option<Peer> = None;
    for (mut payload, want) in [
        (json!({"body": "text <&>"}), &b"text <&>"[..]),
        (
            json!({"body": encode("\0\u{1}x"), "body_encoding": "base64"}),
            b"\0\x01x",
        ),
        (json!({"body": encode("y"), "encoding": "BASE64"}), b"y"),
        (json!({"body": {"a": 1}}), b"{\"a\":1}"),
        (json!({"body": [1, 2]}), b"[1,2]"),
        (json!({"body": ""}), b""),
    ] {
        for method in ["POST", "DELETE"] {
            payload["method"] = method.into();
            payload["path"] = "/api/x".into();
            // The caller's own length is wrong, and no matter.
            payload["headers"] = json!({"Content-Length": "99", "Content-Type": "a/b"});
            house.request("r", payload.clone());
            let peer = peer.get_or_insert_with(|| house.upstream.accept());
            let request = peer.request();
            assert_eq!(request.line, format!("{method} /api/x HTTP/1.1"));
            assert_eq!(request.body, want);
            assert!(!request.chunked);
            peer.answer("200 OK", "");
            house.expect("proxy_response", "r");
        }
    }
    house.expect_rest();
}

#[test]
fn c9_a_body_in_a_binary_message() {
    let mut house = House::new();
    let asks = json!({"method": "PUT", "path": "/api", "body_binary": true});
    assert!(!house.requests().binary(b"nobody waits"));
    house.request("r-7", asks.clone());
    assert!(house.requests().binary(&binary("r-7", b"\0body\xff")));
    let mut peer = house.upstream.accept();
    assert_eq!(peer.request().body, b"\0body\xff");
    peer.answer("200 OK", "");
    house.expect("proxy_response", "r-7");
    assert!(!house.requests().binary(&binary("r-7", b"another")));
    // T15: whatever else comes instead is answered.
    for wrong in [binary("other", b"x"), vec![0], vec![0, 9, b'r']] {
        house.request("r-7", asks.clone());
        assert!(house.requests().binary(&wrong));
        assert!(house.expect_error("r-7").contains("binary request body"));
    }
    house.request("r-7", asks.clone());
    house.get("next", "/api");
    assert!(house.expect_error("r-7").contains("did not follow"));
    peer.request();
    peer.answer("200 OK", "");
    house.expect("proxy_response", "next");
    // The body of a request that was refused or cancelled is thrown away.
    house.request(
        "r-7",
        json!({"method": "CONNECT", "path": "/api", "body_binary": true}),
    );
    assert!(house.requests().binary(&binary("r-7", b"x")));
    assert!(house.expect_error("r-7").contains("method"));
    house.request("r-7", asks);
    house.requests().cancel("r-7");
    assert!(house.requests().binary(&binary("r-7", b"x")));
    assert!(!house.requests().binary(b"{}"));
    house.expect_rest();
}

/// Where yamux is, none could be told from its bytes: nobody waits for one.
#[test]
fn x16_a_body_in_a_binary_message_is_refused_beside_tunnels() {
    let mut house = House::new();
    house.requests().refuse_binary_bodies();
    house.request("r-7", json!({"path": "/api", "body_binary": true}));
    assert!(house.expect_error("r-7").contains("beside tunnels"));
    assert!(!house.requests().binary(&binary("r-7", b"x")));
    house.get("r-7", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    house.expect("proxy_response", "r-7");
    house.expect_rest();
}

#[test]
fn c9_a_body_in_chunks_goes_on_as_it_comes() {
    let mut house = House::new();
    for spelling in ["use_streaming", "streaming"] {
        house.request(
            "r",
            json!({"method": "POST", "path": "/api", spelling: true, "body": "ignored"}),
        );
        let mut peer = house.upstream.accept();
        let (_, headers) = peer.head();
        assert_eq!(headers.get("Transfer-Encoding"), Some("chunked"));
        for piece in ["hello ", "world"] {
            house.requests().chunk("r", Some(&encode(piece)));
            assert_eq!(peer.chunk(), piece.as_bytes());
        }
        house.requests().chunk("r", None);
        house.requests().chunk("unknown", Some("!"));
        house.requests().end("unknown");
        house.requests().end("r");
        assert!(peer.chunk().is_empty());
        house.requests().chunk("r", Some(&encode("late")));
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        house.expect("proxy_response", "r");
    }
    house.expect_rest();
}

#[test]
fn t41_the_callers_length_of_a_streamed_body_is_used_and_enforced() {
    let mut house = House::new();
    for (piece, good) in [("hello", true), ("hello!", false), ("hell", false)] {
        house.request(
            "r",
            json!({"method": "POST", "path": "/api", "streaming": true, "headers": {"content-length": ["5"]}}),
        );
        let mut peer = house.upstream.accept();
        let (_, headers) = peer.head();
        assert_eq!(headers.get("Content-Length"), Some("5"));
        assert!(!headers.contains("Transfer-Encoding"));
        house.requests().chunk("r", Some(&encode(piece)));
        house.requests().end("r");
        if good {
            assert_eq!(peer.exactly(5), b"hello");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            house.expect("proxy_response", "r");
        } else {
            peer.wait_for_end();
            assert!(house.expect_error("r").contains("Content-Length"));
        }
    }
    house.expect_rest();
}

#[test]
fn t15_bad_base64_is_answered_in_each_form() {
    let mut house = House::new();
    for bad in ["!", "YQ", "YQ==\n", "YR=="] {
        house.request(
            "b",
            json!({"path": "/api", "body": bad, "body_encoding": "base64"}),
        );
        assert!(house.expect_error("b").contains("base64"));
    }
    house.request(
        "s",
        json!({"path": "/api", "body": "!", "body_encoding": "base64", "supports_response_streaming": true}),
    );
    assert!(house.expect_abort("s").contains("base64"));
    house.request(
        "c",
        json!({"method": "POST", "path": "/api", "streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.head();
    house.requests().chunk("c", Some("!"));
    peer.wait_for_end();
    assert!(house.expect_error("c").contains("base64"));
    house.expect_rest();
}

#[test]
fn t9_a_slow_upstream_fails_its_own_request_and_no_other() {
    let mut house = House::with(Settings {
        body_limit: 1 << 20,
        ..Settings::default()
    });
    house.request(
        "slow",
        json!({"method": "POST", "path": "/api", "streaming": true}),
    );
    let mut slow = house.upstream.accept();
    slow.head();
    // The kernel takes some megabytes; nobody reads them.
    let chunk = encode(vec![7; 256 << 10]);
    let until = Instant::now() + FAR;
    while house.peer.state.lock().messages.is_empty() {
        assert!(Instant::now() < until, "never too much");
        house.requests().chunk("slow", Some(&chunk));
    }
    let text = house.expect_error("slow");
    assert!(text.contains("faster than it is taken: 1 MiB"), "{text}");
    slow.wait_for_end();
    house.get("other", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    house.expect("proxy_response", "other");
    house.expect_rest();
}

#[test]
fn an_early_answer_is_delivered_while_the_body_is_still_coming() {
    let mut house = House::new();
    house.request(
        "r",
        json!({"method": "POST", "path": "/api", "streaming": true, "supports_response_streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.head();
    let chunk = encode(vec![7; 1 << 20]);
    for _ in 0..10 {
        house.requests().chunk("r", Some(&chunk));
    }
    peer.answer("413 Content Too Large", "no");
    assert_eq!(house.expect("proxy_response_header", "r")["status"], 413);
    assert_eq!(house.expect_chunk("r"), b"no");
    house.expect("proxy_response_end", "r");
    // What still comes is dropped, and what waited is given back.
    house.requests().chunk("r", Some(&chunk));
    house.requests().end("r");
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn an_early_answer_is_delivered_for_a_large_buffered_body() {
    let mut house = House::new();
    let body = "x".repeat(10 << 20);
    house.request("r", json!({"method": "POST", "path": "/api", "body": body}));
    let mut peer = house.upstream.accept();
    peer.head();
    peer.answer("413 Content Too Large", "no");
    assert_eq!(house.expect("proxy_response", "r")["status"], 413);
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn t31_a_body_beyond_the_limit_is_refused_and_names_it() {
    let mut house = House::with(Settings {
        body_limit: 1 << 20,
        ..Settings::default()
    });
    let body = "x".repeat((1 << 20) + 1);
    house.request("a", json!({"method": "POST", "path": "/api", "body": body}));
    assert!(house.expect_error("a").contains("1 MiB"));
    let encoded = encode(&body);
    house.request(
        "b",
        json!({"method": "POST", "path": "/api", "body": encoded, "body_encoding": "base64"}),
    );
    assert!(house.expect_error("b").contains("1 MiB"));
    house.request(
        "c",
        json!({"method": "POST", "path": "/api", "body_binary": true}),
    );
    assert!(house.requests().binary(&binary("c", body.as_bytes())));
    assert!(house.expect_error("c").contains("1 MiB"));
    // Exactly the limit is within it.
    let body = "x".repeat(1 << 20);
    house.request(
        "d",
        json!({"method": "POST", "path": "/api", "body": encode(&body), "body_encoding": "base64"}),
    );
    let mut peer = house.upstream.accept();
    assert_eq!(peer.request().body.len(), 1 << 20);
    peer.answer("200 OK", "");
    house.expect("proxy_response", "d");
    house.expect_rest();
}

#[test]
fn with_flow_control_a_streamed_body_is_paced() {
    let mut house = House::new();
    house.requests().use_flow_control();
    house.request(
        "r",
        json!({"method": "POST", "path": "/api", "streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.head();
    let chunk = encode(vec![7; 64 << 10]);
    let (mut credit, mut sent, mut taken) = (1 << 20, 0, 0);
    while sent < 4 << 20 {
        while credit >= 64 << 10 {
            house.requests().chunk("r", Some(&chunk));
            credit -= 64 << 10;
            sent += 64 << 10;
        }
        while taken < sent {
            taken += peer.chunk().len();
        }
        let flow = house.expect("proxy_flow", "r");
        credit += flow["credit"].as_u64().expect("a number");
    }
    while taken < sent {
        taken += peer.chunk().len();
    }
    house.requests().end("r");
    assert!(peer.chunk().is_empty());
    peer.answer("200 OK", "");
    loop {
        let message = house.next();
        if message["type"] == "proxy_response" {
            break;
        }
        assert_eq!(message["type"], "proxy_flow");
    }
    house.expect_rest();
}
