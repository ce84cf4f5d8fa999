//! Services that don't answer as they should, and answers that take their time.

use super::*;

const MOMENT: Duration = Duration::from_millis(20);

#[test]
fn a_service_that_accepts_and_says_nothing_is_given_up() {
    let (mut house, _) = house();
    for said in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
        house.request("r", streamed(json!({"path": "/"})));
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send(said);
        house.executor.timer.ring_all();
        assert_eq!(
            house.expect_abort("r"),
            "service request failed: context deadline exceeded"
        );
        peer.wait_for_end();
    }
    house.expect_rest();
}

#[test]
fn a_body_that_stops_is_given_up_where_nothing_else_limits_it() {
    let (mut house, _) = house_with(Settings {
        stall: MOMENT,
        ..Settings::default()
    });
    house.request("r", streamed(json!({"path": "/", "timeout": "1h"})));
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
    house.expect("proxy_response_header", "r");
    assert_eq!(house.expect_chunk("r"), b"half");
    let text = house.expect_abort("r");
    assert!(
        text.contains("nothing more of the answer came for 20ms"),
        "{text}"
    );
    peer.wait_for_end();
    house.expect_rest();
}

#[test]
fn an_answer_that_is_cut_or_is_none_is_an_error() {
    let (mut house, _) = house();
    for (said, text) in [
        ("", "closed before an answer came"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        ("SSH-2.0-x\r\n\r\n", "not understood"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            "broke off",
        ),
    ] {
        house.request("r", to_web(json!({"method": "POST", "path": "/"})));
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send(said);
        drop(peer);
        let error = house.expect_error("r");
        assert!(error.starts_with("service request failed: "), "{error}");
        assert!(error.contains(text), "{error}");
    }
    house.expect_rest();
}

/// The phases' limits are over before the second event comes.
#[test]
fn t11_an_event_stream_may_say_nothing_for_as_long_as_it_likes() {
    let (mut house, _) = house_with(Settings {
        stall: MOMENT,
        ..Settings::default()
    });
    for kind in [
        "text/event-stream; charset=utf-8",
        "application/grpc-web+proto",
    ] {
        house.request("r", streamed(json!({"path": "/"})));
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        house.expect("proxy_response_header", "r");
        for _ in 0..2 {
            std::thread::sleep(3 * MOMENT);
            peer.send("9\r\ndata: x\n\n\r\n");
            assert_eq!(house.expect_chunk("r"), b"data: x\n\n");
        }
        house.executor.timer.ring_all();
        peer.send("0\r\n\r\n");
        house.expect("proxy_response_end", "r");
        drop(peer);
    }
    house.expect_rest();
}

/// It was cut by the limit for answers that stop, or as a whole after two minutes.
#[test]
fn t11_a_watch_may_say_nothing_for_as_long_as_it_likes() {
    let (mut house, _) = house_with(Settings {
        stall: MOMENT,
        default_timeout: MOMENT,
        ..Settings::default()
    });
    for (query, is_streamed) in [("watch=true", true), ("a=1&follow=1", false)] {
        let mut payload = to_web(json!({"path": "/", "query": query}));
        payload["supports_response_streaming"] = is_streamed.into();
        house.request("r", payload);
        let mut peer = house.upstream.accept();
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
        if is_streamed {
            house.expect("proxy_response_header", "r");
            assert_eq!(house.expect_chunk("r"), b"a");
            house.executor.timer.ring_all();
        }
        house.wait_for_load(|load| (load.short, load.long) == (0, 1));
        std::thread::sleep(3 * MOMENT);
        peer.send("1\r\nb\r\n0\r\n\r\n");
        if is_streamed {
            assert_eq!(house.expect_chunk("r"), b"b");
            house.expect("proxy_response_end", "r");
        } else {
            let answer = house.expect("proxy_response", "r");
            assert_eq!(decode(&answer["body"]), b"ab");
        }
        drop(peer);
    }
    house.expect_rest();
}

/// Nobody could end it any more: an id means nothing on the next connection.
#[test]
fn a_watch_does_not_outlive_its_connection() {
    let (mut house, _) = house_with(Settings::default());
    let mut payload = to_web(json!({"path": "/", "query": "follow=1"}));
    payload["supports_response_streaming"] = false.into();
    house.request("r", payload);
    let mut peer = house.upstream.accept();
    peer.request();
    peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    house.lose();
    peer.wait_for_end();
    house.expect_rest();
}

/// Somebody drops what is sent there.
#[test]
fn a_service_that_does_not_answer_its_dial_is_given_up() {
    let limits = ConnectionLimits {
        dial_limit: MOMENT,
        ..ConnectionLimits::default()
    };
    let (mut house, town) = house_within(Settings::default(), limits);
    let mut payload = to_web(json!({"path": "/", "timeout": "1h"}));
    payload["service_name"] = "hangs".into();
    house.request("r", payload.clone());
    let text = house.expect_error("r");
    assert_eq!(text, "service request failed: hangs.shop:80: no answer");
    payload["is_websocket"] = true.into();
    house.request("w", payload);
    let text = house.expect_error("w");
    assert!(text.ends_with("hangs.shop:80: no answer"), "{text}");
    assert_eq!(town.dials.load(Ordering::SeqCst), 2);
    house.expect_rest();
}

#[test]
fn a_form_b_request_has_the_default_limit() {
    let (mut house, _) = house_with(Settings {
        default_timeout: MOMENT,
        ..Settings::default()
    });
    house.request("r", to_web(json!({"path": "/"})));
    assert_eq!(
        house.expect_error("r"),
        "service request failed: context deadline exceeded"
    );
    house.expect_rest();
}

#[test]
fn cancelling_closes_the_connection_to_the_service() {
    let (mut house, _) = house();
    house.request("r", streamed(json!({"path": "/"})));
    let mut peer = house.upstream.accept();
    peer.request();
    house.requests().cancel("r");
    peer.wait_for_end();
    house.expect_rest();
}
