//! Services that the plane exposes: from a client of its ports, through the tunnel,
//! to what the agent leads to, and back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pipeops_agent::agent::Agent;
use pipeops_agent::config::{Config, Forward, Origin, ProxyProtocol};
use pipeops_agent::plane::{Entry, ExposureState, ExposureView, GatewayUrl, Plane};

use crate::support::house::{House, name, start};
use crate::support::pattern;
use crate::support::wait::until;

/// An agent that leads `db` somewhere, and a plane that exposes it.
struct Stage {
    house: House,
    config: Config,
    agent: Option<Agent>,
    target: TcpListener,
}

impl Stage {
    fn new(gateway: GatewayUrl) -> Self {
        let house = House::with_gateway(gateway);
        let target = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut config = house.agent_config("edge");
        forward(&mut config, "db", local(&target));
        let mut stage = Self {
            house,
            config,
            agent: None,
            target,
        };
        stage.connect();
        stage
    }

    /// Starts the agent.
    fn connect(&mut self) {
        self.agent = Some(start(&self.config, None));
        self.house.attached("edge");
    }

    fn disconnect(&mut self) {
        let agent = self.agent.take().expect("connected");
        agent.stop();
        agent.wait().expect("an orderly end");
        until("the agent is gone", || !self.house.is_connected("edge"));
    }

    fn expose(&self, entry: &Entry) {
        let service = "db:5432".parse().expect("a service");
        let plane = &self.house.plane;
        plane
            .expose(entry.clone(), name("edge"), service)
            .expect("exposed");
        until("it is open", || {
            view(plane, entry).state == ExposureState::Open
        });
    }

    fn accept(&self) -> TcpStream {
        let (stream, _) = self.target.accept().expect("accepted");
        patient(stream)
    }
}

fn forward(config: &mut Config, name: &str, address: SocketAddr) {
    config.tunnels.forwards.push(Forward {
        name: name.to_owned(),
        origin: Origin::parse(&address.to_string()).expect("an origin"),
    });
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("an address")
}

fn view(plane: &Plane, entry: &Entry) -> ExposureView {
    let mut views = plane.exposures().into_iter();
    let view = views.find(|view| view.exposure.entry == *entry);
    view.expect("exposed")
}

/// One that nobody else has: this machine has sixteen million addresses.
fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high | 128, low, NEXT.fetch_add(1, Ordering::Relaxed));
    (ip, 15432).into()
}

fn patient(stream: TcpStream) -> TcpStream {
    let limit = Some(Duration::from_mins(1));
    stream.set_read_timeout(limit).expect("set");
    stream.set_write_timeout(limit).expect("set");
    stream
}

fn client(entry: &Entry) -> TcpStream {
    let Entry::Tcp(address) = entry else {
        panic!("{entry} is no TCP")
    };
    patient(TcpStream::connect(address).expect("connected"))
}

fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("set");
}

/// What reading it ends with: a reset, not an end.
fn is_reset(mut stream: &TcpStream) -> bool {
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).expect_err("a reset");
    error.kind() == std::io::ErrorKind::ConnectionReset
}

/// Sends a pattern of this length and then an end.
fn send(mut stream: TcpStream, length: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut sent = 0;
        while sent < length {
            let piece = pattern::piece(sent, length);
            stream.write_all(piece).expect("sent");
            sent += piece.len() as u64;
        }
        stream.shutdown(Shutdown::Write).expect("shut down");
    })
}

/// Reads that pattern to its end.
fn receive(mut stream: &TcpStream, length: u64) {
    let (mut seen, mut buf) = (0, vec![0; pattern::PIECE]);
    loop {
        let count = stream.read(&mut buf).expect("read");
        if count == 0 {
            break;
        }
        let mut rest = &buf[..count];
        while !rest.is_empty() {
            let want = pattern::piece(seen, length);
            let part = rest.len().min(want.len());
            assert!(part > 0 && rest[..part] == want[..part], "at {seen}");
            seen += part as u64;
            rest = &rest[part..];
        }
    }
    assert_eq!(seen, length);
}

#[test]
fn bytes_arrive_both_ways_and_each_way_has_its_own_end() {
    for gateway in [GatewayUrl::SameHost, GatewayUrl::Stay] {
        let stage = Stage::new(gateway);
        let entry = Entry::Tcp(address());
        stage.expose(&entry);
        let (up, down) = (9_000_001, 11_000_003);
        let client = client(&entry);
        let target = stage.accept();
        let sending = send(client.try_clone().expect("cloned"), up);
        let answering = send(target.try_clone().expect("cloned"), down);
        let receiving = thread::spawn(move || receive(&target, up));
        receive(&client, down);
        for thread in [sending, answering, receiving] {
            thread.join().expect("all right");
        }
        until("it is over", || {
            view(&stage.house.plane, &entry).clients == 0
        });
        let view = view(&stage.house.plane, &entry);
        assert_eq!((view.up, view.down), (up, down));
        assert_eq!((view.total, view.refused), (1, 0));
        // One way ends, the other one goes on.
        let mut client = self::client(&entry);
        let mut target = stage.accept();
        client.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(target.read(&mut [0; 8]).expect("an end"), 0);
        target.write_all(b"late").expect("sent");
        drop(target);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("read");
        assert_eq!(answer, "late");
    }
}

#[test]
fn the_target_can_be_told_who_the_client_is() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    stage.disconnect();
    let told = &mut stage.config.tunnels.proxy_protocol;
    told.insert("db".to_owned(), ProxyProtocol::V1);
    stage.connect();
    let entry = Entry::Tcp(address());
    stage.expose(&entry);
    let client = client(&entry);
    let mut line = [0; 16];
    stage.accept().read_exact(&mut line).expect("read");
    let ip = client.local_addr().expect("an address").ip();
    let want = format!("PROXY TCP4 {ip} ");
    assert_eq!(line[..], want.as_bytes()[..16]);
}

#[test]
fn a_reset_is_a_reset_at_the_other_end() {
    let stage = Stage::new(GatewayUrl::SameHost);
    let entry = Entry::Tcp(address());
    stage.expose(&entry);
    let near = client(&entry);
    let far = stage.accept();
    reset(&near);
    drop(near);
    assert!(is_reset(&far));

    let near = client(&entry);
    let far = stage.accept();
    reset(&far);
    drop(far);
    assert!(is_reset(&near));
}

#[test]
fn while_the_agent_is_away_clients_are_reset_at_once() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    let entry = Entry::Tcp(address());
    stage.expose(&entry);
    let live = client(&entry);
    let _target = stage.accept();
    stage.config.tunnels.drain_timeout = Duration::ZERO;
    stage.disconnect();
    assert!(is_reset(&live));
    assert!(is_reset(&client(&entry)));
    let shown = view(&stage.house.plane, &entry);
    assert_eq!((shown.state, shown.refused), (ExposureState::Away, 1));
    stage.connect();
    until("it is open", || {
        view(&stage.house.plane, &entry).state == ExposureState::Open
    });
    let mut near = client(&entry);
    near.write_all(b"x").expect("sent");
    stage.accept().read_exact(&mut [0]).expect("read");
}

/// Nobody listens where the agent leads to.
#[test]
fn a_service_that_cannot_be_reached_is_a_reset() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    stage.disconnect();
    let nowhere = local(&TcpListener::bind("127.0.0.1:0").expect("bound"));
    stage.config.tunnels.forwards.clear();
    forward(&mut stage.config, "db", nowhere);
    stage.connect();
    let entry = Entry::Tcp(address());
    stage.expose(&entry);
    assert!(is_reset(&client(&entry)));
}

#[test]
fn what_is_exposed_is_open_again_after_a_restart() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    let entry = Entry::Tcp(address());
    stage.expose(&entry);
    let taken = stage.house.plane.expose(
        entry.clone(),
        name("other"),
        "web.default:80".parse().expect("a service"),
    );
    let text = taken.expect_err("taken").to_string();
    assert!(text.contains("plane unexpose tcp"), "{text}");
    stage.house = stage.house.again(|_| {});
    until("it is open", || {
        view(&stage.house.plane, &entry).state == ExposureState::Open
    });
    let mut near = client(&entry);
    near.write_all(b"x").expect("sent");
    stage.accept().read_exact(&mut [0]).expect("read");
}

#[test]
fn datagrams_find_their_way_back_to_their_client() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    stage.disconnect();
    let echo = UdpSocket::bind("127.0.0.1:0").expect("bound");
    forward(
        &mut stage.config,
        "echo",
        echo.local_addr().expect("an address"),
    );
    let echoing = echo.try_clone().expect("cloned");
    thread::spawn(move || {
        let mut buf = vec![0; 65_535];
        while let Ok((len, from)) = echoing.recv_from(&mut buf) {
            buf[..len].reverse();
            let _ = echoing.send_to(&buf[..len], from);
        }
    });
    stage.connect();
    let at = address();
    let plane = &stage.house.plane;
    let service = "echo:7".parse().expect("a service");
    plane
        .expose(Entry::Udp(at), name("edge"), service)
        .expect("exposed");
    until("it is open", || {
        view(plane, &Entry::Udp(at)).state == ExposureState::Open
    });
    let clients: Vec<UdpSocket> = (0..3)
        .map(|_| {
            let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
            client.connect(at).expect("connected");
            let limit = Some(Duration::from_millis(300));
            client.set_read_timeout(limit).expect("set");
            client
        })
        .collect();
    for (n, length) in [(0, 1), (1, 1400), (2, 60_000), (0, 9), (1, 2)] {
        let client = &clients[n];
        let sent: Vec<u8> = (0..length).map(|i| (i * 7 + n) as u8).collect();
        let mut buf = vec![0; 65_535];
        // A datagram may be lost anywhere.
        until("the answer is there", || {
            client.send(&sent).expect("sent");
            client.recv(&mut buf).is_ok_and(|len| {
                let got: Vec<u8> = buf[..len].iter().rev().copied().collect();
                got == sent
            })
        });
    }
    assert_eq!(view(plane, &Entry::Udp(at)).clients, 3);
}

/// One request, as it is written.
fn ask(at: SocketAddr, host: &str) -> String {
    let mut client = patient(TcpStream::connect(at).expect("connected"));
    let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_host_leads_to_its_service() {
    let at = address();
    let mut stage = Stage::new(GatewayUrl::SameHost);
    stage.house = stage.house.again(|config| config.http = at);
    stage.house.attached("edge");
    let entry = Entry::parse("http", "Shop.Example.Test").expect("a host");
    stage.expose(&entry);
    let asking = thread::spawn(move || ask(at, "shop.example.test:80"));
    let mut target = stage.accept();
    let mut request = vec![0; 4096];
    let count = target.read(&mut request).expect("read");
    let request = String::from_utf8_lossy(&request[..count]).into_owned();
    assert!(request.starts_with("GET /a HTTP/1.1\r\nHost: shop.example.test:80\r\n"));
    assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    target
        .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi")
        .expect("sent");
    drop(target);
    assert!(asking.join().expect("asked").ends_with("\r\n\r\nhi"));
    let unknown = ask(at, "other.test");
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    stage.disconnect();
    let away = ask(at, "shop.example.test");
    assert!(away.starts_with("HTTP/1.1 503 "), "{away}");
    assert!(away.contains("not connected"), "{away}");
}

#[test]
fn many_clients_at_once() {
    let stage = Stage::new(GatewayUrl::SameHost);
    let entry = Entry::Tcp(address());
    stage.expose(&entry);
    let target = stage.target.try_clone().expect("cloned");
    let serving = thread::spawn(move || {
        let accepted: Vec<TcpStream> = (0..COUNT)
            .map(|_| patient(target.accept().expect("accepted").0))
            .collect();
        for mut stream in accepted {
            let mut word = [0; 8];
            stream.read_exact(&mut word).expect("read");
            stream.write_all(&word).expect("sent");
        }
    });
    let clients: Vec<TcpStream> = (0..COUNT)
        .map(|n: u64| {
            let mut client = client(&entry);
            client.write_all(&n.to_be_bytes()).expect("sent");
            client
        })
        .collect();
    for (n, mut client) in clients.into_iter().enumerate() {
        let mut word = [0; 8];
        client.read_exact(&mut word).expect("read");
        assert_eq!(u64::from_be_bytes(word), n as u64);
    }
    serving.join().expect("served");
    let plane = &stage.house.plane;
    until("all are over", || view(plane, &entry).clients == 0);
    assert_eq!(view(plane, &entry).total, COUNT);
}

const COUNT: u64 = 200;
