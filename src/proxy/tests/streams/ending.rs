//! How a stream ends, whoever ends it: the peer hears one close, or nothing.

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use super::*;

fn close(code: u16, reason: &str) -> Said {
    Said::Close(Some(CloseFrame {
        code: CloseCode::from(code),
        reason: reason.to_owned().into(),
    }))
}

#[test]
fn a_close_of_the_api_server_is_one_close_and_says_its_code_on_raw_streams_only() {
    let mut house = House::new();
    let mut leg = house.open("s");
    leg.say(Said::binary(&b"\x03{}"[..]));
    leg.say(close(1000, "done"));
    assert_eq!(house.expect_data("s"), (1, b"{}".to_vec()));
    assert_eq!(house.expect_close("s"), json!({"stream_id": "s"}));
    // It was answered.
    assert!(matches!(leg.read(), Said::Close(Some(_))));

    let mut leg = house.open_raw("r");
    leg.say(close(4001, "enough"));
    let want = json!({"stream_id": "r", "code": 4001, "reason": "enough"});
    assert_eq!(house.expect_close("r"), want);
    let mut leg = house.open_raw("r");
    leg.say(Said::Close(None));
    let want = json!({"stream_id": "r", "code": 1000, "reason": ""});
    assert_eq!(house.expect_close("r"), want);
    house.expect_rest();
}

#[test]
fn a_connection_that_is_cut_is_a_close_without_a_code() {
    let mut house = House::new();
    let leg = house.open_raw("r");
    drop(leg);
    assert_eq!(house.expect_close("r"), json!({"stream_id": "r"}));
    // In the middle of a frame, too.
    let mut leg = house.open_raw("r");
    let half = std::io::Write::write_all(leg.socket.get_mut(), b"\x82\x05hal");
    half.expect("written");
    drop(leg);
    assert_eq!(house.expect_close("r"), json!({"stream_id": "r"}));
    house.expect_rest();
}

#[test]
fn what_the_peer_said_before_it_closed_is_delivered_and_its_code_on_raw_streams() {
    for (said, want) in [
        (json!({"code": 1000, "reason": "bye"}), Some((1000, "bye"))),
        (json!({"code": 4002, "reason": ""}), Some((4002, ""))),
        // The client was cut off: so is the API server, which ends the command then.
        (json!({}), None),
    ] {
        let mut house = House::new();
        let mut leg = house.open_raw("r");
        for n in 0..100u8 {
            house.data("r", 2, &[n]);
        }
        let mut payload = said.clone();
        payload["stream_id"] = json!("r");
        house.say("proxy_websocket_close", "r", payload);
        // What comes now is nobody's.
        house.data("r", 2, b"late");
        for n in 0..100u8 {
            assert_eq!(leg.read(), Said::binary(vec![n]));
        }
        if let Some((code, reason)) = want {
            assert_eq!(leg.expect_close(), (code, reason.to_owned()));
        } else {
            leg.expect_cut();
        }
        house.expect_close("r");
        house.expect_rest();
    }
}

#[test]
fn t35_a_close_finds_its_stream_wherever_its_id_is() {
    for payload in [
        json!({"stream_id": "s"}),
        json!({"request_id": "s"}),
        json!({"request_id": "another", "stream_id": "s"}),
        json!({}),
    ] {
        let mut house = House::new();
        let mut leg = house.open("s");
        house.say("ws_close", "s", payload);
        leg.expect_cut();
        house.expect_close("s");
        house.expect_rest();
    }
}

#[test]
fn t26_a_close_ends_the_dial_and_nothing_is_left_behind() {
    let mut house = House::new();
    house.start("s", EXEC);
    let mut peer = house.upstream.accept();
    peer.head();
    house.data("s", 1, b"never");
    house.close("s");
    peer.wait_for_end();
    assert_eq!(house.expect_close("s"), json!({"stream_id": "s"}));
    house.expect_rest();
}

#[test]
fn t26_a_handshake_has_a_limit() {
    let mut house = House::with(Settings {
        handshake: Duration::from_millis(20),
        ..Settings::default()
    });
    house.start("s", EXEC);
    let mut peer = house.upstream.accept();
    let error = house.expect_stream_error("s");
    assert_eq!(
        error,
        "failed to connect to K8s API: context deadline exceeded"
    );
    house.expect_close("s");
    peer.wait_for_end();
    // That of the request may be shorter.
    let mut house = House::new();
    house.request(
        "r",
        json!({"path": EXEC, "is_websocket": true, "timeout": 20}),
    );
    house.expect("proxy_response", "r");
    house.expect_stream_error("r");
    house.expect_close("r");
    house.expect_rest();
}

#[test]
fn a_deadline_ends_an_open_stream_and_a_timeout_does_not() {
    let mut house = House::new();
    let payload = json!({"path": EXEC, "is_websocket": true, "timeout": 60_000,
        "deadline": "2026-01-01T00:10:00Z"});
    house.request_at("r", &payload, "2026-01-01T00:00:00Z");
    house.expect("proxy_response", "r");
    let mut leg = upgrade(house.upstream.accept(), None);
    leg.say(Said::text("x"));
    house.expect_data("r");
    house.executor.timer.ring_all();
    house.expect_close("r");
    leg.expect_cut();
    house.expect_rest();
}

#[test]
fn t26_a_start_under_a_live_id_takes_its_place_silently() {
    let mut house = House::new();
    let mut first = house.open("s");
    let mut second = house.open("s");
    first.expect_cut();
    house.data("s", 1, b"for the second");
    assert_eq!(second.read(), Said::binary(&b"\x00for the second"[..]));
    second.say(Said::binary(&b"\x01of the second"[..]));
    assert_eq!(house.expect_data("s"), (1, b"of the second".to_vec()));
    second.say(close(1000, ""));
    house.expect_close("s");
    house.expect_rest();
}

#[test]
fn t42_a_request_under_a_streams_id_is_refused_and_the_stream_goes_on() {
    let mut house = House::new();
    let mut leg = house.open("s");
    for payload in [
        json!({"path": "/version"}),
        json!({"path": EXEC, "is_websocket": true}),
        json!({"path": EXEC, "is_websocket": true, "supports_response_streaming": true}),
    ] {
        house.request("s", payload);
        let error = house.expect_error("s");
        assert!(error.contains("still being executed"), "{error}");
    }
    house.data("s", 1, b"x");
    assert_eq!(leg.read(), Said::binary(&b"\x00x"[..]));
}

#[test]
fn a_lost_connection_ends_its_streams_and_says_nothing() {
    let mut house = House::new();
    let mut open = house.open("s");
    house.start("dialling", EXEC);
    let mut dialling = house.upstream.accept();
    dialling.head();
    house.lose();
    open.expect_cut();
    dialling.wait_for_end();
    house.expect_rest();
}

#[test]
fn a_shutdown_ends_streams_and_takes_no_new_ones() {
    let mut house = House::new();
    let mut leg = house.open("s");
    house.executor.drain(Deadline::after(FAR));
    leg.expect_cut();
    house.expect_close("s");
    house.start("t", EXEC);
    let error = house.expect_stream_error("t");
    assert!(error.contains("shutting down"), "{error}");
    house.expect_close("t");
    house.expect_rest();
}
