//! How TCP connections end, and what is said of it.

use std::io::Write;
use std::sync::mpsc;

use serde_json::json as value;

use super::*;
use crate::net::testing::listen;
use crate::telemetry::metrics;
use crate::threads;

/// T26: each way to end, and one close of the right kind.
#[test]
fn tt26_each_connection_has_exactly_one_close() {
    let (listener, address) = listen();
    let mut stage = Stage::with(Wants {
        memory: 100_000,
        ..Wants::default()
    });
    let errors = || {
        [
            metrics::TCP_READ_ERRORS.value(),
            metrics::TCP_WRITE_ERRORS.value(),
            TCP_CONNECTION_FAILED.value(),
        ]
    };
    let before = errors();
    let opened = |stage: &mut Stage, id: &str| stage.connect(id, &listener);
    // By the gateway, whose close is echoed.
    let mut target = opened(&mut stage, "closed");
    stage.tunnels().close("closed", Some("client_closed"));
    stage.tunnels().close("closed", Some("client_closed"));
    assert_eq!(target.read(&mut [0; 1]).expect("a clean end"), 0);
    assert_eq!(stage.wire.close("closed")["reason"], "service_closed");
    // By the gateway, whose client was cut off.
    let mut target = opened(&mut stage, "cut");
    stage.data("cut", b"half an upload");
    stage.tunnels().close("cut", Some("error"));
    assert_reset(&mut target);
    assert_eq!(stage.wire.close("cut")["reason"], "service_closed");
    // By a target that goes away in the middle.
    let target = opened(&mut stage, "reset");
    socket2::SockRef::from(&target)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(target);
    let close = stage.wire.close("reset");
    assert_eq!(close["reason"], "service_closed");
    assert!(close["error"].as_str().expect("text").contains("reset"));
    // By a target that takes nothing.
    let mut target = opened(&mut stage, "full");
    let piece = pattern(30_000);
    while stage.wire.closes("full") == 0 {
        stage.data("full", &piece);
    }
    let close = stage.wire.close("full");
    assert_eq!(close["reason"], "write_error");
    assert!(
        close["error"]
            .as_str()
            .expect("text")
            .contains("tunnels.memory_limit")
    );
    assert_reset(&mut target);
    // By a gateway that sends rubbish, which would be a gap.
    let mut target = opened(&mut stage, "rubbish");
    assert!(stage.tunnels().data("rubbish", Some("!")).is_none());
    assert_eq!(stage.wire.close("rubbish")["reason"], "write_error");
    assert_reset(&mut target);
    // By nobody who listens.
    drop(listener);
    stage.open("refused", address.port());
    let close = stage.wire.close("refused");
    assert_eq!(close["reason"], "connection_failed");
    assert!(
        close["error"].as_str().expect("text").contains("refused"),
        "{close}"
    );
    stage.settle();
    for id in ["closed", "cut", "reset", "full", "rubbish", "refused"] {
        assert_eq!(stage.wire.closes(id), 1, "{id}");
    }
    let counted = [0, 1, 2].map(|i| errors()[i] - before[i]);
    assert!(
        counted
            .iter()
            .zip([1, 2, 1])
            .all(|(had, want)| *had >= want),
        "{counted:?}"
    );
}

#[test]
fn tt26_a_second_start_under_a_live_id_changes_nothing() {
    let (listener, address) = listen();
    let mut stage = Stage::new();
    stage.open("c", address.port());
    let mut target = accept(&listener);
    stage.open("c", 1);
    stage.data("c", b"still there");
    assert_eq!(read_exactly(&mut target, 11), b"still there");
    drop(target);
    stage.wire.close("c");
    // It is free again as soon as the gateway can know.
    stage.open("c", address.port());
    let mut target = accept(&listener);
    stage.data("c", b"again");
    assert_eq!(read_exactly(&mut target, 5), b"again");
}

#[test]
fn tt26_data_for_an_unknown_id_is_answered_once_and_not_for_ever() {
    let mut stage = Stage::new();
    let close = stage.data("nobody", b"x").expect("an answer");
    assert_eq!(close["type"], "tcp_tunnel_close");
    assert_eq!(close["request_id"], "nobody");
    let want = value!({"reason": "write_error", "error": "unknown request_id"});
    assert_eq!(close["payload"], want);
    assert_eq!(stage.data("nobody", b"x"), None);
    let mut answers = 0;
    for i in 0..1000 {
        answers += usize::from(stage.data(&format!("n-{i}"), b"x").is_some());
    }
    assert!(answers < 100, "{answers} answers");
    // Neither do closes provoke any.
    stage.tunnels().close("never", Some("client_closed"));
    assert!(stage.wire.state.lock().messages.is_empty());
}

#[test]
fn a_lost_connection_aborts_every_target_and_leaves_nothing() {
    let (listener, _) = listen();
    let mut stage = Stage::new();
    let mut targets = Vec::new();
    for id in ["idle", "reading", "writing"] {
        targets.push(stage.connect(id, &listener));
    }
    stage.wire.set(|said| said.full = true);
    // A reader that waits for the lane, and a writer whose target takes nothing.
    targets[1].write_all(b"an answer").expect("written");
    stage
        .wire
        .wait_until(|said| (said.waiting == 1).then_some(()));
    let piece = pattern(1 << 20);
    for _ in 0..32 {
        stage.data("writing", &piece);
    }
    stage.lose();
    for target in &mut targets {
        assert_reset(target);
    }
    stage.settle();
    assert!(stage.wire.state.lock().messages.is_empty());
}

/// It can't be told of any more, so it is no use to the target either.
#[test]
fn a_dial_ends_with_its_connection() {
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let mut stage = Stage::with(Wants {
        lookup: Some(Arc::new(move || {
            let _ = hang.lock().recv();
            ([127, 0, 0, 1], 1).into()
        })),
        ..Wants::default()
    });
    assert_eq!(stage.start("lost", service(1)), None);
    assert_eq!(stage.start("left", service(1)), None);
    // Nobody waits for what nothing was sent through.
    stage.tunnels().close("left", Some("client_closed"));
    assert_eq!(stage.wire.close("left")["reason"], "service_closed");
    stage.lose();
    stage.settle();
    assert_eq!(stage.wire.closes("lost"), 0);
    drop(release);
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let (listener, _) = listen();
    let mut stage = Stage::with(Wants {
        settings: Settings {
            // Long enough for a machine that is busy with other tests.
            tcp_idle: Duration::from_secs(2),
            ..Settings::default()
        },
        ..Wants::default()
    });
    let mut idle = stage.connect("idle", &listener);
    let mut busy = stage.connect("busy", &listener);
    // Each direction counts by itself.
    while stage.wire.closes("idle") == 0 {
        busy.write_all(b"x").expect("open");
        std::thread::sleep(Duration::from_millis(1));
    }
    let close = stage.wire.close("idle");
    assert_eq!(close["reason"], "service_closed");
    assert!(close["error"].as_str().expect("text").contains("idle"));
    assert_reset(&mut idle);
    stage.data("busy", b"still there");
    assert_eq!(read_exactly(&mut busy, 11), b"still there");
}

#[test]
fn an_idle_connection_whose_target_takes_nothing_is_closed() {
    let (listener, address) = listen();
    let mut stage = Stage::with(Wants {
        settings: Settings {
            tcp_idle: Duration::from_millis(300),
            ..Settings::default()
        },
        ..Wants::default()
    });
    stage.open("c", address.port());
    let mut target = accept(&listener);
    for _ in 0..32 {
        stage.data("c", &pattern(1 << 20));
    }
    let close = stage.wire.close("c");
    assert!(
        close["error"].as_str().expect("text").contains("idle"),
        "{close}"
    );
    assert_reset(&mut target);
    stage.settle();
}

/// It did wait for itself, for ever, and with it the reader of the connection.
#[test]
fn a_thread_that_cannot_be_had_refuses_a_connection_and_holds_up_nobody() {
    let (listener, address) = listen();
    let mut stage = Stage::new();
    threads::testing::refuse(1);
    let close = stage.start("c", gateway_port(address.port()));
    let close = close.expect("refused");
    assert_eq!(close["payload"]["reason"], "connection_failed");
    let error = close["payload"]["error"].as_str().expect("text");
    assert!(error.contains("cannot start thread"), "{error}");
    assert_eq!(stage.shared.live(), (0, 0));
    // Nothing more is said of it, and its id is free.
    let _target = stage.connect("c", &listener);
    assert_eq!(stage.wire.closes("c"), 0);
    stage.lose();
    let lines = stage.audit();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["end"], "refused");
}

/// The one for which most waits goes, and not the one that asks next.
#[test]
fn a_target_that_takes_nothing_costs_the_others_no_memory() {
    let (listener, _) = listen();
    let mut stage = Stage::with(Wants {
        memory: 1 << 20,
        ..Wants::default()
    });
    let mut stalled = stage.connect("stalled", &listener);
    let mut busy = stage.connect("busy", &listener);
    let piece = pattern(30_000);
    while stage.wire.closes("stalled") == 0 {
        stage.data("stalled", &piece);
        stage.data("busy", b"1234");
        assert_eq!(read_exactly(&mut busy, 4), b"1234");
    }
    let close = stage.wire.close("stalled");
    assert_eq!(close["reason"], "write_error");
    assert_reset(&mut stalled);
    // Another one's data is what finds no room.
    let _stalled = stage.connect("again", &listener);
    while stage.shared.memory.taken() < (1 << 20) - 30_000 {
        stage.data("again", &piece);
    }
    for _ in 0..10 {
        stage.data("busy", &piece);
        assert_eq!(read_exactly(&mut busy, 30_000), piece);
    }
    stage.wire.close("again");
    assert_eq!(stage.wire.closes("busy"), 0);
    stage.lose();
    stage.settle();
}

/// It ended its half and still reads: what it didn't get must not look whole.
#[test]
fn a_target_that_ends_before_it_has_all_sees_no_clean_end() {
    let (listener, _) = listen();
    let mut stage = Stage::new();
    let mut target = stage.connect("c", &listener);
    for _ in 0..20 {
        stage.data("c", &pattern(1 << 20));
    }
    target.shutdown(std::net::Shutdown::Write).expect("end");
    let close = stage.wire.close("c");
    assert_eq!(close["reason"], "service_closed");
    assert_reset(&mut target);
    stage.settle();
}
