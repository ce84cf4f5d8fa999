//! Negotiation and life of tunnels, against a gateway that is played frame by frame.

// `json!(…)` as an argument reads better without an ampersand.
#![allow(clippy::needless_pass_by_value)]

use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;
use crate::tunnel::Tunnels;
use crate::tunnel::connection::{Acceptors, Settings};
use crate::tunnel::session::{Acceptor, Memory, Stream};
use crate::tunnel::streams::Connection;
use crate::yamux::{Flags, HEADER, Header, Kind};

/// Hands the streams to the test.
struct Kept(Mutex<mpsc::Sender<Stream>>);

impl Acceptors for Kept {
    fn acceptor(&self, _: Connection) -> Box<dyn Acceptor> {
        let sender = self.0.lock().clone();
        Box::new(move |stream| drop(sender.send(stream)))
    }
}

struct House {
    peer: Peer,
    agent: Agent,
    gateway: Conn,
    streams: mpsc::Receiver<Stream>,
}

impl House {
    /// On the gateway, which has said hello.
    fn new() -> Self {
        let mut house = Self::without_hello(Settings::default());
        house.hello(json!({}));
        house
    }

    fn without_hello(settings: Settings) -> Self {
        let peer = Peer::new();
        let mut parts = parts(peer.api_url(), Arc::new(MemoryStore::default()));
        let (sender, streams) = mpsc::channel();
        parts.tunnels = Tunnels::new(settings, Memory::new(64 << 20), Kept(Mutex::new(sender)));
        let agent = Agent::start(parts).expect("started");
        peer.register(Some(&peer.gateway_url()));
        let mut gateway = peer.accept();
        gateway.ack();
        Self {
            peer,
            agent,
            gateway,
            streams,
        }
    }

    fn hello(&mut self, config: Value) {
        self.gateway.hello(config);
    }

    /// The peer's next stream.
    fn stream(&self) -> Stream {
        self.streams
            .recv_timeout(Duration::from_mins(1))
            .expect("a stream")
    }

    /// The connection ends with this code, and another one comes.
    fn reconnected(&mut self, code: u16) {
        assert_eq!(self.gateway.closed(), Some(code));
        self.gateway = self.peer.accept();
        self.gateway.ack();
    }
}

impl Conn {
    /// Says hello; the ack is the first that comes.
    fn hello(&mut self, config: Value) {
        self.say_hello(config, false);
    }

    /// Says hello, to a session or `again` to the next one.
    fn say_hello(&mut self, config: Value, again: bool) {
        self.send(&json!({
            "type": "gateway_hello", "payload": {"use_yamux": true, "yamux_config": config},
        }));
        let ack = loop {
            match self.socket.read().expect("a message") {
                Message::Text(text) => break text,
                // Of the session before.
                _ if again => {}
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?} before the ack"),
            }
        };
        let ack: Value = serde_json::from_str(ack.as_str()).expect("JSON");
        assert_eq!(ack["type"], "gateway_hello_ack");
        assert_eq!(ack["payload"], json!({"use_yamux": true}));
    }

    fn frames(&mut self, headers: impl IntoIterator<Item = Header>) {
        let bytes: Vec<u8> = headers.into_iter().flat_map(|h| h.encode()).collect();
        self.socket.send(Message::binary(bytes)).expect("sent");
    }

    /// The frames (without a payload) of the next binary message. Pings of the
    /// session are answered and left out.
    fn next_frames(&mut self) -> Vec<Header> {
        loop {
            let bytes = match self.socket.read().expect("a message") {
                Message::Binary(bytes) => bytes,
                Message::Ping(_) | Message::Pong(_) => continue,
                other => panic!("{other:?}"),
            };
            let parse = |frame: &[u8]| {
                let frame = frame.try_into().expect("a whole header");
                Header::decode(frame).expect("a frame")
            };
            let all: Vec<Header> = bytes.chunks(HEADER).map(parse).collect();
            let (pings, rest): (Vec<_>, Vec<_>) = all
                .into_iter()
                .partition(|h| h.kind == Kind::Ping && h.flags.has(Flags::SYN));
            if !pings.is_empty() {
                self.frames(pings.iter().map(|ping| Header::ping(Flags::ACK, ping.len)));
            }
            if !rest.is_empty() {
                return rest;
            }
        }
    }

    fn expect_frames(&mut self, count: usize) -> Vec<Header> {
        let mut frames = Vec::new();
        while frames.len() < count {
            frames.extend(self.next_frames());
        }
        assert_eq!(frames.len(), count, "{frames:?}");
        frames
    }

    /// The last frame of a session that dies.
    fn expect_goodbye(&mut self, code: u32) {
        while self.next_frames().last() != Some(&Header::go_away(code)) {}
    }

    /// yamux works on it.
    fn answers_pings(&mut self) {
        self.frames([Header::ping(Flags::SYN, 77)]);
        assert_eq!(self.expect_frames(1), [Header::ping(Flags::ACK, 77)]);
    }
}

fn update(id: u32, flags: Flags) -> Header {
    Header::window(id, flags, 0)
}

#[test]
fn x1_a_hello_is_acknowledged_and_yamux_is_spoken() {
    let mut house = House::new();
    house.gateway.answers_pings();
    house.gateway.frames([update(2, Flags::SYN)]);
    assert_eq!(house.gateway.expect_frames(1), [update(2, Flags::ACK)]);
    assert_eq!(house.stream().id(), 2);
    // JSON goes on beside it.
    house
        .gateway
        .send(&json!({"type": "ping", "request_id": "p"}));
    while house.gateway.next_text()["type"] != "pong" {}
    stop(house.agent, house.gateway);
}

#[test]
fn x14_a_hello_with_absurd_settings_is_acknowledged_and_works() {
    for config in [
        json!({"max_stream_window_size": 1000, "keep_alive_interval_seconds": 0.5}),
        json!({"max_stream_window_size": 1e300, "keep_alive_interval_seconds": 1e300}),
        json!({"max_stream_window_size": "x", "connection_timeout_seconds": 1e-9}),
    ] {
        let mut house = House::without_hello(Settings::default());
        house.hello(config);
        house.gateway.answers_pings();
        stop(house.agent, house.gateway);
    }
}

#[test]
fn x15_without_yamux_json_in_binary_goes_on() {
    let mut house = House::without_hello(Settings::default());
    let hello = json!({"type": "gateway_hello", "payload": {"use_yamux": "true"}});
    house.gateway.send(&hello);
    let ping = json!({"type": "ping"}).to_string();
    let ping = Message::binary(ping.into_bytes());
    house.gateway.socket.send(ping).expect("sent");
    house.gateway.expect("pong");
    stop(house.agent, house.gateway);
}

/// The controller advertises nothing, but it may ask all the same.
#[test]
fn a_hello_on_the_controller_is_honoured() {
    let peer = Peer::new();
    let (agent, _) = start(&peer);
    let mut controller = peer.accept();
    let register = controller.expect("register");
    controller.send(&json!({
        "type": "register_success", "request_id": register["request_id"],
        "payload": {"cluster_id": "c-1"},
    }));
    controller.ack();
    controller.hello(json!({}));
    controller.answers_pings();
    stop(agent, controller);
}

#[test]
fn tt10_a_second_hello_replaces_the_session() {
    let mut house = House::new();
    house.gateway.frames([update(2, Flags::SYN)]);
    house.gateway.expect_frames(1);
    let old = house.stream();
    house.gateway.say_hello(json!({}), true);
    // Its target learns that at once, its peer never.
    assert_eq!(old.cut(), Some(crate::yamux::Cut::SessionLost));
    drop(old);
    house.gateway.frames([update(2, Flags::SYN)]);
    assert_eq!(house.gateway.expect_frames(1), [update(2, Flags::ACK)]);
    let new = house.stream();
    assert_eq!(new.cut(), None);
    house.gateway.answers_pings();
    drop(new);
    stop(house.agent, house.gateway);
}

/// TT7: there is no other way to a new session.
#[test]
fn x9_tt7_a_session_that_dies_takes_its_connection_with_it() {
    let mut house = House::new();
    house
        .gateway
        .frames([update(2, Flags::SYN), update(2, Flags::SYN)]);
    house.gateway.expect_goodbye(1);
    house.reconnected(1002);
    // X10: more than was granted.
    house.hello(json!({}));
    house
        .gateway
        .frames([update(2, Flags::SYN), Header::data(2, u32::MAX)]);
    house.gateway.expect_goodbye(1);
    house.reconnected(1002);
    // X11: no yamux at all.
    house.hello(json!({}));
    let nonsense = Message::binary(vec![1; HEADER]);
    house.gateway.socket.send(nonsense).expect("sent");
    house.reconnected(1002);
    house.hello(json!({}));
    house.gateway.answers_pings();
    stop(house.agent, house.gateway);
}

#[test]
fn t12_x17_a_lost_connection_cuts_all_streams_and_delays_nothing() {
    let mut house = House::new();
    let syns = (1..=100).map(|n| update(2 * n, Flags::SYN));
    house.gateway.frames(syns);
    let (sender, cut) = mpsc::channel();
    let streams: Vec<Stream> = (0..100).map(|_| house.stream()).collect();
    for stream in &streams {
        let sender = sender.clone();
        stream.on_cut(move |why| sender.send(why).expect("waiting"));
    }
    house.gateway.cut();
    // Nobody has let go of a stream yet.
    let mut gateway = house.peer.accept();
    gateway.ack();
    for _ in &streams {
        let why = cut.recv_timeout(Duration::from_mins(1)).expect("told");
        assert_eq!(why, crate::yamux::Cut::SessionLost);
    }
    gateway.hello(json!({}));
    gateway.answers_pings();
    stop(house.agent, gateway);
}

#[test]
fn x12_a_flood_of_streams_is_answered_and_delays_nobody() {
    let settings = Settings {
        max_streams: 10,
        drain: Duration::ZERO,
        ..Settings::default()
    };
    let mut house = House::without_hello(settings);
    house.hello(json!({}));
    house
        .gateway
        .frames((1..=2000).map(|n| update(2 * n, Flags::SYN)));
    house.gateway.send(&json!({"type": "ping"}));
    let (mut acks, mut resets, mut pongs) = (0, 0, 0);
    while acks + resets < 2000 || pongs < 1 {
        match house.gateway.socket.read().expect("a message") {
            Message::Binary(bytes) => {
                for frame in bytes.chunks(HEADER) {
                    let header = Header::decode(frame.try_into().expect("whole"));
                    let header = header.expect("a frame");
                    acks += usize::from(header.flags.has(Flags::ACK) && header.id > 0);
                    resets += usize::from(header.flags.has(Flags::RST));
                }
            }
            Message::Text(text) => pongs += usize::from(text.contains("\"pong\"")),
            _ => {}
        }
    }
    assert_eq!((acks, resets, pongs), (10, 1990, 1));
    stop(house.agent, house.gateway);
}

#[test]
fn x18_tt5_at_the_end_streams_may_finish_and_new_ones_are_refused() {
    let mut house = House::new();
    house.gateway.frames([update(2, Flags::SYN)]);
    house.gateway.expect_frames(1);
    let stream = house.stream();
    house.agent.stop();
    assert_eq!(house.gateway.expect_frames(1), [Header::go_away(0)]);
    house.gateway.frames([update(4, Flags::SYN)]);
    assert_eq!(house.gateway.expect_frames(1), [update(4, Flags::RST)]);
    stream.finish();
    assert_eq!(house.gateway.expect_frames(1), [update(2, Flags::FIN)]);
    house.gateway.frames([update(2, Flags::FIN)]);
    assert_eq!(house.gateway.closed(), Some(1000));
    drop(house.gateway);
    house.agent.wait().expect("an orderly end");
}

#[test]
fn x18_tt5_a_stream_that_does_not_end_is_reset_when_the_agent_does() {
    let settings = Settings {
        drain: Duration::from_millis(20),
        ..Settings::default()
    };
    let mut house = House::without_hello(settings);
    house.hello(json!({}));
    house.gateway.frames([update(2, Flags::SYN)]);
    house.gateway.expect_frames(1);
    let stream = house.stream();
    house.agent.stop();
    let last = house.gateway.expect_frames(2);
    assert_eq!(last, [Header::go_away(0), update(2, Flags::RST)]);
    assert_eq!(stream.cut(), Some(crate::yamux::Cut::ByUs));
    assert_eq!(house.gateway.closed(), Some(1000));
    drop(house.gateway);
    house.agent.wait().expect("an orderly end");
}
