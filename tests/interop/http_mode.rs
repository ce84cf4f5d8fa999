//! Controllers that take no WebSocket (decisions.md §6.1, control-channel.md §12.8).

use std::sync::Arc;
use std::time::Duration;

use pipeops_agent::agent::{Agent, AgentError, Parts};
use pipeops_agent::control::facts::ClusterFacts;
use pipeops_agent::identity::Store;
use serde_json::json;

use crate::registering::shapes;
use crate::stage::{CLUSTER_ID, Stage, far, refused};

/// A controller that answers upgrades with `status`.
fn without_websocket(stage: &Stage, status: u16) {
    stage.gateway.set("controller", json!({"status": status}));
}

fn quick_heartbeats(parts: &mut Parts) {
    parts.heartbeat.connected = Duration::from_millis(20);
}

/// Nothing is open: the end of an agent in HTTP mode is silent.
fn end(stage: Stage, agent: Agent) {
    agent.stop();
    agent.wait().expect("an orderly end");
    stage.gateway.finish();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn registers_and_beats_over_http_where_there_is_no_websocket() {
    for status in [404, 405, 426, 501] {
        let stage = Stage::without_gateway();
        without_websocket(&stage, status);
        let agent = stage.start_with(quick_heartbeats);
        stage.gateway.refused("controller", status);
        let register = stage.gateway.call("register", 200);
        assert_eq!(register["body"]["name"], "interop");
        for _ in 0..3 {
            let beat = stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
            assert_eq!(beat["body"]["status"], "healthy");
        }
        agent
            .wait_until(far(), |status| status.heartbeat_acks >= 3)
            .expect("beaten");
        assert_eq!(
            stage.store.identity().cluster_id.as_deref(),
            Some(CLUSTER_ID)
        );
        let upgrades = stage.gateway.seen(&json!({"event": "upgrade"}));
        assert_eq!(upgrades.len(), 1, "five minutes haven't passed");
        end(stage, agent);
    }
}

/// A cluster of which the authority is all that can be read.
struct Trusted(Vec<u8>);

impl ClusterFacts for Trusted {
    fn ca_certificates(&self) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

/// control-channel.md §12.8; the gateway checks what it is.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn over_http_a_registration_carries_the_clusters_authority() {
    let stage = Stage::without_gateway();
    without_websocket(&stage, 404);
    let pem = std::fs::read(stage.gateway.ca_file()).expect("certificates");
    let facts = Arc::new(Trusted(pem));
    let agent = stage.start_with(|parts| parts.facts = facts);
    let register = stage.gateway.call("register", 200);
    assert!(register["body"]["cluster_cert_data"].is_string());
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    end(stage, agent);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn every_shape_of_the_cluster_id_is_understood_over_http() {
    for (cluster, id) in shapes() {
        let stage = Stage::without_gateway();
        without_websocket(&stage, 404);
        stage.gateway.set("cluster", cluster);
        let agent = stage.start();
        stage.gateway.call(&format!("{id}/heartbeat"), 200);
        end(stage, agent);
    }
}

/// An answer that names a gateway ends HTTP mode at once.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_gateway_in_the_answer_brings_the_websocket_back() {
    let stage = Stage::new();
    without_websocket(&stage, 404);
    let agent = stage.start();
    stage.gateway.call("register", 200);
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    // Later too it is the gateway that it comes back to.
    stage.gateway.drop_connection();
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    stage.end(agent, &gateway);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn the_websocket_is_tried_again_from_time_to_time() {
    let stage = Stage::without_gateway();
    without_websocket(&stage, 426);
    // Heartbeats are rare, so that none is under way when a WebSocket is opened.
    let agent = stage.start_with(|parts| {
        parts.session.websocket_retry = Duration::from_millis(200);
    });
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    // A try that fails changes nothing.
    stage.gateway.refused("controller", 426);
    stage.gateway.refused("controller", 426);
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    stage.gateway.set("controller", json!(null));
    let controller = stage.gateway.connection("controller");
    let register = stage.gateway.message("register");
    assert_eq!(register["payload"]["cluster_id"], CLUSTER_ID);
    stage.heartbeat_on(&controller);
    stage.end(agent, &controller);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn transport_http_never_opens_a_websocket() {
    let stage = Stage::new();
    stage.gateway.set("allow_http", true);
    let agent = stage.start_with(|parts| {
        quick_heartbeats(parts);
        parts.session.http_only = true;
    });
    for _ in 0..3 {
        stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    }
    assert_eq!(
        stage.gateway.seen(&json!({"event": "upgrade"})),
        Vec::<serde_json::Value>::new()
    );
    end(stage, agent);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn refusals_over_http_are_fatal_too() {
    let json = json!({"Content-Type": "application/json"});
    for answer in [
        json!({"status": 401}),
        json!({"status": 403, "body": "no"}),
        json!({"status": 200, "headers": json, "body": "{\"success\":true}"}),
        json!({"status": 201, "headers": json, "body": "{oops"}),
    ] {
        let stage = Stage::without_gateway();
        without_websocket(&stage, 404);
        let status = answer["status"].as_u64().expect("a number") as u16;
        stage.gateway.set("http_register", answer);
        let agent = stage.start();
        stage.gateway.call("register", status);
        assert!(!refused(agent).is_empty());
        assert_eq!(stage.store.identity().cluster_id, None);
        stage.gateway.finish();
    }
}

/// Neither trouble nor a page of a box in between is the control plane's refusal.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t01_trouble_over_http_is_waited_for() {
    let page = json!({"Content-Type": "text/html"});
    let answers = [
        json!({"status": 500}),
        json!({"status": 503}),
        json!({"status": 200, "headers": page, "body": "<html>log in</html>"}),
        json!({"status": 403, "headers": page, "body": "<html>denied</html>"}),
    ];
    let stage = Stage::without_gateway();
    without_websocket(&stage, 404);
    stage.gateway.set("http_register", answers[0].clone());
    let agent = stage.start();
    for answer in answers {
        let status = answer["status"].as_u64().expect("a number") as u16;
        stage.gateway.set("http_register", answer);
        stage.gateway.call("register", status);
        stage.gateway.call("register", status);
    }
    stage.gateway.set("http_register", json!(null));
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    end(stage, agent);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn an_unknown_stored_id_is_registered_anew_over_http() {
    let stage = Stage::without_gateway();
    without_websocket(&stage, 404);
    stage.stored_id("gone");
    stage.gateway.set(
        "http_register",
        json!({"status": 404, "body": "{\"error\":\"Cluster not found\"}", "times": 1}),
    );
    let agent = stage.start();
    let first = stage.gateway.call("register", 404);
    assert_eq!(first["body"]["cluster_id"], "gone");
    let second = stage.gateway.call("register", 200);
    assert!(second["body"].get("cluster_id").is_none());
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    end(stage, agent);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_heartbeat_over_http_that_names_an_unknown_cluster_leads_to_a_registration() {
    let stage = Stage::without_gateway();
    without_websocket(&stage, 404);
    let agent = stage.start_with(quick_heartbeats);
    stage.gateway.call("register", 200);
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    stage.gateway.set(
        "http_heartbeat",
        json!({"status": 404, "body": "agent is Not Registered", "times": 1}),
    );
    let register = stage.gateway.call("register", 200);
    assert_eq!(register["body"]["cluster_id"], CLUSTER_ID);
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    end(stage, agent);
}

/// T10: after the first success nothing ends the agent, and the token is read anew.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t10_a_heartbeat_that_is_unauthorized_later_means_slow_retries() {
    let stage = Stage::without_gateway();
    without_websocket(&stage, 404);
    let agent = stage.start_with(|parts| {
        quick_heartbeats(parts);
        parts.session.unauthorized_first = Duration::from_millis(10);
        parts.session.unauthorized_cap = Duration::from_millis(20);
    });
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    stage.gateway.set("http_heartbeat", json!({"status": 401}));
    for _ in 0..3 {
        stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 401);
    }
    assert!(!agent.status().ended);
    stage.gateway.set("http_heartbeat", json!(null));
    stage.gateway.call(&format!("{CLUSTER_ID}/heartbeat"), 200);
    end(stage, agent);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn give_up_after_ends_an_agent_that_never_got_through() {
    let stage = Stage::without_gateway();
    stage.gateway.set("controller", json!({"status": 503}));
    let agent = stage.start_with(|parts| {
        parts.session.give_up_after = Some(Duration::from_secs(2));
    });
    stage.gateway.refused("controller", 503);
    assert!(matches!(agent.wait(), Err(AgentError::GaveUp)));
    stage.gateway.finish();
}
