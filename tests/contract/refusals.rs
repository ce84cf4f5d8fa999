//! What the front door doesn't let through, and how it says so.

use pipeops_agent::http::client::Body;
use pipeops_agent::plane::{Access, Grant, Scope};

use crate::support::front::{Front, full};
use crate::support::house::{House, name, start};
use crate::support::upstream::{Upstream, json};

fn yes() -> Upstream {
    Upstream::start_tls(|_, mut body, responder| {
        let _ = body.read_all(1 << 20);
        drop(body);
        responder.respond(200, &json(), b"{}").expect("answered");
    })
}

fn refused(front: &Front, method: &str, path: &str) -> (u16, String) {
    let body = if method == "GET" {
        Body::Empty
    } else {
        full("{}")
    };
    let answer = front.ask(method, path, &[], body);
    let message = if answer.status == 200 {
        String::new()
    } else {
        answer.status_message()
    };
    (answer.status, message)
}

#[test]
fn clusters_that_nobody_knows_or_that_are_not_there() {
    let upstream = yes();
    let house = House::new();
    let front = house.front("edge");
    let (status, message) = refused(&front, "GET", "/api/v1/pods");
    assert_eq!(status, 404);
    assert!(message.contains("\"edge\" is not known"), "{message}");
    let agent = house.agent("edge", upstream.credentials());
    assert_eq!(refused(&front, "GET", "/api/v1/pods").0, 200);
    assert_eq!(refused(&front.at("other"), "GET", "/api/v1/pods").0, 404);
    drop(agent);
    crate::support::wait::until("it has gone", || !house.is_connected("edge"));
    let (status, message) = refused(&front, "GET", "/api/v1/pods");
    assert_eq!(status, 503);
    assert!(message.contains("not connected"), "{message}");
}

#[test]
fn tokens_open_what_they_were_made_for() {
    let upstream = yes();
    let house = House::new();
    let _edge = house.agent("edge", upstream.credentials());
    let _farm = house.agent("farm", upstream.credentials());
    let all = house.front("edge");
    let grant = |scope, access| house.token(Grant::User { scope, access });
    let edge_only = Scope::Named([name("edge")].into());
    let reads = all.with_token(&grant(Scope::All, Access::ReadOnly));
    let only = all.with_token(&grant(edge_only, Access::Use));
    let agents = all.with_token(&house.agent_token("edge"));
    for (who, front, method, status) in [
        ("everything", &all, "GET", 200),
        ("everything", &all, "DELETE", 200),
        ("nobody", &all.with_token("ppu_0000"), "GET", 401),
        ("reads", &reads, "GET", 200),
        ("reads", &reads, "POST", 403),
        ("reads", &reads, "PATCH", 403),
        ("reads", &reads, "DELETE", 403),
        ("edge only", &only, "POST", 200),
        ("edge only", &only.at("farm"), "GET", 403),
        ("an agent", &agents, "GET", 403),
    ] {
        let (got, message) = refused(front, method, "/api/v1/pods");
        assert_eq!(got, status, "{who}: {method}: {message}");
    }
    let (_, message) = refused(&reads, "POST", "/api/v1/pods");
    assert!(message.contains("read-only"), "{message}");
    let answer = all.with_token("ppu_0000").get("/api/v1/pods");
    let challenge = answer.headers.get("WWW-Authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer "), "{challenge}");
}

#[test]
fn an_upgrade_without_its_handshake_is_refused() {
    let upstream = yes();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let mut raw = front.raw();
    let path = "/api/v1/namespaces/default/pods/web/exec?command=sh";
    raw.send(front.head("GET", path, "Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert_eq!(raw.head().status, 426);
}

#[test]
fn an_agent_without_a_cluster_says_so() {
    let house = House::new();
    let _agent = start(&house.agent_config("edge"), None);
    house.attached("edge");
    let front = house.front("edge");
    let (status, message) = refused(&front, "GET", "/api/v1/pods");
    assert_eq!(status, 502);
    assert!(
        message.contains("the agent of cluster \"edge\" says"),
        "{message}"
    );
    // Also for a request whose body is still coming.
    let answer = front.ask("PUT", "/api/v1/pods", &[], full(vec![0; 1 << 20]));
    assert_eq!(answer.status, 502);
    assert!(answer.status_message().contains("says"));
}

#[test]
fn a_request_that_means_two_things_is_refused_and_reaches_nobody() {
    let upstream = Upstream::start(|request, _, _| panic!("{}", request.target));
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    for more in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let mut raw = front.raw();
        raw.send(front.head("POST", "/api/v1/pods", more));
        let status = raw.head().status;
        assert!(matches!(status, 400 | 501), "{more}: {status}");
    }
}
