//! What hellos agree on.

use serde_json::{Value, json};

use super::bench::{Bench, Sink};
use super::*;

fn hello(use_yamux: &Value, window: u32) -> Value {
    json!({"type": "gateway_hello", "payload": {
        "use_yamux": use_yamux, "yamux_config": {"max_stream_window_size": window},
    }})
}

/// The session has its place when the ack is queued, and speaks when it is.
#[test]
fn t28_a_hello_is_acknowledged_when_the_session_is_there_and_before_it_speaks() {
    let mut bench = Bench::new();
    bench.text(&hello(&json!(true), 1000));
    bench.dispatch.binary(&[0; 12]);
    let want = [
        "no binary bodies",
        "session of Some(1000) after []",
        "begin after [gateway_hello_ack]",
        "yamux 12",
    ];
    assert_eq!(bench.calls(), want);
    let ack = &bench.answers(Lane::Control, 1)[0];
    assert_eq!(ack["payload"], json!({"use_yamux": true}));
    assert!(ack.get("request_id").is_none());
}

#[test]
fn tt10_a_second_hello_replaces_the_session_and_is_acknowledged_too() {
    let mut bench = Bench::new();
    bench.text(&hello(&json!(true), 1));
    bench.text(&hello(&json!(true), 2));
    let want = [
        "no binary bodies",
        "session of Some(1) after []",
        "begin after [gateway_hello_ack]",
        "no binary bodies",
        "session of Some(2) after [gateway_hello_ack]",
        "begin after [gateway_hello_ack, gateway_hello_ack]",
    ];
    assert_eq!(bench.calls(), want);
}

#[test]
fn x15_a_hello_that_asks_for_no_yamux_changes_nothing() {
    let mut bench = Bench::new();
    for other in [json!("true"), json!(false), json!(1), json!(null)] {
        bench.text(&hello(&other, 1000));
    }
    assert!(bench.channel.types().is_empty());
    // JSON in binary is still read afterwards.
    bench.dispatch.binary(br#"{"type":"ping"}"#);
    bench.answers(Lane::Control, 1);
    assert!(bench.calls().is_empty());
}

/// Whatever it looks like, and whoever waited for one.
#[test]
fn x16_beside_a_session_a_binary_message_is_nothing_else() {
    let mut bench = Bench::with(Sink {
        wants_binary: true,
        ..Sink::default()
    });
    bench.text(&hello(&json!(true), 1000));
    bench.calls();
    bench.dispatch.binary(br#"{"type":"ping"}"#);
    assert_eq!(bench.calls(), ["yamux 15"]);
    assert_eq!(bench.channel.types(), ["gateway_hello_ack"]);
}

#[test]
fn plane_hello_agrees_on_what_both_know() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "plane_hello", "payload": {"features": ["tunnel_header_2", "raw-streams", "flow", "unheard-of"]}}));
    assert_eq!(bench.calls(), ["flow", "raw streams", "clients"]);
    let ack = &bench.answers(Lane::Control, 1)[0];
    assert_eq!(ack["type"], "plane_hello_ack");
    assert_eq!(
        ack["payload"]["features"],
        json!(["flow", "raw-streams", "tunnel_header_2"])
    );

    let mut bench = Bench::new();
    bench.text(&json!({"type": "plane_hello", "payload": {}}));
    let ack = &bench.answers(Lane::Control, 1)[0];
    assert_eq!(
        (bench.calls().len(), &ack["payload"]["features"]),
        (0, &json!([]))
    );
}

#[test]
fn a_plane_hello_that_comes_late_switches_nothing_on() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "proxy_request", "request_id": "r", "payload": {}}));
    bench.calls();
    bench.text(&json!({"type": "plane_hello", "payload": {"features": ["flow"]}}));
    assert!(bench.calls().is_empty());
    assert_eq!(
        bench.answers(Lane::Control, 1)[0]["payload"]["features"],
        json!([])
    );
}
