//! Users: requests that go through, and how their answers come back.

use std::io::Write;

use serde_json::{Value, json};

use super::house::{CONTROLLER, House, id, name, unchunk};
use crate::plane::*;

#[test]
fn a_request_goes_through_and_its_answer_comes_back() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    let more = "Accept: application/json\r\nConnection: X-Mine\r\nX-Mine: 1\r\n";
    client.ask(
        "GET",
        "/clusters/edge/api/v1/pods%20x?watch=0&q=%2F",
        &token,
        more,
    );
    let request = agent.expect("proxy_request");
    assert_eq!(request["method"], "GET");
    assert_eq!(request["path"], "/api/v1/pods x");
    assert_eq!(request["query"], "watch=0&q=%2F");
    assert_eq!(request["supports_response_streaming"], true);
    assert!(request["use_streaming"].is_null(), "there is no body");
    let headers = json!({"Accept": ["application/json"], "X-Forwarded-For": ["127.0.0.1"]});
    assert_eq!(
        request["headers"], headers,
        "and the user's token stays here"
    );
    let id = id(&request);
    let headers = json!({
        "Content-Type": ["text/plain"], "Connection": "close", "Content-Length": ["5"],
    });
    agent.header(&id, 418, headers);
    agent.chunk(&id, b"hel");
    agent.chunk(&id, b"lo");
    agent.end(&id);
    let head = client.head();
    assert_eq!(
        (head.status, head.field("content-type")),
        (418, Some("text/plain"))
    );
    assert_eq!(head.field("content-length"), Some("5"));
    assert_eq!(head.field("connection"), None);
    assert_eq!(client.body(&head).as_deref(), Some(&b"hello"[..]));
    // The same connection serves the next.
    client.ask("HEAD", "/clusters/edge/api", &token, "");
    let id = agent.request();
    agent.header(&id, 200, json!({"Content-Length": ["77"]}));
    agent.end(&id);
    let head = client.head();
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("77"))
    );
    client.get("/clusters/edge/third", &token);
    assert_eq!(agent.expect("proxy_request")["path"], "/third");
}

#[test]
fn a_watch_is_passed_on_as_it_comes() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.get("/clusters/edge/api/v1/pods?watch=1", &token);
    let id = agent.request();
    agent.header(&id, 200, json!({"Content-Type": ["application/json"]}));
    let head = client.head();
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    for event in ["one", "two", "three"] {
        // Each is there before the next exists.
        agent.chunk(&id, event.as_bytes());
        assert_eq!(client.chunk().expect("came"), event.as_bytes());
    }
    agent.end(&id);
    assert_eq!(client.chunk().expect("came"), b"");
}

#[test]
fn a_small_body_goes_in_one_piece() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    for (more, body, length) in [
        ("Content-Length: 5\r\n", "hello", json!(["5"])),
        (
            "Transfer-Encoding: chunked\r\n",
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            json!(null),
        ),
    ] {
        client.ask("POST", "/clusters/edge/api", &token, more);
        client.send(body);
        let request = agent.expect("proxy_request");
        assert_eq!(request["use_streaming"], true);
        assert_eq!(request["headers"]["Content-Length"], length);
        let id = id(&request);
        let mut got = Vec::new();
        while got.len() < 5 {
            got.extend(unchunk(&agent.expect("proxy_request_chunk")));
        }
        assert_eq!(got, b"hello");
        assert_eq!(agent.expect("proxy_request_stream_end")["id"], id.as_str());
        agent.header(&id, 201, json!({"Content-Length": ["0"]}));
        agent.end(&id);
        assert_eq!(client.head().status, 201);
    }
}

#[test]
fn buffered_answers_are_understood() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").expect("packed");
    let gzip = base64_simd::STANDARD.encode_to_string(gzip.finish().expect("packed"));
    for (body, encoding) in [("aGVsbG8=", "base64"), (&*gzip, "gzip")] {
        client.get("/clusters/edge/x", &token);
        let id = agent.request();
        let payload = json!({"status": 200, "headers": null, "body": body, "encoding": encoding});
        // As the controller's own peers do: JSON in a binary message.
        let message = json!({"type": "proxy_response", "request_id": id, "payload": payload});
        agent.send_binary(message.to_string().into_bytes());
        let head = client.head();
        assert_eq!(
            client.body(&head).as_deref(),
            Some(&b"hello"[..]),
            "{encoding}"
        );
    }
    // The binary form can't be read safely: it says so.
    client.get("/clusters/edge/x", &token);
    let id = agent.request();
    let length = u16::try_from(id.len()).expect("short").to_be_bytes();
    agent.send_binary(
        [
            &length[..],
            id.as_bytes(),
            &[0, 0, 0, 200, 0, 0, 0, 2],
            b"{}hi",
        ]
        .concat(),
    );
    assert_eq!(client.json().0, 502);
}

#[test]
fn the_list_shows_what_the_token_reaches() {
    let house = House::new();
    let _agents = [house.registered("a"), house.registered("b")];
    let all = house.user_token();
    let one = house.token(Grant::User {
        scope: Scope::Named([name("b")].into()),
        access: Access::ReadOnly,
    });
    let mut client = house.client();
    let mut names = |token: &str| -> Vec<Value> {
        client.get("/clusters", token);
        let (_, mut body) = client.json();
        let clusters = body["clusters"].as_array_mut().expect("a list");
        clusters.iter_mut().map(|c| c["name"].take()).collect()
    };
    assert_eq!(names(&all), ["a", "b"]);
    assert_eq!(names(&one), ["b"]);
    client.get("/clusters", "wrong");
    assert_eq!(client.json().0, 401);
}

#[test]
fn the_clusters_own_credential_is_lent_and_the_users_is_not() {
    let house = House::new();
    let token = house.user_token();
    let mut agent = house
        .agent(CONTROLLER, &house.agent_token("edge"))
        .expect("let in");
    agent.answer_hello(true);
    let payload = json!({"agent_id": "1", "name": "edge", "k8s_service_token": "svc-token"});
    agent.send("register", "req_1", payload);
    agent.expect("register_success");
    house.attached("edge");
    let mut client = house.client();
    client.get("/clusters/edge/api", &token);
    let request = agent.expect("proxy_request");
    assert_eq!(
        request["headers"]["Authorization"],
        json!(["Bearer svc-token"])
    );
    assert!(!request.to_string().contains(&token));
}
