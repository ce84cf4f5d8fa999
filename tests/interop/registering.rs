//! From nothing to a heartbeat (control-channel.md §2, §6, §7).

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use pipeops_agent::control::session::ConnectionState;
use pipeops_agent::identity::Store;
use serde_json::{Value, json};

use crate::log_lines;
use crate::stage::{CLUSTER_ID, CLUSTER_UUID, Stage, far};

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn registers_on_the_controller_and_moves_to_the_gateway() {
    let stage = Stage::new();
    let agent = stage.start();
    let upgrade = stage
        .gateway
        .expect(json!({"event": "upgrade", "role": "controller", "status": 101}));
    assert_eq!(upgrade["uri"], "/api/v1/clusters/agent/ws");
    let left = stage.gateway.closed("controller#1", 1000);

    let upgrade = stage
        .gateway
        .expect(json!({"event": "upgrade", "role": "gateway", "status": 101}));
    let query = format!(
        "/ws?agent_version={}&cluster_uuid={CLUSTER_UUID}&supports_binary=true\
         &supports_response_streaming=true&supports_streaming=true&supports_websocket=true\
         &supports_yamux=true",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(upgrade["uri"], query.as_str());
    assert!(
        left["seq"].as_u64() < upgrade["seq"].as_u64(),
        "one connection at a time"
    );
    let first = stage
        .gateway
        .expect(json!({"event": "message", "conn": "gateway#1"}));
    assert_eq!(first["type"], "heartbeat", "first of all");
    let payload = &first["envelope"]["payload"];
    assert_eq!(payload["cluster_id"], CLUSTER_ID);
    assert_eq!(payload["agent_id"], "interop-agent");
    assert_eq!(payload["status"], "healthy");
    assert_eq!(payload["tunnel_status"], "connected");

    let status = agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acked");
    assert_eq!(status.state, ConnectionState::Connected);
    assert_eq!(status.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(
        status.endpoint.as_deref(),
        Some(stage.gateway.gateway_url.as_str())
    );
    let stored = stage.store.identity();
    assert_eq!(stored.cluster_id.as_deref(), Some(CLUSTER_ID));
    assert_eq!(stored.cluster_uuid.as_deref(), Some(CLUSTER_UUID));
    assert_eq!(
        stored.gateway_ws_url.as_deref(),
        Some(stage.gateway.gateway_url.as_str())
    );
    // Each test looks for its token in the log at its end: there is one.
    let serving = format!("serving over {}", stage.gateway.gateway_url);
    assert!(log_lines::with(&serving).is_some());
    stage.end(agent, "gateway#1");
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn stays_on_a_controller_that_names_no_gateway() {
    let stage = Stage::without_gateway();
    let agent = stage.start();
    let controller = stage.gateway.connection("controller");
    stage.gateway.message("register");
    stage.heartbeat_on(&controller);
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acked");
    assert_eq!(stage.store.identity().gateway_ws_url, None);
    // Lost, it comes back without registering (§12.3).
    stage.gateway.drop_connection();
    let controller = stage.gateway.connection("controller");
    stage.heartbeat_on(&controller);
    assert_eq!(
        stage
            .gateway
            .seen(&json!({"event": "message", "type": "register"}))
            .len(),
        1
    );
    stage.end(agent, &controller);
}

/// T17: nothing that the original doesn't say, and all that it does.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t17_register_carries_the_recorded_fields_and_no_other() {
    let stage = Stage::new();
    let agent = stage.start();
    let register = stage.gateway.message("register");
    let names = |value: &Value| -> BTreeSet<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    let recorded = include_str!("../golden/agent-messages.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|line| {
            serde_json::from_str::<Value>(line["text"].as_str().expect("text")).expect("JSON")
        })
        .find(|message| message["type"] == "register")
        .expect("a recorded register");
    let mut expected = names(&recorded["payload"]);
    // Present only where there is something to say.
    expected.remove("k8s_service_token");
    expected.remove("cluster_id");
    assert_eq!(names(&register["payload"]), expected);
    assert_eq!(
        names(&register["payload"]["features"]),
        names(&recorded["payload"]["features"])
    );
    assert_eq!(register["payload"]["name"], "interop");
    assert_eq!(
        register["payload"]["metadata"]["registration_mode"],
        "fresh"
    );
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    stage.end(agent, &gateway);
}

/// T37: the gateway fails on a `worker_join`.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t37_no_heartbeat_carries_the_join_token_unasked() {
    let stage = Stage::new();
    let agent = stage.start_with(|parts| parts.heartbeat.connected = Duration::from_millis(20));
    let gateway = stage.arrived();
    for _ in 0..5 {
        let heartbeat = stage.gateway.message("heartbeat");
        assert!(heartbeat["payload"].get("worker_join").is_none());
        assert_eq!(heartbeat["payload"]["metadata"]["is_private"], true);
    }
    stage.end(agent, &gateway);
}

/// §12.8: the six places of the id, and which of them goes into the gateway's URL.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn every_shape_of_the_cluster_id_is_understood() {
    for (cluster, id) in shapes() {
        let stage = Stage::new();
        stage.gateway.set("cluster", cluster);
        let agent = stage.start();
        let gateway = stage.arrived();
        agent
            .wait_until(far(), |status| status.heartbeat_acks == 1)
            .expect("acked");
        assert_eq!(agent.status().cluster_id.as_deref(), Some(id));
        stage.end(agent, &gateway);
    }
}

/// Answers with an id, and the id.
pub(crate) fn shapes() -> [(Value, &'static str); 7] {
    [
        (
            json!({"cluster_id": "a", "cluster_uuid": "b", "cluster": {"id": "c"}}),
            "a",
        ),
        (json!({"cluster_uuid": "b"}), "b"),
        (json!({"cluster": {"id": "c", "uuid": "d"}}), "c"),
        (json!({"cluster": {"uuid": "d", "workspace_id": "7"}}), "d"),
        (
            json!({"data": {"cluster_id": "e", "status": "registered"}}),
            "e",
        ),
        (json!({"data": {"cluster_uuid": "f"}}), "f"),
        (
            json!({"cluster_id": "", "cluster": null, "data": {"cluster_id": "g"}}),
            "g",
        ),
    ]
}

/// T6: the wait for the answer becomes a longer one.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t06_a_registration_in_progress_is_waited_for() {
    let stage = Stage::new();
    stage.gateway.set("register", "silence");
    let limit = Duration::from_secs(3);
    let agent = stage.start_with(|parts| parts.session.register_limit = limit);
    let register = stage.gateway.message("register");
    let id = register["request_id"].as_str().expect("an id");
    stage.gateway.send("register_in_progress", id, json!({}));
    // Past the limit of a silent one nothing has happened.
    let past = pipeops_agent::net::Deadline::after(limit + Duration::from_millis(200));
    assert_eq!(
        agent.wait_until(past, |status| status.connections > 0),
        None
    );
    assert_eq!(stage.gateway.seen(&json!({"event": "close"})).len(), 0);
    stage
        .gateway
        .send("register_success", id, json!({"cluster_id": "late"}));
    stage.heartbeat_on("controller#1");
    stage.end(agent, "controller#1");
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn register_in_progress_and_success_at_once_are_fine() {
    let stage = Stage::new();
    stage.gateway.set("register", "in_progress");
    let agent = stage.start();
    let gateway = stage.arrived();
    stage.end(agent, &gateway);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_registration_without_an_answer_is_tried_again() {
    let stage = Stage::new();
    stage.gateway.set("register", "silence");
    stage.gateway.set("allow_abrupt", true);
    let agent = stage.start_with(|parts| {
        parts.session.register_limit = Duration::from_millis(500);
    });
    stage.gateway.message("register");
    stage.gateway.message("register");
    stage.gateway.set("register", "success");
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    stage.gateway.set("allow_abrupt", false);
    stage.end(agent, &gateway);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn answers_to_other_requests_are_not_taken() {
    let stage = Stage::new();
    stage.gateway.set("register", "silence");
    let agent = stage.start();
    let register = stage.gateway.message("register");
    stage.gateway.send(
        "register_success",
        "req_1_other",
        json!({"cluster_id": "wrong"}),
    );
    stage
        .gateway
        .send("register_success", "", json!({"cluster_id": "wrong"}));
    stage
        .gateway
        .send("error", "req_1_other", json!({"error": "no such request"}));
    stage.gateway.round_trip();
    assert_eq!(agent.status().cluster_id, None);
    let id = register["request_id"].as_str().expect("an id");
    stage
        .gateway
        .send("register_success", id, json!({"cluster_id": "right"}));
    stage.heartbeat_on("controller#1");
    stage.end(agent, "controller#1");
}

/// A cluster that the controller has forgotten: once more without the id, on the
/// same connection; the stored id is kept until there is a new one.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn an_unknown_stored_id_is_registered_anew_without_it() {
    let stage = Stage::new();
    stage.stored_id("gone");
    stage.gateway.set("register", "silence");
    let agent = stage.start();
    let first = stage.gateway.message("register");
    assert_eq!(first["payload"]["cluster_id"], "gone");
    assert_eq!(first["payload"]["metadata"]["registration_mode"], "resume");
    stage.gateway.set("register", "success");
    let id = first["request_id"].as_str().expect("an id");
    stage
        .gateway
        .send("error", id, json!({"error": "Cluster Not Found"}));
    let second = stage.gateway.message("register");
    assert!(second["payload"].get("cluster_id").is_none());
    assert_eq!(second["payload"]["metadata"]["registration_mode"], "fresh");
    stage.arrived();
    assert_eq!(
        stage.store.identity().cluster_id.as_deref(),
        Some(CLUSTER_ID)
    );
    stage.end(agent, "gateway#1");
}

/// T30: the token doesn't go out in clear text because an answer says so.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t30_a_plain_gateway_of_a_tls_controller_is_not_dialled() {
    let plain = TcpListener::bind("127.0.0.1:0").expect("a port");
    plain.set_nonblocking(true).expect("set");
    let stage = Stage::new();
    let url = format!("ws://{}/ws", plain.local_addr().expect("its address"));
    stage.gateway.set("gateway_url", url);
    let agent = stage.start();
    // It goes on where it is safe, which the gateway (it named another) takes for a
    // heartbeat in the wrong place.
    stage
        .gateway
        .expect(json!({"event": "message", "type": "heartbeat"}));
    stage.stop(agent, "controller#1");
    let dialled = plain.accept().map_err(|error| error.kind());
    assert_eq!(dialled.map(|_| ()), Err(std::io::ErrorKind::WouldBlock));
    stage
        .gateway
        .finish_with(&["a controller connection that is about to be left"]);
}

/// C1: the query of `api_url` goes along.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c01_the_query_of_the_controllers_url_is_kept() {
    let stage = Stage::new();
    stage.gateway.set("controller_query", "tenant=a%20b&x=1");
    let agent = stage.start_with(|parts| {
        parts.api_url.path = "/base".to_owned();
        parts.api_url.query = Some("tenant=a%20b&x=1".to_owned());
    });
    let gateway = stage.arrived();
    stage.end(agent, &gateway);
}
