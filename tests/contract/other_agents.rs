//! The plane before an agent that isn't ours: it knows no `plane_hello`, so there is
//! no credit (decisions.md §6.2).

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use pipeops_agent::http::client::{Body, CallError};
use pipeops_agent::net::Cancel;
use pipeops_agent::plane::GatewayUrl;
use serde_json::{Value, json};

use crate::support::fake_agent::FakeAgent;
use crate::support::front::{Front, full};
use crate::support::house::House;
use crate::support::pattern::whole;

fn connected() -> (House, FakeAgent, Front) {
    let house = House::with_gateway(GatewayUrl::Stay);
    let agent = FakeAgent::registered(&house, "edge");
    let front = house.front("edge");
    (house, agent, front)
}

/// The id of the next request.
fn request(agent: &mut FakeAgent) -> (String, Value) {
    let mut message = agent.expect("proxy_request");
    let id = message["request_id"].as_str().expect("an id").to_owned();
    (id, message["payload"].take())
}

#[test]
fn answers_in_every_form_of_the_wire() {
    let (_house, mut agent, front) = connected();
    let text = "x".repeat(5000);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes()).expect("packed");
    let base64 = |bytes: &[u8]| base64_simd::STANDARD.encode_to_string(bytes);
    let gzip = base64(&gzip.finish().expect("packed"));
    for (payload, status, body) in [
        (json!({"status": 200, "headers": null}), 200, ""),
        (
            json!({"status": 404, "headers": {"X": ["1"]}, "body": base64(b"no"), "encoding": "base64"}),
            404,
            "no",
        ),
        (
            json!({"status": 200, "headers": {}, "body": gzip, "encoding": "gzip"}),
            200,
            &text,
        ),
    ] {
        let client = front.clone();
        let asked = std::thread::spawn(move || client.get("/api/v1/pods"));
        let (id, request) = request(&mut agent);
        assert_eq!(request["supports_response_streaming"], true);
        agent.send("proxy_response", &id, &payload);
        let answer = asked.join().expect("answered");
        assert_eq!(answer.status, status);
        assert_eq!(String::from_utf8_lossy(&answer.body), body);
    }
    // And as a stream.
    let client = front.clone();
    let asked = std::thread::spawn(move || client.get("/api/v1/pods"));
    let (id, _) = request(&mut agent);
    agent.send(
        "proxy_response_header",
        &id,
        &json!({"status": 201, "headers": null}),
    );
    assert!(agent.chunk(&id, b"one") && agent.chunk(&id, b"two"));
    agent.send("proxy_response_end", &id, &json!({}));
    let answer = asked.join().expect("answered");
    assert_eq!((answer.status, &answer.body[..]), (201, &b"onetwo"[..]));
}

#[test]
fn what_the_agent_says_of_a_failure_is_readable() {
    let (_house, mut agent, front) = connected();
    for (kind, text, status) in [
        (
            "proxy_error",
            "kubernetes API request failed: no route",
            502,
        ),
        ("proxy_response_abort", "service request failed: gone", 502),
        ("proxy_error", "agent busy", 503),
    ] {
        let client = front.clone();
        let asked = std::thread::spawn(move || client.get("/api/v1/pods"));
        let (id, _) = request(&mut agent);
        agent.send(kind, &id, &json!({"error": text}));
        let answer = asked.join().expect("answered");
        assert_eq!(answer.status, status);
        let message = answer.status_message();
        assert!(
            message.contains(text) && message.contains("\"edge\""),
            "{message}"
        );
    }
}

#[test]
fn a_binary_answer_is_not_misread() {
    let (_house, mut agent, front) = connected();
    let client = front.clone();
    let asked = std::thread::spawn(move || client.get("/api/v1/pods"));
    let (id, _) = request(&mut agent);
    let mut message = (id.len() as u16).to_be_bytes().to_vec();
    message.extend_from_slice(id.as_bytes());
    message.extend_from_slice(b"\x00\x02{}body");
    agent.send_binary(message);
    assert_eq!(asked.join().expect("answered").status, 502);
}

#[test]
fn a_slow_client_of_an_agent_without_credit_loses_only_its_own_answer() {
    let (_house, mut agent, front) = connected();
    let cancel = Cancel::new();
    let client = front.clone();
    let opened = std::thread::spawn(move || {
        client
            .open("GET", "/api/v1/large", &[], Body::Empty, &cancel)
            .expect("answered")
    });
    let (id, _) = request(&mut agent);
    agent.send(
        "proxy_response_header",
        &id,
        &json!({"status": 200, "headers": null}),
    );
    let mut slow = opened.join().expect("answered");
    // Nobody reads. What the plane keeps is 8 MiB; some more is in the kernels'
    // buffers between plane and client.
    let data = whole(32 * 1024);
    for _ in 0..(40 << 20) / data.len() {
        assert!(agent.chunk(&id, &data), "the connection stays");
    }
    let cancelled = agent.expect("proxy_cancel");
    assert_eq!(cancelled["request_id"], id.as_str());
    // Others are served.
    let client = front.clone();
    let asked = std::thread::spawn(move || client.get("/api/v1/pods"));
    let (quick, _) = request(&mut agent);
    agent.send(
        "proxy_response",
        &quick,
        &json!({"status": 204, "headers": null}),
    );
    assert_eq!(asked.join().expect("answered").status, 204);
    // And the client sees that it isn't whole.
    let mut received = 0;
    let error = loop {
        match slow.body.chunk(usize::MAX) {
            Ok([]) => panic!("a good end after {received} bytes"),
            Ok(bytes) => received += bytes.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CallError::Body(_)), "{error}");
    assert!(received < 40 << 20);
}

#[test]
fn an_upload_to_an_agent_without_credit_arrives_whole() {
    let (_house, mut agent, front) = connected();
    let client = front.clone();
    let size = 3 << 20;
    let asked = std::thread::spawn(move || client.ask("PUT", "/api/v1/x", &[], full(whole(size))));
    let (id, payload) = request(&mut agent);
    assert_eq!(payload["use_streaming"], true);
    let mut received = Vec::new();
    loop {
        let message = agent.next().expect("goes on");
        assert_eq!(message["request_id"], id.as_str());
        match message["type"].as_str() {
            Some("proxy_request_chunk") => {
                let data = message["payload"]["data"].as_str().expect("data");
                received.extend(base64_simd::STANDARD.decode_to_vec(data).expect("base64"));
            }
            Some("proxy_request_stream_end") => break,
            _ => panic!("{message}"),
        }
    }
    assert!(received == whole(size));
    agent.send(
        "proxy_response",
        &id,
        &json!({"status": 200, "headers": null}),
    );
    assert_eq!(asked.join().expect("answered").status, 200);
}

#[test]
fn an_agent_that_is_lost_in_the_middle_of_an_answer_leaves_it_visibly_unfinished() {
    let (house, mut agent, front) = connected();
    let client = front.clone();
    let opened = std::thread::spawn(move || client.watch("/api/v1/pods?watch=1"));
    let (id, _) = request(&mut agent);
    agent.send(
        "proxy_response_header",
        &id,
        &json!({"status": 200, "headers": null}),
    );
    assert!(agent.chunk(&id, b"one"));
    let mut watch = opened.join().expect("answered");
    watch.expect("one");
    let client = front.clone();
    let waiting = std::thread::spawn(move || client.get("/api/v1/pods"));
    request(&mut agent);
    drop(agent);
    assert!(watch.piece().is_err(), "no good end");
    let answer = waiting.join().expect("answered");
    assert_eq!(answer.status, 502);
    assert!(answer.status_message().contains("was lost"));
    crate::support::wait::until("it has gone", || !house.is_connected("edge"));
}
