//! What may become of a registration beside a gateway (control-channel.md T14).

use super::handover::{Mounted, handed_over, next_but_heartbeats, parts_with, wait_until_known};
use super::*;

/// On the gateway, with a cluster token that has been replaced since.
struct Scene {
    peer: Peer,
    store: Arc<MemoryStore>,
    agent: Agent,
    gateway: Conn,
}

impl Scene {
    fn new(change: impl FnOnce(&mut Parts)) -> Self {
        let (peer, store, facts) = (Peer::new(), Arc::default(), Mounted::new("one"));
        let mut parts = parts_with(&peer, &facts, &store);
        change(&mut parts);
        let agent = Agent::start(parts).expect("started");
        peer.register(Some(&peer.gateway_url()));
        let mut gateway = peer.accept();
        gateway.ack();
        facts.replace("two");
        Self {
            peer,
            store,
            agent,
            gateway,
        }
    }

    /// The connection beside the gateway's, and the `register` on it.
    fn beside(&self) -> (Conn, Value) {
        let mut controller = self.peer.accept();
        assert_eq!(controller.uri, "/api/v1/clusters/agent/ws");
        let register = controller.expect("register");
        assert_eq!(handed_over(&register), (&json!("c-1"), &json!("two")));
        (controller, register)
    }

    fn success(&self, register: &Value) -> Value {
        json!({
            "type": "register_success", "request_id": register["request_id"],
            "payload": {"cluster_id": "c-1", "gateway_ws_url": self.peer.gateway_url()},
        })
    }

    /// The gateway's connection has seen nothing of it.
    fn undisturbed(mut self) {
        self.gateway
            .send(&json!({"type": "ping", "request_id": "p"}));
        assert_eq!(next_but_heartbeats(&mut self.gateway)["request_id"], "p");
        let status = self.agent.status();
        assert_eq!(status.state, ConnectionState::Connected);
        assert_eq!(status.connections, 1);
        stop(self.agent, self.gateway);
    }
}

#[test]
fn a_controller_without_websockets_hears_of_it_over_http() {
    for status in [
        "404 Not Found",
        "405 Method Not Allowed",
        "426 Upgrade Required",
        "501 Not Implemented",
    ] {
        let scene = Scene::new(|_| {});
        let (asked, _) = scene.peer.answer(status, "");
        assert!(
            asked.starts_with("GET /api/v1/clusters/agent/ws "),
            "{asked}"
        );
        let (asked, body) = scene
            .peer
            .answer("200 OK", r#"{"cluster_id":"c-1","cluster_uuid":"u-1"}"#);
        assert!(
            asked.starts_with("POST /api/v1/clusters/agent/register "),
            "{asked}"
        );
        let register = json!({"payload": serde_json::from_str::<Value>(&body).expect("JSON")});
        assert_eq!(handed_over(&register), (&json!("c-1"), &json!("two")));
        wait_until_known(&scene.agent, &scene.store, "two");
        scene.undisturbed();
    }
}

/// `pipeops.transport: websocket` means it here, too; so does any other refusal.
#[test]
fn nothing_is_sent_over_http_where_that_is_not_wanted_or_no_help() {
    let websocket_only = |parts: &mut Parts| parts.session.websocket_only = true;
    for (scene, status) in [
        (Scene::new(websocket_only), "404 Not Found"),
        (Scene::new(|_| {}), "503 Service Unavailable"),
    ] {
        scene.peer.answer(status, "");
        // The controller is asked for nothing more until a minute is over: what comes
        // next is the gateway's, dialled anew.
        let Scene {
            peer,
            agent,
            gateway,
            ..
        } = scene;
        gateway.cut();
        let mut gateway = peer.accept();
        assert!(gateway.uri.starts_with("/ws?"), "{}", gateway.uri);
        gateway.ack();
        stop(agent, gateway);
    }
}

/// An answer may take longer than its limit where the controller has said so.
#[test]
fn a_registration_in_progress_is_waited_for() {
    let limit = Duration::from_secs(2);
    let scene = Scene::new(|parts| {
        parts.session.register_limit = limit;
        parts.session.register_limit_in_progress = Duration::from_mins(1);
    });
    let (mut controller, register) = scene.beside();
    controller.send(&json!({"type": "register_in_progress", "payload": {}}));
    std::thread::sleep(limit + Duration::from_millis(100)); // the limit itself
    controller.send(&scene.success(&register));
    assert_eq!(controller.closed(), Some(1000));
    wait_until_known(&scene.agent, &scene.store, "two");
    scene.undisturbed();
}

#[test]
fn an_answer_that_does_not_come_in_time_is_no_harm() {
    let scene = Scene::new(|parts| {
        parts.session.register_limit = Duration::from_secs(2);
        parts.session.register_limit_in_progress = Duration::from_secs(2);
    });
    let (mut controller, _) = scene.beside();
    assert_eq!(controller.closed(), Some(1000));
    drop(controller);
    wait_until_known(&scene.agent, &scene.store, "one");
    scene.undisturbed();
}

/// Other answers than the one to this registration say nothing about it.
#[test]
fn answers_to_somebody_else_are_not_taken_for_this_one() {
    let scene = Scene::new(|_| {});
    let (mut controller, register) = scene.beside();
    for message in [
        json!({"type": "error", "request_id": "other", "payload": {"error": "cluster not found"}}),
        json!({"type": "error", "payload": {"error": "a bad day"}}),
        json!({"type": "register_success", "request_id": "other", "payload": {"cluster_id": "x"}}),
        json!({"type": "register_success", "payload": {"cluster_id": "x"}}),
    ] {
        controller.send(&message);
    }
    controller.send(&scene.success(&register));
    assert_eq!(controller.closed(), Some(1000));
    wait_until_known(&scene.agent, &scene.store, "two");
    assert_eq!(scene.store.identity().cluster_id.as_deref(), Some("c-1"));
    scene.undisturbed();
}

#[test]
fn a_refusal_is_no_reason_to_leave_the_gateway() {
    let scene = Scene::new(|_| {});
    let (mut controller, register) = scene.beside();
    controller.send(&json!({
        "type": "error", "request_id": register["request_id"], "payload": {"error": "no such plan"},
    }));
    assert_eq!(controller.closed(), Some(1000));
    drop(controller);
    scene.undisturbed();
}

/// decisions.md §6.1: it may be said with or without the registration's id.
#[test]
fn a_controller_that_does_not_know_the_cluster_gets_a_registration_of_its_own() {
    for named in [true, false] {
        let scene = Scene::new(|_| {});
        let (mut controller, register) = scene.beside();
        let mut error =
            json!({"type": "error", "payload": {"error": "Cluster Not Registered here"}});
        if named {
            error["request_id"] = register["request_id"].clone();
        }
        controller.send(&error);
        assert_eq!(controller.closed(), Some(1000));
        drop(controller);
        let Scene {
            peer,
            store,
            agent,
            mut gateway,
        } = scene;
        // The gateway is left in order, and the stored id is tried first.
        assert_eq!(gateway.closed(), Some(1000));
        drop(gateway);
        let register = peer.register(Some(&peer.gateway_url()));
        assert_eq!(handed_over(&register), (&json!("c-1"), &json!("two")));
        let mut gateway = peer.accept();
        gateway.ack();
        wait_until_known(&agent, &store, "two");
        stop(agent, gateway);
    }
}
