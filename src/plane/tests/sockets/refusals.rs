//! What is refused, in words that kubectl prints.

use serde_json::{Value, json};

use super::farewell;
use crate::plane::tests::house::{CONTROLLER, EXEC, House, id};
use crate::plane::*;

/// What an API server says to a user without the right.
const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods \"p\" is forbidden: User \"u\" cannot create resource \"pods/exec\"","reason":"Forbidden","code":403}"#;

fn base64(text: &str) -> String {
    base64_simd::STANDARD.encode_to_string(text)
}

#[test]
fn the_api_servers_refusal_is_the_clients_and_its_second_trys() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.ask_socket(EXEC, &token, "v5.channel.k8s.io");
    let id = id(&agent.expect("proxy_websocket_start"));
    let payload = json!({
        "error": "the API server answered 403", "request_id": &*id, "status": 403,
        "headers": {
            "Content-Type": ["application/json"], "Content-Length": ["9999"],
            "Connection": ["close, X-Hop"], "X-Hop": ["1"], "Upgrade": ["x"],
            "Audit-Id": ["a-1"], "bad\r\nname": ["x"],
        },
        "body": base64(FORBIDDEN), "encoding": "base64",
    });
    agent.send("proxy_error", &id, payload);
    agent.send("proxy_websocket_close", &id, json!({"stream_id": &*id}));
    let head = client.head();
    assert_eq!(head.status, 403);
    assert_eq!(head.field("content-type"), Some("application/json"));
    assert_eq!(head.field("audit-id"), Some("a-1"));
    for dropped in ["x-hop", "upgrade", "connection"] {
        assert_eq!(head.field(dropped), None, "{dropped}");
    }
    let body = client.body(&head).expect("a body");
    assert_eq!(body, FORBIDDEN.as_bytes());
    // kubectl tries again, and prints what it is told then. Nobody else does that, and
    // nobody else is told.
    let mut stranger = house.client();
    stranger.ask_spdy(EXEC, &house.user_token());
    assert_eq!(stranger.json().0, 501);
    client.ask_spdy(EXEC, &token);
    let head = client.head();
    assert_eq!((head.status, head.field("audit-id")), (403, Some("a-1")));
    assert_eq!(client.body(&head).expect("a body"), FORBIDDEN.as_bytes());
    // Who begins with SPDY is told what to do.
    client.ask_spdy(EXEC, &token);
    let (status, body) = client.json();
    assert_eq!((status, &body["kind"]), (501, &json!("Status")));
    let text = body["message"].as_str().expect("text");
    assert!(text.contains("kubectl 1.30"), "{text}");
    house.until(|plane| plane.clusters()[0].requests == 0);
}

#[test]
fn an_agent_that_fails_is_a_status() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let error = |text: &str| ("proxy_error", json!({"error": text}));
    for ((kind, payload), code, word) in [
        (error("connection refused"), 502, "connection refused"),
        (error("agent busy"), 503, "agent busy"),
        (
            ("proxy_websocket_close", json!({})),
            502,
            "without an answer",
        ),
        (
            ("proxy_websocket_data", json!({"data": "Ag=="})),
            502,
            "before",
        ),
        // Nobody offered it; a browser would end there.
        (
            (
                "proxy_websocket_started",
                json!({"protocol": "v4.channel.k8s.io"}),
            ),
            502,
            "subprotocol",
        ),
        (
            (
                "proxy_websocket_started",
                json!({"protocol": "x\r\nX-Mine: 1"}),
            ),
            502,
            "subprotocol",
        ),
        // No answer to an upgrade.
        (
            ("proxy_error", json!({"error": "odd", "status": 101})),
            502,
            "odd",
        ),
    ] {
        let mut client = house.client();
        client.ask_socket(EXEC, &token, "v5.channel.k8s.io");
        let id = id(&agent.expect("proxy_websocket_start"));
        agent.send(kind, &id, payload);
        let (status, body) = client.json();
        assert_eq!(status, code, "{body}");
        let text = body["message"].as_str().expect("text");
        assert!(text.contains(word), "{text}");
        // And so the second try.
        client.ask_spdy(EXEC, &token);
        assert_eq!(client.json(), (status, body));
        if kind == "proxy_websocket_started" {
            assert_eq!(farewell(&mut agent, &id), (None, None), "it isn't used");
        }
    }
    house.until(|plane| plane.clusters()[0].requests == 0);
}

#[test]
fn an_agent_without_the_feature_is_never_asked() {
    for features in [json!(["flow"]), json!(["raw-streams"]), Value::Null] {
        let house = House::new();
        let mut agent = house
            .agent(CONTROLLER, &house.agent_token("edge"))
            .expect("let in");
        if features.is_null() {
            agent.answer_hello(false);
        } else {
            agent.expect("plane_hello");
            agent.send("plane_hello_ack", "", json!({"features": features}));
        }
        agent.register("edge", "agent-1");
        agent.expect("register_success");
        house.attached("edge");
        let (token, mut client) = (house.user_token(), house.client());
        client.ask_socket(EXEC, &token, "v5.channel.k8s.io");
        let (status, body) = client.json();
        assert_eq!((status, &body["reason"]), (501, &json!("NotImplemented")));
        let text = body["message"].as_str().expect("text");
        assert!(text.contains("raw-streams"), "{text}");
        client.ask_spdy(EXEC, &token);
        assert_eq!(client.json(), (status, body));
        // What it can do it does.
        client.get("/clusters/edge/api", &token);
        assert_eq!(agent.expect("proxy_request")["path"], "/api");
    }
}

#[test]
fn requests_that_are_no_upgrade_are_refused_before_anybody_hears_of_them() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let reader = house.token(Grant::User {
        scope: Scope::All,
        access: Access::ReadOnly,
    });
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let away = EXEC.replace("edge", "away");
    for (method, path, token, fields, code) in [
        ("POST", EXEC, &token, [upgrade, version, key], 405),
        ("GET", EXEC, &token, [upgrade, version, ""], 400),
        ("GET", EXEC, &token, [upgrade, "", key], 426),
        ("GET", EXEC, &token, ["", version, key], 426),
        (
            "GET",
            EXEC,
            &token,
            [upgrade, version, "Content-Length: 5\r\n"],
            400,
        ),
        ("GET", EXEC, &reader, [upgrade, version, key], 403),
        ("GET", &away, &token, [upgrade, version, key], 404),
        (
            "GET",
            EXEC,
            &token,
            [
                upgrade,
                version,
                "Sec-WebSocket-Key: x\r\nImpersonate-User: root\r\n",
            ],
            400,
        ),
    ] {
        let mut client = house.client();
        client.ask(method, path, token, &fields.concat());
        let (status, body) = client.json();
        assert_eq!(status, code, "{method} {fields:?}: {body}");
        assert_eq!(
            (&body["kind"], &body["code"]),
            (&json!("Status"), &json!(code))
        );
    }
    let mut client = house.client();
    let fields = [upgrade, version, key, "Impersonate-User: root\r\n"].concat();
    client.ask("GET", EXEC, &token, &fields);
    assert_eq!(client.json().0, 403);
    // A watch is a read, whatever carries it.
    let mut client = house.client();
    client.ask_socket("/clusters/edge/api/v1/pods?watch=true", &reader, "x");
    let start = agent.expect("proxy_websocket_start");
    assert_eq!(
        start["path"], "/api/v1/pods",
        "the first that the agent hears"
    );
}
