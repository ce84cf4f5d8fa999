mod reuse;
mod tls;
mod uploads;

use std::collections::VecDeque;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::exchange::SMALL;
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
        host: None,
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
