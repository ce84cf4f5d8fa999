//! A datagram is one frame, and streams of datagrams end.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::stage::*;
use crate::config::{Config, ProxyProtocol};
use crate::telemetry::metrics;
use crate::tunnel::Protocol;
use crate::tunnel::header::Version;
use crate::tunnel::session::Payload;
use crate::tunnel::streams::Settings;
use crate::yamux::{Cut, Header as Frame, Kind, Reset};

fn target() -> UdpSocket {
    let target = UdpSocket::bind("127.0.0.1:0").expect("bound");
    target.set_read_timeout(Some(LONG)).expect("limit");
    target
}

fn stage_to(target: &UdpSocket, change: impl FnOnce(&mut Plan)) -> Stage {
    let mut plan = Plan::to(&target.local_addr().expect("address"));
    plan.settings = settings();
    plan.settings.times.linger = Duration::from_millis(300);
    change(&mut plan);
    Stage::new(plan)
}

/// The next datagram, and the socket connected to who sent it.
fn receive(target: &UdpSocket) -> Vec<u8> {
    let mut buf = vec![0; 65_535];
    let (len, from) = target.recv_from(&mut buf).expect("a datagram");
    target.connect(from).expect("connected");
    buf.truncate(len);
    buf
}

fn send(client: &Client, datagram: &[u8]) {
    let sent = client.0.send(Payload::from(datagram), Some(soon()));
    sent.expect("sent");
}

#[test]
fn datagrams_keep_their_bounds_both_ways() {
    let target = target();
    let stage = stage_to(&target, |_| {});
    let before = metrics::UDP_PACKETS_RECEIVED.value();
    // The header's frame may carry the first one.
    let client = stage.open_silent();
    let mut first = header(Protocol::Udp).encode(Version::One).expect("header");
    first.extend_from_slice(b"first");
    send(&client, &first);
    assert_eq!(receive(&target), b"first");
    for len in [1, 2, 512, 1472, 9000, 65_507] {
        let datagram = vec![len as u8; len];
        send(&client, &datagram);
        assert!(receive(&target) == datagram, "{len}");
        target.send(&datagram).expect("sent");
        assert!(client.datagram() == datagram, "{len}");
    }
    // The stream still lives.
    assert!(metrics::UDP_PACKETS_RECEIVED.value() >= before + 6);
    assert!(metrics::UDP_ACTIVE.value() >= 1);
    client.0.finish();
    client.assert_end();
    let line = &stage.audit()[0];
    assert_eq!(line["protocol"], "udp");
    assert_eq!(line["bytes_out"], 1 + 2 + 512 + 1472 + 9000 + 65_507);
    assert_eq!(line["end"], "by the gateway");
    stage.end();
}

#[test]
fn tt11_after_the_gateways_end_late_answers_come_and_then_ours() {
    let target = target();
    let stage = stage_to(&target, |_| {});
    let client = stage.open_udp();
    send(&client, b"question");
    assert_eq!(receive(&target), b"question");
    client.0.finish();
    wait_until("the end has arrived", || {
        stage.gateway.figures().queued == 0 && stage.streams.open() == 1
    });
    target.send(b"answer").expect("sent");
    assert_eq!(client.datagram(), b"answer");
    client.assert_end();
    stage.end();
}

#[test]
fn tt11_zero_is_no_limit_and_nothing_is_five_minutes() {
    let mut config = Config::defaults();
    let mut limits = |idle| {
        config.tunnels.inactivity_timeout = idle;
        let settings = Settings::from_config(&config);
        (settings.tcp_idle, settings.udp_idle)
    };
    let minutes = |count| Some(Duration::from_mins(count));
    assert_eq!(limits(None), (None, minutes(5)));
    assert_eq!(limits(minutes(7)), (minutes(7), minutes(7)));
    assert_eq!(limits(Some(Duration::ZERO)), (None, None));
}

#[test]
fn tt11_an_idle_stream_is_finished() {
    let target = target();
    let stage = stage_to(&target, |plan| {
        plan.settings.udp_idle = Some(Duration::from_millis(300));
    });
    let client = stage.open_udp();
    send(&client, b"question");
    assert_eq!(receive(&target), b"question");
    client.assert_end();
    // Neither thread nor socket waits for the gateway's FIN.
    assert_eq!(stage.audit()[0]["end"], "idle");
    client.0.finish();
    stage.end();
}

/// Its thread ran in a circle, for as long as the session lived.
#[test]
fn half_a_datagram_keeps_no_stream_alive() {
    let target = target();
    let stage = stage_to(&target, |plan| {
        plan.settings.udp_idle = Some(Duration::from_millis(300));
    });
    let client = stage.open_udp();
    send(&client, b"question");
    assert_eq!(receive(&target), b"question");
    let mut half = Frame::data(client.0.id(), 100).encode().to_vec();
    half.extend_from_slice(&[7; 10]);
    stage.inject(&half);
    client.assert_end();
    assert_eq!(stage.audit()[0]["end"], "idle");
    stage.end();
}

#[test]
fn datagrams_in_one_direction_keep_a_stream_alive() {
    let target = target();
    let stage = stage_to(&target, |plan| {
        plan.settings.udp_idle = Some(Duration::from_millis(600));
    });
    let client = stage.open_udp();
    send(&client, b"subscribe");
    receive(&target);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(1500) {
        target.send(b"news").expect("sent");
        assert_eq!(client.datagram(), b"news");
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.end();
}

#[test]
fn a_target_that_is_not_there_is_counted_and_may_come_back() {
    let target = target();
    let address = target.local_addr().expect("address");
    let stage = stage_to(&target, |_| {});
    drop(target);
    let before = metrics::UDP_REFUSED.value();
    let client = stage.open_udp();
    wait_until("it is refused", || {
        send(&client, b"anybody?");
        metrics::UDP_REFUSED.value() > before
    });
    let target = UdpSocket::bind(address).expect("bound");
    target.set_read_timeout(Some(LONG)).expect("limit");
    send(&client, b"now?");
    while receive(&target) != b"now?" {}
    target.send(b"yes").expect("sent");
    assert_eq!(client.datagram(), b"yes");
    stage.end();
}

/// What is only for bytes, and what the rules deny.
#[test]
fn a_stream_that_gets_no_target_is_counted_as_one_of_udp_too() {
    let failed = metrics::UDP_CONNECTION_FAILED.value();
    let denied = metrics::UDP_DENIED.value();
    let rules = "rules:\n- {action: deny, protocol: udp}\n";
    for (to, rules) in [
        ("unix:///nowhere/socket", None),
        ("127.0.0.1:1", Some(rules)),
    ] {
        let stage = Stage::new(Plan {
            settings: settings(),
            rules,
            ..Plan::to(&to)
        });
        stage.open_udp().assert_reset();
        stage.end();
    }
    assert!(metrics::UDP_CONNECTION_FAILED.value() > failed);
    assert!(metrics::UDP_DENIED.value() > denied);
}

/// Nothing of a flood waits, and what is delivered is whole.
#[test]
fn a_flood_is_dropped_and_counted() {
    let target = target();
    let stage = stage_to(&target, |_| {});
    let client = stage.open_udp();
    send(&client, b"go");
    receive(&target);
    let before = metrics::UDP_DROPPED.value();
    stage.hold_agent(true);
    let datagram = [9; 1000];
    wait_until("it drops", || {
        let _ = target.send(&datagram);
        metrics::UDP_DROPPED.value() > before
    });
    assert!(stage.agent.figures().queued <= 2000);
    stage.hold_agent(false);
    assert_eq!(client.datagram(), datagram);
    // One that nothing dropped comes through.
    wait_until("there is room", || stage.agent.figures().queued == 0);
    target.send(b"last").expect("sent");
    while client.datagram() != b"last" {}
    stage.end();
}

#[test]
fn empty_datagrams_are_dropped_and_counted() {
    let target = target();
    let stage = stage_to(&target, |_| {});
    let client = stage.open_udp();
    send(&client, b"go");
    receive(&target);
    let before = metrics::UDP_EMPTY.value();
    target.send(b"").expect("sent");
    target.send(b"full").expect("sent");
    assert_eq!(client.datagram(), b"full");
    assert!(metrics::UDP_EMPTY.value() > before);
    stage.end();
}

/// The gateway's side of the same.
#[test]
fn empty_datagrams_of_the_gateway_are_dropped_and_counted() {
    let target = target();
    let stage = stage_to(&target, |_| {});
    let client = stage.open_udp();
    send(&client, b"go");
    assert_eq!(receive(&target), b"go");
    let before = metrics::UDP_EMPTY.value();
    let empty = Frame::data(client.0.id(), 0).encode();
    stage.inject(&[empty, empty].concat());
    send(&client, b"full");
    assert_eq!(receive(&target), b"full");
    wait_until("they are counted", || {
        metrics::UDP_EMPTY.value() >= before + 2
    });
    stage.end();
}

#[test]
fn every_datagram_is_told_the_client_where_that_is_set() {
    let target = target();
    let stage = stage_to(&target, |plan| {
        plan.newest = Version::Two;
        let targets = &mut plan.settings.proxy_protocol;
        targets.insert("target".into(), ProxyProtocol::V2);
    });
    let mut header = header(Protocol::Udp);
    header.client = Some("192.0.2.7:4040".parse().expect("address"));
    let client = stage.open_with(&header, Version::Two);
    for text in ["one", "two"] {
        send(&client, text.as_bytes());
        let datagram = receive(&target);
        assert!(datagram.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x12"));
        assert_eq!(&datagram[28..], text.as_bytes());
    }
    stage.end();
}

/// In its middle, or while late answers are waited for.
#[test]
fn a_stream_that_is_cut_leaves_no_socket() {
    for finished in [false, true] {
        let target = target();
        let mut stage = stage_to(&target, |plan| {
            plan.settings.times.linger = LONG * 100;
        });
        let client = stage.open_udp();
        send(&client, b"go");
        receive(&target);
        if finished {
            client.0.finish();
            stage.cut_link();
            assert_eq!(client.0.cut(), Some(Cut::SessionLost));
        } else {
            client.0.reset(Reset::AtOnce);
        }
        stage.wait_for_end();
        let error = loop {
            if let Err(error) = target.send(b"still there?") {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        stage.end();
    }
}

#[test]
fn data_frames_are_datagrams_on_the_wire() {
    let target = target();
    let stage = stage_to(&target, |_| {});
    let client = stage.open_udp();
    send(&client, b"go");
    receive(&target);
    for len in [10, 20, 30_000] {
        target.send(&vec![1; len]).expect("sent");
        client.datagram();
    }
    let lens: Vec<u32> = stage
        .heard_from_agent()
        .iter()
        .filter(|frame| frame.kind == Kind::Data)
        .map(|frame| frame.len)
        .collect();
    assert_eq!(lens, [10, 20, 30_000]);
    stage.end();
}
