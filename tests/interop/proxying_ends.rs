//! How proxied requests end early, are refused, or outlive what they began on
//! (control-channel.md §8.7, §8.8, decisions.md §6.2).

use std::time::Duration;

use serde_json::{Value, json};

use crate::proxying::Proxied;
use crate::stage::far;
use crate::upstream::ECHO;

fn streamed() -> Value {
    json!({"supports_response_streaming": true, "query": "watch=true"})
}

/// A piece of a watch, decoded by the gateway's own rules elsewhere.
fn chunk(proxied: &Proxied, id: &str) -> String {
    let payload = proxied.message("proxy_response_chunk", id);
    let data = payload["data"].as_str().expect("base64");
    let data = base64_simd::STANDARD.decode_to_vec(data).expect("base64");
    String::from_utf8(data).expect("text")
}

/// T11: each event when it happens, and for as long as it likes.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t11_a_watch_is_live_and_outlives_its_timeout() {
    let proxied = Proxied::new();
    let mut more = streamed();
    more["timeout"] = 1500.into();
    proxied.ask("w", "watch", more);
    let header = proxied.message("proxy_response_header", "w");
    assert_eq!(header["status"], 200);
    for line in 0..3 {
        proxied.upstream.lines(line + 1);
        assert_eq!(
            chunk(&proxied, "w"),
            format!("{{\"type\":\"ADDED\",\"line\":{line}}}\n")
        );
    }
    // Past the limit, which is one of the header's arrival (decisions.md §6.2 "Time").
    let later = pipeops_agent::net::Deadline::after(Duration::from_millis(1700));
    assert_eq!(
        proxied.agent().wait_until(later, |status| status.ended),
        None
    );
    proxied.upstream.lines(4);
    assert!(chunk(&proxied, "w").contains("\"line\":3"));
    proxied.upstream.go_on();
    proxied.outcome("w", "end");
    proxied.end();
}

/// T18: the API server sees that nobody listens any more; a stream that had begun
/// ends with an abort, all else with silence.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t18_a_cancelled_request_lets_go_of_the_api_server() {
    let proxied = Proxied::new();
    let gateway = &proxied.stage.gateway;
    // In the middle of the answer.
    proxied.ask("w", "watch", streamed());
    proxied.upstream.lines(1);
    chunk(&proxied, "w");
    gateway.send("proxy_cancel", "w", json!({}));
    proxied.upstream.gone(1);
    proxied.outcome("w", "abort");
    // Before it.
    for (id, more, gone) in [("b", json!({}), 2), ("s", streamed(), 3)] {
        let path = format!("slow/{id}");
        proxied.ask(id, &path, more);
        proxied.upstream.seen(&format!("/api/v1/{path}"));
        gateway.send("proxy_cancel", id, json!({}));
        proxied.upstream.gone(gone);
    }
    // While its body is still on its way.
    proxied.ask(
        "u",
        "echo/upload",
        json!({"method": "POST", "use_streaming": true}),
    );
    gateway.send("proxy_request_chunk", "u", json!({"data": "aGVsbG8g"}));
    proxied.upstream.begun("/api/v1/echo/upload");
    gateway.send("proxy_cancel", "u", json!({}));
    proxied.upstream.gone(4);
    gateway.round_trip();
    let silent = json!({"event": "outcome"});
    assert_eq!(gateway.seen(&silent).len(), 1, "only the watch had begun");
    proxied.end();
}

/// T42: the second is refused and the first goes on.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t42_a_second_request_under_a_live_id_is_refused() {
    let proxied = Proxied::new();
    proxied.ask("w", "watch", streamed());
    proxied.upstream.lines(1);
    chunk(&proxied, "w");
    proxied.ask("w", "echo", json!({}));
    let error = proxied.message("proxy_error", "w");
    assert!(
        error["error"].as_str().expect("text").contains("id"),
        "{error}"
    );
    proxied.ask("w", "echo", json!({"method": "POST", "body_binary": true}));
    proxied.stage.gateway.send_binary(&[0, 1, b'w', b'x']);
    proxied.message("proxy_error", "w");
    proxied.upstream.lines(2);
    assert!(chunk(&proxied, "w").contains("\"line\":1"));
    proxied.upstream.go_on();
    proxied.outcome("w", "end");
    assert_eq!(proxied.upstream.count("/api/v1/echo"), 0);
    // Once over, the id is free.
    proxied.ask("w", "echo", json!({}));
    proxied.answered("w", false, 200, ECHO);
    proxied.end();
}

/// T15: whoever can be answered is.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t15_requests_that_cannot_be_parsed_or_done_are_answered() {
    let proxied = Proxied::new();
    let gateway = &proxied.stage.gateway;
    for streamed in [false, true] {
        let result = if streamed { "abort" } else { "error" };
        for (name, more) in [
            (
                "base64",
                json!({"method": "POST", "body": "%%%", "body_encoding": "base64"}),
            ),
            ("method", json!({"method": "GE T"})),
            ("dots", json!({"path": "/api/v1/../../secrets"})),
            ("header", json!({"headers": {"X-Bad": ["a\r\nb"]}})),
            ("query", json!({"query": "a=\u{1}"})),
            (
                "service",
                json!({"service_name": "web", "namespace": "default", "service_port": 80}),
            ),
        ] {
            let id = format!("{name}-{streamed}");
            let mut more = more;
            more["supports_response_streaming"] = streamed.into();
            proxied.ask(&id, "echo/never", more);
            proxied.outcome(&id, result);
        }
        // No body where one was announced.
        let id = format!("textual-{streamed}");
        let more =
            json!({"method": "PUT", "body_binary": true, "supports_response_streaming": streamed});
        proxied.ask(&id, "echo/never", more);
        gateway.round_trip();
        proxied.outcome(&id, result);
        // One of somebody else's, or none at all.
        for frame in [&[0, 1, b'x', b'y'][..], &[0, 9, b'x'], &[]] {
            let id = format!("frame-{}-{streamed}", frame.len());
            let more = json!({"method": "PUT", "body_binary": true, "supports_response_streaming": streamed});
            proxied.ask(&id, "echo/never", more);
            gateway.send_binary(frame);
            proxied.outcome(&id, result);
        }
        // A piece that is no base64.
        let id = format!("piece-{streamed}");
        let more = json!({"method": "PUT", "use_streaming": true, "supports_response_streaming": streamed});
        proxied.ask(&id, "echo/piece", more);
        gateway.send("proxy_request_chunk", &id, json!({"data": "%"}));
        proxied.outcome(&id, result);
        gateway.send("proxy_request_stream_end", &id, json!({}));
    }
    gateway.send_text(r#"{"type":"proxy_request","request_id":"list","payload":[]}"#);
    proxied.message("proxy_error", "list");
    gateway.send_text(r#"{"type":"proxy_request","payload":{"path":"/api"}}"#);
    gateway.round_trip();
    assert_eq!(proxied.upstream.count("/api/v1/echo/never"), 0);
    proxied.end();
}

/// What goes wrong behind the agent: an error in form B, an abort in form S.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn an_api_server_that_breaks_off_is_an_error_never_a_short_answer() {
    let proxied = Proxied::new();
    proxied.ask("b", "cut", json!({}));
    proxied.outcome("b", "error");
    proxied.ask("s", "cut", json!({"supports_response_streaming": true}));
    let outcome = proxied.outcome("s", "abort");
    assert_eq!(outcome["status"], 200);
    proxied.end();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn limits_in_time_end_a_request() {
    let proxied = Proxied::new();
    proxied.ask("timeout", "slow", json!({"timeout": 100}));
    proxied.outcome("timeout", "error");
    proxied.ask(
        "text",
        "slow",
        json!({"timeout": "100ms", "supports_response_streaming": true}),
    );
    proxied.outcome("text", "abort");
    // By the peer's clock: an hour ago, and it had 100 ms.
    proxied.stage.gateway.send_text(
        r#"{"type":"proxy_request","request_id":"deadline","timestamp":"2020-01-01T00:00:00Z",
            "payload":{"path":"/api/v1/slow","deadline":"2020-01-01T00:00:00.1Z"}}"#,
    );
    proxied.outcome("deadline", "error");
    // Those that came so far as to be sent at all.
    proxied.upstream.all_gone();
    proxied.end();
}

/// decisions.md §6.2 "Lost connection", C15: what may finish does, on the next
/// connection; what can't, doesn't pretend to.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn c15_a_buffered_answer_reaches_the_next_connection_and_a_stream_ends() {
    let mut proxied = Proxied::new();
    proxied.ask("late", "slow", json!({}));
    proxied.ask("w", "watch", streamed());
    proxied.upstream.lines(1);
    chunk(&proxied, "w");
    proxied.upstream.seen("/api/v1/slow");
    proxied.stage.gateway.drop_connection();
    proxied.upstream.gone(1);
    proxied.conn = proxied.stage.gateway.connection("gateway");
    proxied.stage.heartbeat_on(&proxied.conn);
    proxied
        .agent()
        .wait_until(far(), |status| status.connections == 2)
        .expect("serving");
    proxied.upstream.go_on();
    proxied.answered("late", false, 200, b"at last");
    // The watch's id is free again.
    proxied.ask("w", "echo", json!({}));
    proxied.answered("w", false, 200, ECHO);
    proxied.end();
}

/// T43: half a body is no body, and the API server can tell.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t43_a_body_that_a_lost_connection_cuts_short_is_not_taken_for_a_whole_one() {
    let mut proxied = Proxied::new();
    proxied.ask(
        "u",
        "echo/upload",
        json!({"method": "POST", "use_streaming": true}),
    );
    proxied
        .stage
        .gateway
        .send("proxy_request_chunk", "u", json!({"data": "aGVsbG8g"}));
    proxied.upstream.begun("/api/v1/echo/upload");
    proxied.stage.gateway.drop_connection();
    proxied.conn = proxied.stage.gateway.connection("gateway");
    proxied.stage.heartbeat_on(&proxied.conn);
    // Another body under that id has nothing of the first.
    proxied.ask(
        "u",
        "echo/again",
        json!({"method": "POST", "use_streaming": true}),
    );
    proxied
        .stage
        .gateway
        .send("proxy_request_chunk", "u", json!({"chunk": "d29ybGQ="}));
    proxied
        .stage
        .gateway
        .send("proxy_request_stream_end", "u", json!({}));
    proxied.answered("u", false, 200, ECHO);
    assert_eq!(proxied.upstream.seen("/api/v1/echo/again").body, b"world");
    let first = proxied.upstream.seen("/api/v1/echo/upload");
    assert!(!first.whole, "{first:?}");
    proxied.end();
}

/// An agent that is stopped ends its streams, and what is short is finished.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_stop_ends_watches_and_finishes_what_is_short() {
    let proxied = Proxied::new();
    proxied.ask("w", "watch", streamed());
    proxied.upstream.lines(1);
    chunk(&proxied, "w");
    proxied.ask("b", "slow", json!({}));
    proxied.upstream.seen("/api/v1/slow");
    proxied.agent().stop();
    proxied.outcome("w", "abort");
    proxied.upstream.go_on();
    proxied.answered("b", false, 200, b"at last");
    proxied.stage.gateway.closed(&proxied.conn, 1000);
    proxied.finish();
}
