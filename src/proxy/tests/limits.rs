//! How many at once, and how much memory.

use super::*;
use crate::http::testing::Peer;

fn places(short: usize, long: usize, waiting: usize) -> Settings {
    Settings {
        places: PlaceLimits {
            short,
            long,
            waiting,
            ..PlaceLimits::default()
        },
        ..Settings::default()
    }
}

fn watch(house: &mut House, id: &str) -> Peer {
    house.request(
        id,
        json!({"path": "/api", "query": "watch=true", "supports_response_streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    house.expect("proxy_response_header", id);
    peer
}

fn finish(house: &House, peer: &mut Peer, id: &str) {
    peer.answer("200 OK", "");
    house.expect("proxy_response", id);
}

#[test]
fn t31_what_comes_beyond_the_limits_waits_or_is_told_so() {
    let mut house = House::with(places(1, 1, 1));
    house.get("runs", "/api/1");
    let mut peer = house.upstream.accept();
    peer.request();
    house.get("waits", "/api/2");
    house.get("b", "/api/3");
    assert_eq!(house.expect_error("b"), "agent busy");
    house.stream("s", "/api/4");
    assert_eq!(house.expect_abort("s"), "agent busy");
    assert_eq!(house.executor.load().waiting, 1);
    finish(&house, &mut peer, "runs");
    assert_eq!(peer.request().line, "GET /api/2 HTTP/1.1");
    finish(&house, &mut peer, "waits");
    house.expect_rest();
}

#[test]
fn watches_do_not_keep_short_requests_waiting() {
    // Room for two to wait: an answer is there before its place is given back.
    let mut house = House::with(places(1, 3, 2));
    let _watches = ["a", "b", "c"].map(|id| watch(&mut house, id));
    assert_eq!(house.executor.load().long, 3);
    house.get("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    finish(&house, &mut peer, "r");
    // A fourth one waits for a place of its kind; a short one still doesn't.
    house.request(
        "d",
        json!({"path": "/api", "query": "follow=true", "supports_response_streaming": true}),
    );
    assert_eq!(house.executor.load().waiting, 1);
    house.get("r", "/api");
    peer.request();
    finish(&house, &mut peer, "r");
    house.requests().cancel("d");
    assert_eq!(house.executor.load().waiting, 0);
}

#[test]
fn an_old_stream_makes_room() {
    let mut house = House::with(Settings {
        long_after: Duration::ZERO,
        ..places(1, 1, 1)
    });
    house.stream("old", "/api");
    let mut old = house.upstream.accept();
    old.request();
    house.wait_for_load(|load| (load.short, load.long) == (0, 1));
    house.get("r", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    finish(&house, &mut peer, "r");
    old.answer("200 OK", "");
    house.expect("proxy_response_header", "old");
    house.expect("proxy_response_end", "old");
    house.expect_rest();
}

#[test]
fn the_deadline_runs_while_a_request_waits() {
    let mut house = House::with(places(1, 1, 10));
    house.get("runs", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    house.request("b", json!({"path": "/api", "timeout": 20}));
    assert!(house.expect_error("b").contains("deadline"));
    house.request(
        "s",
        json!({"path": "/api", "timeout": 20, "supports_response_streaming": true}),
    );
    assert!(house.expect_abort("s").contains("deadline"));
    house.get("c", "/api");
    house.requests().cancel("c");
    assert_eq!(house.executor.load().waiting, 0);
    finish(&house, &mut peer, "runs");
    house.expect_rest();
    assert!(peer.is_quiet());
}

#[test]
fn a_request_that_waits_survives_or_goes_with_its_connection() {
    let mut house = House::with(places(1, 1, 10));
    house.get("runs", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    house.get("b", "/api/b");
    house.stream("s", "/api/s");
    let old = house.peer.clone();
    house.reconnect();
    peer.answer("200 OK", "");
    assert_eq!(peer.request().line, "GET /api/b HTTP/1.1");
    peer.answer("200 OK", "");
    old.wait_until(|state| state.late.len() == 2);
    house.expect_rest();
    assert!(peer.is_quiet());
}

#[test]
fn a_slow_upstream_holds_nobody_up() {
    let mut house = House::new();
    let mut slow: Vec<Peer> = (0..20)
        .map(|i| {
            house.get(&format!("slow-{i}"), "/api");
            let mut peer = house.upstream.accept();
            peer.request();
            peer
        })
        .collect();
    house.get("fast", "/api");
    let mut peer = house.upstream.accept();
    peer.request();
    finish(&house, &mut peer, "fast");
    for peer in &mut slow {
        peer.answer("200 OK", "");
        assert_eq!(house.next()["type"], "proxy_response");
    }
    house.expect_rest();
}

#[test]
fn t31_an_answer_beyond_the_limit_is_refused_and_names_it() {
    let mut house = House::with(Settings {
        body_limit: 1 << 20,
        ..Settings::default()
    });
    let size = (1 << 20) + 1;
    for head in [
        format!("Content-Length: {size}\r\n\r\n"),
        "Connection: close\r\n\r\n".to_owned(),
    ] {
        house.get("r", "/api");
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\n{head}"));
        let sending = std::thread::spawn(move || peer.send_some(&vec![7; size]));
        let text = house.expect_error("r");
        assert!(text.contains("1 MiB"), "{text}");
        sending.join().expect("sent");
    }
    house.expect_rest();
}

#[test]
fn t43_all_memory_is_shared_limited_and_given_back() {
    let mut house = House::with(Settings {
        memory_limit: 1 << 20,
        ..Settings::default()
    });
    let body = "x".repeat(700 << 10);
    house.request("a", json!({"method": "POST", "path": "/api", "body": body}));
    let mut first = house.upstream.accept();
    first.head();
    house.request("b", json!({"method": "POST", "path": "/api", "body": body}));
    let text = house.expect_error("b");
    assert!(
        text.contains("proxy.memory_limit") && text.contains("1 MiB"),
        "{text}"
    );
    // A streamed one fails when there is no room for its next piece.
    house.request(
        "c",
        json!({"method": "POST", "path": "/api", "streaming": true}),
    );
    house.requests().chunk("c", Some(&encode(&body)));
    assert!(house.expect_error("c").contains("proxy.memory_limit"));
    // An answer too.
    house.get("d", "/api");
    let mut peer = loop {
        let mut peer = house.upstream.accept();
        let line = peer.try_head();
        if line.is_some_and(|line| line.starts_with("GET")) {
            break peer;
        }
    };
    peer.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    assert!(house.expect_error("d").contains("proxy.memory_limit"));
    assert!(house.executor.load().memory > 0);
    house.requests().cancel("a");
    first.wait_for_end();
    house.expect_rest();
}

/// A body of known length is written into a message that was made large enough at
/// once. One of unknown length is held as it is until the message can be made; after
/// that only the message is there.
#[test]
fn answers_that_wait_take_what_their_messages_take() {
    const BODY: usize = 1 << 20;
    let message = BODY.div_ceil(3) * 4 + 1024;
    let length = format!("Content-Length: {BODY}");
    let unknown = "Connection: close";
    let mut house = House::with(Settings {
        memory_limit: 4 * message,
        ..Settings::default()
    });
    house.peer.set_room(Some(0));
    for (n, framing) in [unknown, &length, &length, &length].into_iter().enumerate() {
        house.get(&format!("r{n}"), "/api");
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        peer.send_some(&vec![7; BODY]);
        drop(peer);
        house.peer.wait_until(|state| state.waiting == n + 1);
        assert!(house.executor.load().memory <= (n + 1) * message);
    }
    house.peer.set_room(None);
    for _ in 0..4 {
        let answer = house.next();
        assert_eq!(decode(&answer["payload"]["body"]), vec![7; BODY]);
    }
    house.expect_rest();
}

#[test]
fn threads_are_given_back() {
    let mut house = House::with(Settings {
        worker_idle: Duration::from_millis(10),
        ..Settings::default()
    });
    let mut peers: Vec<Peer> = (0..10)
        .map(|i| {
            house.get(&format!("{i}"), "/api");
            let mut peer = house.upstream.accept();
            peer.request();
            peer
        })
        .collect();
    assert_eq!(house.executor.load().threads, 10);
    for peer in &mut peers {
        peer.answer("200 OK", "");
        house.next();
    }
    house.wait_for_load(|load| load.threads == 0);
    house.expect_rest();
}

#[test]
fn refusals_that_nobody_takes_end_the_connection() {
    let mut house = House::on(Settings::default(), Upstream::new(), None);
    house.peer.set_room(Some(0));
    let until = Instant::now() + FAR;
    while house.peer.state.lock().aborted.is_none() {
        assert!(Instant::now() < until, "never");
        house.get("r", "/api");
    }
}
