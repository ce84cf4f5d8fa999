//! Exposures with real clients, and agents that the test plays. That bytes arrive
//! through a real agent is in `tests/contract/exposed.rs`.

mod opening;
mod stage;
mod udp;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stage::{LONG, Stage, any_port, exposure, settings, wait_until};

use super::entrance::{MAX_CLIENTS, NoStream};
use super::{Entry, Exposer, State};
use crate::net::testing::tcp_pair;
use crate::net::{Cancel, Reason};
use crate::yamux::Input;

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(LONG)).expect("set");
    stream
}

#[track_caller]
fn assert_reset(mut stream: impl Read) {
    let error = stream.read(&mut [0; 1]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

fn is_closed(address: SocketAddr) -> bool {
    let refused = TcpStream::connect(address).map_err(|error| error.kind());
    matches!(refused, Err(ErrorKind::ConnectionRefused))
}

fn soon() -> Instant {
    Instant::now() + LONG
}

#[test]
fn the_header_says_who_the_client_is_and_what_for() {
    let stage = Stage::new();
    let agent = stage.agent();
    let address = stage.tcp();
    let client = connect(address);
    let (stream, header) = agent.accept();
    assert_eq!(header.client, client.local_addr().ok());
    assert_eq!((&*header.service, &*header.namespace), ("db", "default"));
    assert_eq!(header.port, 5432);
    assert_eq!(header.tunnel_id, format!("tcp {address}"));
    drop(stream);
    assert_reset(client);
}

/// As `::ffff:127.0.0.1`, PROXY protocol and audit would have it.
#[test]
fn a_client_of_ipv4_is_one_at_a_listener_of_both() {
    let stage = Stage::new();
    let agent = stage.agent();
    let both = "[::]:0".parse().expect("an address");
    // A machine without IPv6 has nothing to show.
    let Ok(exposed) = stage.exposer.expose(&exposure(Entry::Tcp(both))) else {
        return;
    };
    let Entry::Tcp(address) = exposed.entry else {
        panic!("another entry")
    };
    let client = connect(([127, 0, 0, 1], address.port()).into());
    let (_stream, header) = agent.accept();
    assert_eq!(header.client, client.local_addr().ok());
}

#[test]
fn beyond_the_limit_of_clients_a_client_is_reset_and_counted() {
    let stage = Stage::new();
    let agent = stage.agent();
    let address = stage.tcp();
    let entrance = stage.exposer.entrance_of(&Entry::Tcp(address));
    let mut inside: Vec<_> = (0..MAX_CLIENTS).map(|_| entrance.enter()).collect();
    assert!(inside.iter().all(Result::is_ok));
    assert_reset(connect(address));
    let view = stage.view();
    assert_eq!((view.clients, view.total), (MAX_CLIENTS, 0));
    assert_eq!(view.refused, 1);
    assert!(agent.has_none());
    inside.pop();
    let _client = connect(address);
    agent.accept();
    wait_until("it is counted", || stage.view().total == 1);
}

#[test]
fn who_is_turned_away_is_not_counted_among_those_who_had_a_stream() {
    let stage = Stage::new();
    assert_reset(connect(stage.tcp()));
    let view = stage.view();
    assert_eq!((view.total, view.refused), (0, 1));
    assert_eq!(view.state, State::Away);
}

/// The WebSocket goes a moment later, and new clients meanwhile would wait for it.
#[test]
fn a_session_that_has_ended_is_an_agent_without_tunnels() {
    let stage = Stage::new();
    let agent = stage.agent();
    let address = stage.tcp();
    assert_eq!(stage.view().state, State::Open);
    let (session, _) = agent.connection.tunnels().expect("live");
    session.lose();
    assert_eq!(stage.view().state, State::NoTunnels);
    assert_reset(connect(address));
}

#[test]
fn when_another_connection_takes_the_place_clients_are_reset_and_new_ones_led_there() {
    let stage = Stage::new();
    let first = stage.agent();
    let address = stage.tcp();
    let old = connect(address);
    let (_stream, _) = first.accept();
    // The same agent dials again before its old connection is found dead.
    let second = stage.agent();
    let mut client = connect(address);
    let (stream, _) = second.accept();
    client.write_all(b"x").expect("sent");
    assert!(matches!(stream.read(Some(soon())), Ok(Input::Some(_))));
    drop(first);
    assert_reset(old);
    wait_until("one is left", || stage.view().clients == 1);
    drop(stream);
    assert_reset(client);
    wait_until("none is left", || stage.view().clients == 0);
}

/// Accepted in the moment in which the exposure ends.
#[test]
fn a_client_that_comes_too_late_is_reset() {
    let stage = Stage::new();
    let _agent = stage.agent();
    let address = stage.tcp();
    let entry = Entry::Tcp(address);
    let entrance = stage.exposer.entrance_of(&entry);
    let early = entrance.enter().expect("open");
    assert!(matches!(stage.exposer.unexpose(&entry), Ok(Some(_))));
    assert_eq!(entrance.enter().err(), Some(NoStream::Closed));
    let (near, far) = tcp_pair();
    super::tcp::serve(&entrance, (Arc::new(near), address));
    assert_reset(&far);
    // Or while its stream is being opened.
    let (near, _far) = tcp_pair();
    let late = early.connect(&Arc::new(near), address, &[]);
    assert_eq!(late, Err(NoStream::Closed));
}

#[test]
fn a_pause_ends_with_its_listener() {
    let cancel = Cancel::new();
    let begun = Instant::now();
    cancel.cancel(Reason::Shutdown);
    for _ in 0..1000 {
        super::pause(&cancel);
    }
    assert!(begun.elapsed() < LONG);
}
