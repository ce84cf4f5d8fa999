//! What streams have taken is given back, and an idle one takes little. A process of
//! its own, because it counts what the whole process has.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pipeops_agent::config::{Audit as AuditFile, Origin};
use pipeops_agent::link::{self, Link};
use pipeops_agent::net::Halves;
use pipeops_agent::telemetry::metrics;
use pipeops_agent::tunnel::Protocol;
use pipeops_agent::tunnel::audit::Audit;
use pipeops_agent::tunnel::header::{Header, Version};
use pipeops_agent::tunnel::policy::{self, Policy};
use pipeops_agent::tunnel::session::{Acceptor, Inbox, Memory, Session, Stream};
use pipeops_agent::tunnel::streams::{Connection, Settings, Streams};
use pipeops_agent::tunnel::target::{Mode, Routes, Targets};
use pipeops_agent::yamux::{Config, Input, Reset, Role};

/// Long enough for whatever has to happen.
const LONG: Duration = Duration::from_secs(60);

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Binary messages are the session's.
struct Reader(Inbox);

impl link::Receiver for Reader {
    fn text(&mut self, _: &str) {}

    fn binary(&mut self, message: &[u8]) {
        self.0.receive(message);
    }
}

/// A link that carries a session.
fn carrying(
    socket: TcpStream,
    roles: (link::Role, Role),
    memory: &Memory,
    acceptor: impl Acceptor + 'static,
) -> (Link, Session) {
    let mut session = None;
    let settings = link::Settings::new(roles.0);
    let link = Link::start(Halves::plain(socket.into()), settings, |link| {
        let line = Arc::new(link.clone());
        let (ours, inbox) = Session::start(Config::new(roles.1), memory, line, acceptor);
        session = Some(ours);
        Reader(inbox)
    });
    (link.expect("started"), session.expect("made"))
}

/// A gateway and an agent.
struct Pair {
    gateway: Session,
    memory: Memory,
    links: [Link; 2],
}

impl Pair {
    fn new(streams: &Arc<Streams>) -> Self {
        let memory = Memory::new(64 << 20);
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
        let acceptor = streams.acceptor(Connection {
            number: 1,
            newest: Version::One,
            dial_timeout: LONG,
        });
        let roles = (link::Role::Client, Role::Client);
        let (agent, _) = carrying(near, roles, &memory, acceptor);
        let roles = (link::Role::Server, Role::Server);
        let (link, gateway) = carrying(accept(&listener), roles, &memory, |_: Stream| {});
        Self {
            gateway,
            memory,
            links: [agent, link],
        }
    }

    fn open(&self) -> Stream {
        let header = Header {
            protocol: Protocol::Tcp,
            port: 1,
            service: "target".into(),
            namespace: String::new(),
            tunnel_id: String::new(),
            client: None,
        };
        let stream = self.gateway.open(Instant::now() + LONG).expect("opened");
        let header = header.encode(Version::One).expect("a header");
        stream.send(header[..].into(), None).expect("sent");
        stream
    }

    fn cut(&self) {
        for link in &self.links {
            link.abort("the test cuts it");
            link.wait();
        }
    }
}

fn streams(target: &TcpListener) -> Arc<Streams> {
    let address = target.local_addr().expect("address").to_string();
    let origin = Origin::parse(&address).expect("origin");
    let routes = Routes {
        routes: [("target".to_owned(), origin)].into(),
        ..Routes::default()
    };
    let policy = Policy::open(policy::Settings::default()).expect("no file");
    let targets = Arc::new(Targets::new(Mode::Machine, Arc::new(policy), routes));
    let audit = Arc::new(Audit::start(&AuditFile::default()).expect("audit"));
    Streams::new(Settings::default(), targets, audit)
}

/// Threads and open descriptors.
fn taken() -> (usize, usize) {
    let count = |path| fs::read_dir(path).expect("proc").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// Bytes of memory that are resident.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("proc");
    let pages = statm.split(' ').nth(1).and_then(|text| text.parse().ok());
    pages.unwrap_or(0_usize) * 4096
}

fn accept(target: &TcpListener) -> TcpStream {
    target.accept().expect("accepted").0
}

/// One after the other: both count what the whole process has.
#[test]
fn streams_give_back_what_they_took_and_take_little_while_idle() {
    five_hundred_streams_leave_nothing_behind();
    an_idle_stream_is_small();
}

fn five_hundred_streams_leave_nothing_behind() {
    let target = TcpListener::bind("127.0.0.1:0").expect("bound");
    let streams = streams(&target);
    let mut before = (0, 0);
    for round in 0..3 {
        let pair = Pair::new(&streams);
        let mut clients = Vec::new();
        let mut targets = Vec::new();
        for i in 0..250 {
            let client = pair.open();
            let mut near = accept(&target);
            match i % 5 {
                // An orderly end of either side, or of both.
                0 => {
                    client.finish();
                    near.read_to_end(&mut Vec::new()).expect("an end");
                }
                1 => {
                    client.finish();
                    continue;
                }
                // A reset by either side.
                2 => client.reset(Reset::AtOnce),
                3 => {
                    client.send(b"unread"[..].into(), None).expect("sent");
                    near.write_all(b"answer").expect("sent");
                    continue;
                }
                // Lost in its middle.
                _ => {
                    client.send(vec![0; 20_000][..].into(), None).expect("sent");
                    near.write_all(&vec![0; 20_000]).expect("sent");
                }
            }
            clients.push(client);
            targets.push(near);
        }
        pair.cut();
        drop((clients, targets));
        wait_until("streams end", || streams.open() == 0);
        wait_until("their threads end", || streams.threads() == 0);
        assert_eq!(pair.memory.budget().charged(), 0);
        drop(pair);
        if round == 0 {
            // What is made once is there by now.
            before = taken();
        }
    }
    wait_until("all is given back", || taken() <= before);
    let forwards = "pipeops_tunnel_forwards_active";
    assert_eq!(metrics::snapshot().value(forwards), Some(0.0));
}

/// The limit is for the static build (16 KiB, docs/benchmark.md); here stacks of a
/// debug build and glibc's arenas come on top. A buffer of 32 KiB would be seen.
fn an_idle_stream_is_small() {
    const COUNT: usize = 400;
    let target = TcpListener::bind("127.0.0.1:0").expect("bound");
    let streams = streams(&target);
    let pair = Pair::new(&streams);
    let before = resident();
    let open = || {
        let client = pair.open();
        (client, accept(&target))
    };
    let mut idle: Vec<(Stream, TcpStream)> = (0..COUNT).map(|_| open()).collect();
    wait_until("they copy", || streams.threads() >= 2 * COUNT);
    let per_stream = (resident().saturating_sub(before)) / COUNT;
    // And after each has moved something both ways.
    let piece = vec![1; 100_000];
    let mut heard = vec![0; piece.len()];
    for (client, near) in &mut idle {
        for part in piece.chunks(20_000) {
            client.send(part.into(), None).expect("sent");
        }
        near.read_exact(&mut heard).expect("it comes");
        near.write_all(&piece).expect("sent");
        let mut read = 0;
        while read < piece.len() {
            match client.read(None).expect("open") {
                Input::Some(chunk) => {
                    read += chunk.len();
                    client.give_back(chunk);
                }
                Input::Wait | Input::End => panic!("an end after {read} bytes"),
            }
        }
    }
    let after = (resident().saturating_sub(before)) / COUNT;
    assert!(per_stream < 40_000, "{per_stream}");
    assert!(after < 64_000, "{after}");
    pair.cut();
    wait_until("streams end", || streams.open() == 0);
}
