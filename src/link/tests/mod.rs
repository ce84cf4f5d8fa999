//! Links over real sockets on loopback.

mod closing;
mod flow;
mod liveness;
mod returning;
mod speaking;
mod throttled;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};
use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};

use super::*;
use crate::net::testing::{tcp_pair, tls_pair};
use crate::websocket::frame::{CloseFrame, Event, FrameReader, Header, Opcode, mask, whole};
use crate::websocket::upgrade;

/// What a link's receiver saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    /// The receiver was dropped.
    Gone,
}

struct Recorder(crossbeam_channel::Sender<Seen>);

impl Receiver for Recorder {
    fn text(&mut self, message: &str) {
        let _ = self.0.send(Seen::Text(message.to_owned()));
    }

    fn binary(&mut self, message: &[u8]) {
        let _ = self.0.send(Seen::Binary(message.to_vec()));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Gone);
    }
}

/// A link and what it receives.
struct Watched {
    link: Link,
    seen: crossbeam_channel::Receiver<Seen>,
}

impl Watched {
    fn start(halves: Halves, settings: Settings) -> Self {
        let (sender, seen) = crossbeam_channel::unbounded();
        let link = Link::start(halves, settings, |_| Recorder(sender)).expect("started");
        Self { link, seen }
    }

    fn next(&self) -> Seen {
        self.seen
            .recv_timeout(Duration::from_mins(1))
            .expect("something in time")
    }

    fn text(&self, lane: Lane, text: &str) -> Result<(), SendError> {
        let message = Message::text(text.len(), |buf| buf.extend_from_slice(text.as_bytes()));
        self.link.send(lane, message, &Cancel::new())
    }

    fn binary(&self, bytes: &[u8]) -> Result<(), SendError> {
        let message = Message::binary(bytes.len(), |buf| buf.extend_from_slice(bytes));
        self.link.send(bulk(), message, &Cancel::new())
    }
}

/// All of one request.
fn bulk() -> Lane {
    Lane::Bulk(Slot::of(""))
}

/// Settings by which nothing happens by itself for the length of a test.
fn quiet(role: Role) -> Settings {
    Settings {
        ping_interval: Duration::from_mins(10),
        read_limit: Duration::from_mins(10),
        write_limit: Duration::from_mins(10),
        ..Settings::new(role)
    }
}

/// A link whose peer is the raw other end of the connection.
fn against_raw(settings: Settings) -> (Watched, Raw) {
    let (near, far) = tcp_pair();
    let peer = match settings.role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    };
    let raw = Raw {
        stream: far.into(),
        role: peer,
        frames: FrameReader::new(peer, usize::MAX),
    };
    (Watched::start(Halves::plain(near), settings), raw)
}

/// The other end of a connection, without any manners.
struct Raw {
    stream: TcpStream,
    role: Role,
    frames: FrameReader,
}

impl Raw {
    fn send(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&self.frame(opcode, payload))
    }

    fn frame(&self, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let key = (self.role == Role::Client).then_some([1, 2, 3, 4]);
        let header = Header {
            fin: true,
            opcode,
            mask: key,
            len: payload.len() as u64,
        };
        let (head, size) = header.encode();
        let mut payload = payload.to_vec();
        if let Some(key) = key {
            mask(&mut payload, key, 0);
        }
        [&head[..size], &payload].concat()
    }

    fn close(&mut self, code: u16, reason: &str) -> io::Result<()> {
        self.send(Opcode::Close, &CloseFrame::new(code, reason).payload())
    }

    /// Reads something; false at the end.
    fn read(&mut self, on: &mut dyn FnMut(Event<'_>)) -> bool {
        let mut buf = vec![0; 64 * 1024];
        match self.stream.read(&mut buf) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                let mut on = whole(on);
                self.frames.read(&mut buf[..count], &mut on).expect("valid");
                true
            }
        }
    }

    /// The events up to the end of the stream.
    fn rest(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        while self.read(&mut |event| events.push(format!("{event:?}"))) {}
        events
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + len) as u8).collect()
}

/// Lengths around every border, some in between, and one that is huge.
fn lengths() -> Vec<usize> {
    let mut lengths: Vec<usize> = (0..200).collect();
    for border in [125, 65_535, 65_528, 131_056, 16_384, 200 * 1024] {
        lengths.extend(border - 2..=border + 2);
    }
    lengths.extend((1000..200 * 1024).step_by(7919));
    lengths.push(20 * 1024 * 1024);
    lengths
}

/// Sends back whatever arrives.
fn echo(peer: &Watched) {
    loop {
        match peer.next() {
            Seen::Text(text) => peer.text(bulk(), &text).expect("open"),
            Seen::Binary(bytes) => peer.binary(&bytes).expect("open"),
            Seen::Gone => return,
        }
    }
}

fn send_all(link: &Watched, lengths: &[usize]) {
    for (i, &len) in lengths.iter().enumerate() {
        if i % 3 == 0 {
            let text = "é!".repeat(len / 3);
            link.text(bulk(), &text).expect("open");
        } else {
            link.binary(&pattern(len)).expect("open");
        }
    }
}

fn expect_all(link: &Watched, lengths: &[usize]) {
    for (i, &len) in lengths.iter().enumerate() {
        match link.next() {
            Seen::Text(text) if i % 3 == 0 => assert!(text == "é!".repeat(len / 3), "{len}"),
            Seen::Binary(bytes) => assert!(bytes == pattern(len), "{len}"),
            other => panic!("{len}: {other:?}"),
        }
    }
}

fn echo_between(near: Halves, far: Halves) {
    let near = Watched::start(near, quiet(Role::Client));
    let far = Watched::start(far, quiet(Role::Server));
    let lengths = lengths();
    thread::scope(|scope| {
        scope.spawn(|| echo(&far));
        scope.spawn(|| send_all(&near, &lengths));
        expect_all(&near, &lengths);
        near.link.close(1000, "");
        let ending = near.link.wait();
        assert_eq!(ending.messages_in, lengths.len() as u64);
        assert_eq!(ending.messages_out, lengths.len() as u64);
        let other = far.link.wait();
        assert_eq!((other.by, other.code), (EndedBy::Peer, Some(1000)));
        assert_eq!(other.bytes_in, ending.bytes_out);
    });
}

#[test]
fn messages_of_all_sizes_both_ways_plain() {
    let (near, far) = tcp_pair();
    echo_between(Halves::plain(near), Halves::plain(far));
}

#[test]
fn messages_of_all_sizes_both_ways_tls_1_3() {
    let (near, far) = tls_pair(&TLS13);
    echo_between(near, far);
}

#[test]
fn messages_of_all_sizes_both_ways_tls_1_2() {
    let (near, far) = tls_pair(&TLS12);
    echo_between(near, far);
}

/// tungstenite as the peer: it echoes until the end and says how that was.
fn echo_against_tungstenite(role: Role) {
    let (near, far) = tcp_pair();
    let (their_role, config) = match role {
        Role::Client => (TheirRole::Server, WebSocketConfig::default()),
        Role::Server => (TheirRole::Client, WebSocketConfig::default()),
    };
    let config = config.max_frame_size(Some(1 << 26));
    let peer = thread::spawn(move || {
        let mut socket = WebSocket::from_raw_socket(TcpStream::from(far), their_role, Some(config));
        loop {
            match socket.read() {
                Ok(message) if message.is_text() || message.is_binary() => {
                    socket.send(message).expect("send");
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    });
    let near = Watched::start(Halves::plain(near), quiet(role));
    let lengths = lengths();
    thread::scope(|scope| {
        scope.spawn(|| send_all(&near, &lengths));
        expect_all(&near, &lengths);
    });
    near.link.close(1000, "done");
    let ending = near.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Us, Some(1000)));
    let theirs = peer.join().expect("no panic");
    assert_eq!(theirs, tungstenite::Error::ConnectionClosed.to_string());
}

#[test]
fn a_client_talks_to_tungstenite() {
    echo_against_tungstenite(Role::Client);
}

#[test]
fn a_server_talks_to_tungstenite() {
    echo_against_tungstenite(Role::Server);
}

#[test]
fn a_frame_behind_the_101_reaches_the_receiver() {
    let (near, mut far) = tcp_pair();
    let asking = thread::spawn(move || upgrade::testing::ask(Halves::plain(near)));
    let accept = upgrade::testing::take_request(&mut far);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    far.write_all(&[answer.as_bytes(), b"\x81\x05hello"].concat())
        .expect("write");
    let halves = asking.join().expect("no panic");
    let near = Watched::start(halves, quiet(Role::Client));
    assert_eq!(near.next(), Seen::Text("hello".into()));
}
