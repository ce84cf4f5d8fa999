//! Datagrams.

use std::net::UdpSocket;

use super::*;
use crate::plane::expose::Settings;
use crate::tunnel::session::{Payload, Stream};
use crate::yamux::{Datagram, Header, Reset};

fn client(of: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(any_port()).expect("bound");
    socket.connect(of).expect("connected");
    socket.set_read_timeout(Some(LONG)).expect("set");
    socket
}

fn impatient() -> Stage {
    Stage::with(Settings {
        udp_idle: Duration::from_millis(500),
        ..settings()
    })
}

#[test]
fn a_client_that_is_idle_is_forgotten_and_its_next_datagram_opens_a_stream() {
    let stage = impatient();
    let agent = stage.agent();
    let client = client(stage.udp());
    for round in 1..=2 {
        client.send(b"question").expect("sent");
        let (stream, header) = agent.accept();
        assert_eq!(header.client, client.local_addr().ok());
        let mut datagram = Vec::new();
        let read = stream.read_datagram(64, &mut datagram, Some(soon()));
        assert!(
            matches!(read, Ok(Input::Some(Datagram::Whole(8)))),
            "{read:?}"
        );
        // FIN, not RST: decisions.md §6.6.
        assert!(matches!(stream.read(Some(soon())), Ok(Input::End)));
        wait_until("it is forgotten", || stage.view().clients == 0);
        let view = stage.view();
        assert_eq!((view.total, view.refused), (round, 0));
        assert_eq!((view.up, view.down), (8 * round, 0));
    }
}

/// Of a datagram that came in part only its reader used to ask again and again, for
/// ever.
#[test]
fn a_datagram_whose_rest_never_comes_is_not_waited_for_longer_than_any() {
    let stage = impatient();
    let agent = stage.agent();
    let client = client(stage.udp());
    client.send(b"question").expect("sent");
    let (stream, _) = agent.accept();
    {
        let mut plane = agent.planes.lock();
        plane.receive(&Header::data(stream.id(), 100).encode());
        plane.receive(&[0; 50]);
    }
    wait_until("it is forgotten", || stage.view().clients == 0);
}

#[test]
fn unexposing_ends_live_clients_and_frees_the_address() {
    let stage = Stage::new();
    let agent = stage.agent();
    let address = stage.udp();
    let entry = Entry::Udp(address);
    for _ in 0..20 {
        let client = client(address);
        client.send(b"question").expect("sent");
        let (stream, _) = agent.accept();
        assert!(matches!(stage.exposer.unexpose(&entry), Ok(Some(_))));
        // Nothing of it is left that would hold the address.
        drop(UdpSocket::bind(address).expect("free"));
        while matches!(stream.read(Some(soon())), Ok(Input::Some(_))) {}
        assert!(stream.cut().is_some());
        stage.expose(entry.clone());
    }
}

/// As from addresses that somebody makes up.
#[test]
fn more_clients_than_are_allowed_get_no_stream() {
    let stage = Stage::new();
    let agent = stage.agent();
    let address = stage.udp();
    let entrance = stage.exposer.entrance_of(&Entry::Udp(address));
    let inside: Vec<_> = (1..MAX_CLIENTS).map(|_| entrance.enter()).collect();
    let (first, second) = (client(address), client(address));
    first.send(b"1").expect("sent");
    let (_stream, _) = agent.accept();
    second.send(b"2").expect("sent");
    wait_until("it is refused", || stage.view().refused == 1);
    first.send(b"3").expect("sent");
    wait_until("who is known is led on", || stage.view().up == 2);
    assert!(agent.has_none());
    drop(inside);
    second.send(b"4").expect("sent");
    agent.accept();
}

#[test]
fn while_the_agent_is_away_datagrams_are_dropped_and_then_led_again() {
    let stage = Stage::new();
    let client = client(stage.udp());
    client.send(b"lost").expect("sent");
    wait_until("it is refused", || stage.view().refused == 1);
    wait_until("it has left", || stage.view().clients == 0);
    assert_eq!(stage.view().total, 0);
    let agent = stage.agent();
    client.send(b"1").expect("sent");
    let (_stream, _) = agent.accept();
    drop(agent);
    wait_until("its stream is gone", || stage.view().clients == 0);
    let agent = stage.agent();
    client.send(b"2").expect("sent");
    let _another = agent.accept();
    assert_eq!(stage.view().total, 2);
}

/// The one byte that it was opened for. Were it to end before that has come, there would
/// be another stream for it.
fn take_datagram(stream: &Stream) {
    let read = stream.read_datagram(64, &mut Vec::new(), Some(soon()));
    assert!(matches!(read, Ok(Input::Some(Datagram::Whole(1)))));
}

/// Denied, say: that used to cost a stream for every datagram.
#[test]
fn a_client_whose_stream_comes_to_nothing_waits_for_the_next() {
    for fin in [false, true] {
        let stage = Stage::new();
        let agent = stage.agent();
        let address = stage.udp();
        let (denied, other) = (client(address), client(address));
        denied.send(b"1").expect("sent");
        let (stream, _) = agent.accept();
        take_datagram(&stream);
        if fin {
            stream.finish();
        } else {
            stream.reset(Reset::AtOnce);
        }
        wait_until("it is forgotten", || stage.view().clients == 0);
        for refused in 1..=10 {
            denied.send(b"2").expect("sent");
            wait_until("it waits", || stage.view().refused == refused);
        }
        assert!(agent.has_none());
        other.send(b"3").expect("sent");
        agent.accept();
    }
}

#[test]
fn a_client_whose_target_is_back_is_led_again() {
    let stage = Stage::with(Settings {
        udp_pause: Duration::from_millis(1),
        ..settings()
    });
    let agent = stage.agent();
    let client = client(stage.udp());
    for round in 1..=5 {
        wait_until("it has a stream", || {
            client.send(b"?").expect("sent");
            stage.view().total >= round
        });
        let (stream, _) = agent.accept();
        take_datagram(&stream);
        // Those of its datagrams that wait at the listener may have the next one.
        stream.reset(Reset::AtOnce);
    }
}

/// What has answered may end as it likes: the next datagram has its stream at once. So
/// has that of a client whose agent was away.
#[test]
fn a_stream_that_answered_or_was_lost_costs_no_pause() {
    let stage = Stage::new();
    let mut agent = stage.agent();
    let client = client(stage.udp());
    for lost in [false, true, false] {
        client.send(b"?").expect("sent");
        let (stream, _) = agent.accept();
        take_datagram(&stream);
        if lost {
            drop(agent);
            agent = stage.agent();
        } else {
            let sent = stream.send(Payload::from(&b"!"[..]), Some(soon()));
            sent.expect("sent");
            assert_eq!(client.recv(&mut [0; 4]).expect("an answer"), 1);
            stream.reset(Reset::AtOnce);
        }
        wait_until("it is forgotten", || stage.view().clients == 0);
    }
    assert_eq!(stage.view().refused, 0);
}
