//! Services that the plane exposes: from a client of its ports, through the tunnel,
//! to what the agent leads to, and back.

mod sockets;
mod stage;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use pipeops_agent::config::ProxyProtocol;
use pipeops_agent::plane::{Entry, ExposureState, GatewayUrl};

use crate::support::house::name;
use crate::support::sockets::{is_reset, patient, receive, reset, send};
use crate::support::wait::until;
use stage::*;

#[test]
fn bytes_arrive_both_ways_and_each_way_has_its_own_end() {
    for gateway in [GatewayUrl::SameHost, GatewayUrl::Stay] {
        let stage = Stage::new(gateway);
        let entry = stage.expose_db();
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
    let entry = stage.expose_db();
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
    let entry = stage.expose_db();
    let near = client(&entry);
    let far = stage.accept();
    reset(near);
    assert!(is_reset(&far));

    let near = client(&entry);
    let far = stage.accept();
    reset(far);
    assert!(is_reset(&near));
}

#[test]
fn while_the_agent_is_away_clients_are_reset_at_once() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    let entry = stage.expose_db();
    let live = client(&entry);
    let _target = stage.accept();
    stage.config.tunnels.drain_timeout = Duration::ZERO;
    stage.disconnect();
    assert!(is_reset(&live));
    assert!(is_reset(&client(&entry)));
    let shown = view(&stage.house.plane, &entry);
    assert_eq!((shown.state, shown.refused), (ExposureState::Away, 1));
    stage.connect();
    stage.leads_on(&entry);
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
    let entry = stage.expose_db();
    assert!(is_reset(&client(&entry)));
}

#[test]
fn what_is_exposed_is_open_again_after_a_restart() {
    let mut stage = Stage::new(GatewayUrl::SameHost);
    let entry = stage.expose_db();
    let taken = stage.house.plane.expose(
        entry.clone(),
        name("other"),
        "web.default:80".parse().expect("a service"),
    );
    let text = taken.expect_err("taken").to_string();
    assert!(text.contains("plane unexpose tcp"), "{text}");
    stage.house = stage.house.again(|_| {});
    stage.leads_on(&entry);
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
    let entry = stage.expose(Entry::Udp(any_port()), "echo:7");
    let Entry::Udp(at) = entry else {
        panic!("{entry} is no UDP")
    };
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
    assert_eq!(view(&stage.house.plane, &entry).clients, 3);
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
    stage.expose(entry, "db:5432");
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
    let entry = stage.expose_db();
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
