//! What passes on a stream to a Service, and how it ends.

use tungstenite::protocol::CloseFrame;

use super::*;
use crate::websocket::Keepalive;

#[test]
fn t24_a_message_is_framed_only_where_its_type_does_not_say_otherwise() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    house.unframed("a", 2, b"\nnew line");
    assert_eq!(leg.read(), Said::binary(b"\nnew line".to_vec()));
    house.unframed("a", 1, b"plain");
    assert_eq!(leg.read(), Said::text("plain"));
    house.unframed("a", 1, b"\x01framed");
    assert_eq!(leg.read(), Said::text("framed"));
    house.data("a", 2, b"");
    assert_eq!(leg.read(), Said::binary(vec![]));
    house.close("a");
    leg.expect_close();
    house.expect_rest();
}

/// The older message, which crashed the original; and every place that ids come in.
#[test]
fn t21_messages_find_their_stream_by_each_of_their_ids() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    let data = |ids: Value| {
        let mut payload = json!({"data": encode(b"\x01x")});
        payload
            .as_object_mut()
            .expect("an object")
            .extend(ids.as_object().expect("one").clone());
        payload
    };
    for (kind, envelope, ids) in [
        ("proxy_stream_data", "a", json!({})),
        (
            "proxy_websocket_data",
            "-",
            json!({"request_id": "a", "stream_id": "-"}),
        ),
        ("ws_data", "-", json!({"stream_id": "a"})),
        ("ws_data", "a", json!({})),
    ] {
        house.say(kind, envelope, data(ids));
        assert_eq!(leg.read(), Said::text("x"), "{kind}");
    }
    // Of nobody, or of a plain request: dropped.
    house.say("proxy_stream_data", "-", data(json!({})));
    house.request("b", to_web(json!({"path": "/"})));
    let mut peer = house.upstream.accept();
    peer.request();
    house.say("proxy_stream_data", "b", data(json!({})));
    peer.answer("200 OK", "");
    assert_eq!(house.expect("proxy_response", "b")["status"], 200);
    house.say("ws_close", "a", json!({}));
    assert_eq!(leg.expect_close().0, 1000);
    house.say("proxy_stream_data", "a", data(json!({})));
    house.expect_rest();
}

#[test]
fn t22_a_close_of_the_service_ends_the_other_side_with_its_code() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    leg.say(Said::text("last"));
    leg.say(Said::Close(Some(CloseFrame {
        code: 4001.into(),
        reason: "enough".into(),
    })));
    assert_eq!(house.expect_app_data("a"), (1, b"last".to_vec()));
    assert_eq!(house.expect_app_data("a"), (8, b"\x0f\xa1enough".to_vec()));
    house.expect_app_close("a");
    assert!(
        matches!(leg.read(), Said::Close(Some(_))),
        "it was answered"
    );
    // The id is free again.
    let mut leg = house.open_app("a");
    leg.say(Said::Close(None));
    assert_eq!(house.expect_app_data("a"), (8, b"\x03\xe8".to_vec()));
    house.expect_app_close("a");
    house.expect_rest();
}

/// What was said before arrives, and there is no echo.
#[test]
fn t22_a_close_of_the_peer_ends_the_service_with_its_code() {
    let (mut house, _) = house();
    for (said, want) in [
        (None, (1000, "")),
        (Some(&b"\x0f\xa2bye"[..]), (4002, "bye")),
        (Some(&b""[..]), (1000, "")),
    ] {
        let mut leg = house.open_app("a");
        house.data("a", 1, b"before");
        match said {
            Some(said) => house.data("a", 8, said),
            None => house.close("a"),
        }
        assert_eq!(leg.read(), Said::text("before"));
        assert_eq!(leg.expect_close(), (want.0, want.1.to_owned()));
        house.expect_rest();
    }
}

/// The close came before the message with its code had been reached, and took its place.
#[test]
fn t22_the_code_of_the_peer_counts_also_with_the_close_behind_it() {
    let (mut house, _) = house();
    for _ in 0..50 {
        let mut leg = house.open_app("a");
        house.data("a", 8, b"\x0f\xa2bye");
        house.close("a");
        assert_eq!(leg.expect_close(), (4002, "bye".to_owned()));
        house.expect_rest();
    }
}

/// It ended the stream: the peer has a close for that.
#[test]
fn t18_cancelling_a_request_that_has_become_a_stream_means_nothing() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    house.requests().cancel("a");
    house.data("a", 1, b"on");
    assert_eq!(leg.read(), Said::text("on"));
    house.close("a");
    assert_eq!(leg.expect_close().0, 1000);
    house.expect_rest();
}

/// Where both fields name a stream: that of the Kubernetes API goes first (§9.1).
#[test]
fn a_stream_to_the_api_goes_before_one_to_a_service() {
    let (mut house, _) = house();
    let mut app = house.open_app("a");
    let mut exec = house.open("s");
    let data = encode(b"\x01for the command");
    let ids = json!({"request_id": "a", "stream_id": "s", "data": data});
    house.say("proxy_websocket_data", "-", ids);
    assert_eq!(exec.read(), Said::binary(&b"\x00for the command"[..]));
    // The other way round it is the Service's.
    let data = encode(b"\x01for the Service");
    let ids = json!({"request_id": "a", "stream_id": "a", "data": data});
    house.say("proxy_websocket_data", "s", ids);
    assert_eq!(app.read(), Said::text("for the Service"));
    house.say(
        "ws_close",
        "-",
        json!({"request_id": "a", "stream_id": "s"}),
    );
    house.expect_close("s");
    house.say("ws_close", "-", json!({"request_id": "a"}));
    app.expect_close();
    house.expect_rest();
}

#[test]
fn pings_and_pongs_of_the_peer_reach_the_service() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    house.data("a", 9, b"there?");
    assert_eq!(leg.read(), Said::Ping(b"there?".to_vec().into()));
    house.data("a", 10, b"here");
    assert_eq!(leg.read(), Said::Pong(b"here".to_vec().into()));
    // And its own are answered by the agent.
    leg.say(Said::Ping(b"you?".to_vec().into()));
    assert_eq!(leg.read(), Said::Pong(b"you?".to_vec().into()));
    house.close("a");
    leg.expect_close();
    house.expect_rest();
}

/// Never a gap.
#[test]
fn t8_a_service_that_takes_too_little_ends_its_stream_and_no_other() {
    let (mut house, _) = house();
    let mut other = house.open_app("b");
    let mut leg = house.open_app("a");
    let piece = vec![7; 512 << 10];
    for _ in 0..64 {
        house.data("a", 2, &piece);
    }
    let said = house.expect("backpressure", "a");
    assert_eq!(said, json!({"reason": "channel_full", "request_id": "a"}));
    house.expect_app_close("a");
    // What arrives is whole, up to the end.
    while let Ok(message) = leg.socket.read() {
        assert_eq!(message, Said::binary(piece.clone()));
    }
    house.data("b", 1, b"still here");
    assert_eq!(other.read(), Said::text("still here"));
    house.close("b");
    other.expect_close();
    house.expect_rest();
}

/// Half a message of 8 MiB on each of many streams was limited by nothing but their number.
#[test]
fn half_a_message_of_a_service_counts_and_ends_its_stream_where_there_is_no_room() {
    let (mut house, _) = house_with(Settings {
        memory_limit: 1 << 20,
        ..Settings::default()
    });
    let mut other = house.open_app("b");
    let mut leg = house.open_app("a");
    let before = house.executor.load().memory;
    let half = |size: u64, came: usize| {
        let mut frame = vec![0x82, 127];
        frame.extend(size.to_be_bytes());
        frame.resize(10 + came, 7);
        frame
    };
    let write = |leg: &mut Leg, bytes: &[u8]| {
        std::io::Write::write_all(leg.socket.get_mut(), bytes).expect("written");
    };
    write(&mut leg, &half(200_000, 150_000));
    house.wait_for_load(|load| load.memory >= before + 150_000);
    write(&mut leg, &vec![7; 50_000]);
    assert_eq!(house.expect_app_data("a").1.len(), 200_000);
    house.wait_for_load(|load| load.memory == before);
    write(&mut leg, &half(4 << 20, 2 << 20));
    house.expect_app_close("a");
    assert_eq!(leg.expect_close().0, 1013);
    other.say(Said::text("still here"));
    assert_eq!(house.expect_app_data("b"), (1, b"still here".to_vec()));
    // And so does a whole one that waits for the lane.
    house.peer.set_room(Some(0));
    other.say(Said::binary(vec![7; 100_000]));
    house.wait_for_load(|load| load.memory >= 133_000);
    house.peer.set_room(None);
    assert_eq!(house.expect_app_data("b").1.len(), 100_000);
    house.close("b");
    other.expect_close();
    house.expect_rest();
}

#[test]
fn a_service_that_is_cut_in_a_frame_closes_the_stream_without_a_code() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    leg.say(Said::text("whole"));
    let half = std::io::Write::write_all(leg.socket.get_mut(), b"\x82\x05hal");
    half.expect("written");
    drop(leg);
    assert_eq!(house.expect_app_data("a"), (1, b"whole".to_vec()));
    house.expect_app_close("a");
    house.expect_rest();
}

/// It was counted for the whole session.
#[test]
fn t11_a_timeout_limits_the_handshake_only() {
    const LIMIT: Duration = Duration::from_secs(2);
    let (mut house, _) = house();
    house.request("a", upgrading(json!({"timeout": LIMIT.as_millis() as u64})));
    let mut leg = upgrade(house.upstream.accept(), None);
    assert_eq!(house.expect("proxy_response", "a")["status"], 101);
    std::thread::sleep(LIMIT + Duration::from_millis(100)); // it is over now
    leg.say(Said::text("still there"));
    assert_eq!(house.expect_app_data("a"), (1, b"still there".to_vec()));
    house.close("a");
    leg.expect_close();
    // A deadline limits all of it.
    let payload = upgrading(json!({"deadline": "2026-01-01T00:00:01Z"}));
    house.request_at("d", &payload, "2026-01-01T00:00:00Z");
    let mut leg = upgrade(house.upstream.accept(), None);
    assert_eq!(house.expect("proxy_response", "d")["status"], 101);
    house.expect_app_close("d");
    leg.expect_cut();
    house.expect_rest();
}

/// While the peer says nothing: the Service may be gone, and nobody would know.
#[test]
fn a_service_without_signs_of_life_is_closed() {
    let (mut house, _) = house_with(Settings {
        keepalive: Keepalive {
            every: Duration::from_millis(10),
            silence: Duration::from_millis(10),
            misses: 3,
        },
        ..Settings::default()
    });
    let mut leg = house.open_app("a");
    house.expect_app_close("a");
    let mut said = Vec::new();
    std::io::Read::read_to_end(leg.socket.get_mut(), &mut said).expect("pings and a close");
    // Masked: a ping has 6 bytes, the close 14 more.
    assert!(said.len() > 20 && said.starts_with(b"\x89\x80"), "{said:?}");
    let close = &said[said.len() - 20..];
    assert_eq!(close[..2], [0x88, 0x8e]);
    let clear: Vec<u8> = (0..14)
        .map(|at| close[6 + at] ^ close[2 + at % 4])
        .collect();
    assert_eq!(clear, b"\x03\xe9ping timeout");
    house.expect_rest();
}

#[test]
fn a_lost_connection_cuts_the_streams_to_services() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    house.lose();
    leg.expect_cut();
    house.reconnect();
    house.expect_rest();
}

/// With credit nothing is ever full: the peer waits.
#[test]
fn what_a_service_has_taken_is_granted_again() {
    let (mut house, _) = house();
    house.requests().use_flow_control();
    let mut leg = house.open_app("a");
    let piece = vec![7; 256 << 10];
    let mut granted = 1_u64 << 20;
    for round in 1..=32_u64 {
        house.data("a", 2, &piece);
        assert_eq!(leg.read(), Said::binary(piece.clone()));
        while granted < round * piece.len() as u64 + 1 {
            granted += house.expect("proxy_flow", "a")["credit"]
                .as_u64()
                .expect("a number");
        }
    }
    house.close("a");
    leg.expect_close();
    let mut rest = house.peer.state.lock();
    rest.messages
        .retain(|message| message["type"] != "proxy_flow");
    drop(rest);
    house.expect_rest();
}
