//! Streams to Services (control-channel.md §9.2): a request that becomes a WebSocket.

use std::sync::atomic::Ordering;

use tungstenite::protocol::CloseFrame;

use super::super::services::{Town, house, house_with, to_web};
use super::*;
use crate::websocket::Keepalive;

/// A browser's upgrade of `web.shop:80`.
fn upgrading(mut more: Value) -> Value {
    let mut payload = to_web(json!({
        "path": "/socket", "query": "b=1&a", "is_websocket": true, "headers": {
            "Host": "shop.test", "Cookie": "session=1", "Origin": "https://shop.test",
            "Connection": "Upgrade, X-Hop", "Upgrade": "websocket", "X-Hop": "1",
            "Sec-WebSocket-Key": "the-client's-own", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": "graphql-ws, chat",
            "Sec-WebSocket-Extensions": "permessage-deflate",
        },
    }));
    let fields = payload.as_object_mut().expect("an object");
    fields.append(more.as_object_mut().expect("an object"));
    payload
}

impl House {
    /// A stream that runs, in form B.
    fn open_app(&mut self, id: &str) -> Leg {
        self.request(id, upgrading(json!({})));
        let leg = upgrade(self.upstream.accept(), None);
        assert_eq!(self.expect("proxy_response", id)["status"], 101);
        leg
    }

    fn expect_app_data(&self, id: &str) -> (u8, Vec<u8>) {
        let payload = self.expect("proxy_websocket_data", id);
        assert_eq!(
            (&payload["request_id"], &payload["stream_id"]),
            (&id.into(), &id.into())
        );
        let data = decode(&payload["data"]);
        assert_eq!(payload["message_type"], data[0]);
        (data[0], data[1..].to_vec())
    }

    fn expect_app_close(&self, id: &str) {
        let payload = self.expect("proxy_websocket_close", id);
        assert_eq!(payload, json!({"request_id": id, "stream_id": id}));
    }

    /// A message without the type in front of it.
    fn unframed(&mut self, id: &str, kind: u8, payload: &[u8]) {
        let data = json!({"request_id": id, "data": encode(payload), "message_type": kind});
        self.say("proxy_websocket_data", "-", data);
    }
}

/// Also where the Service doesn't echo the subprotocol: many don't.
#[test]
fn c12_the_answer_is_101_and_then_messages_pass_both_ways() {
    for (form, chosen) in [("B", None), ("S", Some("chat"))] {
        let (mut house, town) = house();
        let streamed = json!({"supports_response_streaming": form == "S"});
        house.request("a", upgrading(streamed));
        // Before the answer: it waits.
        house.data("a", 1, b"early");
        let mut leg = upgrade(house.upstream.accept(), chosen);
        assert_eq!(leg.line, "GET /socket?b=1&a HTTP/1.1");
        let field = |name| leg.headers.get(name);
        assert_eq!(field("Host"), Some("shop.test"));
        assert_eq!(field("Cookie"), Some("session=1"));
        assert_eq!(field("Origin"), Some("https://shop.test"));
        assert_eq!(field("Sec-WebSocket-Protocol"), Some("graphql-ws, chat"));
        assert_eq!(field("Sec-WebSocket-Extensions"), None);
        assert_eq!(field("X-Hop"), None);
        assert_ne!(field("Sec-WebSocket-Key"), Some("the-client's-own"));
        leg.say(Said::text("hello"));
        leg.say(Said::binary(vec![0, 1, 2]));
        let kind = if form == "S" {
            "proxy_response_header"
        } else {
            "proxy_response"
        };
        let answer = house.expect(kind, "a");
        assert_eq!(answer["status"], 101);
        let headers = &answer["headers"];
        assert_eq!(headers["Upgrade"], json!(["websocket"]));
        assert_eq!(headers["Connection"], json!(["Upgrade"]));
        assert_eq!(
            headers["Sec-Websocket-Accept"].as_array().map(Vec::len),
            Some(1)
        );
        assert_eq!(headers["Sec-Websocket-Protocol"][0], json!(chosen));
        if form == "S" {
            house.expect("proxy_response_end", "a");
        }
        assert_eq!(house.expect_app_data("a"), (1, b"hello".to_vec()));
        assert_eq!(house.expect_app_data("a"), (2, vec![0, 1, 2]));
        assert_eq!(leg.read(), Said::text("early"));
        house.data("a", 2, b"\x00\xff");
        assert_eq!(leg.read(), Said::binary(vec![0, 0xff]));
        house.close("a");
        assert_eq!(leg.expect_close(), (1000, String::new()));
        house.expect_rest();
        assert_eq!(town.dials.load(Ordering::SeqCst), 1);
        assert!(town.noted.lock().is_empty());
    }
}

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

/// A cancellation is of the request; a stream has a close.
#[test]
fn t18_a_cancellation_ends_the_dial_but_no_stream_that_is_open() {
    let (mut house, _) = house();
    house.request("c", upgrading(json!({})));
    let mut peer = house.upstream.accept();
    peer.head();
    house.requests().cancel("c");
    peer.wait_for_end();
    house.expect_rest();
    let mut leg = house.open_app("c");
    house.requests().cancel("c");
    house.data("c", 1, b"on");
    assert_eq!(leg.read(), Said::text("on"));
    house.close("c");
    leg.expect_close();
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

#[test]
fn t42_a_request_under_a_streams_id_is_refused_and_the_stream_goes_on() {
    let (mut house, _) = house();
    let mut leg = house.open_app("a");
    for payload in [upgrading(json!({})), to_web(json!({"path": "/"}))] {
        house.request("a", payload);
        assert!(house.expect_error("a").contains("still being executed"));
    }
    house.data("a", 1, b"on");
    assert_eq!(leg.read(), Said::text("on"));
    house.close("a");
    leg.expect_close();
    house.expect_rest();
}

#[test]
fn t20_what_cannot_be_a_service_or_is_denied_is_never_dialled() {
    let (mut house, town) = house();
    for (change, start) in [
        (json!({"service_name": "a.b"}), "invalid service name: "),
        (json!({"namespace": "shop/../x"}), "invalid namespace: "),
        (json!({"service_port": 70_000}), "invalid service port: "),
        (json!({"service_port": "80"}), "failed to create"),
        (json!({"path": "/../x"}), "invalid path: "),
        (json!({"query": "a b"}), "invalid query string: "),
        (
            json!({"headers": {"Host": "a b", "Upgrade": "websocket"}}),
            "failed to create",
        ),
        (
            json!({"protocol": "a b", "headers": {}}),
            "invalid subprotocol",
        ),
    ] {
        house.request("r", upgrading(change));
        let text = house.expect_error("r");
        assert!(text.starts_with(start), "{text}");
    }
    let [by_name, by_address] = &town.denies;
    for denies in [by_name, by_address] {
        denies.store(true, Ordering::SeqCst);
        house.request("r", upgrading(json!({})));
        let text = house.expect_error("r");
        let start = "failed to connect to service WebSocket: the agent's policy denies it: ";
        assert!(text.starts_with(start), "{text}");
        denies.store(false, Ordering::SeqCst);
    }
    house.expect_rest();
    assert_eq!(town.dials.load(Ordering::SeqCst), 0);
    let noted = town.noted.lock();
    assert!(
        noted.len() == 2 && noted.iter().all(|noted| noted.denied),
        "{noted:?}"
    );
}

/// In the words and with the status of the Service, if it has said any.
#[test]
fn a_stream_that_cannot_be_opened_fails_in_the_form_of_its_request() {
    let (mut house, town) = house();
    let refuse = |house: &House| {
        let mut peer = house.upstream.accept();
        peer.head();
        peer.send("HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 4\r\n\r\nlogs");
    };
    house.request("b", upgrading(json!({})));
    refuse(&house);
    let text = house.expect_error("b");
    assert_eq!(
        text,
        "failed to connect to service WebSocket: logs (status: 403)"
    );
    let streamed = json!({"supports_response_streaming": true});
    house.request("s", upgrading(streamed.clone()));
    refuse(&house);
    let head = house.expect("proxy_response_header", "s");
    assert_eq!(
        (&head["status"], &head["headers"]["X-Why"]),
        (&json!(403), &json!(["no"]))
    );
    assert!(house.expect_abort("s").ends_with("(status: 403)"));
    // Nobody there.
    town.addresses.lock().clear();
    house.request("n", upgrading(streamed));
    assert_eq!(house.expect("proxy_response_header", "n")["status"], 502);
    assert!(house.expect_abort("n").contains("no such host"));
    house.request("m", upgrading(json!({})));
    assert!(house.expect_error("m").contains("no such host"));
    house.expect_rest();
}

#[test]
fn a_service_that_answers_halfway_or_not_at_all_is_given_up() {
    let (mut house, _) = house();
    let prefix = "failed to connect to service WebSocket: ";
    for said in ["", "HTTP/1.1 101 Switching Pro"] {
        house.request("a", upgrading(json!({"timeout": 20})));
        let mut peer = house.upstream.accept();
        peer.send(said);
        let text = house.expect_error("a");
        assert_eq!(text, format!("{prefix}context deadline exceeded"));
        peer.wait_for_end();
        house.request("b", upgrading(json!({})));
        let mut peer = house.upstream.accept();
        peer.head();
        peer.send(said);
        drop(peer);
        let text = house.expect_error("b");
        assert!(text.starts_with(prefix), "{text}");
    }
    // A 101 that isn't one for us.
    house.request("c", upgrading(json!({})));
    let mut peer = house.upstream.accept();
    peer.head();
    peer.send(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    );
    assert!(house.expect_error("c").contains("Sec-WebSocket-Accept"));
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

/// The client's scheme; the Service may have no TLS (T13). And what belongs to the agent
/// stays with it.
#[test]
fn t13_an_upgrade_has_the_rules_of_requests() {
    let (mut house, _) = house();
    let headers = json!({
        "Authorization": "Bearer agents-own", "X-Forwarded-Host": "shop.test",
        "X-Forwarded-For": "192.0.2.7",
    });
    house.request(
        "a",
        upgrading(json!({"scheme": "https", "headers": headers})),
    );
    let mut hello = house.upstream.accept();
    hello.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    let mut leg = upgrade(house.upstream.accept(), None);
    let field = |name| leg.headers.get(name);
    assert_eq!(field("Host"), Some("shop.test"));
    assert_eq!(field("X-Forwarded-Proto"), Some("https"));
    assert_eq!(field("X-Forwarded-For"), Some("192.0.2.7"));
    assert_eq!(field("Authorization"), None);
    assert_eq!(house.expect("proxy_response", "a")["status"], 101);
    house.close("a");
    leg.expect_close();
    house.expect_rest();
}

#[test]
fn an_upgrade_that_names_no_service_is_for_the_ingress_controller() {
    let (mut house, _) = house();
    for part in [
        json!({}),
        json!({"service_name": "other"}),
        json!({"namespace": "x"}),
    ] {
        let mut payload = json!({"path": "/socket", "is_websocket": true});
        let fields = payload.as_object_mut().expect("an object");
        fields.extend(part.as_object().expect("one").clone());
        house.request("a", payload);
        let mut leg = upgrade(house.upstream.accept(), None);
        assert_eq!(leg.headers.get("Host"), Some("web.shop:80"));
        assert_eq!(house.expect("proxy_response", "a")["status"], 101);
        house.close("a");
        leg.expect_close();
    }
    // And fails where there is none.
    let mut house = House::new();
    house.request("a", json!({"path": "/socket", "is_websocket": true}));
    let text = house.expect_error("a");
    assert_eq!(text, "missing service routing information for WebSocket");
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

#[test]
fn streams_to_one_service_leave_places_for_others() {
    let (mut house, town) = house_with(Settings {
        places: PlaceLimits {
            crowd: Crowd {
                short: 1,
                long: 1,
                waiting: 0,
            },
            ..PlaceLimits::default()
        },
        ..Settings::default()
    });
    another(&town, &house);
    let mut leg = house.open_app("a");
    house.request("b", upgrading(json!({})));
    let text = house.expect_error("b");
    assert_eq!(text, "failed to connect to service WebSocket: agent busy");
    house.request("c", upgrading(json!({"service_name": "db"})));
    let mut other = upgrade(house.upstream.accept(), None);
    assert_eq!(house.expect("proxy_response", "c")["status"], 101);
    for (id, leg) in [("a", &mut leg), ("c", &mut other)] {
        house.close(id);
        leg.expect_close();
    }
    house.expect_rest();
}

/// `db.shop:80`, at the same address.
fn another(town: &Town, house: &House) {
    let name = "db.shop:80".to_owned();
    town.addresses.lock().insert(name, house.upstream.address);
}
