//! How exec streams end, and what goes on beside them (control-channel.md §9.1,
//! decisions.md §6.7).

use serde_json::json;

use crate::socket_stage::{BINARY, EXEC, Sockets, TEXT};

/// A client that vanished leaves no command running: behind a close frame the API server
/// doesn't notice the connection's end (decisions.md §6.7).
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t35_a_close_finds_its_stream_by_any_id_and_what_was_said_before_arrives() {
    let sockets = Sockets::cluster();
    for (n, ids) in [
        json!({"stream_id": "s"}),
        json!({"request_id": "s"}),
        json!({"request_id": "another", "stream_id": "s"}),
        json!({}),
    ]
    .into_iter()
    .enumerate()
    {
        sockets.open_exec("s", "");
        for n in 0..20u8 {
            sockets.say("s", TEXT, &[n]);
        }
        let kind = if n % 2 == 0 {
            "ws_close"
        } else {
            "proxy_websocket_close"
        };
        sockets.gateway().send(kind, "s", ids);
        for n in 0..20u8 {
            sockets.far_hears("s", BINARY, &[0, n]);
        }
        sockets.far_was_cut("s");
        sockets.hears_close("s");
    }
    assert_eq!(sockets.count("proxy_websocket_close", "s"), 4);
    sockets.end();
}

/// One close, without the code, however the API server ends it.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn an_end_of_the_api_server_is_one_close() {
    let sockets = Sockets::cluster();
    for code in [1000, 4001, 0] {
        sockets.open_exec("s", "");
        sockets.far_says("s", BINARY, b"\x03{\"status\":\"Success\"}");
        sockets.far_closes("s", code, "");
        sockets.hears("s", TEXT, b"{\"status\":\"Success\"}");
        sockets.hears_close("s");
    }
    sockets.open_exec("s", "");
    sockets.far_says("s", BINARY, b"\x01last");
    sockets.far_does(json!({"cmd": "socket_cut", "socket": "s"}));
    sockets.hears("s", TEXT, b"last");
    sockets.hears_close("s");
    assert_eq!(sockets.count("proxy_websocket_close", "s"), 4);
    sockets.end();
}

/// T26: a close ends the dial; a start under a live id replaces the old stream, whose
/// close would hit the new one. T42: a request under it is refused. T18: a cancellation
/// isn't its end.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t26_t42_t18_ids_that_come_again_and_dials_that_are_given_up() {
    let sockets = Sockets::cluster();
    let gateway = sockets.gateway();
    sockets.start("s", EXEC, "mode=hang", json!({}));
    sockets.far("socket", "s");
    sockets.say("s", TEXT, b"never");
    sockets.close("s");
    assert_eq!(sockets.far("socket_end", "s")["end"], "gone");
    sockets.hears_close("s");

    sockets.start("s", EXEC, "", json!({"query": "socket=old"}));
    sockets.far("socket_open", "old");
    sockets.start("s", EXEC, "", json!({"query": "socket=new"}));
    sockets.far_was_cut("old");
    sockets.far("socket_open", "new");
    gateway.send("proxy_cancel", "s", json!({}));
    gateway.send(
        "proxy_request",
        "s",
        json!({"path": "/api/v1/pods", "headers": {}}),
    );
    assert!(sockets.error("s").contains("still being executed"));
    sockets.say("s", TEXT, b"x");
    sockets.far_hears("new", BINARY, b"\x00x");
    sockets.close("s");
    sockets.hears_close("s");
    assert_eq!(
        sockets.count("proxy_websocket_close", "s"),
        2,
        "none of the old one"
    );
    sockets.end();
}

/// T8: what is too much for one ends it, without a gap and without `backpressure` (§4.4);
/// everything else goes on.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t8_an_exec_that_is_stalled_ends_alone_and_without_a_gap() {
    let sockets = Sockets::cluster();
    sockets.open_exec("s", "mode=stall");
    sockets.open_exec("other", "");
    let piece = |n: u64| vec![n as u8; 16 << 10];
    for n in 0..900 {
        sockets.say("s", BINARY, &piece(n));
        if n % 20 == 0 {
            sockets.say("other", TEXT, b"on");
            sockets.far_hears("other", BINARY, b"\x00on");
        }
    }
    sockets.hears_close("s");
    sockets.far_does(json!({"cmd": "gate", "key": "s"}));
    let end = sockets.far("socket_end", "s");
    assert_eq!(end["end"], "cut", "{end}");
    let arrived = end["messages"].as_u64().expect("a number");
    assert!((1..900).contains(&arrived), "{end}");
    for n in 0..arrived {
        sockets.far_hears("s", BINARY, &piece(n));
    }
    assert_eq!(sockets.count("backpressure", "s"), 0);
    sockets.close("other");
    sockets.hears_close("other");
    sockets.end();
}

/// C4: the controller's way of saying things. And a lost connection ends its streams.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c04_streams_work_by_json_in_binary_messages_too_and_end_with_their_connection() {
    let mut sockets = Sockets::cluster();
    sockets.gateway().set("binary_json", true);
    sockets.open_exec("s", "");
    sockets.say("s", TEXT, b"in");
    sockets.far_hears("s", BINARY, b"\x00in");
    sockets.gateway().drop_connection();
    sockets.far_was_cut("s");
    sockets.reconnected();
    sockets.say("s", TEXT, b"nobody's");
    sockets.open_exec("s", "");
    sockets.say("s", TEXT, b"new");
    sockets.far_hears("s", BINARY, b"\x00new");
    sockets.close("s");
    sockets.hears_close("s");
    sockets.end();
}
