mod bench;
mod hellos;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::control::channel::tests::Recorder;
use bench::{Bench, Sessions, Sink};

#[test]
fn pings_are_answered_with_their_id() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "ping", "request_id": "p-17", "payload": {}}));
    bench.text(&json!({"type": "ping"}));
    let pongs = bench.answers(Lane::Control, 2);
    assert_eq!(
        (&pongs[0]["type"], &pongs[0]["request_id"]),
        (&json!("pong"), &json!("p-17"))
    );
    assert!(pongs[0]["payload"]["timestamp"].is_string());
    assert!(pongs[1].get("request_id").is_none());
    bench.text(&json!({"type": "pong"}));
    assert!(bench.channel.types().is_empty());
}

#[test]
fn ids_of_requests_have_a_limit() {
    let mut bench = Bench::new();
    let ids = [MAX_ID, MAX_ID + 1].map(|length| "i".repeat(length));
    for id in &ids {
        bench.text(&json!({"type": "proxy_request", "request_id": id, "payload": {}}));
        bench.text(&json!({"type": "proxy_request", "request_id": id, "payload": 1}));
    }
    let calls = bench.calls();
    assert!(calls.iter().any(|call| call.contains(&ids[0])), "{calls:?}");
    assert!(!calls.iter().any(|call| call.contains(&ids[1])));
    assert_eq!(bench.answers_to(&ids[0], 1)[0]["request_id"], json!(ids[0]));
}

#[test]
fn requests_find_the_proxy() {
    let mut bench = Bench::new();
    for (kind, payload) in [
        ("proxy_request", json!({"path": "/api"})),
        ("proxy_request_chunk", json!({"chunk": "aA=="})),
        ("proxy_request_stream_end", json!({})),
        ("proxy_cancel", json!(null)),
        ("proxy_flow", json!({"credit": 7})),
    ] {
        bench.text(&json!({"type": kind, "request_id": "r", "payload": payload}));
        // Without an id there is nobody to tell.
        bench.text(&json!({"type": kind, "payload": payload}));
    }
    let want = [
        "request r /api",
        "chunk r Some(\"aA==\")",
        "end r",
        "cancel r",
        "credit r 7",
    ];
    assert_eq!(bench.calls(), want);
    assert!(bench.channel.types().is_empty());
}

#[test]
fn what_concerns_the_life_cycle_is_heard() {
    let mut bench = Bench::new();
    bench.text(
        &json!({"type": "register_success", "request_id": "q", "payload": {"cluster_id": "c"}}),
    );
    bench.text(&json!({"type": "register_in_progress"}));
    bench.text(&json!({"type": "heartbeat_ack", "payload": {"received_at": "x"}}));
    bench.text(&json!({"type": "error", "payload": {"error": "Cluster\nnot registered"}}));
    let registered = Registered {
        cluster_id: Some("c".into()),
        ..Registered::default()
    };
    let want = [
        PeerMessage::RegisterSuccess {
            request_id: Some("q".into()),
            registered: Box::new(registered),
        },
        PeerMessage::RegisterInProgress,
        PeerMessage::HeartbeatAck,
        PeerMessage::Error {
            request_id: None,
            text: "Cluster not registered".into(),
        },
    ];
    assert_eq!(bench.heard(), want);
}

#[test]
fn json_in_binary_messages_is_read_when_no_body_is_awaited() {
    let mut bench = Bench::with(Sink {
        wants_binary: true,
        ..Sink::default()
    });
    let ping = br#" {"type":"ping","request_id":"b"}"#;
    bench.dispatch.binary(ping);
    assert_eq!(bench.calls(), [format!("binary {}", ping.len())]);
    bench.dispatch.binary(ping);
    assert_eq!(bench.answers(Lane::Control, 1)[0]["request_id"], "b");
    for nothing in [&b""[..], b"\xff\xfe", b"\x00\x03r-7{}", b"[1]"] {
        bench.dispatch.binary(nothing);
    }
    assert!(bench.channel.types().is_empty());
}

#[test]
fn unknown_types_get_one_fallback_each() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "deploy", "request_id": "u-1"}));
    bench.text(&json!({"type": "deploy", "request_id": "u-2"}));
    bench.text(&json!({"type": "scale"}));
    let fallbacks = bench.answers(Lane::Control, 2);
    assert_eq!(fallbacks[0]["type"], "protocol_fallback");
    assert_eq!(fallbacks[0]["payload"]["unknown_type"], "deploy");
    assert_eq!(fallbacks[0]["payload"]["original_request_id"], "u-1");
    assert!(fallbacks[0].get("request_id").is_none());
    assert_eq!(fallbacks[1]["payload"]["unknown_type"], "scale");
}

#[test]
fn the_memory_of_unknown_types_is_bounded() {
    let mut bench = Bench::new();
    for n in 0..1_000 {
        bench.text(&json!({"type": format!("x-{n}")}));
    }
    bench.text(&json!({"type": "y".repeat(1 << 20)}));
    assert_eq!(bench.channel.types().len(), MAX_UNKNOWN);
    assert_eq!(bench.dispatch.unknown.len(), MAX_UNKNOWN);
}

#[test]
fn what_is_not_built_yet_is_refused_in_its_own_way() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "tcp_tunnel_start", "request_id": "c-1", "payload": {}}));
    let close = &bench.answers_to("c-1", 1)[0];
    assert_eq!(
        (&close["type"], &close["request_id"]),
        (&json!("tcp_tunnel_close"), &json!("c-1"))
    );
    assert_eq!(close["payload"]["reason"], "registration_failed");
    assert!(close["payload"]["error"].is_string());
    // And what follows a refused start is swallowed, never a fallback.
    for kind in ["tcp_tunnel_data", "tcp_tunnel_close", "udp_tunnel_data"] {
        bench.text(&json!({"type": kind, "request_id": "c-1", "payload": {}}));
    }
    assert!(bench.channel.types().is_empty());
}

#[test]
fn c13_streams_find_their_sink_under_all_their_names() {
    let mut bench = Bench::new();
    for kind in ["proxy_websocket_start", "ws_start"] {
        let payload = json!({"stream_id": "s", "path": "/api"});
        bench.text(&json!({"type": kind, "request_id": "w", "payload": payload}));
        assert_eq!(bench.calls(), [r#"start Some("s") /api"#]);
    }
    for kind in ["proxy_websocket_data", "ws_data", "proxy_stream_data"] {
        let payload = json!({"stream_id": "s", "data": "AXg="});
        bench.text(&json!({"type": kind, "request_id": "w", "payload": payload}));
        assert_eq!(bench.calls(), [r#"data ["s", "w"] Some("AXg=")"#]);
    }
    for kind in ["proxy_websocket_close", "ws_close"] {
        let payload = json!({"request_id": "r", "code": 1000});
        bench.text(&json!({"type": kind, "request_id": "w", "payload": payload}));
        assert_eq!(bench.calls(), [r#"close ["r", "w"] Some(1000)"#]);
    }
    assert!(bench.channel.types().is_empty());
}

#[test]
fn t15_a_request_that_cannot_be_read_gets_an_error_when_its_id_can() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "proxy_request", "request_id": "r", "payload": [1]}));
    let error = &bench.answers_to("r", 1)[0];
    assert_eq!(
        (&error["type"], &error["request_id"]),
        (&json!("proxy_error"), &json!("r"))
    );
    for nonsense in [
        "",
        "{",
        "[]",
        r#"{"type":"proxy_request","payload":7}"#,
        r#"{"request_id":"r"}"#,
    ] {
        bench.dispatch.text(nonsense);
    }
    assert!(bench.channel.types().is_empty());
}

#[test]
fn a_flood_of_refusals_ends_the_connection_and_never_waits() {
    /// It has no room for requests, ever.
    struct Stuck(Recorder);
    impl Channel for Stuck {
        fn send(
            &self,
            lane: Lane,
            message: Message,
            cancel: &Cancel,
        ) -> Result<(), crate::link::SendError> {
            while lane != Lane::Control && self.is_open() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            self.0.send(lane, message, cancel)
        }
        fn is_open(&self) -> bool {
            self.0.is_open()
        }
        fn abort(&self, why: &str) {
            self.0.abort(why);
        }
    }
    let channel = Arc::new(Stuck(Recorder::default()));
    let none = Sessions {
        calls: Arc::default(),
        channel: Recorder::new(),
        live: false,
    };
    let mut dispatch = Dispatch::new(
        1,
        channel.clone(),
        Sink::default(),
        Box::new(none),
        None,
        LateAnswers::new(),
        Box::new(|_| {}),
    );
    let start = json!({"type": "tcp_tunnel_start", "request_id": "c", "payload": {}}).to_string();
    for _ in 0..5_000 {
        dispatch.text(&start);
    }
    assert!(!channel.is_open());
}

proptest! {
    #[test]
    fn any_message_is_survived(text in ".*", bytes: Vec<u8>) {
        let mut bench = Bench::new();
        bench.dispatch.text(&text);
        bench.dispatch.binary(&bytes);
    }

    #[test]
    fn any_payload_of_any_type_is_survived(
        kind in "(register_success|error|ping|gateway_hello|plane_hello|proxy_[a-z_]{0,20}|ws_start|tcp_tunnel_start|[a-z]{0,8})",
        id in proptest::option::of("[a-z0-9\"\\\\\n]{0,8}"),
        payload in r#"(null|7|\[\]|\{\}|\{"(stream_id|features|credit|error|path)":("x"|7|null|\["flow"\])\})"#,
    ) {
        let mut bench = Bench::new();
        let payload: Value = serde_json::from_str(&payload).expect("JSON");
        bench.text(&json!({"type": kind, "request_id": id, "payload": payload}));
    }
}
