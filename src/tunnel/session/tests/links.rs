//! Sessions on real links, over sockets.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, Sender};

use super::traffic::echo;
use super::*;
use crate::link::{self, Carrier, EndedBy, Lane, Link, Message, Slot};
use crate::net::testing::tcp_pair;
use crate::net::{Cancel, Halves};
use crate::tunnel::session::{Acceptor, Payload};
use crate::yamux::{Cut, Input};

/// Binary messages are the session's.
struct Reader(Inbox);

impl link::Receiver for Reader {
    fn text(&mut self, _message: &str) {}

    fn binary(&mut self, message: &[u8]) {
        self.0.receive(message);
    }
}

/// A peer without a session.
struct Raw(Sender<Vec<u8>>);

impl link::Receiver for Raw {
    fn text(&mut self, _message: &str) {}

    fn binary(&mut self, message: &[u8]) {
        self.0.send(message.to_vec()).expect("the test waits");
    }
}

/// A link that carries a session.
fn carrying(
    socket: socket2::Socket,
    roles: (link::Role, Role),
    memory: &Memory,
    acceptor: impl Acceptor + 'static,
) -> (Link, Session) {
    let mut session = None;
    let settings = link::Settings::new(roles.0);
    let link = Link::start(Halves::plain(socket), settings, |link| {
        let line = Arc::new(link.clone());
        let (ours, inbox) = Session::start(Config::new(roles.1), memory, line, acceptor);
        link.attach(Some(ours.carrier()));
        session = Some(ours);
        Reader(inbox)
    });
    (link.expect("started"), session.expect("made"))
}

#[test]
fn streams_go_over_links_and_end_with_them() {
    let (near, far) = tcp_pair();
    let memory = Memory::new(64 << 20);
    let roles = (link::Role::Client, Role::Client);
    let (agent_link, agent) = carrying(near, roles, &memory, echo);
    let roles = (link::Role::Server, Role::Server);
    let (plane_link, plane) = carrying(far, roles, &memory, |_: Stream| panic!("none"));

    let done = plane.open(soon()).expect("opened");
    let cut = plane.open(soon()).expect("opened");
    for stream in [&done, &cut] {
        stream
            .send(Payload::from(&b"hello"[..]), Some(soon()))
            .expect("sent");
        let Ok(Input::Some(chunk)) = stream.read(Some(soon())) else {
            panic!("it comes back");
        };
        assert_eq!(&chunk[..], b"hello");
        stream.give_back(chunk);
    }
    done.finish();
    let end = done.read(Some(soon()));
    assert_eq!(end.map(|input| matches!(input, Input::End)), Ok(true));

    agent_link.abort("the test is over");
    assert_eq!(cut.read(Some(soon())).map(|_| ()), Err(Cut::SessionLost));
    agent_link.wait();
    plane_link.wait();
    let left: [Weak<dyn Carrier>; 2] = [agent.weak(), plane.weak()];
    drop((agent, plane, done, cut));
    let until = soon();
    while left.iter().any(|left| left.strong_count() > 0) || memory.budget().charged() > 0 {
        assert!(Instant::now() < until, "something is left: {memory:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_session_that_dies_closes_its_link_behind_the_go_away() {
    let (near, far) = tcp_pair();
    let memory = Memory::new(64 << 20);
    let roles = (link::Role::Client, Role::Client);
    let (agent_link, agent) = carrying(near, roles, &memory, drop);
    let (to, seen): (_, Receiver<Vec<u8>>) = channel();
    let settings = link::Settings::new(link::Role::Server);
    let peer = Link::start(Halves::plain(far), settings, |_| Raw(to)).expect("started");
    let mistake = Header::window(0, Flags::NONE, 0).encode();
    let frames = Message::binary(0, |buf| buf.extend_from_slice(&mistake));
    peer.send(Lane::Bulk(Slot::of("")), frames, &Cancel::new())
        .expect("sent");
    let ending = agent_link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Us, Some(1002)));
    assert!(ending.why.contains("a frame of stream 0"), "{ending}");
    assert!(peer.wait().why.contains("a frame of stream 0"));
    let said: Vec<u8> = seen.iter().flatten().collect();
    // Perhaps behind a ping.
    assert!(said.ends_with(&Header::go_away(1).encode()), "{said:?}");
    assert!(!agent.is_live());
}
