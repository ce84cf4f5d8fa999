//! The header, the look-up and the dial.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::stage::*;
use crate::config::{DialFailure, ProxyProtocol};
use crate::net::testing::listen;
use crate::telemetry::metrics;
use crate::threads;
use crate::tunnel::Protocol;
use crate::tunnel::header::{Header, Version};
use crate::tunnel::session::Acceptor;
use crate::tunnel::streams::{Connection, Settings};
use crate::yamux::{Flags, Reset};

fn stage(change: impl FnOnce(&mut Plan)) -> (Stage, TcpListener) {
    let (listener, address) = listen();
    let mut plan = Plan::to(&address);
    plan.settings = settings();
    change(&mut plan);
    (Stage::new(plan), listener)
}

fn service(name: &str, port: u16) -> Header {
    Header {
        service: name.into(),
        namespace: "space".into(),
        port,
        ..header(Protocol::Tcp)
    }
}

#[test]
fn a_header_may_come_in_any_pieces_with_the_first_bytes_behind_it() {
    let (stage, listener) = stage(|_| {});
    let mut bytes = header(Protocol::Tcp)
        .encode(Version::One)
        .expect("a header");
    let header_len = bytes.len();
    bytes.extend_from_slice(b"first bytes");
    for step in [1, header_len - 1, header_len + 3, bytes.len()] {
        let client = stage.open_silent();
        for piece in bytes.chunks(step) {
            client.send(piece);
        }
        client.0.finish();
        let (mut target, _) = listener.accept().expect("accepted");
        let mut heard = Vec::new();
        target.read_to_end(&mut heard).expect("a clean end");
        assert_eq!(heard, b"first bytes", "{step}");
    }
    stage.end();
}

/// An ACK that can't be written for a while holds up no stream, and ends nothing.
#[test]
fn tt8_streams_are_accepted_while_nothing_can_be_written_and_afterwards() {
    let (stage, listener) = stage(|_| {});
    stage.stall_agent(true);
    let mut clients: Vec<Client> = (0..20).map(|_| stage.open()).collect();
    let mut targets = Vec::new();
    for client in &clients {
        client.send(b"early");
    }
    for _ in &clients {
        let (mut target, _) = listener.accept().expect("accepted");
        target.read_exact(&mut [0; 5]).expect("it comes");
        targets.push(target);
    }
    assert!(stage.heard_from_agent().is_empty());
    stage.stall_agent(false);
    clients.push(stage.open());
    targets.push(listener.accept().expect("accepted").0);
    for target in &mut targets {
        io::Write::write_all(target, b"answer").expect("sent");
    }
    for client in &clients {
        assert_eq!(client.read(6), b"answer");
    }
    let frames = stage.heard_from_agent();
    for client in &clients {
        let of = frames.iter().filter(|frame| frame.id == client.0.id());
        let flags: Vec<Flags> = of.map(|frame| frame.flags).collect();
        assert_eq!(flags[0], Flags::ACK, "first, and once");
        assert!(flags[1..].iter().all(|flags| *flags == Flags::NONE));
    }
    stage.end();
}

#[test]
fn tt12_a_header_that_does_not_come_in_time_is_refused() {
    let (stage, _listener) = stage(|plan| plan.settings.times.header = Duration::from_millis(200));
    let client = stage.open_silent();
    client.send(&[1, 1]);
    client.assert_reset();
    let line = &stage.audit()[0];
    assert_eq!(line["verdict"], "invalid");
    let reason = line["reason"].as_str().expect("text");
    assert!(reason.contains("in time, but 2 bytes"), "{reason}");
    stage.end();
}

#[test]
fn tt14_a_header_that_cannot_be_meant_is_refused() {
    let before = metrics::YAMUX_HEADER_ERRORS.value();
    let (stage, _listener) = stage(|_| {});
    let bad: [&[u8]; 5] = [
        // A version that wasn't agreed on, another protocol, names that are too long
        // or none.
        &[2, 1, 0, 80],
        &[1, 3, 0, 80],
        &[1, 1, 0, 80, 1, 0],
        b"\x01\x01\x00\x50\x00\x03a/b\x00\x00\x00\x00",
        b"\xff",
    ];
    for bytes in bad {
        let client = stage.open_silent();
        client.send(bytes);
        client.assert_reset();
    }
    let client = stage.open_silent();
    client.send(&[1, 1, 0]);
    client.0.finish();
    client.assert_reset();
    let lines = stage.audit();
    assert_eq!(lines.len(), 6);
    assert!(lines.iter().all(|line| line["verdict"] == "invalid"));
    assert!(metrics::YAMUX_HEADER_ERRORS.value() >= before + 6);
    stage.end();
}

#[test]
fn a_client_is_named_where_version_2_was_agreed_on() {
    let client: SocketAddr = "192.0.2.7:4040".parse().expect("address");
    let named = Header {
        client: Some(client),
        ..header(Protocol::Tcp)
    };
    let (stage, listener) = stage(|plan| {
        plan.newest = Version::Two;
        let targets = &mut plan.settings.proxy_protocol;
        targets.insert("target".into(), ProxyProtocol::V1);
    });
    for (version, first) in [
        (Version::Two, "PROXY TCP4 192.0.2.7 127.0.0.1 4040 "),
        (Version::One, "PROXY UNKNOWN"),
    ] {
        let stream = stage.open_with(&named, version);
        stream.send(b"data");
        stream.0.finish();
        let (mut target, _) = listener.accept().expect("accepted");
        let mut heard = String::new();
        target.read_to_string(&mut heard).expect("a clean end");
        drop(target);
        stream.assert_end();
        assert!(heard.starts_with(first), "{heard}");
        assert!(heard.ends_with("\r\ndata"), "{heard}");
    }
    let mut lines = stage.audit();
    lines.sort_by_key(|line| line["id"].to_string());
    assert_eq!(lines[0]["client"], "192.0.2.7:4040");
    assert!(lines[1].get("client").is_none());
    // What was put in front is not the client's.
    assert_eq!(lines[0]["bytes_in"], 4);
    assert_eq!(lines[0]["id"], "7/2");
    assert_eq!(lines[0]["tunnel"], "t-1");
    stage.end();
}

#[test]
fn tt16_a_dial_that_fails_is_an_rst_or_a_fin_as_it_is_set() {
    let (listener, nobody) = listen();
    drop(listener);
    let durations = || metrics::snapshot().value(DURATIONS).expect("there");
    let before = (metrics::YAMUX_DIAL_ERRORS.value(), durations());
    for how in [DialFailure::Reset, DialFailure::Fin] {
        let mut plan = Plan::to(&nobody);
        plan.settings = settings();
        plan.settings.dial_failure = how;
        let stage = Stage::new(plan);
        let client = stage.open();
        match how {
            DialFailure::Reset => client.assert_reset(),
            DialFailure::Fin => {
                client.assert_end();
                // What the gateway still sends is taken and dropped.
                client.send(&vec![0; 1 << 20]);
                client.0.finish();
                wait_until("forgotten", || stage.agent.figures().streams == 0);
            }
        }
        let line = &stage.audit()[0];
        assert_eq!(line["verdict"], "allowed");
        let end = line["end"].as_str().expect("text");
        assert!(end.contains("refused"), "{end}");
        stage.end();
    }
    assert!(metrics::YAMUX_DIAL_ERRORS.value() >= before.0 + 2);
    assert!(durations() >= before.1 + 2.0);
}

const DURATIONS: &str = "pipeops_agent_yamux_stream_duration_seconds_count";

/// A target that answers no SYN.
#[test]
fn a_dial_ends_with_its_time_or_at_once_with_the_stream() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    socket.bind(&any.into()).expect("bound");
    socket.listen(0).expect("listens");
    let address = socket
        .local_addr()
        .expect("address")
        .as_socket()
        .expect("IP");
    // Its queue is full.
    let _full: Vec<_> = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
            socket.set_nonblocking(true).expect("option");
            let _ = socket.connect(&address.into());
            socket
        })
        .collect();
    let with = |dial_timeout| {
        Stage::new(Plan {
            settings: settings(),
            dial_timeout,
            ..Plan::to(&address)
        })
    };
    let stage = with(Duration::from_millis(200));
    stage.open().assert_reset();
    assert_eq!(stage.audit()[0]["verdict"], "allowed");
    stage.end();

    let stage = with(LONG * 100);
    let client = stage.open();
    wait_until("it dials", || stage.streams.open() == 1);
    client.0.reset(Reset::AtOnce);
    assert_eq!(stage.audit()[0]["end"], "reset by the gateway");
    stage.end();
}

/// Nothing ends a look-up, but the stream doesn't wait for it.
#[test]
fn a_look_up_that_hangs_holds_no_stream() {
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    let hangs = parking_lot::Mutex::new(hangs);
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = asked.clone();
    let plan = Plan::cluster(move |_| {
        asking.fetch_add(1, Ordering::Relaxed);
        let _ = hangs.lock().recv();
        Err(ErrorKind::NotFound.into())
    });
    let mut stage = Stage::new(Plan {
        settings: settings(),
        dial_timeout: LONG * 100,
        ..plan
    });
    let client = stage.open_with(&service("web", 80), Version::One);
    wait_until("it asks", || asked.load(Ordering::Relaxed) == 1);
    client.0.reset(Reset::AtOnce);
    stage.wait_for_end();
    let _lost = stage.open_with(&service("web", 80), Version::One);
    wait_until("it waits", || stage.streams.open() == 1);
    stage.cut_link();
    let lines = stage.audit();
    assert_eq!(lines[0]["end"], "reset by the gateway");
    assert_eq!(lines[1]["end"], "the connection to the gateway is lost");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "one look-up a name");
    drop(release);
    stage.end();
}

/// The address that was checked is the one that is dialled: nobody asks twice.
#[test]
fn tt14_a_name_server_that_changes_its_mind_changes_nothing() {
    let (listener, address) = listen();
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = asked.clone();
    let plan = Plan::cluster(move |host| {
        assert_eq!(host, "web.space.svc.cluster.local.");
        Ok(match asking.fetch_add(1, Ordering::Relaxed) {
            0 => vec!["127.0.0.1"],
            _ => vec!["169.254.169.254"],
        })
    });
    let stage = Stage::new(Plan {
        settings: settings(),
        ..plan
    });
    let first = stage.open_with(&service("web", address.port()), Version::One);
    let (target, _) = listener.accept().expect("accepted");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    drop(target);
    first.assert_end();
    first.0.finish();
    stage.wait_for_end();
    // The next stream asks anew, is judged anew, and is denied.
    let second = stage.open_with(&service("web", address.port()), Version::One);
    second.assert_reset();
    let lines = stage.audit();
    assert_eq!(lines[0]["address"], address.to_string());
    assert_eq!(lines[1]["verdict"], "denied");
    assert!(lines[1].get("address").is_none());
    stage.end();
}

#[test]
fn tt19_bytes_are_counted_while_they_move() {
    let (stage, listener) = stage(|_| {});
    let count = || {
        (
            metrics::YAMUX_BYTES_IN.value(),
            metrics::YAMUX_BYTES_OUT.value(),
        )
    };
    let before = count();
    let accepted = metrics::YAMUX_ACCEPTED.value();
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    client.send(&[0; 1000]);
    target.read_exact(&mut [0; 1000]).expect("it comes");
    io::Write::write_all(&mut target, &[0; 500]).expect("sent");
    client.read(500);
    // The stream still lives.
    wait_until("they are counted", || {
        count().0 >= before.0 + 1000 && count().1 >= before.1 + 500
    });
    assert!(metrics::YAMUX_ACCEPTED.value() > accepted);
    assert!(metrics::YAMUX_ACTIVE.value() >= 1);
    assert!(metrics::TUNNEL_FORWARDS.value() >= 1);
    stage.end();
}

#[test]
fn a_stream_that_finds_no_thread_is_reset_and_has_its_line() {
    let (stage, _listener) = stage(|_| {});
    let mut acceptor = stage.streams.acceptor(Connection {
        number: 7,
        newest: Version::One,
        dial_timeout: LONG,
    });
    let stream = stage.open_silent().0;
    let id = format!("7/{}", stream.id());
    threads::testing::refuse(1);
    acceptor.accept(stream);
    let lines = stage.audit();
    // The agent's own end of it may have another.
    let line = lines
        .iter()
        .find(|line| line["end"] == "no thread can be had");
    let line = line.expect("a line");
    assert_eq!(line["id"], id);
    assert_eq!(line["verdict"], "invalid");
    stage.end();
}

/// What every other test replaces by less.
#[test]
fn limits_of_time_are_what_is_written_down() {
    let settings = Settings::default();
    assert_eq!(settings.times.header, Duration::from_secs(10));
    assert_eq!(settings.times.linger, Duration::from_secs(2));
    assert_eq!(settings.times.rest, Duration::from_mins(5));
    assert_eq!(settings.udp_idle, Some(Duration::from_mins(5)));
    assert_eq!(settings.tcp_idle, None);
}
