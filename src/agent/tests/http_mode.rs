//! A controller that takes no WebSocket (decisions.md §6.1 "HTTP mode").

use super::*;

#[test]
fn http_mode_registers_and_beats_over_http() {
    let peer = Peer::new();
    let (agent, store) = start(&peer);
    let (asked, _) = peer.answer("404 Not Found", "");
    assert!(
        asked.starts_with("GET /api/v1/clusters/agent/ws "),
        "{asked}"
    );
    let (asked, body) = peer.answer("201 Created", r#"{"data":{"cluster_id":"c-9"}}"#);
    assert!(
        asked.starts_with("POST /api/v1/clusters/agent/register "),
        "{asked}"
    );
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["agent_id"], "bench-agent");
    let (asked, body) = peer.answer("200 OK", "{}");
    assert!(
        asked.starts_with("POST /api/v1/clusters/agent/c-9/heartbeat "),
        "{asked}"
    );
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["metadata"]["is_private"], true);
    agent
        .wait_until(far(), |status| status.heartbeats == 1)
        .expect("beaten");
    assert_eq!(store.identity().cluster_id.as_deref(), Some("c-9"));
    agent.stop();
    agent.wait().expect("an orderly end");
}

/// The state fell back to `reconnecting` at each try, and a heartbeat that was under
/// way could arrive behind the first over the WebSocket.
#[test]
fn a_try_of_the_websocket_ends_the_heartbeat_under_way_and_leaves_the_agent_ready() {
    let peer = Peer::new();
    let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    parts.session.websocket_retry = Duration::from_millis(300);
    parts.heartbeat_limit = Duration::from_mins(10);
    let health = parts.health.clone();
    let agent = Agent::start(parts).expect("started");
    peer.answer("404 Not Found", "");
    peer.answer("200 OK", r#"{"cluster_id":"c-1"}"#);
    let refuse = |upgrade: &TcpStream| Peer::answer_on(upgrade, "404 Not Found", "");
    // It gets no answer before the WebSocket's time has come.
    let mut beat = peer.stream();
    while Peer::is_upgrade(&beat) {
        refuse(&beat);
        beat = peer.stream();
    }
    let upgrade = peer.stream();
    assert!(Peer::is_upgrade(&upgrade));
    let ended = beat.read_to_end(&mut Vec::new()).map_err(|e| e.kind());
    assert_ne!(ended, Err(std::io::ErrorKind::WouldBlock), "it goes on");
    assert_eq!(agent.status().state, ConnectionState::Connected);
    assert_eq!(
        health.snapshot().connection_state,
        ConnectionState::Connected
    );
    refuse(&upgrade);
    // Over HTTP it goes on; then a try succeeds.
    let mut beats = 0;
    let mut controller = loop {
        let stream = peer.stream();
        if !Peer::is_upgrade(&stream) {
            if let Ok((asked, body)) = Peer::try_answer_on(&stream, "200 OK", "{}") {
                assert!(asked.contains("/c-1/heartbeat"), "{asked}");
                assert!(body.contains("\"healthy\""), "{body}");
                beats += 1;
            }
        } else if beats == 0 {
            refuse(&stream);
        } else {
            break Peer::accept_on(stream);
        }
    };
    let register = controller.expect("register");
    assert_eq!(register["payload"]["cluster_id"], "c-1");
    assert_eq!(agent.status().state, ConnectionState::Connected);
    assert_eq!(
        health.snapshot().connection_state,
        ConnectionState::Connected
    );
    controller.send(&json!({
        "type": "register_success", "request_id": register["request_id"], "payload": {"cluster_id": "c-1"},
    }));
    controller.ack();
    stop(agent, controller);
}

#[test]
fn a_refusal_over_http_is_fatal_too() {
    let peer = Peer::new();
    let (agent, _) = start(&peer);
    peer.answer("405 Method Not Allowed", "");
    peer.answer("200 OK", "{}");
    assert!(matches!(agent.wait(), Err(AgentError::Refused(_))));
}

/// The state machine was told, but what it wanted was not done.
#[test]
fn over_http_a_token_that_cannot_be_read_shows_in_the_state() {
    let peer = Peer::new();
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "t-1").expect("token");
    let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    parts.session.http_only = true;
    parts.token = TokenSource::File(file.clone());
    parts.heartbeat.connected = Duration::from_millis(5);
    let agent = Agent::start(parts).expect("started");
    peer.answer("200 OK", r#"{"cluster_id":"c-1"}"#);
    let heartbeat = peer.stream();
    std::fs::remove_file(&file).expect("removed");
    Peer::answer_on(&heartbeat, "200 OK", "{}");
    agent
        .wait_until(far(), |status| {
            status.state == ConnectionState::Reconnecting
        })
        .expect("noticed");
    agent.stop();
    agent.wait().expect("an orderly end");
}

/// control-channel.md §7.3: after ten failed rounds.
#[test]
fn over_http_heartbeats_that_fail_for_long_say_disconnected() {
    let peer = Peer::new();
    let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
    let quick = Duration::from_millis(1);
    parts.session.http_only = true;
    parts.heartbeat = crate::control::heartbeat::Settings {
        connected: quick,
        reconnecting: quick,
        disconnected: quick,
        attempts: 1,
        retry: quick,
    };
    let agent = Agent::start(parts).expect("started");
    peer.answer("200 OK", r#"{"cluster_id":"c-1"}"#);
    let says: Vec<Value> = (0..11)
        .map(|_| {
            let (_, body) = peer.answer("500 Internal Server Error", "");
            let body: Value = serde_json::from_str(&body).expect("JSON");
            body["status"].clone()
        })
        .collect();
    assert_eq!(says[0], "healthy");
    assert!(says[1..10].iter().all(|s| s == "reconnecting"), "{says:?}");
    assert_eq!(says[10], "disconnected");
    drop(peer);
    agent.stop();
    agent.wait().expect("an orderly end");
}
