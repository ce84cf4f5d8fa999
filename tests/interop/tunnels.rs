//! Tunnels against hashicorp/yamux 0.1.2 over gorilla/websocket. The gateway judges
//! every frame (README.md), so each test proves more than its name says.

use pipeops_agent::agent::Agent;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::tunnel_driver::pattern_sum;

/// An agent whose session is there; the connection's name.
fn start(hello: Value) -> (Stage, Agent, String) {
    let stage = Stage::with_tunnels();
    let agent = stage.start();
    let conn = stage.arrived();
    stage.gateway.hello(hello);
    (stage, agent, conn)
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_thousand_streams_at_once_echo_what_they_are_sent() {
    let (stage, agent, conn) = start(json!({}));
    let echo = json!([{"say": "echo\n"}, {"both": [[{"send": 20_000}, {"finish": true}], [{"drain": true}]]}]);
    stage.gateway.streams("echo", json!({"count": 1000}), echo);
    let done = stage.gateway.all_ended("echo", "eof", 1000);
    assert_eq!(done["in"], 20_000_000);
    for number in [1, 500, 1000] {
        let stream = json!({"event": "stream", "job": "echo", "number": number});
        let stream = stage.gateway.expect(stream);
        assert_eq!(stream["received_sha256"], pattern_sum(number, 20_000));
    }
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn windows_from_256_kib_to_16_mib_carry_bytes_both_ways() {
    const BYTES: usize = 20_000_000;
    let (stage, agent, conn) = start(json!({}));
    for (number, window) in [256 << 10, 1 << 20, 16 << 20].into_iter().enumerate() {
        let job = |name: &str| format!("{name}-{number}");
        // A second hello each: the session before has ended.
        let config = json!({"max_stream_window_size": window});
        stage
            .gateway
            .hello(json!({"yamux_config": config, "window": window}));
        let source = format!("source {BYTES} 7\n");
        stage.gateway.streams(
            &job("down"),
            json!({}),
            json!([{"say": source}, {"receive": BYTES}, {"finish": true}, {"drain": true}]),
        );
        let received =
            json!({"event": "stream", "job": job("down"), "end": "eof", "received": BYTES});
        let received = stage.gateway.expect(received);
        assert_eq!(received["received_sha256"], pattern_sum(7, BYTES));
        stage.gateway.streams(
            &job("up"),
            json!({}),
            json!([{"say": "sink\n"}, {"send": BYTES}, {"finish": true}, {"drain": true}]),
        );
        stage.gateway.all_ended(&job("up"), "eof", 1);
        let sunk = stage.gateway.target_saw("sink", "eof");
        assert_eq!(
            (&sunk["received"], &sunk["sha256"]),
            (&BYTES.into(), &pattern_sum(1, BYTES).into())
        );
    }
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn yamux_bytes_may_be_cut_anywhere() {
    let (stage, agent, conn) = start(json!({"chunk": 1}));
    let echo = json!([{"say": "echo\n"}, {"both": [[{"send": 3000}, {"finish": true}], [{"drain": true}]]}]);
    for (number, hello) in [
        json!({"chunk": 1}),
        json!({"chunk": 13}),
        json!({"frame": 5}),
        json!({"chunk": 4000, "frame": 700}),
    ]
    .into_iter()
    .enumerate()
    {
        stage.gateway.hello(hello);
        let job = format!("echo-{number}");
        stage
            .gateway
            .streams(&job, json!({"count": 3, "pieces": true}), echo.clone());
        stage.gateway.all_ended(&job, "eof", 3);
    }
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn either_end_may_finish_first() {
    let (stage, agent, conn) = start(json!({}));
    // The target has ended; what is sent to it still arrives.
    let turn = json!([{"say": "turn\n"}, {"expect": "hi\n"}, {"drain": true}, {"send": 500_000}]);
    stage.gateway.streams("turn", json!({"count": 10}), turn);
    stage.gateway.all_ended("turn", "eof", 10);
    for _ in 0..10 {
        assert_eq!(stage.gateway.target_saw("turn", "eof")["received"], 500_000);
    }
    // The gateway has; what the target answers then still arrives.
    let sink = json!([{"say": "sink\n"}, {"send": 500_000}, {"finish": true}, {"drain": true}]);
    stage.gateway.streams("sink", json!({"count": 10}), sink);
    stage.gateway.all_ended("sink", "eof", 10);
    // A target that answers without reading, and closes: it resets what was unread, so
    // how much of the answer arrives is its own doing; the stream ends.
    let answer = json!([{"say": "answer 100000 1\n"}, {"both": [[{"send": 50_000}], [{"receive": 100_000}]]}]);
    stage
        .gateway
        .streams("answer", json!({"count": 10}), answer);
    for number in 1..=10 {
        let ended = json!({"event": "stream", "job": "answer", "number": number});
        stage.gateway.expect(ended);
    }
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_reset_reaches_the_other_end_as_a_reset() {
    let (stage, agent, conn) = start(json!({}));
    let down = json!([{"say": "source 1000000000 1\n"}, {"receive": 300_000}, {"reset": true}]);
    stage.gateway.streams("down", json!({"count": 20}), down);
    stage.gateway.all_ended("down", "we-reset", 20);
    for _ in 0..20 {
        stage.gateway.target_saw("source 1000000000 1", "reset");
    }
    let up = json!([{"say": "sink\n"}, {"send": 300_000}, {"reset": true}]);
    stage.gateway.streams("up", json!({}), up);
    stage.gateway.target_saw("sink", "reset");
    let refused =
        json!([{"say": "reset 1000 1\n"}, {"receive": 1000}, {"say": "x"}, {"drain": true}]);
    stage.gateway.streams("target", json!({}), refused);
    stage.gateway.all_ended("target", "reset", 1);
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn targets_that_read_nothing_hold_up_nobody_else() {
    let (stage, agent, conn) = start(json!({}));
    stage.gateway.streams(
        "stalled",
        json!({"count": 8, "bulk": true}),
        json!([{"say": "stall\n"}, {"send": -1}]),
    );
    // And gateways that read nothing.
    stage.gateway.streams(
        "unread",
        json!({"count": 8, "bulk": true}),
        json!([{"say": "source 1000000000 1\n"}, {"gate": "never"}]),
    );
    stage.gateway.target_opened("stall", 8);
    stage.gateway.target_opened("source 1000000000 1", 8);
    let trips =
        json!([{"say": "echo\n"}, {"trips": 1000, "size": 64}, {"finish": true}, {"drain": true}]);
    stage.gateway.streams("echo", json!({}), trips);
    stage.gateway.all_ended("echo", "eof", 1);
    stage.gateway.session_ping();
    stage.gateway.round_trip();
    stage.gateway.stop_job("stalled");
    stage.gateway.stop_job("unread");
    stage.gateway.open_gate("stall");
    for _ in 0..8 {
        stage.gateway.target_saw("stall", "reset");
    }
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn datagrams_keep_their_size() {
    let (stage, agent, conn) = start(json!({"show": true}));
    let header = stage.gateway.header(crate::tunnel_driver::SERVICE, "udp");
    let sizes = [1, 512, 1472, 9000, 32_769, 65_507];
    stage.gateway.streams_to(
        "udp",
        header,
        json!({}),
        json!([{"datagrams": sizes}, {"finish": true}, {"drain": true}]),
    );
    stage.gateway.all_ended("udp", "eof", 1);
    for size in sizes {
        stage
            .gateway
            .expect(json!({"event": "datagram", "bytes": size}));
        stage
            .gateway
            .expect(json!({"event": "frame", "type": "data", "length": size}));
    }
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn keepalives_are_answered_and_go_away_ends_nothing_that_runs() {
    let (stage, agent, conn) = start(json!({"keepalive_ms": 50, "show": true}));
    stage.gateway.streams("held", json!({}), json!([{"say": "echo\n"}, {"gate": "go"}, {"trips": 3, "size": 10}, {"finish": true}, {"drain": true}]));
    for _ in 0..5 {
        stage
            .gateway
            .expect(json!({"event": "frame", "type": "ping", "flags": "ack"}));
    }
    stage.gateway.command(json!({"cmd": "go_away", "code": 0}));
    stage.gateway.open_gate("go");
    stage.gateway.all_ended("held", "eof", 1);
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn x17_a_lost_link_aborts_every_target() {
    let (stage, agent, _) = start(json!({}));
    stage.gateway.streams(
        "live",
        json!({"count": 500, "bulk": true}),
        json!([{"say": "echo\n"}, {"trips": -1, "size": 1000}]),
    );
    stage.gateway.target_opened("echo", 500);
    stage.gateway.drop_connection();
    for _ in 0..500 {
        stage.gateway.target_saw("echo", "reset");
    }
    let conn = stage.gateway.connection("gateway");
    stage.heartbeat_on(&conn);
    stage.gateway.hello(json!({}));
    stage
        .gateway
        .script("vectors", crate::tunnel_driver::SERVICE);
    stage.end(agent, &conn);
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_hello_in_the_segment_of_the_101_is_taken_up() {
    let stage = Stage::with_tunnels();
    stage.gateway.set("hello", json!({"glued": true}));
    let agent = stage.start();
    let conn = stage.arrived();
    stage.gateway.session_ping();
    stage.end(agent, &conn);
}
