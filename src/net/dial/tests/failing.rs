//! Peers that refuse or never answer, in each step; cancelling in each step.

use super::*;

/// A port at which connections are never answered: its queue is full.
pub(super) struct SilentPort {
    pub(super) address: SocketAddr,
    _listener: Socket,
    _filling: Vec<Socket>,
}

impl SilentPort {
    pub(super) fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST, 0)
    }

    pub(super) fn at(ip: Ipv4Addr, port: u16) -> Self {
        use socket2::{Domain, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        listener
            .bind(&SocketAddr::from((ip, port)).into())
            .expect("bind");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().expect("address");
        let address = address.as_socket().expect("IPv4");
        // More than the queue takes: at least the last of them is not answered.
        let filling = (0..4)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
                socket.set_nonblocking(true).expect("option");
                let _ = socket.connect(&address.into());
                socket
            })
            .collect();
        Self {
            address,
            _listener: listener,
            _filling: filling,
        }
    }
}

/// Accepts connections, reads and never answers.
fn silent_server() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let (listener, address) = listen();
    let (accepted, streams) = mpsc::channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if accepted.send(stream).is_err() {
                return;
            }
        }
    });
    (address, streams)
}

/// A dial that hangs in the named phase.
struct Hanging {
    phase: Phase,
    dialer: Dialer,
    to: Endpoint,
    /// Waits until the dial is there, and keeps it hanging as long as it lives.
    reached: Box<dyn Fn(&Cancel)>,
}

fn hanging() -> Vec<Hanging> {
    vec![
        hanging_look_up(),
        hanging_connect(),
        hanging_peer(Phase::Proxy, Some("http")),
        hanging_peer(Phase::Proxy, Some("https")),
        hanging_peer(Phase::Tls, None),
    ]
}

fn hanging_look_up() -> Hanging {
    let (release, hang) = crossbeam_channel::bounded::<()>(0);
    let resolver = Resolver::new(move |_| {
        let _ = hang.recv();
        Ok(Vec::new())
    });
    Hanging {
        phase: Phase::Resolve,
        dialer: dialer(trusting(&Ca::new())).with_resolver(resolver),
        to: endpoint(NAME, 1, true),
        reached: Box::new(move |cancel| {
            let _ = &release;
            wait_until(|| cancel.registered() > 0);
        }),
    }
}

fn hanging_connect() -> Hanging {
    let port = SilentPort::new();
    Hanging {
        phase: Phase::Connect,
        dialer: dialer(trusting(&Ca::new())),
        to: endpoint("127.0.0.1", port.address.port(), true),
        reached: Box::new(move |cancel| {
            let _ = &port;
            wait_until(|| cancel.registered() > 0);
        }),
    }
}

fn hanging_peer(phase: Phase, proxy: Option<&str>) -> Hanging {
    let (address, streams) = silent_server();
    let straight = dialer(trusting(&Ca::new()));
    let (dialer, to) = match proxy {
        Some(scheme) => {
            let url = format!("{scheme}://{address}");
            let rules = ProxyRules::always("test", &url).expect("proxy");
            (straight.with_proxy(rules), endpoint(NAME, 1, true))
        }
        None => (straight, endpoint("127.0.0.1", address.port(), true)),
    };
    let keep = std::cell::RefCell::new(Vec::new());
    Hanging {
        phase,
        dialer,
        to,
        reached: Box::new(move |_| {
            let mut stream = streams.recv().expect("accepted");
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("something was sent");
            keep.borrow_mut().push(stream);
        }),
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

/// saluki#2309: a handshake through a proxy that had no time limit.
#[test]
fn one_deadline_holds_in_every_phase_and_the_error_names_it() {
    for case in &hanging() {
        // On a busy machine a short deadline may pass in an earlier phase.
        let mut limit = Duration::from_millis(30);
        let error = loop {
            let error = case
                .dialer
                .dial(&case.to, Deadline::after(limit), &Cancel::new())
                .expect_err("nobody answers");
            if error.phase == case.phase {
                break error;
            }
            limit *= 2;
            assert!(limit < Duration::from_secs(30), "{error}");
        };
        assert!(error.timed_out(), "{error}");
        assert!(error.cancelled().is_none());
        let text = error.to_string();
        assert!(text.contains(&case.phase.to_string()), "{text}");
        assert!(text.contains("in time"), "{text}");
    }
}

#[test]
fn cancelling_ends_every_phase_at_once() {
    for case in &hanging() {
        let cancel = Cancel::new();
        let (dialer, to) = (&case.dialer, &case.to);
        thread::scope(|scope| {
            let dialling = scope.spawn(|| dialer.dial(to, far_deadline(), &cancel));
            (case.reached)(&cancel);
            let cancelled = Instant::now();
            cancel.cancel(Reason::Shutdown);
            let error = dialling.join().expect("thread").expect_err("cancelled");
            // Long before the deadline: nobody answers, so only the cancel did it.
            assert!(cancelled.elapsed() < Duration::from_secs(30), "{error}");
            assert_eq!(error.cancelled(), Some(Reason::Shutdown), "{error}");
            assert_eq!(error.phase, case.phase, "{error}");
            assert_eq!(cancel.registered(), 0);
        });
    }
}

#[test]
fn a_dial_that_was_cancelled_before_fails_at_once() {
    for case in &hanging() {
        let cancel = Cancel::new();
        cancel.cancel(Reason::Cancelled);
        let error = case
            .dialer
            .dial(&case.to, far_deadline(), &cancel)
            .expect_err("cancelled");
        assert_eq!(error.cancelled(), Some(Reason::Cancelled));
    }
}

#[test]
fn a_refused_connection_names_every_address_and_why() {
    let (closed, address) = listen();
    drop(closed);
    let other = SocketAddr::new(Ipv4Addr::new(127, 7, 7, 7).into(), 0);
    let dialer = resolving_to(dialer(ClientTlsSettings::default()), vec![address, other]);
    let error = dial(&dialer, &endpoint(NAME, address.port(), false)).expect_err("closed");
    assert_eq!(error.phase, Phase::Connect);
    assert!(!error.timed_out());
    let text = error.to_string();
    for part in [NAME, &address.to_string(), "127.7.7.7", "refused"] {
        assert!(text.contains(part), "{text}: {part}");
    }
}

#[test]
fn a_name_without_address_is_a_failure_of_the_look_up() {
    let dialer = dialer(ClientTlsSettings::default()).with_resolver(Resolver::new(|_| {
        Err(std::io::Error::other("Name or service not known"))
    }));
    let error = dial(&dialer, &endpoint(NAME, 1, false)).expect_err("no such name");
    assert_eq!(error.phase, Phase::Resolve);
    assert!(matches!(error.cause, DialCause::Resolve(_)));
    assert!(error.to_string().contains("Name or service not known"));
}

#[test]
fn a_peer_that_does_not_speak_tls_is_explained() {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let to = endpoint("127.0.0.1", address.port(), true);
    let error = dial(&dialer(trusting(&Ca::new())), &to).expect_err("plain text");
    assert_eq!(error.phase, Phase::Tls);
    assert!(error.to_string().contains("not TLS"), "{error}");
    server.join().expect("server");
}

#[test]
fn a_peer_that_hangs_up_in_the_handshake_is_explained() {
    let (listener, address) = listen();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut hello = vec![0; 64 * 1024];
        // All of it, so that the close is a FIN and no reset.
        let _ = stream.read(&mut hello);
    });
    let to = endpoint("127.0.0.1", address.port(), true);
    let error = dial(&dialer(trusting(&Ca::new())), &to).expect_err("closed");
    assert_eq!(error.phase, Phase::Tls);
    assert!(error.to_string().contains("closed"), "{error}");
    server.join().expect("server");
}

#[test]
fn a_client_that_never_says_hello_is_given_up() {
    let (listener, address) = listen();
    let silent = TcpStream::connect(address).expect("connect");
    let (socket, _) = listener.accept().expect("accept");
    let tls = server_tls(&Ca::new().issue(&["a"]), None);
    let deadline = Deadline::after(Duration::from_millis(20));
    let options = ConnectOptions::default();
    let error = accept(
        socket.into(),
        Some(&tls),
        &options,
        deadline,
        &Cancel::new(),
    )
    .expect_err("silent");
    assert_eq!(error.phase, Phase::Tls);
    assert!(error.timed_out());
    let peer = silent.local_addr().expect("address").to_string();
    assert!(
        error.to_string().contains(&format!("from {peer}")),
        "{error}"
    );
}
