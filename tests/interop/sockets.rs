//! WebSockets of applications: the gateway, the agent, and a Service on gorilla
//! (control-channel.md §9.2).

use std::time::Duration;

use base64_simd::STANDARD as BASE64;
use serde_json::json;

use crate::socket_stage::{BINARY, CLOSE, PING, PONG, Sockets, TEXT, framed};
use crate::upstream::bytes;

/// C12: 101 first; in both forms, however the request says that it is one.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c10_c12_an_upgrade_is_answered_with_101_and_then_messages_pass() {
    let sockets = Sockets::machine(|_| {});
    let fields = json!({
        "Host": ["chat.test"], "Cookie": "session=1", "Connection": "Upgrade, X-Hop", "X-Hop": "1",
        "Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Key": "the-clients-own",
        "Proxy-Authorization": "Basic x", "Authorization": "Basic y",
    });
    let mut with_upgrade = fields.clone();
    with_upgrade["upgrade"] = "WebSocket".into();
    for (n, (named, headers)) in [
        (json!({"is_websocket": true}), &fields),
        (json!({"isWebSocket": true, "is_websocket": null}), &fields),
        (json!({"is_websocket": null}), &with_upgrade),
        (
            json!({"is_websocket": null, "protocol": "chat, talk"}),
            &fields,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        for streamed in [false, true] {
            let id = format!("u-{n}-{streamed}");
            let mut more = named.clone();
            more["headers"] = headers.clone();
            more["supports_response_streaming"] = streamed.into();
            sockets.upgrade(&id, "mode=echo&a=%2F&b", more);
            let answer = if streamed {
                let head = sockets.message("proxy_response_header", &id);
                sockets.message("proxy_response_end", &id);
                head
            } else {
                sockets.message("proxy_response", &id)
            };
            assert_eq!(answer["status"], 101);
            let has_protocol = named.get("protocol").is_some();
            let got = &answer["headers"];
            assert_eq!(got["Upgrade"], json!(["websocket"]), "{got}");
            assert_eq!(got["Connection"], json!(["Upgrade"]));
            assert_eq!(
                got["Sec-Websocket-Accept"].as_array().map(Vec::len),
                Some(1)
            );
            assert_eq!(got["X-Served-By"], json!(["gorilla"]));
            assert_eq!(got["Sec-Websocket-Protocol"][0] == "chat", has_protocol);

            let asked = sockets.far("socket", &id);
            assert_eq!(
                asked["target"],
                format!("/chat?socket={id}&mode=echo&a=%2F&b")
            );
            let sent = &asked["headers"];
            assert_eq!(sent["Host"], json!(["chat.test"]), "{sent}");
            assert_eq!(sent["Cookie"], json!(["session=1"]));
            assert_eq!(sent["Authorization"], json!(["Basic y"]));
            assert_ne!(sent["Sec-Websocket-Key"], json!(["the-clients-own"]));
            for hop in ["X-Hop", "Proxy-Authorization", "Sec-Websocket-Extensions"] {
                assert!(sent.get(hop).is_none(), "{hop} in {sent}");
            }
            let offered = if has_protocol {
                json!(["chat", "talk"])
            } else {
                json!(null)
            };
            assert_eq!(asked["offered"], offered);

            for n in 0..50u8 {
                sockets.say_app(&id, if n % 2 == 0 { TEXT } else { BINARY }, &[b'a', n]);
            }
            for n in 0..50u8 {
                sockets.hears(&id, if n % 2 == 0 { TEXT } else { BINARY }, &[b'a', n]);
            }
            sockets.close(&id);
            sockets.far_was_closed(&id, 1000, "");
        }
    }
    sockets.end();
}

/// Sizes on both sides of every border of a frame's header, to 1 MiB and more, in one
/// frame and in many, whatever is in them.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn messages_of_any_size_pass_whole_in_fragments_too() {
    let sockets = Sockets::machine(|_| {});
    sockets.open_app("a", "protocol=");
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 3_000_000] {
        let whole = bytes(size);
        for frame in [0, 50_000] {
            sockets.gateway().command(json!({
                "cmd": "send_envelope", "type": "ws_data", "request_id": "a", "frame": frame,
                "payload": {"request_id": "a", "data": framed(BINARY, &whole)},
            }));
            sockets.far_hears("a", BINARY, &whole);
            sockets.far_does(json!({
                "cmd": "socket_say", "socket": "a", "kind": BINARY, "frame": frame,
                "base64": BASE64.encode_to_string(&whole),
            }));
            sockets.hears("a", BINARY, &whole);
        }
    }
    // A text whose letters are cut by frames.
    let text = "ünï→🦀".repeat(20);
    sockets.far_does(json!({
        "cmd": "socket_say", "socket": "a", "kind": TEXT, "frame": 7, "base64": BASE64.encode_to_string(&text),
    }));
    sockets.hears("a", TEXT, text.as_bytes());
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    sockets.end();
}

/// A payload that begins like a frame keeps its first byte, where its type says so.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t24_payloads_without_a_frame_arrive_as_they_are() {
    let sockets = Sockets::machine(|_| {});
    sockets.open_app("a", "");
    let unframed = |kind: Option<u8>, bytes: &[u8]| {
        let mut payload =
            json!({"request_id": "a", "stream_id": "a", "data": BASE64.encode_to_string(bytes)});
        if let Some(kind) = kind {
            payload["message_type"] = kind.into();
        }
        sockets.gateway().send("proxy_websocket_data", "a", payload);
    };
    for (kind, sent, heard) in [
        (Some(TEXT), &b"plain"[..], (TEXT, &b"plain"[..])),
        (Some(TEXT), b"\nnew line", (TEXT, b"\nnew line")),
        (Some(BINARY), b"\x01\x02\x08", (BINARY, b"\x01\x02\x08")),
        (Some(BINARY), b"\x02framed", (BINARY, b"framed")),
        (Some(TEXT), b"", (TEXT, b"")),
        (None, b"\x01framed", (TEXT, b"framed")),
        (None, b"neither", (TEXT, b"neither")),
        (None, b"\xff\xfe", (BINARY, b"\xff\xfe")),
    ] {
        unframed(kind, sent);
        sockets.far_hears("a", heard.0, heard.1);
    }
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    sockets.end();
}

/// C13: all names of the messages, and each place of the id.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t21_c13_messages_find_their_stream_by_each_name_and_place() {
    let sockets = Sockets::machine(|_| {});
    let gateway = sockets.gateway();
    sockets.open_app("a", "");
    let data = framed(TEXT, b"x");
    for (kind, envelope, ids) in [
        ("proxy_stream_data", "a", json!({})),
        (
            "proxy_websocket_data",
            "-",
            json!({"request_id": "a", "stream_id": "-"}),
        ),
        ("proxy_websocket_data", "-", json!({"stream_id": "a"})),
        ("ws_data", "a", json!({})),
        ("ws_data", "", json!({"stream_id": "a"})),
    ] {
        let mut payload = ids;
        payload["data"] = data.as_str().into();
        gateway.send(kind, envelope, payload);
        sockets.far_hears("a", TEXT, b"x");
    }
    // For nobody: dropped, and nobody is told.
    for kind in ["proxy_stream_data", "proxy_websocket_data", "ws_data"] {
        gateway.send(kind, "b", json!({"data": data}));
        gateway.send("ws_close", "b", json!({"request_id": "b"}));
    }
    gateway.send("ws_close", "", json!({"request_id": "a"}));
    sockets.far_was_closed("a", 1000, "");
    // For one that has been.
    gateway.send("proxy_stream_data", "a", json!({"data": data}));
    gateway.send("proxy_websocket_close", "a", json!({"stream_id": "a"}));
    gateway.round_trip();
    sockets.open_app("a", "");
    sockets.say_app("a", TEXT, b"new");
    sockets.far_hears("a", TEXT, b"new");
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    sockets.end();
}

/// T27: both sides talk and ping at once, and no frame is in another one (gorilla
/// would find it).
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t27_pings_pongs_and_messages_never_mix() {
    const COUNT: u8 = 200;
    let sockets = Sockets::machine(|_| {});
    sockets.open_app("a", "");
    let large = bytes(70_000);
    for n in 0..COUNT {
        sockets.say_app("a", BINARY, &large);
        sockets.far_says("a", PING, b"you?");
        sockets.say_app("a", PING, &[n]);
        sockets.say_app("a", PONG, &[n]);
        sockets.far_says("a", TEXT, &[b'a', n % 100]);
    }
    for n in 0..COUNT {
        sockets.hears("a", TEXT, &[b'a', n % 100]);
    }
    for (kind, want) in [(BINARY, None), (PING, Some(COUNT)), (PONG, Some(COUNT))] {
        for n in 0..COUNT {
            let pattern = json!({"event": "socket_message", "socket": "a", "kind": kind});
            let mut heard = sockets.gateway().expect(pattern.clone());
            if kind == PONG {
                // Those that its own pings were answered with are among them.
                while heard["base64"] == BASE64.encode_to_string(b"you?") {
                    heard = sockets.gateway().expect(pattern.clone());
                }
            }
            match want {
                Some(_) => assert_eq!(heard["base64"], BASE64.encode_to_string([n])),
                None => assert_eq!(heard["size"], large.len()),
            }
        }
    }
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    let answered = json!({"event": "socket_message", "kind": PONG, "base64": BASE64.encode_to_string(b"you?")});
    assert!(
        !sockets.gateway().seen(&answered).is_empty(),
        "its pings are answered"
    );
    // The Service's pongs aren't the peer's business.
    assert_eq!(
        sockets.count("proxy_websocket_data", "a"),
        usize::from(COUNT)
    );
    sockets.end();
}

/// By the settings of the original's names: it is pinged, and one that says nothing
/// is given up, and the peer hears of it.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_service_is_pinged_as_often_as_configured_and_a_dead_one_is_given_up() {
    let sockets = Sockets::machine(|config| {
        config.timeouts.service_ping = Duration::from_millis(50);
        config.timeouts.service_pong = Duration::from_millis(500);
    });
    sockets.open_app("alive", "");
    sockets.open_app("dead", "mode=stall");
    let ping = json!({"event": "socket_message", "socket": "alive", "kind": PING});
    let at = || sockets.gateway().expect(ping.clone())["t_ms"].as_u64();
    let (first, _, third) = (at(), at(), at());
    assert!(third < first.map(|first| first + 30_000), "by the default");
    sockets.hears_close("dead");
    sockets.say_app("alive", TEXT, b"still here");
    let said = json!({"event": "socket_message", "socket": "alive", "kind": TEXT});
    sockets.gateway().expect(said);
    sockets.far_does(json!({"cmd": "gate", "key": "dead"}));
    sockets.far_was_closed("dead", 1001, "ping timeout");
    sockets.close("alive");
    sockets.far_was_closed("alive", 1000, "");
    assert_eq!(sockets.count("proxy_websocket_data", "dead"), 0);
    sockets.end();
}

/// §9.2: TLS without a look at the certificate, and a Service that speaks none is
/// reached all the same (T13).
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t13_a_service_with_tls_and_one_without_by_a_client_with_tls() {
    let sockets = Sockets::machine(|_| {});
    for (id, host, tls) in [("s", "tls.test", true), ("p", "chat.test", false)] {
        let more = json!({"scheme": "https", "headers": {"Host": host}, "supports_response_streaming": true});
        sockets.upgrade(id, "mode=echo", more);
        assert_eq!(sockets.outcome(id, "end")["status"], 101);
        let asked = sockets.far("socket", id);
        assert_eq!(asked["tls"], tls);
        assert_eq!(asked["headers"]["X-Forwarded-Proto"], json!(["https"]));
        let large = bytes(300_000);
        sockets.say_app(id, BINARY, &large);
        sockets.hears(id, BINARY, &large);
        sockets.far_closes(id, 4002, "over");
        sockets.hears(id, CLOSE, b"\x0f\xa2over");
        sockets.hears_close(id);
        sockets.far_was_closed(id, 4002, "");
    }
    sockets.end();
}
