//! The server over real sockets on loopback.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;

fn limits() -> Limits {
    Limits {
        head: Duration::from_secs(10),
        ..LIMITS
    }
}

fn start(readiness: Readiness, limits: Limits) -> (LocalServer, Arc<HealthState>) {
    let health = Arc::new(HealthState::new(Duration::from_secs(30)));
    let server = LocalServer::start_with(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        health.clone(),
        readiness,
        limits,
    )
    .expect("listening");
    (server, health)
}

fn exchange(server: &LocalServer, request: &str) -> String {
    let mut client = TcpStream::connect(server.address()).expect("connected");
    client.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn health_and_ready_follow_the_state() {
    let (server, health) = start(Readiness::Truthful, limits());
    let get = |path: &str| exchange(&server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(get("/health").contains("\"connection_state\":\"disconnected\""));
    assert!(get("/ready").starts_with("HTTP/1.1 503 "));
    health.dialing();
    health.socket_up();
    health.registered();
    health.heartbeat();
    let ready = get("/ready");
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
    assert!(ready.contains("\"status\":\"ready\""), "{ready}");
    assert!(get("/else").starts_with("HTTP/1.1 404 "));
    let head = exchange(&server, "HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let post = exchange(
        &server,
        "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody",
    );
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("Allow: GET, HEAD\r\n"));
    server.stop(Duration::from_secs(5));
}

#[test]
fn a_request_may_come_in_pieces() {
    let (server, _health) = start(Readiness::Compatible, limits());
    let mut client = TcpStream::connect(server.address()).expect("connected");
    for piece in ["GE", "T /ready HT", "TP/1.1\r", "\nHost: x\r\n\r", "\n"] {
        client.write_all(piece.as_bytes()).expect("written");
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn rubbish_is_400() {
    let (server, _health) = start(Readiness::Compatible, limits());
    assert!(exchange(&server, "\x00\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

/// tiny_http's own loop reads a head without any limit in size…
#[test]
fn a_head_without_end_is_cut_off() {
    let (server, _health) = start(
        Readiness::Compatible,
        Limits {
            head_bytes: 4096,
            ..limits()
        },
    );
    let mut client = TcpStream::connect(server.address()).expect("connected");
    // Writing fails once the server has closed; until then it is fed.
    let line = format!("X-Fill: {}\r\n", "x".repeat(500));
    client.write_all(b"GET / HTTP/1.1\r\n").expect("written");
    for _ in 0..100 {
        if client.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    drop(client.read_to_end(&mut answer));
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", answer.len());
}

/// …or in time, which holds a thread for as long as the client likes.
#[test]
fn a_silent_client_is_sent_away() {
    let (server, _health) = start(
        Readiness::Compatible,
        Limits {
            head: Duration::from_millis(20),
            ..limits()
        },
    );
    assert!(exchange(&server, "GET /health HTTP/1.1\r\n").starts_with("HTTP/1.1 408 "));
}

#[test]
fn one_address_cannot_take_every_place() {
    let (server, _health) = start(
        Readiness::Compatible,
        Limits {
            per_address: 2,
            ..limits()
        },
    );
    let held: Vec<_> = (0..2)
        .map(|_| TcpStream::connect(server.address()).expect("connected"))
        .collect();
    let mut live = server.shared.live.lock();
    while live.total < 2 {
        server
            .shared
            .changed
            .wait_for(&mut live, Duration::from_millis(5));
    }
    drop(live);
    let mut refused = TcpStream::connect(server.address()).expect("connected");
    let mut answer = Vec::new();
    drop(refused.read_to_end(&mut answer));
    assert!(answer.is_empty());
    drop(held);
    assert!(
        server
            .shared
            .wait_empty(Instant::now() + Duration::from_secs(10))
    );
    assert!(exchange(&server, "GET /health HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
}

#[test]
fn stopping_cuts_what_outlives_the_grace() {
    let (server, _health) = start(Readiness::Compatible, limits());
    let address = server.address();
    let mut held = TcpStream::connect(address).expect("connected");
    let mut live = server.shared.live.lock();
    while live.total < 1 {
        server
            .shared
            .changed
            .wait_for(&mut live, Duration::from_millis(5));
    }
    drop(live);
    let shared = server.shared.clone();
    server.stop(Duration::ZERO);
    assert_eq!(shared.live.lock().total, 0);
    let mut scrap = Vec::new();
    drop(held.read_to_end(&mut scrap));
    assert!(scrap.is_empty());
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn a_taken_port_is_an_error_that_says_what_to_do() {
    let (server, health) = start(Readiness::Compatible, limits());
    let error = LocalServer::start_with(server.address(), health, Readiness::Compatible, LIMITS)
        .expect_err("taken")
        .to_string();
    assert!(error.contains("--port"), "{error}");
}
