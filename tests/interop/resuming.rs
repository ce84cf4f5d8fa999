//! A second start with what the first one stored (control-channel.md §6.9, T2).

use pipeops_agent::config::{Secret, TokenSource};
use serde_json::json;

use crate::stage::{CLUSTER_ID, Stage, far};

/// Registered once and stopped; everything the gateway has seen of it is taken.
fn registered_before() -> Stage {
    let stage = Stage::new();
    let agent = stage.start();
    stage.gateway.message("register");
    let gateway = stage.arrived();
    stage.stop(agent, &gateway);
    stage
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_restart_resumes_on_the_gateway_without_registering() {
    let stage = registered_before();
    let agent = stage.start();
    // The strict side checks that `cluster_uuid` is the registration's (T2).
    let gateway = stage.gateway.connection("gateway");
    assert_eq!(gateway, "gateway#2");
    stage.heartbeat_on(&gateway);
    agent
        .wait_until(far(), |status| status.heartbeat_acks == 1)
        .expect("acked");
    assert_eq!(agent.status().cluster_id.as_deref(), Some(CLUSTER_ID));
    let controllers = json!({"event": "upgrade", "role": "controller"});
    assert_eq!(
        stage.gateway.seen(&controllers).len(),
        1,
        "only that of the first start"
    );
    stage.end(agent, &gateway);
}

/// Resuming is an optimisation: whatever goes wrong, a registration follows, with
/// the stored id.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t02_a_gateway_that_refuses_the_resume_means_registering_with_the_stored_id() {
    for status in [401, 403, 404, 410, 500, 503] {
        let stage = registered_before();
        stage
            .gateway
            .set("gateway", json!({"status": status, "times": 1}));
        let agent = stage.start();
        stage.gateway.refused("gateway", status);
        let register = stage.gateway.message("register");
        assert_eq!(
            register["payload"]["cluster_id"], CLUSTER_ID,
            "after {status}"
        );
        assert_eq!(
            register["payload"]["metadata"]["registration_mode"],
            "resume"
        );
        let gateway = stage.arrived();
        stage.end(agent, &gateway);
    }
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t02_other_credentials_mean_registering_with_the_stored_id() {
    let stage = registered_before();
    // Not a secret of this gateway any more, so it may be looked for.
    let token = format!("{}-rotated", stage.gateway.token);
    stage.gateway.set("token", token.clone());
    let agent = stage.start_with(|parts| {
        parts.token = TokenSource::Literal(Secret::new(token));
    });
    let register = stage.gateway.message("register");
    assert_eq!(register["payload"]["cluster_id"], CLUSTER_ID);
    let gateway = stage.arrived();
    stage.end(agent, &gateway);
}

/// An id without a gateway: the controller is where it registers.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_stored_id_alone_is_registered_with() {
    let stage = Stage::new();
    stage.stored_id("kept");
    let agent = stage.start();
    let register = stage.gateway.message("register");
    assert_eq!(register["payload"]["cluster_id"], "kept");
    let gateway = stage.arrived();
    stage.end(agent, &gateway);
}
