use super::*;
use crate::config::Secret;
use crate::wire::to_agent::parsed::MAX_SUGGESTED;
use crate::wire::{Envelope, RequestBody};

fn registered(payload: &str) -> Registered {
    let text = format!(r#"{{"type":"register_success","request_id":"r","payload":{payload}}}"#);
    let envelope = Envelope::parse(&text).expect("valid");
    match ToAgent::parse(&envelope) {
        ToAgent::RegisterSuccess(registered) => registered,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_shape_of_the_cluster_id() {
    for (payload, id) in [
        (r#"{"cluster_id":"a","cluster_uuid":"b"}"#, Some("a")),
        (r#"{"cluster_id":"","cluster_uuid":"b"}"#, Some("b")),
        (r#"{"cluster":{"id":"c","uuid":"d"}}"#, Some("c")),
        (r#"{"cluster":{"uuid":"d"}}"#, Some("d")),
        (r#"{"data":{"cluster_id":"e"}}"#, Some("e")),
        (r#"{"data":{"cluster_uuid":"f"}}"#, Some("f")),
        (r#"{"cluster_id":7}"#, None),
        ("{}", None),
    ] {
        assert_eq!(registered(payload).cluster_id.as_deref(), id, "{payload}");
    }
}

#[test]
fn workspace_ids_as_number_and_text() {
    assert_eq!(registered(r#"{"workspace_id":42}"#).workspace_id, Some(42));
    assert_eq!(
        registered(r#"{"workspace_id":"42"}"#).workspace_id,
        Some(42)
    );
    let answer = registered(r#"{"cluster":{"workspace_id":"42","token":"hunter2"}}"#);
    assert!(!format!("{answer:?}").contains("hunter2"));
    assert_eq!(answer.token, Some(Secret::new("hunter2")));
}

fn hello(payload: &str) -> GatewayHello {
    let text = format!(r#"{{"type":"gateway_hello","payload":{payload}}}"#);
    let envelope = Envelope::parse(&text).expect("valid");
    match ToAgent::parse(&envelope) {
        ToAgent::GatewayHello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn x15_only_true_asks_for_yamux() {
    assert!(hello(r#"{"use_yamux":true}"#).use_yamux);
    for other in [
        "{}",
        r#"{"use_yamux":"true"}"#,
        r#"{"use_yamux":1}"#,
        r#"{"use_yamux":null}"#,
    ] {
        assert!(!hello(other).use_yamux, "{other}");
    }
}

#[test]
fn what_a_hello_suggests_in_every_spelling() {
    let config = |config: &str| hello(&format!(r#"{{"use_yamux":true,"yamux_config":{config}}}"#));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let usual = config(
        r#"{"max_stream_window_size":524288,"keep_alive_interval_seconds":20,"connection_timeout_seconds":7}"#,
    );
    assert_eq!(usual.max_stream_window, Some(524_288));
    assert_eq!(usual.keep_alive_interval, seconds(20));
    assert_eq!(usual.connection_timeout, seconds(7));
    let documented = config(r#"{"accept_backlog":256,"keep_alive_interval":"1m30s"}"#);
    assert_eq!(documented.keep_alive_interval, seconds(90));
    let text = config(r#"{"keep_alive_interval_seconds":"15s","connection_timeout":"9"}"#);
    assert_eq!(text.keep_alive_interval, seconds(15));
    assert_eq!(text.connection_timeout, seconds(9));
    // What has the wrong type, or no sense, is as if it weren't there.
    for nothing in [
        "[]",
        r#"{"max_stream_window_size":"1","keep_alive_interval_seconds":true,"connection_timeout_seconds":"soon"}"#,
        r#"{"max_stream_window_size":-1,"keep_alive_interval_seconds":0,"connection_timeout_seconds":[]}"#,
    ] {
        let want = GatewayHello {
            use_yamux: true,
            ..GatewayHello::default()
        };
        assert_eq!(config(nothing), want, "{nothing}");
    }
    let absurd = config(
        r#"{"max_stream_window_size":1e300,"keep_alive_interval_seconds":1e300,"connection_timeout":"9999h"}"#,
    );
    assert_eq!(absurd.max_stream_window, Some(u32::MAX));
    assert_eq!(absurd.keep_alive_interval, Some(MAX_SUGGESTED));
    assert_eq!(absurd.connection_timeout, Some(MAX_SUGGESTED));
}

#[test]
fn the_planes_hello_is_read_as_it_was_meant() {
    let mut buf = Vec::new();
    let suggested = YamuxConfig {
        max_stream_window_size: 1 << 20,
        keep_alive_interval_seconds: 25,
        connection_timeout_seconds: 10,
    };
    gateway_hello(&mut buf, &suggested);
    let envelope = Envelope::parse(str::from_utf8(&buf).expect("text")).expect("valid");
    let ToAgent::GatewayHello(hello) = ToAgent::parse(&envelope) else {
        panic!()
    };
    let want = GatewayHello {
        use_yamux: true,
        max_stream_window: Some(1 << 20),
        keep_alive_interval: Some(Duration::from_secs(25)),
        connection_timeout: Some(Duration::from_secs(10)),
    };
    assert_eq!(hello, want);
}

#[test]
fn both_spellings_of_a_chunk() {
    for name in ["data", "chunk"] {
        let text = format!(
            r#"{{"type":"proxy_request_chunk","request_id":"r","payload":{{"{name}":"aGk="}}}}"#
        );
        let envelope = Envelope::parse(&text).expect("valid");
        let ToAgent::ProxyRequestChunk { data } = ToAgent::parse(&envelope) else {
            panic!()
        };
        assert_eq!(data.as_deref(), Some("aGk="));
    }
}

#[test]
fn what_the_plane_writes_the_agent_reads() {
    let headers: Headers = [("Accept", "a"), ("X", "1"), ("X", "2")]
        .into_iter()
        .collect();
    let mut buf = Vec::new();
    proxy_request(
        &mut buf,
        "r-1",
        &Request {
            method: "PATCH",
            path: "/api/ü\"",
            query: "a=b&c",
            headers: &headers,
            streamed_body: true,
            stream_response: true,
            scheme: "https",
            timeout: Some(Duration::from_secs(3)),
        },
    );
    let text = String::from_utf8(buf).expect("text");
    let envelope = Envelope::parse(&text).expect("valid");
    assert_eq!(envelope.request_id.as_deref(), Some("r-1"));
    let ToAgent::ProxyRequest(request) = ToAgent::parse(&envelope) else {
        panic!()
    };
    assert_eq!(
        (request.method.as_str(), request.path.as_ref()),
        ("PATCH", "/api/ü\"")
    );
    assert_eq!(request.headers, headers);
    assert_eq!(request.timeout, Some(Duration::from_secs(3)));
    assert!(request.stream_response && !request.upgrade);
    assert!(matches!(request.body, RequestBody::Streamed));
}
