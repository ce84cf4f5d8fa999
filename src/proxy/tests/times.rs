//! How long a request may take, and its body.

use super::*;

#[test]
fn a_deadline_ends_a_request_before_the_first_byte() {
    let mut house = House::new();
    let deadline = "2020-01-01T01:00:00Z";
    house.request_at(
        "b",
        &json!({"path": "/api", "deadline": deadline}),
        "2020-01-01T00:00:00Z",
    );
    let mut peer = house.upstream.accept();
    peer.request();
    house.executor.timer.ring_all();
    peer.wait_for_end();
    assert!(
        house
            .expect_error("b")
            .ends_with("context deadline exceeded")
    );
    let timeout = json!({"path": "/api", "timeout": "1h", "supports_response_streaming": true});
    house.request("s", timeout);
    let mut peer = house.upstream.accept();
    peer.request();
    house.executor.timer.ring_all();
    peer.wait_for_end();
    let text = house.expect_abort("s");
    assert_eq!(
        text,
        "kubernetes API request failed: context deadline exceeded"
    );
    house.expect_rest();
}

#[test]
fn a_deadline_ends_a_request_in_the_body() {
    let mut house = House::new();
    house.request_at(
        "r",
        &json!({"path": "/api", "query": "watch=true", "deadline": "2020-01-01T01:00:00Z", "supports_response_streaming": true}),
        "2020-01-01T00:00:00Z",
    );
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    house.expect("proxy_response_header", "r");
    house.expect_chunk("r");
    house.executor.timer.ring_all();
    peer.wait_for_end();
    assert!(house.expect_abort("r").contains("deadline"));
    house.expect_rest();
}

#[test]
fn a_deadline_comes_by_itself() {
    let mut house = House::new();
    house.request("b", json!({"path": "/api", "timeout": 20}));
    assert!(house.expect_error("b").contains("deadline"));
    house.expect_rest();
}

#[test]
fn a_deadline_that_has_passed_is_noticed() {
    let mut house = House::new();
    house.request_at(
        "r",
        &json!({"path": "/api", "deadline": "2019-01-01T00:00:00Z"}),
        "2020-01-01T00:00:00Z",
    );
    assert!(house.expect_error("r").contains("deadline"));
    house.expect_rest();
}

#[test]
fn t11_a_timeout_limits_a_watch_only_to_its_header() {
    let mut house = House::new();
    house.request(
        "r",
        json!({"path": "/api", "query": "watch=1", "timeout": "1h", "supports_response_streaming": true}),
    );
    let mut peer = house.upstream.accept();
    peer.request();
    assert_eq!(house.executor.timer.pending(), 1);
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    house.expect("proxy_response_header", "r");
    assert_eq!(house.executor.timer.pending(), 0);
    house.expect_chunk("r");
    peer.send("0\r\n\r\n");
    house.expect("proxy_response_end", "r");
    house.expect_rest();
}

#[test]
fn a_timeout_begins_with_the_end_of_a_streamed_body() {
    let mut house = House::new();
    house.request(
        "r",
        json!({"method": "POST", "path": "/api", "streaming": true, "timeout": "1h"}),
    );
    let mut peer = house.upstream.accept();
    peer.head();
    // Until then somebody looks whether it makes progress.
    house.executor.timer.ring_all();
    assert!(peer.is_quiet());
    assert_eq!(house.executor.timer.pending(), 1);
    house.requests().end("r");
    assert_eq!(house.executor.timer.pending(), 1);
    house.executor.timer.ring_all();
    peer.wait_for_end();
    assert!(house.expect_error("r").contains("deadline"));
    house.expect_rest();
}

fn minute_from_now() -> (&'static str, &'static str) {
    ("2020-01-01T00:01:00Z", "2020-01-01T00:00:00Z")
}

#[test]
fn a_deadline_holds_while_the_last_message_waits_for_the_lane() {
    let mut house = House::new();
    let (deadline, now) = minute_from_now();
    for streamed in [false, true] {
        // Room for what comes before the last message.
        house.peer.set_room(Some(if streamed { 2 } else { 0 }));
        let request = json!({
            "path": "/api", "deadline": deadline, "supports_response_streaming": streamed,
        });
        house.request_at("r", &request, now);
        let mut peer = house.upstream.accept();
        peer.request();
        peer.answer("200 OK", "body");
        house.peer.wait_until(|state| state.waiting == 1);
        if streamed {
            house.expect("proxy_response_header", "r");
            house.expect_chunk("r");
        }
        house.executor.timer.ring_all();
        house.peer.set_room(None);
        let text = if streamed {
            house.expect_abort("r")
        } else {
            house.expect_error("r")
        };
        assert!(text.contains("deadline"), "{text}");
        house.expect_rest();
        drop(peer);
        house = House::new();
    }
}

#[test]
fn a_binary_body_that_never_comes_is_waited_for_until_the_deadline() {
    let mut house = House::new();
    let (deadline, now) = minute_from_now();
    let request = json!({"path": "/api", "body_binary": true, "deadline": deadline});
    house.request_at("r", &request, now);
    assert_eq!(house.executor.load().waiting, 1);
    house.executor.timer.ring_all();
    assert!(house.expect_error("r").contains("deadline"));
    // Nobody needs it any more, and it means nothing else.
    assert!(house.requests().binary(b"\0\x01r{}"));
    assert!(!house.requests().binary(b"\0\x01r{}"));
    house.expect_rest();
    assert_eq!(house.executor.timer.pending(), 0);
}

#[test]
fn a_binary_body_that_never_comes_is_not_waited_for_without_a_deadline_either() {
    let mut house = House::with(Settings {
        body_idle: Duration::from_millis(20),
        ..Settings::default()
    });
    for limits in [json!({}), json!({"timeout": "1h"})] {
        let mut request = limits;
        request["path"] = "/api".into();
        request["body_binary"] = true.into();
        house.request("b", request.clone());
        assert!(house.expect_error("b").contains("did not follow"));
        request["supports_response_streaming"] = true.into();
        house.request("s", request);
        assert!(house.expect_abort("s").contains("did not follow"));
    }
    house.expect_rest();
}

#[test]
fn a_request_that_waits_for_its_binary_body_is_told_of_the_shutdown() {
    let mut house = House::new();
    house.request("r", json!({"path": "/api", "body_binary": true}));
    house.executor.drain(Deadline::after(FAR));
    assert_eq!(house.expect_error("r"), "agent is shutting down");
    house.request("s", json!({"path": "/api", "body_binary": true}));
    assert_eq!(house.expect_error("s"), "agent is shutting down");
    house.expect_rest();
}

#[test]
fn an_upload_that_stalls_fails_although_its_timeout_has_not_begun() {
    let mut house = House::with(Settings {
        body_idle: Duration::from_millis(20),
        ..Settings::default()
    });
    let upload = json!({"method": "POST", "path": "/api", "streaming": true, "timeout": "1h"});
    house.request("r", upload);
    let mut peer = house.upstream.accept();
    peer.head();
    assert!(house.expect_error("r").contains("no progress"));
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn an_upload_goes_on_while_it_makes_progress() {
    let mut house = House::new();
    let upload = json!({"method": "POST", "path": "/api", "streaming": true, "timeout": "1h"});
    house.request("r", upload);
    let mut peer = house.upstream.accept();
    peer.head();
    for _ in 0..3 {
        house.requests().chunk("r", Some(&encode("piece")));
        assert_eq!(peer.chunk(), b"piece");
        house.executor.timer.ring_all();
    }
    house.requests().end("r");
    assert_eq!(peer.chunk(), b"");
    peer.answer("200 OK", "");
    house.expect("proxy_response", "r");
    house.expect_rest();
}

#[test]
fn an_upload_with_a_deadline_may_take_as_long_as_that() {
    let mut house = House::with(Settings {
        body_idle: Duration::ZERO,
        ..Settings::default()
    });
    let (deadline, now) = minute_from_now();
    let upload = json!({
        "method": "POST", "path": "/api", "streaming": true, "deadline": deadline,
    });
    house.request_at("d", &upload, now);
    house.executor.timer.ring_all();
    assert!(house.expect_error("d").contains("deadline"));
    house.expect_rest();
}

#[test]
fn an_old_upload_makes_room_for_short_requests() {
    let mut house = House::with(Settings {
        long_after: Duration::ZERO,
        ..Settings::default()
    });
    let upload = json!({"method": "POST", "path": "/api", "streaming": true, "timeout": "1h"});
    house.request("r", upload);
    let mut peer = house.upstream.accept();
    peer.head();
    house.wait_for_load(|load| (load.short, load.long) == (0, 1));
    house.requests().cancel("r");
    peer.wait_for_end();
    house.expect_rest();
}
