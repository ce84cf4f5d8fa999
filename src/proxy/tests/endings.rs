//! Everything that ends a request early closes its upstream connection.

use super::*;
use crate::http::testing::Peer;
use crate::wire::{INITIAL_CREDIT, MAX_CHUNK};

/// A streamed answer that has begun.
fn begun(house: &mut House, id: &str, path: &str) -> Peer {
    house.stream(id, path);
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    house.expect("proxy_response_header", id);
    assert_eq!(house.expect_chunk(id), b"one");
    peer
}

#[test]
fn t18_cancelling_before_the_first_byte_closes_upstream_and_says_nothing() {
    let mut house = House::new();
    for form_s in [true, false] {
        house.request(
            "r",
            json!({"path": "/api", "supports_response_streaming": form_s}),
        );
        let mut peer = house.upstream.accept();
        peer.request();
        house.requests().cancel("r");
        peer.wait_for_end();
        house.expect_rest();
    }
    house.requests().cancel("unknown");
    house.expect_rest();
}

#[test]
fn t18_cancelling_in_the_body_closes_upstream_and_aborts() {
    let mut house = House::new();
    let mut peer = begun(&mut house, "r", "/api");
    house.requests().cancel("r");
    peer.wait_for_end();
    assert_eq!(house.expect_abort("r"), "cancelled by the peer");
    house.expect_rest();
}

#[test]
fn t18_cancelling_on_a_connection_that_is_used_again() {
    let mut house = House::new();
    house.get("warm", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "");
    house.expect("proxy_response", "warm");
    house.stream("r", "/api");
    peer.request();
    house.requests().cancel("r");
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn t18_cancelling_while_the_body_is_being_sent() {
    let mut house = House::new();
    house.request(
        "r",
        json!({"method": "POST", "path": "/api", "body": "x".repeat(10 << 20)}),
    );
    let mut peer = house.upstream.accept();
    peer.head();
    house.requests().cancel("r");
    peer.wait_for_end();
    house.request(
        "s",
        json!({"method": "POST", "path": "/api", "streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.head();
    house.requests().cancel("s");
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn a_cancelled_id_can_be_used_again_at_once() {
    let mut house = House::new();
    let mut old = begun(&mut house, "r", "/api/old");
    // The old one hangs in its lane, and the new one is there already.
    house.peer.set_room(Some(0));
    old.send("3\r\ntwo\r\n");
    house.peer.wait_until(|state| state.waiting == 1);
    house.requests().cancel("r");
    house.get("r", "/api/new");
    old.wait_for_end();
    let mut peer = house.upstream.accept();
    assert_eq!(peer.request().line, "GET /api/new HTTP/1.1");
    peer.answer("200 OK", "new");
    house.peer.set_room(None);
    // Whether the abort of the old one went first depends on who was faster;
    // nothing of it comes after the new one has begun.
    let mut message = house.next();
    if message["type"] == "proxy_response_abort" {
        message = house.next();
    }
    assert_eq!(message["type"], "proxy_response", "{message}");
    house.expect_rest();
}

/// By the clock itself: whatever it interrupts, there is one end.
#[test]
fn t42_a_second_request_under_a_live_id_is_refused_and_the_first_goes_on() {
    let mut house = House::new();
    let mut peer = begun(&mut house, "r", "/api");
    house.stream("r", "/api/second");
    // Not an abort: that would be taken for the first one's.
    assert!(house.expect_error("r").contains("still being executed"));
    peer.send("3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(house.expect_chunk("r"), b"two");
    house.expect("proxy_response_end", "r");
    // Now it is free.
    house.get("r", "/api");
    peer.request();
    peer.answer("200 OK", "");
    house.expect("proxy_response", "r");
    house.expect_rest();
}

#[test]
fn t43_a_lost_connection_ends_streams_and_unfinished_bodies() {
    let mut house = House::new();
    let mut stream = begun(&mut house, "s", "/api");
    house.request(
        "u",
        json!({"method": "POST", "path": "/api", "streaming": true}),
    );
    let mut upload = house.upstream.accept();
    upload.head();
    house.requests().chunk("u", Some(&encode("half")));
    assert_eq!(upload.chunk(), b"half");
    house.request("w", json!({"path": "/api", "body_binary": true}));
    house.lose();
    stream.wait_for_end();
    // T43: no last chunk, so it doesn't look whole.
    upload.wait_for_end();
    house.expect_rest();
    assert!(house.peer.state.lock().late.is_empty());
}

#[test]
fn c15_a_complete_form_b_request_survives_its_connection() {
    let mut house = House::new();
    house.get("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    let old = house.peer.clone();
    house.reconnect();
    peer.answer("200 OK", "late");
    old.wait_until(|state| !state.late.is_empty());
    assert_eq!(
        decode(&old.state.lock().late[0]["payload"]["body"]),
        b"late"
    );
    house.expect_rest();
    assert!(house.executor.orphans.lock().is_empty());
}

#[test]
fn an_id_that_is_used_again_cancels_the_waiting_answer_silently() {
    let mut house = House::new();
    house.get("r", "/api/old");
    let mut old_upstream = house.upstream.accept();
    old_upstream.request();
    let old = house.peer.clone();
    house.reconnect();
    house.get("r", "/api/new");
    old_upstream.wait_for_end();
    let mut peer = house.upstream.accept();
    assert_eq!(peer.request().line, "GET /api/new HTTP/1.1");
    peer.answer("200 OK", "new");
    assert_eq!(decode(&house.expect("proxy_response", "r")["body"]), b"new");
    house.expect_rest();
    assert!(old.state.lock().late.is_empty());
}

#[test]
fn a_full_lane_holds_a_stream_up_and_cancelling_frees_it() {
    let mut house = House::new();
    let mut peer = begun(&mut house, "r", "/api");
    house.peer.set_room(Some(0));
    peer.send("3\r\ntwo\r\n");
    house.peer.wait_until(|state| state.waiting == 1);
    house.requests().cancel("r");
    peer.wait_for_end();
    house.peer.set_room(None);
    house.expect_abort("r");
    house.expect_rest();
}

#[test]
fn a_full_lane_holds_a_whole_answer_up_and_cancelling_frees_it() {
    let mut house = House::new();
    house.peer.set_room(Some(0));
    house.get("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.answer("200 OK", "body");
    house.peer.wait_until(|state| state.waiting == 1);
    house.requests().cancel("r");
    house.expect_rest();
    assert_eq!(house.peer.state.lock().waiting, 0);
}

#[test]
fn a_connection_that_goes_frees_who_waits_for_its_lane() {
    let mut house = House::new();
    let mut peer = begun(&mut house, "r", "/api");
    house.peer.set_room(Some(0));
    peer.send("3\r\ntwo\r\n");
    house.peer.wait_until(|state| state.waiting == 1);
    house.lose();
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn with_flow_control_a_streamed_answer_waits_for_credit() {
    let mut house = House::new();
    house.requests().use_flow_control();
    house.stream("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    let size = 3 << 20;
    peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
    house.expect("proxy_response_header", "r");
    let sending = std::thread::spawn(move || {
        peer.send(vec![7; size]);
        peer
    });
    let mut got = 0;
    for credit in [1 << 20, 1000, size - (1 << 20) - 1000] {
        let until = got + credit;
        while got < until {
            got += house.expect_chunk("r").len();
        }
        // Never a byte more than was granted.
        assert_eq!(got, until);
        let next = match got {
            n if n == 1 << 20 => 1000,
            n => size - n,
        };
        house.requests().credit("r", next as u64);
    }
    house.expect("proxy_response_end", "r");
    sending.join().expect("sent");
    house.expect_rest();
}

#[test]
fn with_flow_control_only_what_was_sent_uses_credit_up() {
    let mut house = House::new();
    house.requests().use_flow_control();
    house.stream("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    house.expect("proxy_response_header", "r");
    // More pieces than the credit of the beginning has room for large ones.
    for _ in 0..=INITIAL_CREDIT as usize / MAX_CHUNK {
        peer.send("small");
        assert_eq!(house.expect_chunk("r"), b"small");
    }
    drop(peer);
    house.expect("proxy_response_end", "r");
    house.expect_rest();
}

#[test]
fn cancelling_frees_an_answer_that_waits_for_credit() {
    let mut house = House::new();
    house.requests().use_flow_control();
    house.stream("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n");
    house.expect("proxy_response_header", "r");
    peer.send(vec![7; 1 << 20]);
    let mut got = 0;
    while got < 1 << 20 {
        got += house.expect_chunk("r").len();
    }
    peer.send(b"more");
    house.requests().cancel("r");
    peer.wait_for_end();
    house.expect_abort("r");
    house.requests().credit("r", 5);
    house.expect_rest();
}

#[test]
fn draining_ends_watches_and_lets_others_finish() {
    let mut house = House::new();
    house.request(
        "w",
        json!({"path": "/api", "query": "watch=true", "supports_response_streaming": true}),
    );
    let mut watch = house.upstream.accept();
    watch.request();
    watch.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    house.expect("proxy_response_header", "w");
    house.get("g", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    let executor = house.executor.clone();
    let draining = std::thread::spawn(move || executor.drain(Deadline::after(FAR)));
    watch.wait_for_end();
    assert_eq!(house.expect_abort("w"), "shutting down");
    house.get("n", "/api");
    assert_eq!(house.expect_error("n"), "agent is shutting down");
    peer.answer("200 OK", "");
    house.expect("proxy_response", "g");
    draining.join().expect("drained");
    house.expect_rest();
}
