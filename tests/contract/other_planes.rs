//! The agent before a control plane that isn't ours: what is said besides requests.

use serde_json::{Value, json};

use crate::support::fake_plane::{CLUSTER, Conn, FakePlane, chunk};
use crate::support::house::{agent_config, start};
use crate::support::pattern::whole;
use crate::support::upstream::{Upstream, content};
use crate::support::wait::far;
use pipeops_agent::agent::Agent;

fn agent_of(plane: &FakePlane, upstream: Option<&Upstream>) -> Agent {
    let url = format!("https://{}", plane.address());
    let mut config = agent_config(&url, "t-1", &plane.ca_file());
    "edge".clone_into(&mut config.agent.cluster_name);
    start(&config, upstream.map(Upstream::credentials))
}

#[test]
fn everything_that_is_said_besides_requests() {
    let plane = FakePlane::start();
    let agent = agent_of(&plane, None);
    let mut conn = plane.register();
    // Answered under its own id, or under none.
    conn.send(&json!({"type": "ping", "request_id": "p-1", "payload": {}}));
    assert_eq!(conn.expect("pong")["request_id"], "p-1");
    conn.send_binary(br#"{"type":"ping"}"#);
    assert!(conn.expect("pong").get("request_id").is_none());
    // Not known: said once.
    for id in ["u-1", "u-2"] {
        conn.send(&json!({"type": "deploy", "request_id": id, "payload": {"x": 1}}));
    }
    let fallback = conn.expect("protocol_fallback");
    assert_eq!(fallback["payload"]["unknown_type"], "deploy");
    // A stream to nowhere: an error under the envelope's id, and no close.
    for kind in ["proxy_websocket_start", "ws_start"] {
        conn.send(&json!({"type": kind, "request_id": "w", "payload": {"stream_id": "s"}}));
        assert_eq!(conn.expect("proxy_error")["request_id"], "w");
    }
    // Not built: refused in its own way.
    conn.send(&json!({"type": "tcp_tunnel_start", "request_id": "t", "payload": {}}));
    assert_eq!(conn.expect("tcp_tunnel_close")["request_id"], "t");
    // Nothing to say to these.
    for kind in [
        "gateway_hello",
        "udp_tunnel_data",
        "pong",
        "heartbeat_ack",
        "proxy_websocket_data",
        "tcp_tunnel_data",
        "proxy_request_chunk",
        "proxy_request_stream_end",
        "proxy_cancel",
        "proxy_flow",
        "register_in_progress",
    ] {
        // A text is no offer (tunnels.md §1.2).
        conn.send(&json!({"type": kind, "request_id": "n", "payload": {"use_yamux": "true"}}));
    }
    for bytes in [&b""[..], b"{", b"\x00\x01\x02\x03", b"[1]", b"null"] {
        conn.send_binary(bytes);
    }
    conn.send(&json!({"type": "error", "payload": {"error": "something is wrong"}}));
    assert!(conn.is_quiet());
    assert_eq!(agent.status().connections, 1);
    agent.stop();
    agent.wait().expect("an orderly end");
    while conn.next().is_some() {}
    assert_eq!(conn.link.wait().code, Some(1000));
}

#[test]
fn a_gateway_that_has_never_heard_of_the_cluster_sends_the_agent_back() {
    let plane = FakePlane::start();
    let agent = agent_of(&plane, None);
    let conn = plane.register();
    conn.send(&json!({"type": "error", "payload": {"error": "Cluster Not Registered"}}));
    let mut controller = plane.accept();
    assert_eq!(controller.path(), "/api/v1/clusters/agent/ws");
    let register = controller.expect("register");
    // With the id that it has, or it would become a second cluster.
    assert_eq!(register["payload"]["cluster_id"], CLUSTER);
    controller.send(&json!({"type": "register_in_progress", "payload": {}}));
    controller.send_binary(
        json!({
            "type": "register_success", "request_id": register["request_id"],
            "payload": {"data": {"cluster_id": "c-2"}},
        })
        .to_string()
        .as_bytes(),
    );
    // No gateway is named: it stays.
    let heartbeat = controller.acknowledge();
    assert_eq!(heartbeat["payload"]["cluster_id"], "c-2");
    agent
        .wait_until(far(), |status| status.cluster_id.as_deref() == Some("c-2"))
        .expect("it has understood");
}

#[test]
fn a_gateway_in_clear_text_gets_no_token() {
    let plane = FakePlane::start();
    let agent = agent_of(&plane, None);
    let mut controller = plane.accept();
    let register = controller.expect("register");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let plain = listener.local_addr().expect("its address");
    listener.set_nonblocking(true).expect("set");
    controller.send(&json!({
        "type": "register_success", "request_id": register["request_id"],
        "payload": {"cluster_id": "c-1", "gateway_ws_url": format!("ws://{plain}/ws")},
    }));
    // Where it is instead: here, or nowhere.
    agent
        .wait_until(far(), |status| status.cluster_id.is_some())
        .expect("registered");
    agent.stop();
    let _ = agent.wait();
    assert!(listener.accept().is_err(), "nobody has dialled it");
}

#[test]
fn a_hello_that_comes_first_is_taken_up_and_a_late_one_is_not() {
    let upstream = Upstream::start_tls(|_, _, responder| {
        let body = whole(3 << 20);
        responder
            .respond(200, &content("text/plain"), &body)
            .expect("answered");
    });
    let plane = FakePlane::start();
    let _agent = agent_of(&plane, Some(&upstream));
    let mut conn = plane.register();
    // Messages have been exchanged: too late for features.
    conn.send(&json!({"type": "plane_hello", "payload": {"features": ["flow", "x"]}}));
    let ack = conn.expect("plane_hello_ack");
    assert_eq!(ack["payload"]["features"], json!([]));
    conn.request(
        "r",
        &json!({"path": "/api/x", "supports_response_streaming": true}),
    );
    let (_, _, body) = conn.streamed("r");
    assert!(body == whole(3 << 20), "it comes without credit");
    conn.link.abort("for a new one");
    let mut conn = plane.accept();
    conn.send(&json!({"type": "plane_hello", "payload": {"features": ["flow", "x"]}}));
    let ack = conn.expect("plane_hello_ack");
    assert_eq!(ack["payload"]["features"], json!(["flow"]));
    conn.acknowledge();
    credit_both_ways(&mut conn);
}

/// An answer stops where its credit ends, and goes on with more.
fn credit_both_ways(conn: &mut Conn) {
    conn.request(
        "r",
        &json!({"path": "/api/x", "supports_response_streaming": true}),
    );
    assert_eq!(conn.answer("r")["type"], "proxy_response_header");
    let mut body = Vec::new();
    let mut granted = 1 << 20;
    while body.len() < granted {
        body.extend(chunk(&conn.answer("r")));
    }
    assert_eq!(body.len(), granted, "not a byte more");
    assert!(conn.is_quiet());
    for credit in [1, 100_000, 5 << 20] {
        conn.send(&json!({"type": "proxy_flow", "request_id": "r", "payload": {"credit": credit}}));
        granted = (granted + credit).min(3 << 20);
        while body.len() < granted {
            body.extend(chunk(&conn.answer("r")));
        }
        assert_eq!(body.len(), granted, "not a byte more");
    }
    assert_eq!(conn.answer("r")["type"], "proxy_response_end");
    assert!(body == whole(3 << 20));
}

#[test]
fn an_upload_is_granted_what_the_api_server_takes() {
    let (go, goes) = crossbeam_channel::bounded::<()>(0);
    let upstream = Upstream::start_tls(move |_, mut body, responder| {
        let _ = goes.recv();
        let read = body.read_all(64 << 20).expect("a body").len();
        drop(body);
        let answer = read.to_string();
        responder
            .respond(200, &content("text/plain"), answer.as_bytes())
            .expect("answered");
    });
    let plane = FakePlane::start();
    let _agent = agent_of(&plane, Some(&upstream));
    plane.register().link.abort("for a new one");
    let mut conn = plane.accept();
    conn.send(&json!({"type": "plane_hello", "payload": {"features": ["flow"]}}));
    conn.expect("plane_hello_ack");
    conn.acknowledge();
    conn.request(
        "u",
        &json!({
            "method": "PUT", "path": "/api/x", "use_streaming": true,
            "supports_response_streaming": true,
        }),
    );
    let total = 40 << 20;
    let (mut sent, mut granted) = (0, 1 << 20);
    let mut held_up = Some(go);
    while sent < total {
        let size = (granted - sent).min(256 * 1024).min(total - sent);
        if size > 0 {
            let data = base64_simd::STANDARD.encode_to_string(vec![7; size]);
            conn.send(&json!({
                "type": "proxy_request_chunk", "request_id": "u", "payload": {"data": data},
            }));
            sent += size;
            continue;
        }
        let grant = if held_up.is_some() && conn.is_quiet() {
            // The API server reads nothing: the agent grants no more than it keeps.
            assert!(sent < total / 2, "{sent}");
            held_up.take();
            None
        } else {
            Some(conn.answer("u"))
        };
        if let Some(grant) = grant {
            assert_eq!(grant["type"], "proxy_flow", "{grant}");
            granted += usize::try_from(grant["payload"]["credit"].as_u64().expect("a number"))
                .expect("small");
        }
    }
    conn.send(&json!({"type": "proxy_request_stream_end", "request_id": "u"}));
    let body = loop {
        let message: Value = conn.answer("u");
        if message["type"] == "proxy_response_chunk" {
            break chunk(&message);
        }
    };
    assert_eq!(String::from_utf8_lossy(&body), total.to_string());
}
