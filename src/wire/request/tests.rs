use super::*;
use crate::wire::Envelope;

fn with<T>(payload: &str, check: impl FnOnce(ProxyRequest<'_>) -> T) -> T {
    let text = format!(r#"{{"type":"proxy_request","request_id":"r","payload":{payload}}}"#);
    let envelope = Envelope::parse(&text).expect("valid");
    check(ProxyRequest::parse(&envelope.payload, envelope.timestamp))
}

#[test]
fn an_empty_method_is_get() {
    with("{}", |r| assert_eq!(r.method, "GET"));
    with(r#"{"method":"post"}"#, |r| assert_eq!(r.method, "POST"));
}

#[test]
fn timeouts_in_every_unit() {
    let timeout = |json: &str| with(&format!(r#"{{"timeout":{json}}}"#), |r| r.timeout);
    assert_eq!(timeout("20000"), Some(Duration::from_secs(20)));
    assert_eq!(timeout("\"1m30s\""), Some(Duration::from_secs(90)));
    assert_eq!(timeout("0"), None);
    assert_eq!(timeout("-5"), None);
    assert_eq!(timeout("true"), None);
}

#[test]
fn t32_a_timeout_in_nanoseconds_is_noticed() {
    let timeout = |json: &str| with(&format!(r#"{{"timeout":{json}}}"#), |r| r.timeout);
    assert_eq!(timeout("20000000000"), Some(Duration::from_secs(20)));
    assert_eq!(timeout("86400000"), Some(MAX_TIMEOUT));
    assert_eq!(timeout("1e300"), Some(MAX_TIMEOUT));
    assert_eq!(timeout("\"48h\""), Some(MAX_TIMEOUT));
}

#[test]
fn headers_as_arrays_as_text_and_as_nonsense() {
    with(
        r#"{"headers":{"A":["1","2"],"b":"3","c":7,"d":{},"e":["x",1,null]}}"#,
        |r| {
            let got: Vec<_> = r.headers.iter().collect();
            assert_eq!(got, [("A", "1"), ("A", "2"), ("b", "3"), ("e", "x")]);
        },
    );
    with(r#"{"headers":null}"#, |r| assert!(r.headers.is_empty()));
    with(r#"{"headers":[]}"#, |r| assert!(r.headers.is_empty()));
}

#[test]
fn what_cannot_be_read_does_not_just_vanish() {
    for (payload, field) in [
        (r#"{"method":"\ud800"}"#, "method"),
        (r#"{"path":"/api/\ud800"}"#, "path"),
        (r#"{"query":"labelSelector=\ud800"}"#, "query"),
        (r#"{"body":"\ud800"}"#, "body"),
        (r#"{"headers":{"A":"b","\ud800":"c"}}"#, "headers"),
        (
            r#"{"headers":{"Authorization":["Bearer \ud800"]}}"#,
            "headers",
        ),
        (r#"{"headers":{"authorization":[7]}}"#, "headers"),
        (r#"{"headers":{"authorization":{}}}"#, "headers"),
    ] {
        with(payload, |r| {
            assert_eq!(r.unreadable, Some(field), "{payload}");
        });
    }
    for payload in [
        "{}",
        r#"{"path":"","query":7,"body":"","headers":{}}"#,
        r#"{"headers":{"Authorization":[]}}"#,
        r#"{"headers":{"Authorization":null,"A":[1]}}"#,
        r#"{"streaming":true,"body":"\ud800"}"#,
    ] {
        with(payload, |r| assert_eq!(r.unreadable, None, "{payload}"));
    }
}

#[test]
fn the_body_in_all_its_forms() {
    with(r#"{"body":"YQ==","body_encoding":"Base64"}"#, |r| {
        assert!(matches!(r.body, RequestBody::Base64(_)));
    });
    with(r#"{"body":"YQ==","encoding":"base64"}"#, |r| {
        assert!(matches!(r.body, RequestBody::Base64(_)));
    });
    with(r#"{"body":"YQ=="}"#, |r| {
        assert!(matches!(r.body, RequestBody::Text(t) if t == "YQ=="));
    });
    with(r#"{"body":""}"#, |r| {
        assert!(matches!(r.body, RequestBody::None));
    });
    with(r#"{"body":7}"#, |r| {
        assert!(matches!(r.body, RequestBody::None));
    });
    with(r#"{"body":"x","body_binary":true}"#, |r| {
        assert!(r.wants_binary_body());
    });
    for spelling in ["use_streaming", "streaming"] {
        with(&format!(r#"{{"body":"ignored","{spelling}":true}}"#), |r| {
            assert!(matches!(r.body, RequestBody::Streamed));
        });
    }
}

#[test]
fn a_json_body_keeps_its_very_text() {
    with(
        r#"{"body":{"z":12345678901234567890,"a":1.50,"h":"<&>"}}"#,
        |r| {
            let RequestBody::Json(raw) = r.body else {
                panic!("not JSON")
            };
            assert_eq!(
                raw.get(),
                r#"{"z":12345678901234567890,"a":1.50,"h":"<&>"}"#
            );
        },
    );
}

#[test]
fn upgrades_by_every_sign() {
    for sign in [
        r#"{"is_websocket":true}"#,
        r#"{"isWebSocket":true}"#,
        r#"{"protocol":"chat"}"#,
        r#"{"headers":{"upgrade":["WebSocket"]}}"#,
        r#"{"headers":{"sec-websocket-key":["x"]}}"#,
        r#"{"headers":{"Sec-WebSocket-Version":"13"}}"#,
    ] {
        with(sign, |r| assert!(r.upgrade, "{sign}"));
    }
    with(
        r#"{"headers":{"Connection":["Upgrade"]},"protocol":" "}"#,
        |r| assert!(!r.upgrade),
    );
    with(r#"{"protocol":"chat"}"#, |r| {
        assert_eq!(r.headers.get("sec-websocket-protocol"), Some("chat"));
    });
}

#[test]
fn zero_times_are_no_times() {
    with(r#"{"deadline":"0001-01-01T00:00:00Z"}"#, |r| {
        assert_eq!(r.deadline, None);
    });
    with(r#"{"deadline":"soon"}"#, |r| assert_eq!(r.deadline, None));
    with(r#"{"deadline":"2026-03-01T10:00:00Z"}"#, |r| {
        assert!(r.deadline.is_some());
    });
}
