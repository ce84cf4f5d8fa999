//! More connections than there is room for, and the end.

use super::*;

/// A server with room for one connection, which is taken.
fn full(tls: Option<ServerTls>) -> (Server, TcpStream) {
    let settings = Settings {
        max_connections: 1,
        tls,
        ..settings()
    };
    let server = serve_with(settings, echo);
    let first = connect(&server);
    while server.connections() == 0 {
        std::thread::yield_now();
    }
    (server, first)
}

#[test]
fn connections_beyond_the_limit_are_turned_away() {
    let (server, first) = full(None);
    // With more behind the head than anybody reads: closing must not reset the
    // connection, which would destroy the answer.
    let body = "x".repeat(100_000);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..3 {
        let got = talk(&server, &request);
        assert!(got.starts_with("HTTP/1.1 503 "), "{got}");
    }
    drop(first);
    while server.connections() > 0 {
        std::thread::yield_now();
    }
    let got = talk(&server, "GET / HTTP/1.0\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
}

#[test]
fn who_is_turned_away_over_tls_hears_it_too() {
    let ca = Ca::new();
    let (server, _first) = full(Some(server_tls(&ca)));
    let got = talk_tls(&server, &ca, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 503 "), "{got}");
}

#[test]
fn who_is_turned_away_and_stays_takes_nobodys_room() {
    let (server, first) = full(None);
    let silent: Vec<TcpStream> = (0..MAX_TURNED_AWAY).map(|_| connect(&server)).collect();
    while server.service.state.lock().turned_away < MAX_TURNED_AWAY {
        std::thread::yield_now();
    }
    // Nobody is left to tell it.
    let mut unheard = Vec::new();
    let _ = connect(&server).read_to_end(&mut unheard);
    assert_eq!(unheard, b"");
    drop(first);
    while server.connections() > 0 {
        std::thread::yield_now();
    }
    let got = talk(&server, "GET / HTTP/1.0\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    drop(silent);
}

#[test]
fn stopping_lets_running_exchanges_finish_and_closes_idle_ones() {
    let (entered, enters) = mpsc::channel();
    let (go, goes) = mpsc::channel::<()>();
    let goes = Mutex::new(goes);
    let server = Arc::new(serve(move |_, _, responder| {
        entered.send(()).expect("sent");
        goes.lock().recv_timeout(FAR).expect("go");
        responder
            .respond(200, &Headers::new(), b"done")
            .expect("sent");
    }));
    let mut idle = connect(&server);
    let mut busy = connect(&server);
    busy.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("write");
    enters.recv_timeout(FAR).expect("entered");
    let stops = server.clone();
    let stopping = std::thread::spawn(move || stops.stop(FAR));
    assert_eq!(rest(&mut idle), "");
    go.send(()).expect("sent");
    assert!(rest(&mut busy).ends_with("\r\n\r\ndone"));
    stopping.join().expect("stopped");
    assert!(TcpStream::connect(server.address()).is_err());
}

#[test]
fn stopping_at_once_cuts_everything() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counts = ended.clone();
    let server = serve(move |_, mut body, _responder| {
        let _ = body.read_all(100);
        counts.fetch_add(1, Ordering::SeqCst);
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
        .expect("write");
    while !server
        .service
        .state
        .lock()
        .connections
        .values()
        .any(|slot| slot.busy)
    {
        std::thread::yield_now();
    }
    server.stop(Duration::ZERO);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert_eq!(server.connections(), 0);
}
