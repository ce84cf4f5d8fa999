//! Messages in every form a peer may give them (control-channel.md §2.6, §3, §4).

use serde_json::{Value, json};

use crate::stage::{CLUSTER_ID, Stage, far};

/// C5, and §3's recommendation: an id that is a number is one.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c05_pings_are_answered_with_and_without_an_id() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    stage.gateway.send("ping", "p-17", json!({}));
    stage.gateway.send("ping", "", json!({}));
    stage
        .gateway
        .send_text(r#"{"type":"ping","request_id":4711,"payload":{}}"#);
    stage.gateway.send_text(r#"{"type":"ping","payload":null}"#);
    stage.gateway.send_text(
        r#" {"payload":{"x":[1,{}]},"new":true,"type":"ping","timestamp":"yesterday"} "#,
    );
    stage.gateway.settle();
    let pongs = stage
        .gateway
        .seen(&json!({"event": "message", "type": "pong"}));
    let ids: Vec<&Value> = pongs.iter().map(|pong| &pong["request_id"]).collect();
    assert_eq!(
        ids,
        [
            &json!("p-17"),
            &json!(null),
            &json!("4711"),
            &json!(null),
            &json!(null)
        ]
    );
    stage.end(agent, &gateway);
}

/// The WebSocket's own pings.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn websocket_pings_get_their_payload_back() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    let longest = "x".repeat(125);
    for text in ["", "are you there", longest.as_str()] {
        stage.gateway.command(json!({"cmd": "ping", "text": text}));
        stage
            .gateway
            .expect(json!({"event": "pong", "conn": gateway, "text": text}));
    }
    stage.end(agent, &gateway);
}

/// C4: the controller is known to send all its JSON in binary messages.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c04_json_in_binary_messages_is_understood_all_the_way() {
    let stage = Stage::new();
    stage.gateway.set("binary_json", true);
    stage
        .gateway
        .set("controller_greeting", r#"{"type":"ping","request_id":"c"}"#);
    stage
        .gateway
        .set("gateway_greeting", r#"{"type":"ping","request_id":"g"}"#);
    let agent = stage.start();
    let gateway = stage.arrived();
    for id in ["c", "g"] {
        stage
            .gateway
            .expect(json!({"event": "message", "type": "pong", "request_id": id}));
    }
    stage.gateway.send("ping", "b", json!({}));
    stage
        .gateway
        .expect(json!({"event": "message", "type": "pong", "request_id": "b"}));
    stage.end(agent, &gateway);
}

/// libraries.md: tungstenite's upgrade swallows it.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_message_in_the_segment_of_the_101_is_not_lost() {
    let stage = Stage::new();
    stage.gateway.set(
        "controller_greeting",
        r#"{"type":"ping","request_id":"first"}"#,
    );
    stage.gateway.set(
        "gateway_greeting",
        r#"{"type":"ping","request_id":"second"}"#,
    );
    let agent = stage.start();
    let pong = stage
        .gateway
        .expect(json!({"event": "message", "type": "pong", "request_id": "first"}));
    assert_eq!(pong["conn"], "controller#1");
    let gateway = stage.arrived();
    let pong = stage
        .gateway
        .expect(json!({"event": "message", "type": "pong", "request_id": "second"}));
    assert_eq!(pong["conn"], gateway.as_str());
    stage.end(agent, &gateway);
}

/// §2.7: the original cuts at 4,096 bytes, others where they like.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn fragmented_messages_are_joined() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    for frame in [1, 7, 4096] {
        let id = format!("{}-é-{frame}", "i".repeat(frame));
        stage.gateway.command(json!({
            "cmd": "send_envelope", "type": "ping", "request_id": id, "payload": {"ä": "ö".repeat(5000)}, "frame": frame,
        }));
        stage
            .gateway
            .expect(json!({"event": "message", "type": "pong", "request_id": id}));
    }
    // A ping between the fragments of a message (RFC 6455 §5.5), in frames made here.
    let text = br#"{"type":"ping","request_id":"cut"}"#;
    let mut bytes = vec![0x01, 10];
    bytes.extend_from_slice(&text[..10]);
    stage.gateway.send_raw(&bytes);
    stage
        .gateway
        .command(json!({"cmd": "ping", "text": "between"}));
    stage
        .gateway
        .expect(json!({"event": "pong", "text": "between"}));
    let mut bytes = vec![0x80, text.len() as u8 - 10];
    bytes.extend_from_slice(&text[10..]);
    stage.gateway.send_raw(&bytes);
    // The ledger didn't see this ping, so its pong would be a fault; the agent's
    // answer is awaited as what it is.
    stage
        .gateway
        .expect(json!({"event": "message", "type": "pong", "request_id": "cut"}));
    stage.stop(agent, &gateway);
    stage
        .gateway
        .finish_with(&["pong \"cut\" without such a ping"]);
}

/// C6.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c06_an_unknown_type_gets_one_fallback_per_connection() {
    let stage = Stage::new();
    let agent = stage.start();
    stage.arrived();
    for _ in 0..5 {
        stage.gateway.send("deploy", "d-1", json!({"image": "x"}));
        stage.gateway.send("scale", "", json!({}));
    }
    stage.gateway.round_trip();
    stage.gateway.settle();
    let fallbacks = json!({"event": "message", "type": "protocol_fallback"});
    assert_eq!(stage.gateway.seen(&fallbacks).len(), 2);
    stage.gateway.drop_connection();
    let gateway = stage.gateway.connection("gateway");
    stage.heartbeat_on(&gateway);
    stage.gateway.send("deploy", "d-2", json!({}));
    stage.gateway.settle();
    assert_eq!(stage.gateway.seen(&fallbacks).len(), 3);
    stage.end(agent, &gateway);
}

/// Only JSON's `true` asks for yamux: no ack, no fallback, and JSON in binary messages
/// is still read.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn x15_a_gateway_hello_that_asks_for_nothing_is_not_acknowledged() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    for use_yamux in [json!("true"), json!(false), json!(1)] {
        let hello = json!({"use_yamux": use_yamux});
        stage.gateway.send("gateway_hello", "", hello);
    }
    stage
        .gateway
        .send_binary(br#"{"type":"ping","request_id":"still JSON"}"#);
    stage.gateway.round_trip();
    stage.gateway.settle();
    for kind in ["gateway_hello_ack", "protocol_fallback"] {
        let seen = stage
            .gateway
            .seen(&json!({"event": "message", "type": kind}));
        assert_eq!(seen, Vec::<Value>::new());
    }
    stage.end(agent, &gateway);
}

/// decisions.md §6.2 "Between the plane and us": features only for the first message.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_plane_hello_is_acknowledged_with_what_both_know() {
    for (first, features) in [(true, json!(["flow"])), (false, json!([]))] {
        let stage = Stage::new();
        let hello = json!({"features": ["teleport", "flow"]});
        if first {
            let greeting = json!({"type": "plane_hello", "payload": hello}).to_string();
            stage.gateway.set("gateway_greeting", greeting);
        }
        let agent = stage.start();
        let gateway = stage.arrived();
        if !first {
            stage.gateway.round_trip();
            stage.gateway.send("plane_hello", "", hello);
        }
        assert_eq!(
            stage.gateway.message("plane_hello_ack")["payload"]["features"],
            features
        );
        stage.end(agent, &gateway);
    }
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn what_cannot_be_decoded_changes_nothing() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    for text in [
        "",
        "no JSON",
        "[]",
        "{}",
        "null",
        r#"{"type":7}"#,
        r#"{"type":"#,
        r#"{"type":"ping","request_id":{}}"#,
    ] {
        stage.gateway.send_text(text);
    }
    for bytes in [
        &b""[..],
        &[0, 3, b'r', b'-', b'7'],
        &[0xff; 64],
        b"{\"type\":",
    ] {
        stage.gateway.send_binary(bytes);
    }
    stage.gateway.send("pong", "nobody asked", json!({}));
    stage
        .gateway
        .send("heartbeat_ack", "", json!({"received_at": 7}));
    stage
        .gateway
        .send("register_success", "", json!({"cluster_id": "other"}));
    stage.gateway.send("register_in_progress", "", json!({}));
    stage.gateway.send("proxy_cancel", "nobody", json!({}));
    stage
        .gateway
        .send("proxy_request_chunk", "nobody", json!({"data": "eA=="}));
    stage
        .gateway
        .send("proxy_request_stream_end", "nobody", json!({}));
    stage.gateway.round_trip();
    let status = agent
        .wait_until(far(), |status| status.connections > 0)
        .expect("serving");
    assert_eq!(status.connections, 1);
    assert_eq!(status.cluster_id.as_deref(), Some(CLUSTER_ID));
    stage.end(agent, &gateway);
}

/// C13, T36: refused in the way of each, in both spellings.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c13_t36_streams_to_nowhere_and_tunnels_that_are_off_are_refused() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    for (kind, id) in [("proxy_websocket_start", "s-1"), ("ws_start", "s-2")] {
        let payload = json!({"stream_id": id, "path": "/apifoo/pods/web/exec"});
        stage.gateway.send(kind, id, payload);
        let error = stage
            .gateway
            .expect(json!({"event": "message", "type": "proxy_error", "request_id": id}));
        assert_eq!(error["envelope"]["payload"]["request_id"], id);
    }
    stage.gateway.send(
        "tcp_tunnel_start",
        "t-1",
        json!({"tunnel_id": "db", "gateway_port": 5432}),
    );
    let close = stage
        .gateway
        .expect(json!({"event": "message", "type": "tcp_tunnel_close", "request_id": "t-1"}));
    assert_eq!(
        close["envelope"]["payload"]["reason"],
        "registration_failed"
    );
    // Nothing can be said against a datagram, and nothing is said to what belongs to
    // streams that were refused.
    stage.gateway.send(
        "udp_tunnel_data",
        "",
        json!({"tunnel_id": "dns", "data": "eA=="}),
    );
    for kind in [
        "proxy_websocket_data",
        "ws_data",
        "proxy_stream_data",
        "ws_close",
        "tcp_tunnel_data",
        "tcp_tunnel_close",
    ] {
        stage
            .gateway
            .send(kind, "s-1", json!({"stream_id": "s-1", "data": "AXg="}));
    }
    stage.gateway.round_trip();
    stage.end(agent, &gateway);
}

/// T31: the header alone is enough to refuse it.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t31_a_message_beyond_the_limit_ends_the_connection_with_1009() {
    for fragmented in [false, true] {
        let stage = Stage::new();
        let limit = 64 * 1024;
        let agent = stage.start_with(|parts| parts.link.max_message = limit);
        let gateway = stage.arrived();
        stage
            .gateway
            .send("ping", &"i".repeat(limit / 2), json!({}));
        stage.gateway.settle();
        stage.gateway.set("close_code", 1009);
        let frame = if fragmented { 4096 } else { 0 };
        let text = format!(
            r#"{{"type":"pong","payload":{{"x":"{}"}}}}"#,
            "x".repeat(limit)
        );
        stage
            .gateway
            .command(json!({"cmd": "send_text", "text": text, "frame": frame}));
        stage.gateway.closed(&gateway, 1009);
        stage.gateway.set("close_code", 1000);
        let gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
        stage.end(agent, &gateway);
    }
}

/// RFC 6455: what must not be overlooked ends the connection with its code.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn broken_frames_end_the_connection_with_the_right_code() {
    let broken: [(&[u8], u16); 7] = [
        (&[0x81, 0x81, 0, 0, 0, 0, b'x'], 1002), // masked by a server
        (&[0xc1, 0x01, b'x'], 1002),             // a reserved bit
        (&[0x83, 0x00], 1002),                   // a reserved opcode
        (&[0x09, 0x00], 1002),                   // a ping in fragments
        (&[0x89, 126, 0, 126], 1002),            // a ping that is too long
        (&[0x80, 0x00], 1002),                   // a continuation of nothing
        (&[0x81, 0x02, 0xc3, 0x28], 1007),       // text that is none
    ];
    for (bytes, code) in broken {
        let stage = Stage::new();
        let agent = stage.start();
        let gateway = stage.arrived();
        stage.gateway.set("close_code", code);
        stage.gateway.send_raw(bytes);
        stage.gateway.closed(&gateway, code);
        stage.gateway.set("close_code", 1000);
        let gateway = stage.gateway.connection("gateway");
        stage.heartbeat_on(&gateway);
        stage.end(agent, &gateway);
    }
}

/// T15, for an agent without a cluster: whoever waits is answered.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn requests_to_an_agent_without_a_cluster_are_refused_in_their_form() {
    let stage = Stage::new();
    let agent = stage.start();
    let gateway = stage.arrived();
    stage.gateway.send(
        "proxy_request",
        "b-1",
        json!({"method": "GET", "path": "/version"}),
    );
    stage
        .gateway
        .expect(json!({"event": "outcome", "request_id": "b-1", "result": "error"}));
    stage.gateway.send(
        "proxy_request",
        "s-1",
        json!({"method": "GET", "path": "/version", "supports_response_streaming": true}),
    );
    stage
        .gateway
        .expect(json!({"event": "outcome", "request_id": "s-1", "result": "abort"}));
    stage.end(agent, &gateway);
}
