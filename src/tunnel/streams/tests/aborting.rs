//! Whatever ends a stream early, its target sees an abort and never a clean end (T9),
//! with one thread blocked in reading it and one in writing to it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::stage::*;
use crate::net::Deadline;
use crate::net::testing::{far_deadline, listen};
use crate::telemetry::metrics;
use crate::tunnel::Protocol;
use crate::tunnel::header::Version;
use crate::yamux::{Cut, Flags, Reset};

/// A stream whose target doesn't read, and more under way than all buffers hold: one
/// thread sits in the target's `recv`, one in `send`.
fn with_both_blocked(stage: &Stage, listener: &TcpListener) -> (Client, TcpStream) {
    let client = stage.open();
    let (target, _) = listener.accept().expect("accepted");
    target.set_read_timeout(Some(LONG)).expect("limit");
    // Nothing is taken for long: on a busy machine once may mean that nobody's turn came.
    while client.fill() > 0 {}
    (client, target)
}

/// What the target reads in the end.
fn assert_aborted(mut target: TcpStream) {
    let mut buf = vec![0; 1 << 20];
    loop {
        match target.read(&mut buf) {
            Ok(0) => panic!("a clean end"),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                return;
            }
        }
    }
}

fn stage() -> (Stage, TcpListener) {
    with(settings())
}

fn with(settings: crate::tunnel::streams::Settings) -> (Stage, TcpListener) {
    let (listener, address) = listen();
    let plan = Plan {
        settings,
        ..Plan::to(&address)
    };
    (Stage::new(plan), listener)
}

#[test]
fn tt09_the_link_is_lost() {
    let (mut stage, listener) = stage();
    let (client, target) = with_both_blocked(&stage, &listener);
    stage.cut_link();
    assert_aborted(target);
    assert_eq!(client.read_to_end().1, Err(Cut::SessionLost));
    let line = &stage.audit()[0];
    assert_eq!(line["end"], "the connection to the gateway is lost");
    stage.end();
}

#[test]
fn tt09_the_gateway_resets() {
    let (stage, listener) = stage();
    let (client, target) = with_both_blocked(&stage, &listener);
    client.0.reset(Reset::AtOnce);
    assert_aborted(target);
    assert_eq!(stage.audit()[0]["end"], "reset by the gateway");
    stage.end();
}

#[test]
fn tt09_the_agent_shuts_down() {
    let (stage, listener) = stage();
    let (client, target) = with_both_blocked(&stage, &listener);
    assert_eq!(stage.agent.drain(Instant::now()), 1);
    assert_aborted(target);
    client.assert_reset();
    assert_eq!(stage.audit()[0]["end"], "reset by the session");
    stage.end();
}

/// A target to which nothing was sent yet: not even an empty upload is whole.
#[test]
fn tt09_nothing_had_been_sent_yet() {
    let (stage, listener) = stage();
    let client = stage.open();
    let (target, _) = listener.accept().expect("accepted");
    client.0.reset(Reset::AtOnce);
    assert_aborted(target);
    stage.end();
}

/// The upload had ended well, its answer is cut: the target learns of it.
#[test]
fn tt09_the_gateway_resets_after_its_end() {
    let (stage, listener) = stage();
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    client.0.finish();
    assert_eq!(target.read(&mut [0; 1]).expect("end"), 0);
    client.0.reset(Reset::AtOnce);
    let piece = [0; 4096];
    let error = loop {
        if let Err(error) = target.write_all(&piece) {
            break error;
        }
    };
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(kinds.contains(&error.kind()), "{error}");
    stage.end();
}

#[test]
fn tt14_what_the_policy_denies_is_reset_and_never_dialled() {
    let (listener, address) = listen();
    listener.set_nonblocking(true).expect("option");
    let before = metrics::YAMUX_DENIED.value();
    // By name, and by the address that the name leads to.
    for (name, rules) in [
        (
            "denied",
            "rules:\n- {action: deny, services: [denied]}\n- {action: allow}\n",
        ),
        (
            "lost",
            "rules:\n- {action: deny, addresses: [127.0.0.0/8]}\n- {action: allow}\n",
        ),
    ] {
        let stage = Stage::new(Plan {
            settings: settings(),
            rules: Some(rules),
            ..Plan::cluster(|_| Ok(vec!["127.0.0.1"]))
        });
        let mut header = header(Protocol::Tcp);
        header.service = name.into();
        header.namespace = "space".into();
        header.port = address.port();
        let client = stage.open_with(&header, Version::One);
        // It may be reset by now.
        let _ = client.0.send(b"secret"[..].into(), Some(soon()));
        client.assert_reset();
        let line = &stage.audit()[0];
        assert_eq!(line["verdict"], "denied");
        assert_eq!(line["target"], format!("{name}.space:{}", address.port()));
        assert_eq!(line["bytes_in"], 0);
        let nobody = listener.accept().expect_err("dialled");
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
        stage.end();
    }
    assert!(metrics::YAMUX_DENIED.value() >= before + 2);
}

#[test]
fn an_idle_stream_is_reset_and_its_target_aborted() {
    let mut settings = settings();
    settings.tcp_idle = Some(Duration::from_millis(300));
    let (stage, listener) = with(settings);
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    client.send(b"hello");
    target.read_exact(&mut [0; 5]).expect("it comes");
    assert_aborted(target);
    client.assert_reset();
    assert_eq!(stage.audit()[0]["end"], "idle");
    stage.end();
}

/// Whichever of its threads waits, and for what.
#[test]
fn a_stream_that_is_stuck_is_idle() {
    let mut settings = settings();
    settings.tcp_idle = Some(Duration::from_millis(300));
    let (stage, listener) = with(settings);
    // The target doesn't read.
    let (client, target) = with_both_blocked(&stage, &listener);
    client.assert_reset();
    assert_aborted(target);
    // The gateway doesn't read: at window 0 the sender waits.
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    let piece = vec![0; 1 << 20];
    while target.write_all(&piece).is_ok() {}
    wait_until("it is over", || client.0.cut().is_some());
    assert_eq!(client.0.cut(), Some(Cut::ByPeer));
    for line in stage.audit() {
        assert_eq!(line["end"], "idle");
    }
    stage.end();
}

/// Bytes in one direction are enough.
#[test]
fn a_stream_on_which_something_moves_is_not_idle() {
    let mut settings = settings();
    settings.tcp_idle = Some(Duration::from_millis(600));
    let (stage, listener) = with(settings);
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        target.write_all(b"x").expect("open");
        assert_eq!(client.read(1), b"x");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(target);
    client.assert_end();
    client.0.finish();
    assert_eq!(stage.audit()[0]["end"], "by the target");
    stage.end();
}

/// It used to be reset, with what the target had said long ago.
#[test]
fn a_stream_whose_bytes_wait_for_a_slow_link_is_not_idle() {
    let mut settings = settings();
    settings.tcp_idle = Some(Duration::from_millis(300));
    let (stage, listener) = with(settings);
    stage.hold_agent(true);
    let client = stage.open();
    let (mut target, _) = listener.accept().expect("accepted");
    let piece = vec![7; 200_000];
    target.write_all(&piece).expect("taken");
    wait_until("it waits", || stage.agent.figures().queued > 0);
    std::thread::sleep(Duration::from_millis(900));
    stage.hold_agent(false);
    assert_eq!(client.read(piece.len()), piece);
    client.assert_reset();
    assert_eq!(stage.audit()[0]["end"], "idle");
    stage.end();
}

/// Both ends have finished, and the target doesn't take the last bytes: nobody else
/// would end that, not even the loss of the session.
#[test]
fn a_rest_that_nobody_takes_is_given_up() {
    let mut settings = settings();
    settings.times.rest = Duration::from_millis(300);
    let (stage, listener) = with(settings);
    let (client, target) = with_both_blocked(&stage, &listener);
    // Nothing has ended yet: it may take its time.
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(stage.streams.open(), 1);
    client.0.finish();
    target.shutdown(std::net::Shutdown::Write).expect("end");
    client.assert_end();
    let line = &stage.audit()[0];
    assert_eq!(line["end"], "the target doesn't take the rest");
    assert_aborted(target);
    stage.end();
}

#[test]
fn five_hundred_streams_end_with_their_session() {
    let (mut stage, listener) = stage();
    let targets = std::thread::spawn(move || {
        let mut targets: Vec<TcpStream> = Vec::new();
        for _ in 0..500 {
            targets.push(listener.accept().expect("accepted").0);
        }
        targets
    });
    let clients: Vec<Client> = (0..500).map(|_| stage.open()).collect();
    let targets = targets.join().expect("targets");
    for client in &clients {
        client.send(b"something");
    }
    for target in &targets {
        target.set_read_timeout(Some(LONG)).expect("limit");
        (&*target).read_exact(&mut [0; 9]).expect("it comes");
    }
    assert_eq!(stage.streams.open(), 500);
    stage.cut_link();
    targets.into_iter().for_each(assert_aborted);
    assert_eq!(stage.audit().len(), 500);
    drop(clients);
    stage.end();
}

/// At the end of the process nobody else waits for them, or for what they leave.
#[test]
fn who_waits_for_the_end_of_all_streams_finds_their_lines() {
    let (mut stage, listener) = stage();
    let clients: Vec<Client> = (0..50).map(|_| stage.open()).collect();
    let _targets: Vec<_> = clients
        .iter()
        .map(|_| listener.accept().expect("accepted"))
        .collect();
    stage
        .streams
        .finish(Deadline::after(Duration::from_millis(20)));
    assert_eq!(stage.streams.open(), 50, "only so long");
    stage.cut_link();
    stage.streams.finish(far_deadline());
    assert_eq!(stage.streams.open(), 0);
    assert_eq!(stage.audit().len(), 50);
    stage.end();
}

/// More than the limit, and what there is no thread for, is refused at once.
#[test]
fn tt12_streams_beyond_the_limit_are_refused_and_a_place_that_is_free_is_given() {
    let mut settings = settings();
    settings.max_streams = 2;
    let refused = metrics::YAMUX_REFUSED.value();
    let (stage, listener) = with(settings);
    let first = stage.open();
    let second = stage.open_silent();
    let excess = stage.open_silent();
    excess.assert_reset();
    assert!(metrics::YAMUX_REFUSED.value() > refused);
    second.0.reset(Reset::AtOnce);
    wait_until("a place", || stage.streams.open() == 1);
    let third = stage.open();
    for client in [&first, &third] {
        let (mut target, _) = listener.accept().expect("accepted");
        target.write_all(b"x").expect("sent");
        drop(target);
        let _ = client;
    }
    assert_eq!(first.read_to_end(), (b"x".to_vec(), Ok(())));
    assert_eq!(third.read_to_end(), (b"x".to_vec(), Ok(())));
    // The refused one was acknowledged, then reset.
    let frames = stage.heard_from_agent();
    let excess: Vec<Flags> = frames
        .iter()
        .filter(|frame| frame.id == excess.0.id())
        .map(|frame| frame.flags)
        .collect();
    assert_eq!(excess, [Flags::ACK, Flags::RST]);
    stage.end();
}
