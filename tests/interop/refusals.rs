//! What is a refusal, and ends the agent, and what is waited for (decisions.md §6.1).

use std::net::TcpListener;
use std::time::Duration;

use pipeops_agent::control::session::ConnectionState;
use pipeops_agent::identity::Store;
use pipeops_agent::net::Deadline;
use pipeops_agent::url::Url;
use serde_json::json;

use crate::stage::{Stage, far, refused};

/// T6: at once, not after the half minute that an answer may take.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t06_an_error_that_answers_the_registration_ends_it_at_once() {
    let stage = Stage::new();
    stage.gateway.set("register", "error");
    stage
        .gateway
        .set("register_error", "the plan allows no more clusters");
    let agent = stage.start_with(|parts| parts.session.register_limit = Duration::from_hours(1));
    stage.gateway.closed("controller#1", 1000);
    assert_eq!(refused(agent), "the plan allows no more clusters");
    assert_eq!(stage.store.identity().cluster_id, None);
    stage.gateway.finish();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_cluster_that_stays_unknown_is_a_refusal() {
    let stage = Stage::new();
    stage.stored_id("gone");
    stage.gateway.set("register", "error");
    stage
        .gateway
        .set("register_error", "cluster not registered");
    let agent = stage.start();
    assert_eq!(
        stage.gateway.message("register")["payload"]["cluster_id"],
        "gone"
    );
    assert!(
        stage.gateway.message("register")["payload"]
            .get("cluster_id")
            .is_none()
    );
    stage.gateway.closed("controller#1", 1000);
    assert_eq!(refused(agent), "cluster not registered");
    assert_eq!(
        stage.store.identity().cluster_id.as_deref(),
        Some("gone"),
        "kept"
    );
    stage.gateway.finish();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c03_success_without_a_cluster_id_is_a_refusal() {
    for cluster in [
        json!({}),
        json!({"cluster_id": ""}),
        json!({"data": {"status": "ok"}}),
    ] {
        let stage = Stage::new();
        stage.gateway.set("cluster", cluster);
        let agent = stage.start();
        stage.gateway.closed("controller#1", 1000);
        assert!(refused(agent).contains("cluster id"));
        stage.gateway.finish();
    }
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_token_that_the_controller_refuses_at_first_ends_the_agent() {
    for status in [401, 403] {
        for stored in [false, true] {
            let stage = Stage::new();
            if stored {
                stage.stored_id("kept");
            }
            stage.gateway.set(
                "controller",
                json!({"status": status, "headers": {"Content-Type": "application/json"},
                       "body": r#"{"error":"token revoked"}"#}),
            );
            let agent = stage.start();
            stage.gateway.refused("controller", status);
            let why = refused(agent);
            assert!(
                why.contains(&status.to_string()) && why.contains("token revoked"),
                "{why}"
            );
            stage.gateway.finish();
        }
    }
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_close_for_policy_is_a_refusal_a_plain_one_is_not() {
    let stage = Stage::new();
    stage.gateway.set("register", "silence");
    let agent = stage.start();
    stage.gateway.message("register");
    stage.gateway.close(1000);
    stage.gateway.closed("controller#1", 1000);
    stage.gateway.message("register");
    stage.gateway.close(1008);
    assert!(refused(agent).contains("1008"));
    stage.gateway.closed("controller#2", 1008);
    stage.gateway.finish();
}

/// T1: whatever a controller in trouble or a box in between answers, the agent goes
/// on trying, and doesn't call itself ready.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t01_a_controller_in_trouble_is_waited_for() {
    let stage = Stage::new();
    let page = |status: u16| {
        json!({"status": status, "headers": {"Content-Type": "text/html; charset=utf-8"},
               "body": "<html><body>Access denied</body></html>"})
    };
    let plain = |status: u16| json!({"status": status});
    let answers = [
        plain(500),
        plain(502),
        plain(503),
        plain(504),
        plain(429),
        plain(200),
        plain(400),
        plain(302),
        page(200),
        page(401),
        page(403),
        page(407),
    ];
    stage.gateway.set("controller", answers[0].clone());
    let agent = stage.start();
    for answer in answers {
        let status = answer["status"].as_u64().expect("a number");
        stage.gateway.set("controller", answer);
        stage.gateway.refused("controller", status as u16);
    }
    assert_eq!(agent.status().state, ConnectionState::Connecting);
    // Not even a dial that is never answered, or a connection that is closed.
    assert_eq!(
        stage.gateway.seen(&json!({"event": "http"})).len(),
        0,
        "no HTTP mode"
    );
    stage.gateway.set("controller", json!(null));
    let gateway = stage.arrived();
    stage.end(agent, &gateway);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t01_an_upgrade_that_is_never_answered_is_tried_again() {
    let stage = Stage::new();
    stage
        .gateway
        .set("controller", json!({"hang": true, "times": 1}));
    let agent = stage.start_with(|parts| parts.session.dial_limit = Duration::from_secs(1));
    stage.gateway.refused("controller", 0);
    let gateway = stage.arrived();
    stage.end(agent, &gateway);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t01_nobody_at_the_controllers_address_is_waited_for() {
    // A port that nobody listens on, and that nobody gets meanwhile.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let held = held.expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    held.bind(&any.into()).expect("bound");
    let address = held
        .local_addr()
        .expect("an address")
        .as_socket()
        .expect("of IPv4");

    let stage = Stage::new();
    let health = {
        let mut parts = stage.parts(&stage.config());
        parts.api_url = Url::parse(&format!("https://{address}")).expect("a URL");
        let health = parts.health.clone();
        let agent = pipeops_agent::agent::Agent::start(parts).expect("started");
        // Some twenty attempts at these settings.
        let soon = Deadline::after(Duration::from_millis(500));
        assert_eq!(agent.wait_until(soon, |status| status.ended), None);
        assert_eq!(agent.status().state, ConnectionState::Connecting);
        // There it is.
        held.listen(1).expect("listening");
        let listener = TcpListener::from(held);
        drop(listener.accept().expect("the next attempt"));
        agent.stop();
        agent.wait().expect("an orderly end");
        health
    };
    assert!(!health.snapshot().registered);
    stage.gateway.finish();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_stop_while_the_answer_is_awaited_is_orderly() {
    let stage = Stage::new();
    stage.gateway.set("register", "silence");
    let agent = stage.start();
    stage.gateway.message("register");
    stage.end(agent, "controller#1");
}

/// The controller may ask for patience.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_retry_after_is_kept() {
    let stage = Stage::new();
    stage.gateway.set(
        "controller",
        json!({"status": 503, "headers": {"Retry-After": "1"}, "times": 1}),
    );
    let agent = stage.start();
    let refused = stage.gateway.refused("controller", 503);
    let taken = stage
        .gateway
        .expect(json!({"event": "upgrade", "role": "controller", "status": 101}));
    let between = taken["t_ms"].as_u64().expect("ms") - refused["t_ms"].as_u64().expect("ms");
    assert!(between >= 990, "{between} ms");
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acked");
    stage.end(agent, &gateway);
}
