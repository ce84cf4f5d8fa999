//! `kill -9` of either side: what was promised is on disk.

use crate::support::process::{AgentProcess, AgentSettings, PlaneProcess};
use crate::support::upstream::{Upstream, json};
use crate::support::wait::{figure, until};

const QUICK: &[(&str, &str)] = &[
    ("timeouts.websocket_reconnect", "20ms"),
    ("timeouts.websocket_reconnect_max", "200ms"),
];

fn yes() -> Upstream {
    Upstream::start_tls(|_, _, responder| {
        responder.respond(200, &json(), b"{}").expect("answered");
    })
}

fn agent_of(plane: &PlaneProcess, upstream: &Upstream) -> AgentProcess {
    let agent = AgentProcess::ready_with(&AgentSettings {
        upstream: Some(upstream),
        more: QUICK,
        ..plane.settings()
    });
    plane.attached("edge");
    agent
}

/// The id of the only cluster.
fn id(plane: &PlaneProcess) -> String {
    assert_eq!(plane.clusters().lines().count(), 2, "{}", plane.clusters());
    let row = plane.cluster("edge").expect("it is known");
    row.last().expect("an id").clone()
}

#[test]
fn a_plane_that_is_killed_knows_everybody_when_it_is_back() {
    let upstream = yes();
    let mut plane = PlaneProcess::start();
    let mut agent = agent_of(&plane, &upstream);
    let front = plane.front("edge");
    assert_eq!(front.get("/api/v1/pods").status, 200);
    let (before, state) = (id(&plane), agent.state());
    for _ in 0..3 {
        plane.kill();
        until("the agent says so", || agent.ready() == 503);
        plane.start_again();
        let took = until("the agent is back", || agent.ready() == 200);
        figure(
            "plane killed and started: agent ready after",
            format!("{took:?}"),
        );
        // Same certificate, same token of the user's, same cluster.
        until("requests go through", || {
            front.get("/api/v1/pods").status == 200
        });
        assert_eq!(id(&plane), before);
    }
    assert_eq!(agent.state(), state, "it had no reason to write");
    assert!(agent.process.is_running());
    // Tokens can still be made and used.
    let other = front.with_token(&plane.token(&["--role", "user", "--all", "--read-only"]));
    assert_eq!(other.get("/api/v1/pods").status, 200);
}

#[test]
fn an_agent_that_is_killed_is_noticed_and_resumes_as_who_it_was() {
    let upstream = yes();
    let plane = PlaneProcess::start();
    let mut agent = agent_of(&plane, &upstream);
    let front = plane.front("edge");
    assert_eq!(front.get("/api/v1/pods").status, 200);
    let (before, state) = (id(&plane), agent.state());
    assert!(state.contains(&before), "{state}");
    for _ in 0..3 {
        agent.kill();
        let took = until("the plane notices", || {
            front.get("/api/v1/pods").status == 503
        });
        figure(
            "agent killed: the plane says 503 after",
            format!("{took:?}"),
        );
        assert_eq!(agent.state(), state, "whole, and what it was");
        agent.start_again();
        until("it is back", || agent.ready() == 200);
        until("requests go through", || {
            front.get("/api/v1/pods").status == 200
        });
        assert_eq!(id(&plane), before);
        assert_eq!(agent.state(), state);
    }
    assert_eq!(agent.process.terminate(), Some(0));
}
