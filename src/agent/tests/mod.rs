//! The whole life cycle against a scripted peer.

mod beside;
mod handover;
mod http_mode;
mod peer;
mod tunnels;
mod work;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

use super::*;
use crate::config::{Secret, TokenSource};
use crate::control::session::ConnectionState;
use crate::identity::{Identity, MemoryStore, Store};
use peer::{Conn, Peer, far, parts, start};

/// On the gateway, heartbeat acknowledged.
fn on_gateway(peer: &Peer) -> (Agent, Arc<MemoryStore>, Conn) {
    let (agent, store) = start(peer);
    peer.register(Some(&peer.gateway_url()));
    let mut gateway = peer.accept();
    gateway.ack();
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acknowledged");
    (agent, store, gateway)
}

/// Closes the peer's side of an orderly end.
fn stop(agent: Agent, mut last: Conn) {
    agent.stop();
    assert_eq!(last.closed(), Some(1000));
    // A server closes the socket when both have said goodbye.
    drop(last);
    agent.wait().expect("an orderly end");
}

#[test]
fn registration_switch_heartbeat_and_an_orderly_end() {
    let peer = Peer::new();
    let parts_store = Arc::new(MemoryStore::default());
    let parts = parts(peer.api_url(), parts_store.clone());
    let health = parts.health.clone();
    let agent = Agent::start(parts).expect("started");
    let mut controller = peer.accept();
    assert_eq!(controller.uri, "/api/v1/clusters/agent/ws");
    assert_eq!(controller.authorization, "Bearer t-1");
    let register = controller.expect("register");
    assert_eq!(register["payload"]["name"], "bench");
    assert_eq!(
        register["payload"]["metadata"]["registration_mode"],
        "fresh"
    );
    assert!(register["payload"].get("cluster_id").is_none());
    assert!(
        !register["payload"].to_string().contains("t-1"),
        "the token stays in the header"
    );
    let id = register["request_id"].as_str().expect("an id");
    assert!(id.starts_with("req_") && id.ends_with("_bench-agent"));
    assert_eq!(agent.status().state, ConnectionState::Connecting);
    assert!(!health.snapshot().registered);
    controller.send(&json!({
        "type": "register_success", "request_id": id,
        "payload": {"cluster_id": "c-1", "cluster_uuid": "u-1", "gateway_ws_url": peer.gateway_url()},
    }));
    assert_eq!(controller.closed(), Some(1000));
    drop(controller);
    // Stored before the gateway is dialled (it waits in accept).
    let stored = parts_store.identity();
    assert_eq!(stored.cluster_id.as_deref(), Some("c-1"));
    assert_eq!(stored.cluster_uuid.as_deref(), Some("u-1"));

    let mut gateway = peer.accept();
    assert_eq!(
        gateway.uri,
        "/ws?agent_version=1.0.0-dev&cluster_uuid=u-1&supports_binary=true\
         &supports_response_streaming=true&supports_streaming=true&supports_websocket=true\
         &supports_yamux=true"
    );
    assert_eq!(gateway.authorization, "Bearer t-1");
    // Said before the agent has said anything: its heartbeat is first all the same.
    gateway.send(&json!({"type": "ping", "request_id": "p"}));
    let heartbeat = gateway.expect("heartbeat");
    assert_eq!(heartbeat["payload"]["cluster_id"], "c-1");
    assert_eq!(heartbeat["payload"]["status"], "healthy");
    assert_eq!(heartbeat["payload"]["tunnel_status"], "connected");
    assert!(heartbeat.get("request_id").is_none());
    assert_eq!(gateway.expect("pong")["request_id"], "p");
    gateway.send(&json!({"type": "heartbeat_ack", "payload": {"received_at": "x"}}));
    let status = agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acknowledged");
    assert_eq!(status.cluster_id.as_deref(), Some("c-1"));
    assert_eq!(
        status.endpoint,
        Some(format!("ws://{}/ws", peer.authority()))
    );
    assert!(health.snapshot().healthy);
    stop(agent, gateway);
    assert!(!health.snapshot().connected);
}

#[test]
fn without_a_gateway_the_controller_is_the_place_to_stay() {
    let peer = Peer::new();
    let (agent, store) = start(&peer);
    let mut controller = peer.accept();
    let register = controller.expect("register");
    controller.send(&json!({"type": "register_in_progress", "payload": {}}));
    // JSON in a binary message, as the controller sends it, and a different shape.
    let success = json!({
        "type": "register_success", "request_id": register["request_id"],
        "payload": {"cluster": {"id": "c-7"}},
    });
    let success = Message::binary(success.to_string().into_bytes());
    controller.socket.send(success).expect("sent");
    assert_eq!(
        controller.expect("heartbeat")["payload"]["cluster_id"],
        "c-7"
    );
    assert_eq!(store.identity().cluster_id.as_deref(), Some("c-7"));
    // Back on the controller it goes on without registering (§12.3).
    controller.cut();
    let mut controller = peer.accept();
    assert_eq!(controller.uri, "/api/v1/clusters/agent/ws");
    controller.ack();
    stop(agent, controller);
}

#[test]
fn answers_to_somebody_else_are_not_ours() {
    let peer = Peer::new();
    let (agent, _) = start(&peer);
    let mut controller = peer.accept();
    let register = controller.expect("register");
    for id in [json!("req_1_other"), json!(null)] {
        controller.send(&json!({
            "type": "register_success", "request_id": id, "payload": {"cluster_id": "wrong"},
        }));
    }
    controller.send(&json!({
        "type": "register_success", "request_id": register["request_id"], "payload": {"cluster_id": "right"},
    }));
    assert_eq!(
        controller.expect("heartbeat")["payload"]["cluster_id"],
        "right"
    );
    stop(agent, controller);
}

#[test]
fn stored_ids_resume_without_registering() {
    let peer = Peer::new();
    let (agent, store, gateway) = on_gateway(&peer);
    stop(agent, gateway);
    let agent = Agent::start(parts(peer.api_url(), store.clone())).expect("started");
    let mut gateway = peer.accept();
    assert!(gateway.uri.contains("cluster_uuid=u-1"), "{}", gateway.uri);
    assert_eq!(gateway.expect("heartbeat")["payload"]["cluster_id"], "c-1");
    stop(agent, gateway);

    // Another token: a full registration, with the stored id.
    let mut changed = parts(peer.api_url(), store);
    changed.token = TokenSource::Literal(Secret::new("t-2"));
    let agent = Agent::start(changed).expect("started");
    let register = peer.register(None);
    assert_eq!(register["payload"]["cluster_id"], "c-1");
    assert_eq!(
        register["payload"]["metadata"]["registration_mode"],
        "resume"
    );
    agent.stop();
    agent.wait().expect("an orderly end");
}

#[test]
fn t02_a_resume_that_is_refused_becomes_a_registration() {
    let peer = Peer::new();
    let (agent, store, gateway) = on_gateway(&peer);
    stop(agent, gateway);
    let agent = Agent::start(parts(peer.api_url(), store)).expect("started");
    let (asked, _) = peer.answer("401 Unauthorized", "{}");
    assert!(asked.starts_with("GET /ws?"), "{asked}");
    assert_eq!(peer.register(None)["payload"]["cluster_id"], "c-1");
    agent.stop();
    agent.wait().expect("an orderly end");
}

#[test]
fn a_refusal_ends_the_agent_with_one_clear_line() {
    let refused = |peer: Peer, act: &dyn Fn(&Peer)| {
        let (agent, store) = start(&peer);
        act(&peer);
        let error = agent.wait().expect_err("refused");
        assert!(matches!(error, AgentError::Refused(_)), "{error}");
        assert_eq!(store.identity().cluster_id, None);
        error.to_string()
    };
    let line = refused(Peer::new(), &|peer| {
        peer.answer("401 Unauthorized", r#"{"error":"bad token"}"#);
    });
    assert!(line.contains("401") && line.contains("bad token"), "{line}");
    // T6: at once, not after half a minute.
    let line = refused(Peer::new(), &|peer| {
        let mut controller = peer.accept();
        let register = controller.expect("register");
        controller.send(&json!({
            "type": "error", "request_id": register["request_id"], "payload": {"error": "no such plan"},
        }));
        assert_eq!(controller.closed(), Some(1000));
    });
    assert_eq!(
        line,
        "the control plane refused the registration: no such plan"
    );
    refused(Peer::new(), &|peer| {
        let mut controller = peer.accept();
        controller.expect("register");
        controller.close(1008);
    });
    refused(Peer::new(), &|peer| {
        let mut controller = peer.accept();
        let register = controller.expect("register");
        controller.send(&json!({
            "type": "register_success", "request_id": register["request_id"], "payload": {},
        }));
        controller.closed();
    });
}

#[test]
fn t01_a_controller_that_is_not_there_yet_is_waited_for() {
    let peer = Peer::new();
    let (agent, _) = start(&peer);
    // Nothing of this is a refusal.
    drop(peer.stream());
    peer.answer("503 Service Unavailable", "");
    peer.answer("400 Bad Request", "");
    peer.answer("302 Found", "");
    let mut controller = peer.accept();
    controller.expect("register");
    controller.close(1000);
    assert_eq!(agent.status().state, ConnectionState::Connecting);
    peer.register(None);
    agent
        .wait_until(far(), |status| status.connections == 1)
        .expect("registered");
    agent.stop();
    agent.wait().expect("an orderly end");
}

#[test]
fn a_forbidding_page_for_people_is_no_refusal() {
    let peer = Peer::new();
    let (agent, _) = start(&peer);
    let stream = peer.stream();
    let mut head = String::new();
    let mut reader = BufReader::new(&stream);
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).expect("a line");
    }
    let page =
        "HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    (&stream).write_all(page.as_bytes()).expect("written");
    peer.register(None);
    agent.stop();
    agent.wait().expect("an orderly end");
}

#[test]
fn a_lost_connection_comes_back_with_a_heartbeat_first() {
    let peer = Peer::new();
    let (agent, _, gateway) = on_gateway(&peer);
    gateway.cut();
    agent
        .wait_until(far(), |status| {
            status.state == ConnectionState::Reconnecting
        })
        .expect("noticed at once");
    let mut gateway = peer.accept();
    assert!(gateway.uri.starts_with("/ws?"), "the same endpoint");
    gateway.ack();
    // Closed in order by the peer: the same.
    gateway.close(1001);
    let mut gateway = peer.accept();
    gateway.ack();
    let status = agent
        .wait_until(far(), |status| status.heartbeat_acks == 3)
        .expect("acknowledged");
    assert_eq!(status.connections, 3);
    stop(agent, gateway);
}

#[test]
fn t10_a_gateway_that_forgot_us_sends_us_to_the_controller() {
    let peer = Peer::new();
    let (agent, _, mut gateway) = on_gateway(&peer);
    gateway.send(&json!({"type": "error", "payload": {"error": "Cluster not registered"}}));
    assert_eq!(gateway.closed(), Some(1000));
    drop(gateway);
    let register = peer.register(Some(&peer.gateway_url()));
    assert_eq!(register["payload"]["cluster_id"], "c-1");
    let mut gateway = peer.accept();
    gateway.ack();
    stop(agent, gateway);
}

#[test]
fn an_unknown_stored_id_is_registered_anew_on_the_same_connection() {
    let peer = Peer::new();
    let store = Arc::new(MemoryStore::new(Identity {
        cluster_id: Some("gone".into()),
        ..Identity::default()
    }));
    let agent = Agent::start(parts(peer.api_url(), store.clone())).expect("started");
    let mut controller = peer.accept();
    let first = controller.expect("register");
    assert_eq!(first["payload"]["cluster_id"], "gone");
    controller.send(&json!({
        "type": "error", "request_id": first["request_id"], "payload": {"error": "cluster not found"},
    }));
    let second = controller.expect("register");
    assert!(second["payload"].get("cluster_id").is_none());
    assert_ne!(first["request_id"], second["request_id"]);
    // Kept until a new one is given.
    assert_eq!(store.identity().cluster_id.as_deref(), Some("gone"));
    controller.send(&json!({
        "type": "register_success", "request_id": second["request_id"], "payload": {"cluster_id": "new"},
    }));
    controller.expect("heartbeat");
    assert_eq!(store.identity().cluster_id.as_deref(), Some("new"));
    stop(agent, controller);
}

#[test]
fn unknown_types_get_one_fallback_per_connection() {
    let peer = Peer::new();
    let (agent, _, mut gateway) = on_gateway(&peer);
    for _ in 0..3 {
        gateway.send(&json!({"type": "deploy", "request_id": "u-1"}));
    }
    gateway.send(&json!({"type": "ping"}));
    let fallback = gateway.expect("protocol_fallback");
    assert_eq!(fallback["payload"]["unknown_type"], "deploy");
    gateway.expect("pong");
    gateway.cut();
    let mut gateway = peer.accept();
    gateway.ack();
    gateway.send(&json!({"type": "deploy"}));
    gateway.expect("protocol_fallback");
    stop(agent, gateway);
}

/// The socket to the controller made a forgotten agent healthy at once.
#[test]
fn a_socket_is_not_ready_while_a_registration_is_waited_for() {
    let peer = Peer::new();
    let parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    let health = parts.health.clone();
    let agent = Agent::start(parts).expect("started");
    peer.register(Some(&peer.gateway_url()));
    let mut gateway = peer.accept();
    gateway.ack();
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acknowledged");
    assert!(health.snapshot().healthy);
    gateway.cut();
    peer.answer("404 Not Found", "");
    let mut controller = peer.accept();
    controller.expect("register");
    let now = health.snapshot();
    assert!(!now.healthy && !now.registered, "{now:?}");
    stop(agent, controller);
}
