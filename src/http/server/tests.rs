mod answers;
mod limits;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::http::Headers;
use crate::net::testing::{Ca, listen};
use crate::net::{Halves, PemSource, ServerTlsSettings};

/// A handler from a closure.
struct Closure<F>(F);

impl<F: Fn(Request, RequestBody, Responder) + Send + Sync + 'static> Handler for Closure<F> {
    fn handle(&self, request: Request, body: RequestBody, responder: Responder) {
        (self.0)(request, body, responder);
    }
}

fn settings() -> Settings {
    Settings {
        name: "test-http",
        linger: FAR,
        turn_away_limit: FAR,
        ..Settings::default()
    }
}

fn serve_with(
    settings: Settings,
    handler: impl Fn(Request, RequestBody, Responder) + Send + Sync + 'static,
) -> Server {
    let (listener, _) = listen();
    Server::start(listener, settings, Arc::new(Closure(handler))).expect("server")
}

fn serve(handler: impl Fn(Request, RequestBody, Responder) + Send + Sync + 'static) -> Server {
    serve_with(settings(), handler)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("connect");
    stream.set_read_timeout(Some(FAR)).expect("limit");
    stream
}

/// Sends `request`, half closes nothing, reads to the end of the connection.
fn talk(server: &Server, request: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).expect("write");
    rest(&mut stream)
}

fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    String::from_utf8(answer).expect("text")
}

/// Reads a head, then `length` bytes.
fn answer(reader: &mut BufReader<TcpStream>, length: usize) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).expect("read"), 0, "{head}");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("body");
    (head, body)
}

fn echo(_: Request, mut body: RequestBody, responder: Responder) {
    match body.read_all(1000) {
        Ok(all) => drop(responder.respond(200, &Headers::new(), &all)),
        Err(ReadAllError::TooLarge(_)) => drop(responder.respond(413, &Headers::new(), b"")),
        Err(ReadAllError::Read(_)) => {}
    }
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let server = serve(echo);
    let mut stream = connect(&server);
    // The second is pipelined behind the first, the third is chunked.
    let requests = "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
                    GET /b HTTP/1.1\r\nHost: x\r\n\r\n\
                    POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                    2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    stream.write_all(requests.as_bytes()).expect("write");
    let mut reader = BufReader::new(stream);
    for want in ["hello", "", "abc"] {
        let (head, body) = answer(&mut reader, want.len());
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", want.len())));
        assert!(!head.contains("Connection"), "{head}");
        assert_eq!(body, want.as_bytes());
    }
}

#[test]
fn connection_close_is_honoured() {
    let server = serve(echo);
    let got = talk(
        &server,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(got.contains("\r\nConnection: close\r\n"), "{got}");
    let got = talk(&server, "GET / HTTP/1.0\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 200 OK"), "{got}");
}

#[test]
fn what_is_no_request_is_refused() {
    let server = serve(echo);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", "400"),
        ("GET / HTTP/1.1\nHost: x\n\n", "400"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
            "501",
        ),
        ("\u{16}\u{3}\u{1}\r\n\r\n", "400"),
    ] {
        let got = talk(&server, request);
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
    }
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "a: b\r\n".repeat(300)
    );
    assert!(talk(&server, &many).starts_with("HTTP/1.1 431 "));
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(70_000));
    assert!(talk(&server, &long).starts_with("HTTP/1.1 431 "));
}

#[test]
fn a_head_that_never_ends_is_given_up() {
    let server = serve_with(
        Settings {
            head_limit: Duration::from_millis(20),
            ..settings()
        },
        echo,
    );
    assert!(talk(&server, "GET / HTTP/1.1\r\nHo").starts_with("HTTP/1.1 408 "));
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = serve_with(
        Settings {
            idle_limit: Duration::from_millis(20),
            ..settings()
        },
        echo,
    );
    assert_eq!(talk(&server, ""), "");
}

#[test]
fn a_body_that_stops_coming_is_given_up() {
    let server = serve_with(
        Settings {
            body_idle_limit: Some(Duration::from_millis(20)),
            ..settings()
        },
        |_, mut body, responder| {
            let error = body.read_all(10).expect_err("never whole");
            let text = format!("{error}");
            let _ = responder.respond(400, &Headers::new(), text.as_bytes());
        },
    );
    let mut stream = connect(&server);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe")
        .expect("write");
    let (head, _) = answer(&mut BufReader::new(stream), 0);
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

/// `TCP_USER_TIMEOUT` counts the time in which a client takes nothing, too.
#[test]
fn a_client_that_stops_reading_is_not_given_up_by_the_kernel() {
    let server = serve(|_, _, responder| {
        let limit = responder.socket().tcp_user_timeout().expect("option");
        let text = format!("{limit:?}");
        let answered = responder.respond(200, &Headers::new(), text.as_bytes());
        answered.expect("answered");
    });
    let answer = talk(
        &server,
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.ends_with("None"), "{answer}");
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on() {
    let server = serve(echo);
    let mut stream = connect(&server);
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        )
        .expect("write");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let (head, _) = answer(&mut reader, 0);
    assert_eq!(head, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").expect("write");
    assert_eq!(answer(&mut reader, 2).1, b"hi");
    // A body that nobody wants isn't asked for.
    stream
        .write_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000\r\n\r\n",
        )
        .expect("write");
    let (head, _) = answer(&mut reader, 0);
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert!(head.contains("Connection: close"), "{head}");
}

#[test]
fn a_connection_is_taken_over_with_what_was_read_already() {
    let (taken, takes) = mpsc::channel();
    let server = serve(move |_, body, responder| {
        let mut halves = responder.take_over(body).expect("taken over");
        taken.send(()).expect("sent");
        threads::spawn("test-taken", Stack::Work, move || {
            let mut got = Vec::new();
            while got.len() < 10 {
                let bytes = halves.read.fill().expect("read").to_vec();
                halves.read.consume(bytes.len());
                got.extend_from_slice(&bytes);
            }
            halves
                .write
                .write_all(&[io::IoSlice::new(&got)])
                .expect("written");
        })
        .expect("thread");
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nearly")
        .expect("write");
    takes.recv_timeout(FAR).expect("taken over");
    // The server no longer knows of it, so stopping it changes nothing.
    while server.connections() > 0 {
        std::thread::yield_now();
    }
    server.stop(Duration::ZERO);
    stream.write_all(b"later").expect("write");
    assert_eq!(rest(&mut stream), "earlylater");
}

#[test]
fn a_handler_that_panics_answers_500() {
    let server = serve(|_, _, _| panic!("on purpose"));
    let got = talk(&server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 500 "), "{got}");
    let got = talk(&server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 500 "), "{got}");
}

#[test]
fn tls_and_a_client_that_never_shakes_hands() {
    let ca = Ca::new();
    let settings = Settings {
        tls: Some(server_tls(&ca)),
        ..settings()
    };
    let server = serve_with(settings, echo);
    // The first says nothing: the accept loop must not wait for it.
    let _silent = connect(&server);
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let got = talk_tls(&server, &ca, request);
    assert!(got.starts_with("HTTP/1.1 200 OK"), "{got}");
}

fn server_tls(ca: &Ca) -> ServerTls {
    let issued = ca.issue(&["127.0.0.1"]);
    ServerTls::new(&ServerTlsSettings {
        certificate: given(issued.certificate_pem),
        key: given(issued.key_pem),
        client_ca: None,
    })
    .expect("tls")
}

/// As [`talk`], over TLS.
fn talk_tls(server: &Server, ca: &Ca, request: &str) -> String {
    let mut near = tls_client(server, ca);
    near.write
        .write_all(&[io::IoSlice::new(request.as_bytes())])
        .expect("write");
    let mut got = Vec::new();
    loop {
        let bytes = near.read.fill().expect("read");
        if bytes.is_empty() {
            return String::from_utf8(got).expect("text");
        }
        got.extend_from_slice(bytes);
        let count = bytes.len();
        near.read.consume(count);
    }
}

fn tls_client(server: &Server, ca: &Ca) -> Halves {
    let config = ca.client_config(rustls::ALL_VERSIONS);
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("name");
    let session = rustls::client::UnbufferedClientConnection::new(config, name).expect("client");
    let socket = Socket::from(connect(server));
    Halves::plain(socket)
        .tls_client(session)
        .expect("handshake")
}

fn given(pem: String) -> PemSource {
    PemSource::Given {
        name: "test".into(),
        pem: pem.into_bytes(),
    }
}

/// Only a hung test waits for so long.
const FAR: Duration = Duration::from_mins(1);
