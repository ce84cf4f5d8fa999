use proptest::prelude::*;

use super::*;
use crate::wire::{FromAgent, ToAgent};

fn text(encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut buf = Vec::new();
    encode(&mut buf);
    String::from_utf8(buf).expect("text")
}

fn without_time(message: &str) -> &str {
    message.split(",\"timestamp\":\"").next().expect("a part")
}

fn data(payload: &str) -> Frame {
    let text = format!(r#"{{"type":"proxy_websocket_data","payload":{payload}}}"#);
    let envelope = Envelope::parse(&text).expect("valid");
    match ToAgent::parse(&envelope) {
        ToAgent::WebSocketData(data) => data.frame().expect("base64"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn data_has_the_shape_of_the_original() {
    let k8s = text(|buf| proxy_websocket_data(buf, "s-5", FrameKind::Text, b"total 0\n"));
    assert_eq!(
        without_time(&k8s),
        r#"{"type":"proxy_websocket_data","request_id":"s-5","payload":{"data":"AXRvdGFsIDAK","stream_id":"s-5"}"#
    );
    let app = text(|buf| app_stream_data(buf, "px-90", FrameKind::Text, b"{\"op\":\"ping\"}"));
    assert_eq!(
        without_time(&app),
        r#"{"type":"proxy_websocket_data","request_id":"px-90","payload":{"data":"AXsib3AiOiJwaW5nIn0=","message_type":1,"request_id":"px-90","stream_id":"px-90"}"#
    );
    let close = text(|buf| proxy_websocket_close(buf, "s-5"));
    assert_eq!(
        without_time(&close),
        r#"{"type":"proxy_websocket_close","request_id":"s-5","payload":{"stream_id":"s-5"}"#
    );
    let close = text(|buf| app_stream_close(buf, "px-90"));
    assert_eq!(
        without_time(&close),
        r#"{"type":"proxy_websocket_close","request_id":"px-90","payload":{"request_id":"px-90","stream_id":"px-90"}"#
    );
    let full = text(|buf| backpressure(buf, "px-90"));
    assert_eq!(
        without_time(&full),
        r#"{"type":"backpressure","request_id":"px-90","payload":{"reason":"channel_full","request_id":"px-90"}"#
    );
}

#[test]
fn a_start_is_read_as_peers_write_it() {
    let text = r#"{"type":"ws_start","request_id":"e-1","payload":{"stream_id":"s-5","method":"GET","path":"/api/v1/x","query":"command=sh","headers":{"Authorization":["Bearer t"],"X":"y"},"protocol":"v4.channel.k8s.io","cluster_uuid":"c"}}"#;
    let envelope = Envelope::parse(text).expect("valid");
    let ToAgent::WebSocketStart(start) = ToAgent::parse(&envelope) else {
        panic!()
    };
    assert_eq!(start.stream_id.as_deref(), Some("s-5"));
    assert_eq!(start.request_id.as_deref(), Some("e-1"));
    assert_eq!((&*start.path, &*start.query), ("/api/v1/x", "command=sh"));
    assert_eq!(start.headers.get("authorization"), Some("Bearer t"));
    assert_eq!(start.headers.get("x"), Some("y"));
    assert_eq!(&*start.protocol, "v4.channel.k8s.io");
    assert!(!start.raw && start.unreadable.is_none() && !start.oversized);
    for (payload, field) in [
        (
            r#"{"stream_id":"s","headers":{"Authorization":[1]}}"#,
            "headers",
        ),
        (r#"{"stream_id":"s","path":"\ud800"}"#, "path"),
    ] {
        let text = format!(r#"{{"type":"ws_start","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        let ToAgent::WebSocketStart(start) = ToAgent::parse(&envelope) else {
            panic!()
        };
        assert_eq!(start.unreadable, Some(field));
    }
}

#[test]
fn what_the_plane_starts_the_agent_reads() {
    let headers: Headers = [("Authorization", "Bearer t")].into_iter().collect();
    let protocols = ["v5.channel.k8s.io".to_owned(), "a/b".to_owned()];
    let start = RawStart {
        path: "/api/v1/\"",
        query: "a=b&c",
        headers: &headers,
        protocols: &protocols,
    };
    let text = text(|buf| proxy_websocket_start(buf, "s", &start));
    let envelope = Envelope::parse(&text).expect("valid");
    let ToAgent::WebSocketStart(read) = ToAgent::parse(&envelope) else {
        panic!()
    };
    assert!(read.raw);
    assert_eq!(read.stream_id.as_deref(), Some("s"));
    assert_eq!((&*read.path, &*read.query), (start.path, start.query));
    assert_eq!(read.headers, headers);
    assert_eq!(&*read.protocol, "v5.channel.k8s.io, a/b");
}

#[test]
fn a_reason_is_cut_to_what_a_close_frame_takes() {
    let long = CloseText {
        code: 1000,
        reason: "é".repeat(1000).into(),
    };
    let close = text(|buf| raw_stream_close(buf, "s", Some(&long)));
    let envelope = Envelope::parse(&close).expect("valid");
    let ToAgent::WebSocketClose { said, .. } = ToAgent::parse(&envelope) else {
        panic!()
    };
    assert_eq!(said.expect("a code").reason, "é".repeat(61));
}

#[test]
fn what_the_agent_says_of_a_raw_stream_the_plane_reads() {
    let started = text(|buf| proxy_websocket_started(buf, "s", Some("v5.channel.k8s.io")));
    let envelope = Envelope::parse(&started).expect("valid");
    assert_eq!(envelope.request_id.as_deref(), Some("s"));
    match FromAgent::parse(&envelope) {
        FromAgent::WebSocketStarted { protocol } => {
            assert_eq!(protocol.as_deref(), Some("v5.channel.k8s.io"));
        }
        other => panic!("{other:?}"),
    }

    let refused = Refused {
        status: 403,
        headers: [("Content-Type", "application/json")].into_iter().collect(),
        body: b"{\"kind\":\"Status\"}".to_vec(),
    };
    let error = text(|buf| proxy_websocket_refused(buf, "s", "no (status: 403)", &refused));
    let envelope = Envelope::parse(&error).expect("valid");
    match FromAgent::parse(&envelope) {
        FromAgent::ProxyError {
            error,
            refused: Some(read),
        } => {
            assert_eq!(error, "no (status: 403)");
            assert_eq!(*read, refused);
        }
        other => panic!("{other:?}"),
    }

    let said = CloseText {
        code: 1000,
        reason: "done".into(),
    };
    for said in [Some(said), None] {
        let close = text(|buf| raw_stream_close(buf, "s", said.as_ref()));
        let envelope = Envelope::parse(&close).expect("valid");
        match FromAgent::parse(&envelope) {
            FromAgent::WebSocketClose { ids, said: read } => {
                assert_eq!(ids.candidates().next(), Some("s"));
                assert_eq!(read, said);
            }
            other => panic!("{other:?}"),
        }
        match ToAgent::parse(&envelope) {
            ToAgent::WebSocketClose { said: read, .. } => assert_eq!(read, said),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_error_without_a_status_is_no_refusal() {
    for payload in [
        r#"{"error":"x"}"#,
        r#"{"error":"x","status":99}"#,
        r#"{"error":"x","status":101}"#,
        r#"{"error":"x","status":200}"#,
        r#"{"error":"x","status":"403"}"#,
    ] {
        let text = format!(r#"{{"type":"proxy_error","request_id":"s","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        let FromAgent::ProxyError { refused, .. } = FromAgent::parse(&envelope) else {
            panic!()
        };
        assert_eq!(refused, None, "{payload}");
    }
}

#[test]
fn t24_framed_and_unframed_payloads() {
    // `AWxzCg==` is 01 6c 73 0a.
    for (payload, kind, bytes) in [
        (r#"{"data":"AWxzCg=="}"#, FrameKind::Text, &b"ls\n"[..]),
        (
            r#"{"data":"AWxzCg==","message_type":1}"#,
            FrameKind::Text,
            b"ls\n",
        ),
        // It begins with a byte that is a type, and says another one.
        (
            r#"{"data":"AWxzCg==","message_type":2}"#,
            FrameKind::Binary,
            b"\x01ls\n",
        ),
        (
            r#"{"data":"Cg==","message_type":1}"#,
            FrameKind::Text,
            b"\n",
        ),
        (
            r#"{"data":"bHM=","message_type":2}"#,
            FrameKind::Binary,
            b"ls",
        ),
        (r#"{"data":"bHM="}"#, FrameKind::Text, b"ls"),
        (r#"{"data":"/w=="}"#, FrameKind::Binary, b"\xff"),
        (r#"{"data":"","message_type":2}"#, FrameKind::Binary, b""),
        (r#"{"data":"","message_type":77}"#, FrameKind::Text, b""),
        (r#"{"data":"CAPo"}"#, FrameKind::Close, b"\x03\xe8"),
    ] {
        let frame = data(payload);
        assert_eq!((frame.kind, frame.payload()), (kind, bytes), "{payload}");
    }
}

#[test]
fn data_without_base64_is_nothing() {
    for payload in [
        "{}",
        r#"{"data":7}"#,
        r#"{"data":"!!!!"}"#,
        r#"{"data":"a"}"#,
    ] {
        let text = format!(r#"{{"type":"ws_data","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        let ToAgent::WebSocketData(data) = ToAgent::parse(&envelope) else {
            panic!()
        };
        assert_eq!(data.frame(), None, "{payload}");
    }
}

#[test]
fn t35_ids_are_found_wherever_they_are() {
    let ids = |text: &str| -> Vec<String> {
        let envelope = Envelope::parse(text).expect("valid");
        match ToAgent::parse(&envelope) {
            ToAgent::WebSocketClose { ids, .. } => ids.candidates().map(str::to_owned).collect(),
            ToAgent::WebSocketData(data) => data.ids.candidates().map(str::to_owned).collect(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        ids(r#"{"type":"ws_close","request_id":"e","payload":{"stream_id":"s","request_id":"r"}}"#),
        ["r", "s", "e"]
    );
    assert_eq!(ids(r#"{"type":"ws_close","request_id":"e"}"#), ["e"]);
    assert_eq!(
        ids(r#"{"type":"proxy_stream_data","request_id":"e","payload":{"data":""}}"#),
        ["e"]
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_may_be_prefixed(payload: Vec<u8>, binary: bool) {
        let kind = if binary { FrameKind::Binary } else { FrameKind::Text };
        let said = text(|buf| proxy_websocket_data(buf, "s", kind, &payload));
        prop_assert!(said.len() <= data_size(payload.len()));
        let envelope = Envelope::parse(&said).expect("valid");
        let ToAgent::WebSocketData(data) = ToAgent::parse(&envelope) else { panic!() };
        prop_assert!(data.size() > payload.len());
        let frame = data.frame().expect("base64");
        prop_assert_eq!((frame.kind, frame.payload()), (kind, &payload[..]));
        let prefixed = frame.prefixed(7).prefixed(8);
        prop_assert_eq!(prefixed.payload(), [&[8, 7][..], &payload].concat());
    }

    #[test]
    fn any_bytes_are_a_message(bytes: Vec<u8>, message_type: Option<i64>) {
        let frame = Frame::new(bytes.clone(), message_type);
        prop_assert!(bytes.ends_with(frame.payload()));
        prop_assert!(bytes.len() - frame.payload().len() <= 1);
    }
}
