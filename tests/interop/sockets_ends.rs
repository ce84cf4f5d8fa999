//! How an application's WebSocket ends, or never begins (control-channel.md §9.2,
//! decisions.md §6.7).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::socket_stage::{BINARY, CLOSE, Sockets, TEXT};

/// Its code, then the close; and a peer that closes hears no echo.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t22_a_close_of_either_side_reaches_the_other_one_once() {
    let sockets = Sockets::machine(|_| {});
    for (code, reason, heard) in [
        (4001, "as you like", &b"\x0f\xa1as you like"[..]),
        (1011, "", b"\x03\xf3"),
        (0, "", b"\x03\xe8"), // an empty close frame
    ] {
        sockets.open_app("a", "");
        sockets.far_says("a", TEXT, b"last");
        sockets.far_closes("a", code, reason);
        sockets.hears("a", TEXT, b"last");
        sockets.hears("a", CLOSE, heard);
        sockets.hears_close("a");
        // Answered with its own code.
        sockets.far_was_closed("a", if code == 0 { 1005 } else { code }, "");
    }
    // One that dies in a frame.
    sockets.open_app("a", "");
    sockets.far_says("a", TEXT, b"last");
    sockets.far_does(json!({"cmd": "socket_cut", "socket": "a"}));
    sockets.hears("a", TEXT, b"last");
    sockets.hears_close("a");
    sockets.far("socket_end", "a");

    for (said, code, reason) in [
        (None, 1000, ""),
        (Some(&b"\x0f\xa2bye"[..]), 4002, "bye"),
        (Some(b""), 1000, ""),
    ] {
        sockets.open_app("b", "");
        for n in 0..20 {
            sockets.say_app("b", BINARY, &[n]);
        }
        match said {
            Some(said) => sockets.say_app("b", CLOSE, said),
            None => sockets.close("b"),
        }
        for n in 0..20 {
            sockets.far_hears("b", BINARY, &[n]);
        }
        sockets.far_was_closed("b", code, reason);
        sockets.gateway().round_trip();
    }
    assert_eq!(sockets.count("proxy_websocket_close", "a"), 4);
    sockets.gateway().settle();
    assert_eq!(sockets.count("proxy_websocket_close", "b"), 0, "no echo");
    sockets.end();
}

/// T8: never a gap; and everybody else goes on.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t8_a_service_that_reads_nothing_ends_with_backpressure_and_without_a_gap() {
    let sockets = Sockets::machine(|_| {});
    sockets.open_app("a", "mode=stall");
    sockets.open_app("other", "mode=echo");
    // The queue's 8 MiB, and what sockets take.
    let piece = |n: u64| vec![n as u8; 16 << 10];
    for n in 0..900 {
        sockets.say_app("a", BINARY, &piece(n));
        if n % 20 == 0 {
            sockets.say_app("other", TEXT, b"on");
            sockets.hears("other", TEXT, b"on");
        }
    }
    assert_eq!(
        sockets.message("backpressure", "a")["reason"],
        "channel_full"
    );
    sockets.hears_close("a");
    sockets.far_does(json!({"cmd": "gate", "key": "a"}));
    let end = sockets.far("socket_end", "a");
    assert_eq!(end["end"], "cut", "no good end: {end}");
    let arrived = end["messages"].as_u64().expect("a number");
    assert!((1..900).contains(&arrived), "{end}");
    for n in 0..arrived {
        sockets.far_hears("a", BINARY, &piece(n));
    }
    sockets.close("other");
    sockets.far_was_closed("other", 1000, "");
    assert_eq!(sockets.count("backpressure", "a"), 1);
    sockets.end();
}

/// T26, T18: during the dial a cancellation ends it, and nothing is said, or a close, and
/// the request has its outcome; once it runs, only a close does.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t26_t18_a_dial_can_be_given_up_and_a_stream_outlives_a_late_cancellation() {
    let sockets = Sockets::machine(|_| {});
    let gateway = sockets.gateway();
    for (id, kind) in [
        ("a", "proxy_cancel"),
        ("b", "proxy_websocket_close"),
        ("c", "ws_close"),
    ] {
        for streamed in [false, true] {
            sockets.upgrade(
                id,
                "mode=hang",
                json!({"supports_response_streaming": streamed}),
            );
            sockets.far("socket", id);
            sockets.say_app(id, TEXT, b"never");
            gateway.send(kind, id, json!({}));
            assert_eq!(sockets.far("socket_end", id)["end"], "gone");
            if kind == "proxy_cancel" {
                continue;
            }
            let text = if streamed {
                assert_eq!(sockets.outcome(id, "abort")["status"], 502);
                let payload = sockets.message("proxy_response_abort", id);
                payload["error"].as_str().expect("a text").to_owned()
            } else {
                sockets.error(id)
            };
            assert!(text.ends_with("closed by the peer"), "{text}");
        }
    }
    sockets.open_app("a", "mode=echo");
    gateway.send("proxy_cancel", "a", json!({}));
    sockets.say_app("a", TEXT, b"on");
    sockets.hears("a", TEXT, b"on");
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    for (id, outcomes) in [("a", 0), ("b", 2), ("c", 2)] {
        assert_eq!(
            sockets.count("proxy_error", id) + sockets.count("proxy_response_abort", id),
            outcomes
        );
    }
    sockets.end();
}

/// T42: the first one goes on.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t42_a_second_request_under_a_streams_id_is_refused() {
    let sockets = Sockets::machine(|_| {});
    sockets.open_app("a", "mode=echo");
    sockets.upgrade("a", "mode=echo", json!({}));
    assert!(sockets.error("a").contains("still being executed"));
    sockets.upgrade("a", "", json!({"is_websocket": false}));
    assert!(sockets.error("a").contains("still being executed"));
    sockets.say_app("a", TEXT, b"on");
    sockets.hears("a", TEXT, b"on");
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    sockets.end();
}

/// In the words and with the status of the Service, if there were any.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t20_what_cannot_be_opened_fails_in_the_form_of_its_request() {
    let sockets = Sockets::machine(|_| {});
    let service = |name: &str, namespace: &str, port: i64| json!({"service_name": name, "namespace": namespace, "service_port": port, "headers": {}});
    let to = |host: &str| json!({"headers": {"Host": [host]}});
    let dial = "failed to connect to service WebSocket: ";
    for (id, query, more, status, want) in [
        (
            "deny",
            "mode=deny",
            json!({}),
            403,
            format!("{dial}{{\"kind\":\"Status\""),
        ),
        ("none", "", to("none.test"), 502, dial.to_owned()),
        ("where", "", to("unknown.test"), 502, String::new()),
        (
            "name",
            "",
            service("a.b", "default", 80),
            502,
            dial.to_owned(),
        ),
        (
            "namespace",
            "",
            service("web", "../x", 80),
            502,
            dial.to_owned(),
        ),
        (
            "path",
            "",
            json!({"path": "/../x"}),
            0,
            "invalid path: ".to_owned(),
        ),
        (
            "query",
            "a b",
            json!({}),
            0,
            "invalid query string: ".to_owned(),
        ),
    ] {
        sockets.upgrade(id, query, more.clone());
        let text = sockets.error(id);
        assert!(text.starts_with(&want), "{id}: {text}");
        let streamed = format!("{id}-s");
        let mut more = more;
        more["supports_response_streaming"] = true.into();
        sockets.upgrade(&streamed, query, more);
        let outcome = sockets.outcome(&streamed, "abort");
        assert_eq!(outcome["status"], status, "{id}");
        let text = sockets.message("proxy_response_abort", &streamed)["error"].clone();
        let text = text.as_str().expect("a text");
        assert!(text.starts_with(&want), "{id}: {text}");
    }
    let head = sockets.message("proxy_response_header", "deny-s");
    assert_eq!(head["headers"]["X-Why"], json!(["no"]));
    let head = sockets.message("proxy_response_header", "none-s");
    assert_eq!(head["headers"], json!(null), "captures 182");
    for id in ["where", "name", "namespace", "path", "query"] {
        let asked = sockets
            .gateway()
            .seen(&json!({"event": "socket", "socket": id}));
        assert!(asked.is_empty(), "{id}");
    }
    // As a Service's fields name it, it is reached.
    sockets.upgrade("good", "mode=echo", service("web", "default", 80));
    assert_eq!(sockets.outcome("good", "response")["status"], 101);
    sockets.say_app("good", TEXT, b"x");
    sockets.hears("good", TEXT, b"x");
    sockets.close("good");
    sockets.far_was_closed("good", 1000, "");
    sockets.end();
}

/// T11: `timeout` is the handshake's; `deadline` is the end.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t11_a_timeout_limits_the_handshake_and_a_deadline_the_stream() {
    const LIMIT: Duration = Duration::from_millis(500);
    let sockets = Sockets::machine(|_| {});
    sockets.upgrade("hang", "mode=hang", json!({"timeout": 200}));
    assert!(sockets.error("hang").ends_with("context deadline exceeded"));
    assert_eq!(sockets.far("socket_end", "hang")["end"], "gone");
    sockets.upgrade("t", "mode=echo", json!({"timeout": "500ms"}));
    assert_eq!(sockets.outcome("t", "response")["status"], 101);
    let ends = Timestamp::now() + 3 * LIMIT;
    sockets.upgrade("d", "mode=echo", json!({"deadline": ends.to_string()}));
    assert_eq!(sockets.outcome("d", "response")["status"], 101);
    sockets.hears_close("d");
    assert!(Timestamp::now() >= ends, "not before its time");
    // Its timeout is long over.
    sockets.say_app("t", TEXT, b"on");
    sockets.hears("t", TEXT, b"on");
    sockets.close("t");
    sockets.far_was_closed("t", 1000, "");
    sockets.far_was_cut("d");
    sockets.end();
}

/// decisions.md §6.2: streams end with their connection, silently.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_lost_connection_ends_its_streams() {
    let mut sockets = Sockets::machine(|_| {});
    sockets.open_app("a", "mode=echo");
    sockets.gateway().drop_connection();
    sockets.far_was_cut("a");
    sockets.reconnected();
    sockets.say_app("a", TEXT, b"nobody's");
    sockets.open_app("a", "mode=echo");
    sockets.say_app("a", TEXT, b"new");
    sockets.hears("a", TEXT, b"new");
    sockets.close("a");
    sockets.far_was_closed("a", 1000, "");
    sockets.end();
}
