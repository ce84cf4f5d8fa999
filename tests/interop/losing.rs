//! Connections that end, freeze or are refused later (control-channel.md §12,
//! decisions.md §6.3).

use std::time::Duration;

use pipeops_agent::config::TokenSource;
use pipeops_agent::control::session::ConnectionState;
use pipeops_agent::identity::Store;
use serde_json::json;

use crate::stage::{CLUSTER_ID, Stage, far};

/// C14: with the default settings. An upper limit in time belongs into a bench; the
/// lower one is that nobody is hammered.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c14_a_cut_connection_comes_back_after_the_first_delay_with_a_heartbeat_first() {
    let stage = Stage::new();
    let agent = stage.start_with(|parts| {
        parts.session.reconnect_first = Duration::from_millis(500);
        parts.session.reconnect_cap = Duration::from_secs(15);
    });
    stage.arrived();
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acked");
    stage.gateway.drop_connection();
    let lost = stage
        .gateway
        .expect(json!({"event": "close", "conn": "gateway#1"}));
    agent
        .wait_until(far(), |status| {
            status.state == ConnectionState::Reconnecting
        })
        .expect("T16: the state says so at once");
    let upgrade = stage
        .gateway
        .expect(json!({"event": "upgrade", "role": "gateway", "status": 101}));
    let waited = upgrade["t_ms"].as_u64().expect("ms") - lost["t_ms"].as_u64().expect("ms");
    // 500 ms less a quarter, less the moment until the gateway noticed.
    assert!(waited >= 370, "{waited} ms");
    let first = stage
        .gateway
        .expect(json!({"event": "message", "conn": "gateway#2"}));
    assert_eq!(first["type"], "heartbeat");
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 2)
        .expect("acked");
    assert_eq!(
        stage
            .gateway
            .seen(&json!({"event": "message", "type": "register"}))
            .len(),
        1
    );
    stage.end(agent, "gateway#2");
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn however_often_it_is_cut_it_comes_back_to_the_same_place() {
    let stage = Stage::new();
    let agent = stage.start();
    let mut gateway = stage.arrived();
    for _ in 0..10 {
        stage.gateway.drop_connection();
        gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
    }
    agent
        .wait_until(far(), |status| status.connections == 11)
        .expect("serving");
    stage.end(agent, &gateway);
}

/// Whatever the peer says when it goes, and also when it says nothing.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_peer_that_closes_is_answered_and_dialled_again() {
    let stage = Stage::new();
    let agent = stage.start();
    let mut gateway = stage.arrived();
    for code in [1000, 1001, 1008, 1011, 1012, 1013, 4001, 0] {
        stage.gateway.close(code);
        // An empty frame is answered with an empty one, which reads as 1005.
        stage
            .gateway
            .closed(&gateway, if code == 0 { 1005 } else { code });
        gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
    }
    stage.end(agent, &gateway);
}

/// A gateway that is down for a while, or busy.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_gateway_in_trouble_is_redialled_without_a_detour() {
    let stage = Stage::new();
    let agent = stage.start();
    stage.arrived();
    stage.gateway.set("gateway", json!({"status": 502}));
    stage.gateway.drop_connection();
    for status in [502, 503, 500] {
        stage.gateway.set("gateway", json!({"status": status}));
        stage.gateway.refused("gateway", status);
    }
    stage.gateway.set("gateway", json!(null));
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    let controllers = json!({"event": "upgrade", "role": "controller"});
    assert_eq!(stage.gateway.seen(&controllers).len(), 1);
    stage.end(agent, &gateway);
}

/// T10: a gateway's 401 ends nothing. The token is read again for each dial.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t10_an_unauthorized_redial_is_repeated_with_the_token_read_again() {
    let stage = Stage::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, &stage.gateway.token).expect("written");
    let agent = stage.start_with(|parts| {
        parts.token = TokenSource::File(file.clone());
        parts.session.dial_limit = Duration::from_secs(3);
        parts.session.unauthorized_first = Duration::from_millis(20);
        parts.session.unauthorized_cap = Duration::from_millis(40);
    });
    stage.arrived();
    stage.gateway.set("gateway", json!({"status": 401}));
    stage.gateway.drop_connection();
    for _ in 0..3 {
        stage.gateway.refused("gateway", 401);
    }
    assert!(!agent.status().ended);
    // A dial that hangs leaves the time to put another token in place.
    stage.gateway.set("gateway", json!({"hang": true}));
    stage.gateway.refused("gateway", 0);
    let rotated = format!("{}-rotated", stage.gateway.token);
    std::fs::write(&file, &rotated).expect("written");
    stage.gateway.set("token", rotated);
    stage
        .gateway
        .set("gateway", json!({"status": 401, "times": 1}));
    stage.gateway.refused("gateway", 401);
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    stage.end(agent, &gateway);
}

/// T10: after a while without the gateway the controller is asked, with the stored
/// id, so that no second cluster comes into being.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t10_a_gateway_that_stays_closed_leads_to_a_registration_with_the_stored_id() {
    for status in [401, 403, 503] {
        let stage = Stage::new();
        let agent = stage.start_with(|parts| {
            parts.session.unauthorized_first = Duration::from_millis(20);
            parts.session.unauthorized_cap = Duration::from_millis(40);
            parts.session.gateway_patience = Duration::from_millis(200);
        });
        assert!(
            stage.gateway.message("register")["payload"]
                .get("cluster_id")
                .is_none()
        );
        stage.arrived();
        stage.gateway.set("gateway", json!({"status": status}));
        stage.gateway.drop_connection();
        stage.gateway.refused("gateway", status);
        stage.gateway.refused("gateway", status);
        let register = stage.gateway.message("register");
        assert_eq!(register["payload"]["cluster_id"], CLUSTER_ID);
        stage.gateway.set("gateway", json!(null));
        let gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
        stage.end(agent, &gateway);
    }
}

/// A gateway that answers 404 or 410 is not where we belong any more.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t10_a_gateway_that_is_gone_leads_to_a_registration_at_once() {
    for status in [404, 410] {
        let stage = Stage::new();
        let agent = stage.start();
        stage.gateway.message("register");
        stage.arrived();
        stage
            .gateway
            .set("gateway", json!({"status": status, "times": 1}));
        stage.gateway.drop_connection();
        stage.gateway.refused("gateway", status);
        let register = stage.gateway.message("register");
        assert_eq!(register["payload"]["cluster_id"], CLUSTER_ID);
        let gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
        stage.end(agent, &gateway);
    }
}

/// C16, in the spelling of the checklist and in others.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c16_not_registered_on_a_live_gateway_leads_to_a_registration_with_the_stored_id() {
    for text in [
        "Agent Not Registered",
        "cluster not found: 7",
        "NOT REGISTERED",
    ] {
        let stage = Stage::new();
        let agent = stage.start();
        stage.gateway.message("register");
        let gateway = stage.arrived();
        stage.gateway.send("error", "", json!({"error": text}));
        stage.gateway.closed(&gateway, 1000);
        let register = stage.gateway.message("register");
        assert_eq!(register["payload"]["cluster_id"], CLUSTER_ID);
        assert_eq!(
            stage.store.identity().cluster_id.as_deref(),
            Some(CLUSTER_ID),
            "kept"
        );
        stage.gateway.closed("controller#2", 1000);
        let gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
        // Once in a minute is enough; other errors change nothing at all.
        stage.gateway.send("error", "", json!({"error": text}));
        stage
            .gateway
            .send("error", "x-1", json!({"error": "quota exceeded"}));
        stage.gateway.round_trip();
        stage.end(agent, &gateway);
    }
}

/// The second registration may give another cluster and another gateway.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_registration_that_gives_other_ids_is_followed() {
    let stage = Stage::new();
    let agent = stage.start();
    stage.arrived();
    stage.gateway.set(
        "cluster",
        json!({"cluster_id": "other", "cluster_uuid": "other-uuid"}),
    );
    let elsewhere = stage
        .gateway
        .gateway_url
        .replace("/ws", "/other/place?shard=7");
    stage.gateway.set("gateway_url", elsewhere);
    stage
        .gateway
        .send("error", "", json!({"error": "cluster not registered"}));
    let upgrade = stage
        .gateway
        .expect(json!({"event": "upgrade", "role": "gateway", "conn": "gateway#2"}));
    let uri = upgrade["uri"].as_str().expect("text");
    assert!(uri.starts_with("/other/place?agent_version="), "{uri}");
    assert!(
        uri.contains("&shard=7&") && uri.contains("cluster_uuid=other-uuid"),
        "{uri}"
    );
    let beat = stage
        .gateway
        .expect(json!({"event": "message", "conn": "gateway#2", "type": "heartbeat"}));
    assert_eq!(beat["envelope"]["payload"]["cluster_id"], "other");
    assert_eq!(stage.store.identity().cluster_id.as_deref(), Some("other"));
    stage.end(agent, "gateway#2");
}

/// decisions.md §6.3: judged by what arrives, not by what can be written.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_frozen_peer_is_noticed_within_the_read_limit() {
    let stage = Stage::new();
    let agent = stage.start_with(|parts| {
        parts.link.ping_interval = Duration::from_millis(100);
        parts.link.read_limit = Duration::from_secs(4);
    });
    stage.arrived();
    stage
        .gateway
        .expect(json!({"event": "ping", "conn": "gateway#1", "text": ""}));
    stage.gateway.command(json!({"cmd": "pause"}));
    let gateway = stage.gateway.connection("gateway");
    assert_eq!(gateway, "gateway#2");
    stage.heartbeat_on(&gateway);
    stage.end(agent, &gateway);
}

/// Any byte is a sign of life, not just a pong.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_peer_that_answers_no_ping_but_speaks_is_not_lost() {
    let stage = Stage::new();
    stage.gateway.set("answer_pings", false);
    let agent = stage.start_with(|parts| {
        parts.heartbeat.connected = Duration::from_millis(50);
        parts.link.ping_interval = Duration::from_millis(50);
        parts.link.read_limit = Duration::from_secs(4);
    });
    let gateway = stage.arrived();
    let status = agent
        .wait_until(far(), |status| status.heartbeat_acks >= 100)
        .expect("acked");
    assert_eq!(status.connections, 1);
    stage.end(agent, &gateway);
}

/// A peer that is silent but alive is left in peace: pongs are bytes too.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_quiet_peer_that_answers_pings_is_not_lost() {
    let stage = Stage::new();
    stage.gateway.set("heartbeat_ack", false);
    let agent = stage.start_with(|parts| {
        parts.link.ping_interval = Duration::from_millis(50);
        parts.link.read_limit = Duration::from_secs(5);
    });
    let gateway = stage.arrived();
    for _ in 0..20 {
        stage
            .gateway
            .expect(json!({"event": "ping", "conn": gateway}));
    }
    let status = agent
        .wait_until(far(), |status| status.connections > 0)
        .expect("serving");
    assert_eq!(status.connections, 1);
    stage.end(agent, &gateway);
}
