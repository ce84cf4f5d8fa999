use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::http::Server;
use crate::http::testing::{FAR, Peer, Upstream};
use crate::net::testing::{Ca, listen};
use crate::net::{ClientTls, ClientTlsSettings, PemSource, ServerTls, ServerTlsSettings, Trust};

fn get(target: &str) -> Call<'_> {
    static NONE: std::sync::LazyLock<Headers> = std::sync::LazyLock::new(Headers::new);
    Call {
        method: "GET",
        target,
        headers: &NONE,
        body: Body::Empty,
        deadline: None,
    }
}

fn post(body: Body) -> Call<'static> {
    Call {
        method: "POST",
        body,
        ..get("/")
    }
}

fn full(bytes: impl Into<Vec<u8>>) -> Body {
    Body::Full(Arc::new(bytes.into()))
}

/// Makes a call on another thread.
fn calling(
    client: &Client,
    call: Call<'static>,
    cancel: &Cancel,
) -> thread::JoinHandle<Result<(u16, Vec<u8>), CallError>> {
    let (client, cancel) = (client.clone(), cancel.clone());
    thread::spawn(move || {
        let mut response = client.call(&call, &cancel)?;
        Ok((response.status, response.body.read_all(1 << 30)?))
    })
}

/// Makes one exchange, after which the connection is idle.
fn warm(upstream: &Upstream, client: &Client) -> Peer {
    let call = calling(client, get("/warm"), &Cancel::new());
    let mut peer = upstream.accept();
    peer.request();
    peer.answer("200 OK", "warm");
    assert_eq!(call.join().expect("call").expect("answer").1, b"warm");
    assert_eq!(client.idle(), 1);
    peer
}

type Piece = io::Result<Option<Vec<u8>>>;

/// A source that is fed by the test.
#[derive(Default)]
struct Fed {
    pieces: Mutex<(VecDeque<Piece>, bool)>,
    changed: Condvar,
}

impl Fed {
    fn feed(&self, piece: Piece) {
        self.pieces.lock().0.push_back(piece);
        self.changed.notify_all();
    }

    fn wait_until_stopped(&self) {
        let mut pieces = self.pieces.lock();
        while !pieces.1 {
            assert!(!self.changed.wait_for(&mut pieces, FAR).timed_out());
        }
    }
}

impl Source for Fed {
    fn next(&self) -> Piece {
        let mut pieces = self.pieces.lock();
        loop {
            if pieces.1 {
                return Err(io::Error::other("stopped"));
            }
            if let Some(piece) = pieces.0.pop_front() {
                return piece;
            }
            self.changed.wait(&mut pieces);
        }
    }

    fn stop(&self) {
        self.pieces.lock().1 = true;
        self.changed.notify_all();
    }
}

fn stream(length: Option<u64>) -> (Arc<Fed>, Body) {
    let fed = Arc::new(Fed::default());
    let source = fed.clone();
    (fed, Body::Stream { length, source })
}

#[test]
fn a_connection_is_used_again_for_every_framing() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x\r\nbc\r\n0\r\nT: x\r\n\r\n",
            "abc",
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", ""),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
            "x",
        ),
    ] {
        let call = calling(&client, get("/x?y"), &Cancel::new());
        let request = peer.request();
        assert_eq!(request.line, "GET /x?y HTTP/1.1");
        let address = upstream.address.to_string();
        assert_eq!(request.headers.get("Host"), Some(address.as_str()));
        peer.send(answer);
        assert_eq!(
            call.join().expect("call").expect("answer").1,
            want.as_bytes()
        );
        assert_eq!(client.idle(), 1, "{answer}");
    }
    assert!(!upstream.is_wanted());
}

#[test]
fn a_connection_that_ends_with_its_answer_is_not_used_again() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nuntil close",
        "HTTP/1.0 200 OK\r\nContent-Length: 11\r\n\r\nuntil close",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\nuntil close",
    ] {
        let call = calling(&client, get("/"), &Cancel::new());
        let mut peer = upstream.accept();
        peer.request();
        peer.send(answer);
        drop(peer);
        assert_eq!(
            call.join().expect("call").expect("answer").1,
            b"until close"
        );
        assert_eq!(client.idle(), 0);
    }
}

#[test]
fn a_body_that_breaks_off_is_an_error() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let call = calling(&client, get("/"), &Cancel::new());
        let mut peer = upstream.accept();
        peer.request();
        peer.send(answer);
        drop(peer);
        let error = call.join().expect("call").expect_err("cut");
        assert!(matches!(error, CallError::Body(_)), "{error}");
        assert_eq!(client.idle(), 0);
    }
}

#[test]
fn answers_that_two_would_read_differently_are_refused() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
    ] {
        let call = calling(&client, get("/"), &Cancel::new());
        let mut peer = upstream.accept();
        peer.request();
        peer.send(answer);
        let error = call.join().expect("call").expect_err("refused");
        assert!(matches!(error, CallError::Head(_)), "{error}");
        peer.wait_for_end();
    }
    let call = calling(&client, get("/"), &Cancel::new());
    let mut peer = upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    let error = call.join().expect("call").expect_err("refused");
    assert!(matches!(error, CallError::Switched), "{error}");
}

#[test]
fn an_endless_head_or_endless_interim_answers_are_refused() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let long = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(70_000));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    for answer in [long, interim] {
        let call = calling(&client, get("/"), &Cancel::new());
        let mut peer = upstream.accept();
        peer.request();
        peer.send(answer);
        let error = call.join().expect("call").expect_err("refused");
        assert!(matches!(error, CallError::Head(_)), "{error}");
    }
}

#[test]
fn a_connection_that_the_server_closed_while_idle_is_replaced() {
    let upstream = Upstream::new();
    let client = upstream.client();
    drop(warm(&upstream, &client));
    let call = calling(&client, post(full("x")), &Cancel::new());
    let mut peer = upstream.accept();
    assert_eq!(peer.request().body, b"x");
    peer.answer("200 OK", "fresh");
    assert_eq!(call.join().expect("call").expect("answer").1, b"fresh");
}

#[test]
fn a_get_on_a_connection_that_dies_under_it_is_repeated_once() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    drop(peer);
    let mut peer = upstream.accept();
    peer.request();
    drop(peer); // the second time it is an error
    let error = call.join().expect("call").expect_err("closed");
    assert!(matches!(error, CallError::Closed), "{error}");
    assert!(!upstream.is_wanted());
}

#[test]
fn a_post_is_never_repeated() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, post(full("x")), &Cancel::new());
    peer.request();
    drop(peer);
    call.join().expect("call").expect_err("closed");
    assert!(!upstream.is_wanted());
}

#[test]
fn nothing_is_repeated_once_an_answer_has_begun() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    peer.send("HTTP/1.1 2");
    drop(peer);
    call.join().expect("call").expect_err("closed");
    assert!(!upstream.is_wanted());
}

#[test]
fn a_server_that_talks_unasked_is_not_listened_to() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    // The second answer would be taken for that of the next request.
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    call.join().expect("call").expect("answer");
    let call = calling(&client, get("/"), &Cancel::new());
    let mut fresh = upstream.accept();
    fresh.request();
    fresh.answer("200 OK", "good");
    assert_eq!(call.join().expect("call").expect("answer").1, b"good");
    peer.wait_for_end();
}

#[test]
fn idle_connections_are_few_and_not_for_ever() {
    let upstream = Upstream::new();
    let client = upstream.client_with(Settings {
        max_idle: 1,
        ..Settings::default()
    });
    let calls = [(); 2].map(|()| calling(&client, get("/"), &Cancel::new()));
    let mut peers = [(); 2].map(|()| upstream.accept());
    for peer in &mut peers {
        peer.request();
        peer.answer("200 OK", "");
    }
    for call in calls {
        call.join().expect("call").expect("answer");
    }
    assert_eq!(client.idle(), 1);
    client.close_idle();
    for peer in &mut peers {
        peer.wait_for_end();
    }

    let client = upstream.client_with(Settings {
        idle_limit: Duration::ZERO,
        ..Settings::default()
    });
    let mut peer = warm(&upstream, &client);
    client.sweep();
    assert_eq!(client.idle(), 0);
    peer.wait_for_end();
}

#[test]
fn sweeping_keeps_what_is_good_and_drops_what_is_dead() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    client.sweep();
    assert_eq!(client.idle(), 1);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    peer.answer("200 OK", "again");
    assert_eq!(call.join().expect("call").expect("answer").1, b"again");
    drop(peer);
    let until = Instant::now() + FAR;
    while client.idle() > 0 {
        assert!(Instant::now() < until);
        client.sweep();
    }
}

#[test]
fn t18_cancelling_closes_the_connection_before_the_first_byte() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let cancel = Cancel::new();
    let call = calling(&client, get("/"), &cancel);
    let mut peer = upstream.accept();
    peer.request();
    cancel.cancel(Reason::Cancelled);
    peer.wait_for_end();
    let error = call.join().expect("call").expect_err("cancelled");
    assert!(matches!(error, CallError::Cancelled(Reason::Cancelled)));
}

#[test]
fn t18_cancelling_closes_the_connection_in_the_body_and_when_used_again() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let cancel = Cancel::new();
    let call = calling(&client, get("/"), &cancel);
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel");
    cancel.cancel(Reason::Deadline);
    peer.wait_for_end();
    let error = call.join().expect("call").expect_err("cancelled");
    assert!(matches!(error, CallError::Cancelled(Reason::Deadline)));
    assert_eq!(client.idle(), 0);
}

#[test]
fn cancelling_a_call_that_is_over_leaves_the_next_one_alone() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let cancel = Cancel::new();
    let call = calling(&client, get("/"), &cancel);
    peer.request();
    peer.answer("200 OK", "");
    call.join().expect("call").expect("answer");
    cancel.cancel(Reason::Cancelled);
    let call = calling(&client, get("/"), &Cancel::new());
    peer.request();
    peer.answer("200 OK", "next");
    assert_eq!(call.join().expect("call").expect("answer").1, b"next");
}

#[test]
fn an_answer_that_is_dropped_closes_its_connection() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let calls = client.clone();
    let call = thread::spawn(move || drop(calls.call(&get("/"), &Cancel::new())));
    let mut peer = upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel");
    call.join().expect("call");
    peer.wait_for_end();
    assert_eq!(client.idle(), 0);
}

#[test]
fn a_deadline_ends_a_call_and_does_not_stick_to_the_connection() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let mut peer = warm(&upstream, &client);
    let call = Call {
        deadline: Some(Deadline::after(FAR)),
        ..get("/")
    };
    let call = calling(&client, call, &Cancel::new());
    peer.request();
    peer.answer("200 OK", "");
    call.join().expect("call").expect("answer");
    let call = Call {
        deadline: Some(Deadline::after(Duration::from_millis(20))),
        ..get("/")
    };
    let call = calling(&client, call, &Cancel::new());
    peer.wait_for_end();
    let error = call.join().expect("call").expect_err("late");
    assert!(
        matches!(&error, CallError::Io(cause) if cause.kind() == io::ErrorKind::TimedOut),
        "{error}"
    );
}

#[test]
fn t41_a_buffered_body_has_its_true_length() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for size in [0, 1, SMALL, SMALL + 1, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let call = calling(&client, post(full(bytes.clone())), &Cancel::new());
        let mut peer = upstream.accept();
        let request = peer.request();
        assert_eq!(
            request.headers.get("Content-Length"),
            Some(&*size.to_string())
        );
        assert_eq!(request.body, bytes);
        peer.answer("200 OK", "");
        call.join().expect("call").expect("answer");
        assert_eq!(client.idle(), 1, "{size}");
        client.close_idle();
    }
    let call = calling(&client, post(Body::Empty), &Cancel::new());
    let mut peer = upstream.accept();
    assert_eq!(peer.request().headers.get("Content-Length"), Some("0"));
    peer.answer("200 OK", "");
    call.join().expect("call").expect("answer");
}

#[test]
fn a_streamed_body_is_chunked_or_has_the_length_that_was_said() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for length in [None, Some(5)] {
        let (fed, body) = stream(length);
        let call = calling(&client, post(body), &Cancel::new());
        let mut peer = upstream.accept();
        let (_, headers) = peer.head();
        assert_eq!(headers.contains("Transfer-Encoding"), length.is_none());
        assert_eq!(headers.contains("Content-Length"), length.is_some());
        for piece in ["he", "", "llo"] {
            fed.feed(Ok(Some(piece.into())));
            // It arrives before the next one is there.
            match length {
                _ if piece.is_empty() => {}
                None => assert_eq!(peer.chunk(), piece.as_bytes()),
                Some(_) => assert_eq!(peer.exactly(piece.len()), piece.as_bytes()),
            }
        }
        fed.feed(Ok(None));
        if length.is_none() {
            assert!(peer.chunk().is_empty());
        }
        peer.answer("200 OK", "");
        call.join().expect("call").expect("answer");
        assert_eq!(client.idle(), 1);
        client.close_idle();
    }
}

#[test]
fn a_length_that_was_said_is_enforced() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for (piece, long) in [("hello!", true), ("hell", false)] {
        let (fed, body) = stream(Some(5));
        let call = calling(&client, post(body), &Cancel::new());
        let mut peer = upstream.accept();
        peer.head();
        fed.feed(Ok(Some(piece.into())));
        fed.feed(Ok(None));
        peer.wait_for_end();
        match call.join().expect("call").expect_err("wrong length") {
            CallError::Upload(UploadError::TooLong) => assert!(long),
            CallError::Upload(UploadError::TooShort) => assert!(!long),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_body_that_fails_fails_the_call_and_does_not_look_whole() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (fed, body) = stream(None);
    let call = calling(&client, post(body), &Cancel::new());
    let mut peer = upstream.accept();
    peer.head();
    fed.feed(Ok(Some("hello".into())));
    assert_eq!(peer.chunk(), b"hello");
    fed.feed(Err(io::Error::other("bad base64")));
    peer.wait_for_end();
    let error = call.join().expect("call").expect_err("failed");
    assert!(
        matches!(error, CallError::Upload(UploadError::Source(_))),
        "{error}"
    );
    assert!(error.to_string().contains("bad base64"));
}

#[test]
fn an_early_answer_arrives_while_a_large_body_is_being_sent() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let call = calling(&client, post(full(vec![7; 10 << 20])), &Cancel::new());
    let mut peer = upstream.accept();
    peer.head();
    // Nothing of the body is read: the sender is stuck.
    peer.answer("413 Content Too Large", "no");
    let (status, body) = call.join().expect("call").expect("answer");
    assert_eq!((status, body.as_slice()), (413, &b"no"[..]));
    peer.wait_for_end();
    assert_eq!(client.idle(), 0);
}

#[test]
fn an_early_answer_ends_a_streamed_body() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (fed, body) = stream(None);
    let call = calling(&client, post(body), &Cancel::new());
    let mut peer = upstream.accept();
    peer.head();
    peer.answer("401 Unauthorized", "no");
    assert_eq!(call.join().expect("call").expect("answer").0, 401);
    fed.wait_until_stopped();
    peer.wait_for_end();
}

#[test]
fn cancelling_ends_a_stuck_upload() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let cancel = Cancel::new();
    let sent = Arc::new(vec![7; 10 << 20]);
    let call = calling(&client, post(Body::Full(sent.clone())), &cancel);
    let mut peer = upstream.accept();
    peer.head();
    cancel.cancel(Reason::Cancelled);
    call.join().expect("call").expect_err("cancelled");
    peer.wait_for_end();
    // The thread that sent it has let go of it.
    let until = Instant::now() + FAR;
    while Arc::strong_count(&sent) > 1 {
        assert!(Instant::now() < until);
        thread::yield_now();
    }
}

/// Our own server on the other side, behind TLS.
#[test]
fn client_and_server_understand_each_other_over_tls() {
    struct Echo;
    impl crate::http::server::Handler for Echo {
        fn handle(
            &self,
            request: crate::http::server::Request,
            mut body: crate::http::server::RequestBody,
            responder: crate::http::server::Responder,
        ) {
            let all = body.read_all(1 << 20).expect("read");
            let length = (request.target == "/length").then_some(all.len() as u64);
            let headers = Headers::new();
            let mut writer = responder.start(200, &headers, length).expect("started");
            for piece in all.chunks(10_000) {
                writer.write(piece).expect("written");
            }
            writer.finish().expect("finished");
        }
    }
    let ca = Ca::new();
    let issued = ca.issue(&["127.0.0.1"]);
    let given = |pem: String| PemSource::Given {
        name: "test".into(),
        pem: pem.into_bytes(),
    };
    let tls = ServerTls::new(&ServerTlsSettings {
        certificate: given(issued.certificate_pem),
        key: given(issued.key_pem),
        client_ca: None,
    });
    let settings = crate::http::server::Settings {
        tls: Some(tls.expect("tls")),
        ..Default::default()
    };
    let (listener, address) = listen();
    let server = Server::start(listener, settings, Arc::new(Echo)).expect("server");
    let tls = ClientTls::new(ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![given(ca.pem())],
        ..ClientTlsSettings::default()
    });
    let endpoint = Endpoint {
        host: address.ip().to_string(),
        port: address.port(),
        tls: true,
    };
    let dialer = Dialer::new(Arc::new(tls.expect("tls")));
    let client = Client::new(endpoint, "api", dialer, Settings::default());
    for size in [0, 1, SMALL, 300_000] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for target in ["/length", "/chunked"] {
            let (fed, streamed) = stream(None);
            for piece in bytes.chunks(50_000) {
                fed.feed(Ok(Some(piece.to_vec())));
            }
            fed.feed(Ok(None));
            for body in [full(bytes.clone()), streamed] {
                let call = Call {
                    target,
                    ..post(body)
                };
                let mut response = client.call(&call, &Cancel::new()).expect("answer");
                assert_eq!(response.body.read_all(size).expect("body"), bytes);
                assert_eq!(client.idle(), 1);
                client.sweep();
            }
        }
    }
    assert_eq!(server.connections(), 1, "one connection served them all");
}

#[test]
fn t18_cancelling_closes_a_tls_connection_too() {
    let ca = Ca::new();
    let server_config = ca.server_config(&["127.0.0.1"]);
    let upstream = Upstream::new();
    let tls = ClientTls::new(ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![PemSource::Given {
            name: "test".into(),
            pem: ca.pem().into_bytes(),
        }],
        ..ClientTlsSettings::default()
    });
    let endpoint = Endpoint {
        tls: true,
        ..upstream.endpoint()
    };
    let dialer = Dialer::new(Arc::new(tls.expect("tls")));
    let client = Client::new(endpoint, "api", dialer, Settings::default());
    let cancel = Cancel::new();
    let call = calling(&client, get("/"), &cancel);
    let socket = upstream.accept().into_socket();
    let session = rustls::server::UnbufferedServerConnection::new(server_config).expect("server");
    let mut far = Halves::plain(socket)
        .tls_server(session)
        .expect("handshake");
    let head = read_head(&mut far.read, super::super::head::RequestHead::parse).expect("a head");
    assert_eq!(head.target, "/");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel";
    far.write
        .write_all(&[IoSlice::new(answer)])
        .expect("written");
    cancel.cancel(Reason::Cancelled);
    // The end, whatever TLS makes of it.
    while far.read.fill().is_ok_and(|bytes| !bytes.is_empty()) {
        let count = far.read.buffered().len();
        far.read.consume(count);
    }
    let error = call.join().expect("call").expect_err("cancelled");
    assert!(
        matches!(error, CallError::Cancelled(Reason::Cancelled)),
        "{error}"
    );
}

#[test]
fn threads_and_sockets_of_many_calls_are_given_back() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (done, ended) = mpsc::channel();
    for _ in 0..20 {
        let cancel = Cancel::new();
        let call = calling(&client, post(full(vec![7; 1 << 20])), &cancel);
        let mut peer = upstream.accept();
        peer.head();
        cancel.cancel(Reason::Cancelled);
        let done = done.clone();
        thread::spawn(move || {
            peer.wait_for_end();
            done.send(()).expect("sent");
        });
        call.join().expect("call").expect_err("cancelled");
    }
    for _ in 0..20 {
        ended.recv_timeout(FAR).expect("closed");
    }
}

#[test]
fn a_body_that_ends_with_its_connection_is_not_whole_when_the_call_was_cancelled() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let cancel = Cancel::new();
    let (call_client, call_cancel) = (client.clone(), cancel.clone());
    let call = thread::spawn(move || call_client.call(&get("/"), &call_cancel));
    let mut peer = upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    let mut response = call.join().expect("call").expect("an answer");
    assert_eq!(response.body.chunk(100).expect("a piece"), b"half");
    cancel.cancel(Reason::Deadline);
    let end = response.body.chunk(100);
    assert!(
        matches!(end, Err(CallError::Cancelled(Reason::Deadline))),
        "{end:?}"
    );
}

#[test]
fn a_body_that_ends_with_its_connection_is_not_whole_when_the_upload_failed() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (fed, body) = stream(None);
    let call = thread::spawn(move || client.call(&post(body), &Cancel::new()));
    let mut peer = upstream.accept();
    peer.head();
    peer.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    let mut response = call.join().expect("call").expect("an answer");
    assert_eq!(response.body.chunk(100).expect("a piece"), b"half");
    fed.feed(Err(io::Error::other("the body broke off")));
    let end = response.body.chunk(100);
    assert!(
        matches!(end, Err(CallError::Upload(UploadError::Source(_)))),
        "{end:?}"
    );
}
