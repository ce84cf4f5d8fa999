use std::io::{ErrorKind, Write};
use std::sync::mpsc;

use serde_json::json as value;

use super::*;
use crate::net::testing::listen;
use crate::tunnel::target::Routes;

/// Loopback has to be named.
const LOOPBACK: &str = "rules:\n- {action: allow}\n- {action: allow, addresses: [127.0.0.0/8]}\n";

impl Stage {
    /// A connection that is in use.
    fn connect(&mut self, id: &str, listener: &TcpListener) -> TcpStream {
        let address = listener.local_addr().expect("address");
        self.open(id, address.port());
        let mut target = accept(listener);
        self.data(id, b"x");
        read_exactly(&mut target, 1);
        target
    }
}

fn assert_reset(stream: &mut TcpStream) {
    let mut bytes = vec![0; 64 * 1024];
    let error = loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("a clean end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

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

#[test]
fn bytes_travel_both_ways_and_the_targets_end_is_said_once_behind_them() {
    let (listener, address) = listen();
    let mut stage = Stage::new();
    stage.open("c-1", address.port());
    let mut target = accept(&listener);
    stage.data("c-1", b"hello");
    assert_eq!(read_exactly(&mut target, 5), b"hello");
    let bytes = pattern(300_000);
    target.write_all(&bytes).expect("written");
    drop(target);
    let close = stage.wire.close("c-1");
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

/// T26: each way to end, and one close of the right kind.
#[test]
fn tt26_each_connection_has_exactly_one_close() {
    let (listener, address) = listen();
    let mut stage = Stage::with(Wants {
        budget: 100_000,
        ..Wants::default()
    });
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
    eventually(|| stage.shared.budget.charged() == 0);
    stage.wire.set(|said| said.full = false);
    stage.wire.close("c");
    assert!(Wire::bytes(&stage.wire.state.lock(), "c") == answer, "cut");
    stage.settle();
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

#[test]
fn the_agents_own_ports_are_never_reached() {
    let (listener, address) = listen();
    let mut stage = Stage::with(Wants {
        rules: Some(LOOPBACK),
        ..Wants::default()
    });
    stage.policy.set_own_ports(vec![address.port()]);
    stage.open("own", address.port());
    let close = stage.wire.close("own");
    assert_eq!(close["reason"], "connection_failed");
    assert!(
        close["error"]
            .as_str()
            .expect("text")
            .contains("this agent itself")
    );
    listener.set_nonblocking(true).expect("set");
    let error = listener.accept().expect_err("nobody came");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn tt23_what_the_policy_denies_is_refused_before_any_dial_and_recorded() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("audit");
    let rules = "rules:\n- {action: deny, namespaces: [shop], name: no-shop}\n- {action: allow}\n";
    let mut stage = Stage::with(Wants {
        rules: Some(rules),
        lookup: Some(Arc::new(|| panic!("nobody asks"))),
        audit: config::Audit {
            file: Some(file.clone()),
            max_size: 1 << 20,
            keep: 1,
        },
        ..Wants::default()
    });
    let target = Target {
        gateway_port: 1,
        ..service(5432)
    };
    let close = stage.start("c", target).expect("refused");
    assert_eq!(close["payload"]["reason"], "connection_failed");
    let (listener, address) = listen();
    stage.open("good", address.port());
    let mut target = accept(&listener);
    stage.data("good", b"12345");
    assert_eq!(read_exactly(&mut target, 5), b"12345");
    target.write_all(b"123").expect("written");
    drop(target);
    stage.wire.close("good");
    stage.settle();
    stage
        .shared
        .audit
        .finish(crate::net::testing::far_deadline());
    let text = std::fs::read_to_string(file).expect("lines");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{text}");
    let part = |line: &Value, names: &[&str]| -> Value {
        names.iter().map(|name| line[name].clone()).collect()
    };
    assert_eq!(
        part(&lines[0], &["id", "tunnel", "client", "target", "verdict"]),
        value!(["c", "tcp-1", "198.51.100.7:51512", "db.shop:5432", "denied"])
    );
    assert_eq!(
        part(
            &lines[1],
            &["id", "address", "verdict", "bytes_in", "bytes_out", "end"]
        ),
        value!([
            "good",
            address.to_string(),
            "allowed",
            5,
            3,
            "closed by the target"
        ])
    );
}

/// T23.
#[test]
fn tt23_a_named_service_comes_first_and_the_gateways_port_where_it_cannot_be_meant() {
    let (named, service_address) = listen();
    let (local, local_address) = listen();
    let origin = config::Origin::parse(&service_address.to_string()).expect("an origin");
    let routes = Routes {
        routes: [("db.shop".to_owned(), origin)].into(),
        ..Routes::default()
    };
    let mut stages = [Preference::Service, Preference::Gateway].map(|prefer| {
        Stage::with(Wants {
            settings: Settings {
                prefer,
                ..Settings::default()
            },
            routes: routes.clone(),
            ..Wants::default()
        })
    });
    let both = Target {
        gateway_port: local_address.port(),
        ..service(5432)
    };
    let renamed = |name: &'static str| Target {
        service: name.into(),
        ..both.clone()
    };
    let cases = [
        (0, both.clone(), true),
        (
            0,
            Target {
                port: 0,
                ..both.clone()
            },
            false,
        ),
        (
            0,
            Target {
                namespace: "".into(),
                ..both.clone()
            },
            false,
        ),
        (0, renamed("no such"), false),
        (0, renamed("other"), false),
        (0, service(5432), true),
        (0, gateway_port(local_address.port()), false),
        (1, both.clone(), false),
        (1, service(5432), true),
    ];
    for (number, (stage, target, to_service)) in cases.into_iter().enumerate() {
        let id = number.to_string();
        assert_eq!(stages[stage].start(&id, target), None);
        let listener = if to_service { &named } else { &local };
        let mut target = accept(listener);
        stages[stage].data(&id, id.as_bytes());
        assert_eq!(read_exactly(&mut target, 1), id.as_bytes());
    }
    // Neither of the two.
    let close = stages[0].start("none", Target::default()).expect("refused");
    assert_eq!(close["payload"]["reason"], "connection_failed");
}
