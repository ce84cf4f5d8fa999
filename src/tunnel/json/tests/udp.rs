use std::net::UdpSocket;
use std::sync::mpsc;

use super::*;
use crate::telemetry::metrics::{UDP_ACTIVE, UDP_DENIED, UDP_DROPPED, UDP_PACKETS_RECEIVED};

fn target() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("bind");
    socket.set_read_timeout(Some(FAR)).expect("set");
    let port = socket.local_addr().expect("address").port();
    (socket, port)
}

fn hear(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = vec![0; 65_536];
    let (count, from) = socket.recv_from(&mut bytes).expect("a datagram");
    bytes.truncate(count);
    (bytes, from)
}

impl Stage {
    fn say(&mut self, client: u16, to: Target<'_>, bytes: &[u8]) {
        let data = STANDARD.encode_to_string(bytes);
        self.tunnels().datagram(&Datagram {
            tunnel_id: "udp-1".into(),
            client_address: "198.51.100.7".into(),
            client_port: client,
            data: data.into(),
            target: to,
        });
    }

    /// The clients that were answered, and with what.
    fn answers(&self, count: usize) -> Vec<(u64, Vec<u8>)> {
        self.wire.wait_until(|said| {
            let answer = |message: &Value| {
                assert_eq!(message["type"], "udp_tunnel_data");
                assert!(message.get("request_id").is_none());
                let payload = &message["payload"];
                assert_eq!(payload["tunnel_id"], "udp-1");
                assert_eq!(payload["client_addr"], "198.51.100.7");
                let port = payload["client_port"].as_u64().expect("a port");
                (port, decode(&payload["data"]))
            };
            (said.messages.len() >= count).then(|| said.messages.iter().map(answer).collect())
        })
    }
}

#[test]
fn tt24_each_client_has_its_own_socket_and_hears_only_its_own_answers() {
    let (socket, port) = target();
    let mut stage = Stage::new();
    let before = UDP_PACKETS_RECEIVED.value();
    stage.say(1, gateway_port(port), b"from one");
    let (bytes, one) = hear(&socket);
    assert_eq!(bytes, b"from one");
    stage.say(2, gateway_port(port), b"from two");
    let (_, two) = hear(&socket);
    assert_ne!(one, two);
    socket.send_to(b"to two", two).expect("sent");
    assert_eq!(stage.answers(1), [(2, b"to two".to_vec())]);
    socket.send_to(b"to one", one).expect("sent");
    socket.send_to(b"", one).expect("sent");
    assert_eq!(
        stage.answers(3)[1..],
        [(1, b"to one".to_vec()), (1, Vec::new())]
    );
    // A stranger who guesses the port isn't heard.
    let stranger = UdpSocket::bind(("127.0.0.1", 0)).expect("bind");
    stranger.send_to(b"spoofed", one).expect("sent");
    socket.send_to(b"true", one).expect("sent");
    assert_eq!(stage.answers(4)[3..], [(1, b"true".to_vec())]);
    assert_eq!(stage.shared.live(), (0, 2));
    assert!(UDP_ACTIVE.value() >= 2);
    eventually(|| UDP_PACKETS_RECEIVED.value() >= before + 4);
    stage.lose();
    stage.settle();
}

#[test]
fn tt25_many_first_datagrams_make_one_session() {
    let (socket, port) = target();
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let mut stage = Stage::with(Wants {
        rules: Some(LOOPBACK),
        lookup: Some(Arc::new(move || {
            let _ = hang.lock().recv();
            ([127, 0, 0, 1], 1).into()
        })),
        ..Wants::default()
    });
    // What comes while it is looked for waits, in order and so many.
    for number in 0..100u8 {
        stage.say(1, service(port), &[number]);
    }
    assert_eq!(stage.shared.live(), (0, 1));
    drop(release);
    let mut from = Vec::new();
    for number in 0..32u8 {
        let (bytes, source) = hear(&socket);
        assert_eq!(bytes, [number]);
        from.push(source);
    }
    from.dedup();
    assert_eq!(from.len(), 1);
    stage.say(1, service(port), b"later");
    assert_eq!(hear(&socket), (b"later".to_vec(), from[0]));
}

#[test]
fn a_session_ends_when_its_client_is_silent_whatever_the_target_says() {
    let (socket, port) = target();
    let mut stage = Stage::with(Wants {
        settings: Settings {
            udp_idle: Duration::from_millis(50),
            ..Settings::default()
        },
        ..Wants::default()
    });
    stage.say(1, gateway_port(port), b"a");
    let (_, first) = hear(&socket);
    while stage.shared.live() != (0, 0) {
        let _ = socket.send_to(b"chatter", first);
        std::thread::yield_now();
    }
    stage.say(1, gateway_port(port), b"b");
    assert_eq!(hear(&socket).0, b"b");
}

#[test]
fn a_target_that_is_not_there_costs_datagrams_and_not_the_session() {
    let (socket, port) = target();
    drop(socket);
    let mut stage = Stage::new();
    for _ in 0..10 {
        stage.say(1, gateway_port(port), b"anybody?");
    }
    let socket = UdpSocket::bind(("127.0.0.1", port)).expect("the same port");
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("set");
    let mut bytes = [0; 100];
    let from = loop {
        stage.say(1, gateway_port(port), b"now?");
        if let Ok((_, from)) = socket.recv_from(&mut bytes) {
            break from;
        }
    };
    socket.send_to(b"yes", from).expect("sent");
    assert_eq!(stage.answers(1)[0], (1, b"yes".to_vec()));
    assert_eq!(stage.shared.live(), (0, 1));
}

#[test]
fn only_so_many_sessions_at_once() {
    let (socket, port) = target();
    let mut stage = Stage::with(Wants {
        settings: Settings {
            max_sessions: 2,
            ..Settings::default()
        },
        ..Wants::default()
    });
    for client in 1..=3 {
        stage.say(client, gateway_port(port), &[client as u8]);
    }
    let (one, two) = (hear(&socket).0, hear(&socket).0);
    assert_eq!((one.len(), two.len(), stage.shared.live()), (1, 1, (0, 2)));
    // Those that there are go on.
    stage.say(1, gateway_port(port), b"on");
    assert_eq!(hear(&socket).0, b"on");
}

#[test]
fn what_is_denied_is_dropped_and_not_asked_for_again_at_once() {
    let (socket, port) = target();
    let mut stage = Stage::with(Wants {
        rules: Some("rules:\n- {action: deny, protocol: udp, name: no-udp}\n"),
        ..Wants::default()
    });
    let before = UDP_DENIED.value();
    for _ in 0..50 {
        stage.say(1, gateway_port(port), b"no");
    }
    stage.settle();
    assert!(UDP_DENIED.value() > before);
    let lines = stage.audit();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["verdict"], "denied");
    assert_eq!(lines[0]["client"], "198.51.100.7:1");
    socket.set_nonblocking(true).expect("set");
    assert!(socket.recv_from(&mut [0; 10]).is_err());
}

#[test]
fn what_can_be_no_datagram_is_dropped() {
    let (socket, port) = target();
    let mut stage = Stage::new();
    let to = || gateway_port(port);
    stage.say(1, to(), &vec![0; 70_000]);
    let good = Datagram {
        target: to(),
        ..Datagram::default()
    };
    let long: String = "x".repeat(10_000);
    for bad in [
        Datagram {
            data: "!".into(),
            ..good.clone()
        },
        Datagram {
            tunnel_id: long.clone().into(),
            ..good.clone()
        },
        Datagram {
            client_address: long.clone().into(),
            ..good.clone()
        },
        Datagram {
            target: Target {
                service: long.into(),
                ..service(port)
            },
            ..good.clone()
        },
    ] {
        stage.tunnels().datagram(&bad);
    }
    assert_eq!(stage.shared.live(), (0, 0));
    // One without data is an empty one, and the longest there can be passes.
    stage.tunnels().datagram(&good);
    assert_eq!(hear(&socket).0, b"");
    let longest = pattern(65_507);
    stage.say(2, to(), &longest);
    let (bytes, from) = hear(&socket);
    assert_eq!(bytes, longest);
    socket.send_to(&longest, from).expect("sent");
    assert_eq!(stage.answers(1), [(2, longest)]);
}

#[test]
fn a_thread_that_cannot_be_had_costs_datagrams_and_leaves_no_session() {
    let (socket, port) = target();
    let mut stage = Stage::new();
    crate::threads::testing::refuse(1);
    stage.say(1, gateway_port(port), b"lost");
    assert_eq!(stage.shared.live(), (0, 0));
    stage.say(1, gateway_port(port), b"there");
    assert_eq!(hear(&socket).0, b"there");
}

#[test]
fn every_datagram_is_told_the_client_where_that_is_set() {
    let (socket, port) = target();
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let mut stage = Stage::with(Wants {
        settings: Settings {
            proxy_protocol: [(format!("db.shop:{port}"), ProxyProtocol::V2)].into(),
            max_sessions: 8,
            ..Settings::default()
        },
        rules: Some(LOOPBACK),
        lookup: Some(Arc::new(move || {
            let _ = hang.lock().recv();
            ([127, 0, 0, 1], 1).into()
        })),
        ..Wants::default()
    });
    // While it is looked for, and after.
    stage.say(7, service(port), b"one");
    drop(release);
    for text in ["one", "two"] {
        let datagram = hear(&socket).0;
        assert!(datagram.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc6\x33\x64\x07"));
        assert_eq!(&datagram[28..], text.as_bytes());
        stage.say(7, service(port), b"two");
    }
}

/// Each of many sessions could keep 2 MiB.
#[test]
fn what_waits_for_a_look_up_takes_memory_that_is_bounded() {
    let (release, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let mut stage = Stage::with(Wants {
        memory: 100_000,
        lookup: Some(Arc::new(move || {
            let _ = hang.lock().recv();
            ([127, 0, 0, 1], 1).into()
        })),
        ..Wants::default()
    });
    let before = UDP_DROPPED.value();
    for client in 1..=4 {
        for _ in 0..10 {
            stage.say(client, service(1), &[0; 10_000]);
        }
    }
    assert!((60_000..=100_000).contains(&stage.shared.memory.taken()));
    assert!(UDP_DROPPED.value() >= before + 30);
    drop(release);
    stage.lose();
    stage.settle();
}
