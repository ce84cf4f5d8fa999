//! Bytes of TCP, both ways.

use std::io::Write;
use std::sync::mpsc;

use serde_json::json as value;

use super::*;
use crate::net::testing::listen;
use crate::telemetry::metrics;

#[test]
fn tt22_what_comes_before_the_target_answers_is_kept_in_order() {
    let (listener, address) = listen();
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let mut stage = Stage::with(Wants {
        rules: Some(LOOPBACK),
        lookup: Some(Arc::new(move || {
            let _ = hang.lock().recv();
            address
        })),
        ..Wants::default()
    });
    assert_eq!(stage.start("c", service(address.port())), None);
    let bytes = pattern(3_000_000);
    // Of all sizes, most of them before the dial.
    let mut rest = &bytes[..];
    for length in (1..).map(|n| n * n) {
        let (now, later) = rest.split_at(rest.len().min(length));
        assert_eq!(stage.data("c", now), None);
        rest = later;
        if length > 500_000 {
            break;
        }
    }
    drop(release);
    for piece in rest.chunks(10_000) {
        assert_eq!(stage.data("c", piece), None);
    }
    let mut target = accept(&listener);
    assert!(read_exactly(&mut target, bytes.len()) == bytes, "mixed up");
    // Behind the close comes an end, not before.
    stage.data("c", b"last words");
    stage.tunnels().close("c", Some("client_closed"));
    let mut last = Vec::new();
    target.read_to_end(&mut last).expect("a clean end");
    assert_eq!(last, b"last words");
    let close = stage.wire.close("c");
    assert_eq!(close["reason"], "service_closed");
    assert_eq!(close["bytes_sent"], bytes.len() + 10);
    drop(target);
    stage.settle();
}

fn durations() -> f64 {
    let series = "pipeops_agent_tcp_tunnel_connection_duration_seconds_count";
    metrics::snapshot().value(series).expect("there")
}

#[test]
fn bytes_travel_both_ways_and_the_targets_end_is_said_once_behind_them() {
    let (listener, address) = listen();
    let mut stage = Stage::new();
    let before = (metrics::TCP_CONNECTIONS.value(), durations());
    let sent = metrics::TCP_BYTES_SENT.value();
    let received = metrics::TCP_BYTES_RECEIVED.value();
    stage.open("c-1", address.port());
    let mut target = accept(&listener);
    stage.data("c-1", b"hello");
    assert_eq!(read_exactly(&mut target, 5), b"hello");
    let bytes = pattern(300_000);
    target.write_all(&bytes).expect("written");
    // While the connection still lives.
    eventually(|| metrics::TCP_BYTES_SENT.value() >= sent + 5);
    eventually(|| metrics::TCP_BYTES_RECEIVED.value() >= received + 300_000);
    assert!(metrics::TCP_CONNECTIONS.value() > before.0);
    assert!(metrics::TCP_ACTIVE.value() >= 1 && metrics::TUNNEL_FORWARDS.value() >= 1);
    drop(target);
    let close = stage.wire.close("c-1");
    eventually(|| durations() > before.1);
    assert_eq!(Wire::bytes(&stage.wire.state.lock(), "c-1"), bytes);
    assert_eq!(close["reason"], "service_closed");
    assert_eq!(
        (&close["bytes_sent"], &close["bytes_received"]),
        (&value!(5), &value!(300_000))
    );
    assert!(close["duration_ms"].is_u64() && close.get("error").is_none());
    stage.settle();
    // Late ones are nobody's fault.
    assert_eq!(stage.data("c-1", b"late"), None);
    stage.tunnels().close("c-1", None);
    assert_eq!(stage.wire.closes("c-1"), 1);
    let said = stage.wire.state.lock();
    let sizes = said.messages.iter().map(|m| {
        m["payload"]["data"]
            .as_str()
            .map_or(0, |data| data.len() / 4 * 3)
    });
    assert!(sizes.max() <= Some(32 * 1024 + 2));
}

#[test]
fn only_so_many_connections_at_once() {
    let (listener, address) = listen();
    let mut stage = Stage::with(Wants {
        settings: Settings {
            max_connections: 2,
            ..Settings::default()
        },
        ..Wants::default()
    });
    stage.open("a", address.port());
    stage.open("b", address.port());
    let targets = [(); 2].map(|()| accept(&listener));
    let close = stage
        .start("c", gateway_port(address.port()))
        .expect("refused");
    let want = value!({"reason": "registration_failed", "error": "max TCP connections reached: 2"});
    assert_eq!(close["payload"], want);
    drop(targets);
    stage.settle();
    stage.open("c", address.port());
    listener.accept().expect("room again");
}

#[test]
fn a_full_lane_makes_the_target_wait_and_loses_nothing() {
    let (listener, address) = listen();
    let mut stage = Stage::new();
    stage.wire.set(|said| said.full = true);
    stage.open("c", address.port());
    let target = accept(&listener);
    let bytes = Arc::new(pattern(20 << 20));
    let writer = {
        let (mut target, bytes) = (target, bytes.clone());
        std::thread::spawn(move || target.write_all(&bytes))
    };
    stage
        .wire
        .wait_until(|said| (said.waiting == 1).then_some(()));
    // One message waits, the rest is in the kernels, and the target waits.
    assert!(!writer.is_finished());
    assert!(stage.wire.state.lock().messages.is_empty());
    stage.wire.set(|said| said.full = false);
    writer.join().expect("thread").expect("written");
    let close = stage.wire.close("c");
    assert_eq!(close["bytes_received"], bytes.len());
    assert!(
        Wire::bytes(&stage.wire.state.lock(), "c") == *bytes,
        "mixed up"
    );
    stage.settle();
}

/// A refusal that comes before the upload's end, as of HTTP's 413.
#[test]
fn a_target_that_reads_no_more_is_heard_to_its_end() {
    let (listener, address) = listen();
    let mut stage = Stage::new();
    stage.open("c", address.port());
    let mut target = accept(&listener);
    stage.data("c", b"POST");
    assert_eq!(read_exactly(&mut target, 4), b"POST");
    // It answers, and goes with most of the upload unread, while nothing of the answer
    // finds room yet: its end is a reset, which the writing thread hears of first.
    stage.wire.set(|said| said.full = true);
    let answer = pattern(100_000);
    target.write_all(&answer).expect("written");
    for _ in 0..1000 {
        stage.data("c", &pattern(10_000));
    }
    stage
        .wire
        .wait_until(|said| (said.waiting == 1).then_some(()));
    drop(target);
    eventually(|| stage.shared.memory.taken() == 0);
    stage.wire.set(|said| said.full = false);
    stage.wire.close("c");
    assert!(Wire::bytes(&stage.wire.state.lock(), "c") == answer, "cut");
    stage.settle();
}
