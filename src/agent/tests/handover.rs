//! The cluster token changes while the agent runs (control-channel.md T14).

use parking_lot::Mutex;

use super::*;
use crate::control::facts::ClusterFacts;

/// The token that there is now.
#[derive(Clone)]
pub(super) struct Mounted(Arc<Mutex<&'static str>>);

impl ClusterFacts for Mounted {
    fn service_tokens(&self) -> Vec<Secret> {
        vec![Secret::new(*self.0.lock())]
    }
}

impl Mounted {
    pub(super) fn new(token: &'static str) -> Self {
        Self(Arc::new(Mutex::new(token)))
    }

    pub(super) fn replace(&self, token: &'static str) {
        *self.0.lock() = token;
    }
}

/// What was handed over has been stored: the answer to a `register` is dealt with.
pub(super) fn wait_until_known(agent: &Agent, store: &MemoryStore, token: &str) {
    let hash = crate::identity::token_hash(&Secret::new(token));
    let known = |_: &_| store.identity().service_token_hash.as_ref() == Some(&hash);
    agent.wait_until(far(), known).expect("stored");
}

pub(super) fn parts_with(peer: &Peer, facts: &Mounted, store: &Arc<MemoryStore>) -> Parts {
    let mut parts = parts(peer.api_url(), store.clone());
    parts.facts = Arc::new(facts.clone());
    parts.heartbeat.connected = Duration::from_millis(20);
    parts
}

/// The next message that is no heartbeat.
pub(super) fn next_but_heartbeats(conn: &mut Conn) -> Value {
    loop {
        if let Message::Text(text) = conn.socket.read().expect("a message") {
            let value: Value = serde_json::from_str(text.as_str()).expect("JSON");
            if value["type"] != "heartbeat" {
                return value;
            }
        }
    }
}

pub(super) fn handed_over(register: &Value) -> (&Value, &Value) {
    let payload = &register["payload"];
    (&payload["cluster_id"], &payload["k8s_service_token"])
}

/// Users of the plane got 401 when the first token was an hour old.
#[test]
fn beside_a_gateway_the_controller_hears_of_a_new_token() {
    let (peer, store, facts) = (Peer::new(), Arc::default(), Mounted::new("one"));
    let parts = parts_with(&peer, &facts, &store);
    let health = parts.health.clone();
    let agent = Agent::start(parts).expect("started");
    let register = peer.register(Some(&peer.gateway_url()));
    assert_eq!(handed_over(&register).1, "one");
    let mut gateway = peer.accept();
    gateway.ack();
    facts.replace("two");
    // A second connection, while the first goes on.
    let mut controller = peer.accept();
    assert_eq!(controller.uri, "/api/v1/clusters/agent/ws");
    assert_eq!(controller.authorization, "Bearer t-1");
    let register = controller.expect("register");
    assert_eq!(handed_over(&register), (&json!("c-1"), &json!("two")));
    gateway.send(&json!({"type": "ping", "request_id": "p"}));
    assert_eq!(next_but_heartbeats(&mut gateway)["request_id"], "p");
    // Asked there all the same: no request is met with silence.
    controller
        .send(&json!({"type": "proxy_request", "request_id": "r", "payload": {"path": "/api"}}));
    assert_eq!(controller.expect("proxy_error")["request_id"], "r");
    controller.send(&json!({
        "type": "register_success", "request_id": register["request_id"],
        "payload": {"cluster_id": "c-1", "cluster_uuid": "u-1", "gateway_ws_url": peer.gateway_url()},
    }));
    assert_eq!(controller.closed(), Some(1000));
    drop(controller);
    let status = agent.status();
    assert_eq!(status.state, ConnectionState::Connected);
    assert_eq!(status.connections, 1);
    assert!(health.snapshot().registered && health.snapshot().connected);
    wait_until_known(&agent, &store, "two");
    stop(agent, gateway);

    // It is known what was handed over, also after a restart.
    let agent = Agent::start(parts_with(&peer, &facts, &store)).expect("started");
    let mut gateway = peer.accept();
    for _ in 0..3 {
        gateway.ack();
    }
    stop(agent, gateway);
    // Another pod, another token: resuming doesn't depend on it.
    facts.replace("three");
    let agent = Agent::start(parts_with(&peer, &facts, &store)).expect("started");
    let mut gateway = peer.accept();
    assert!(gateway.uri.starts_with("/ws?"), "{}", gateway.uri);
    gateway.ack();
    let mut controller = peer.accept();
    assert_eq!(handed_over(&controller.expect("register")).1, "three");
    // An answer that never comes doesn't keep the agent from its end.
    agent.stop();
    assert_eq!(gateway.closed(), Some(1000));
    drop(gateway);
    controller.closed();
    agent.wait().expect("an orderly end");
}

#[test]
fn a_controller_hears_of_it_on_the_live_connection() {
    let (peer, store, facts) = (Peer::new(), Arc::default(), Mounted::new("one"));
    let agent = Agent::start(parts_with(&peer, &facts, &store)).expect("started");
    let mut controller = peer.accept();
    for token in ["one", "two"] {
        let register = next_but_heartbeats(&mut controller);
        assert_eq!(handed_over(&register).1, token);
        controller.send(&json!({
            "type": "register_success", "request_id": register["request_id"],
            "payload": {"cluster_id": "c-1"},
        }));
        facts.replace("two");
    }
    wait_until_known(&agent, &store, "two");
    assert_eq!(agent.status().connections, 1);
    stop(agent, controller);
}

#[test]
fn over_http_it_is_another_call() {
    let (peer, store, facts) = (Peer::new(), Arc::default(), Mounted::new("one"));
    let mut parts = parts_with(&peer, &facts, &store);
    parts.session.http_only = true;
    let agent = Agent::start(parts).expect("started");
    let (_, body) = peer.answer("200 OK", r#"{"cluster_id":"c-1"}"#);
    assert!(body.contains("\"one\""), "{body}");
    facts.replace("two");
    let body = loop {
        let (asked, body) = peer.answer("200 OK", r#"{"cluster_id":"c-1"}"#);
        if asked.contains("/register ") {
            break body;
        }
    };
    assert!(
        body.contains("\"two\"") && body.contains("\"c-1\""),
        "{body}"
    );
    assert_eq!(agent.status().state, ConnectionState::Connected);
    drop(peer);
    agent.stop();
    agent.wait().expect("an orderly end");
}
