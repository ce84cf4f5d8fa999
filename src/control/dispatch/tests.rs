use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::channel::tests::Recorder;
use super::*;
use crate::control::sinks::TunnelSink;
use crate::wire::ProxyRequest;
use crate::wire::to_agent::GatewayHello;

/// Notes what it is asked.
#[derive(Clone, Default)]
struct Sink {
    calls: Arc<Mutex<Vec<String>>>,
    wants_binary: bool,
}

impl Sink {
    fn note(&self, call: String) {
        self.calls.lock().push(call);
    }
}

impl RequestSink for Sink {
    fn request(&mut self, id: &str, request: ProxyRequest<'_>) {
        self.note(format!("request {id} {}", request.path));
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        if self.wants_binary {
            self.note(format!("binary {}", message.len()));
        }
        std::mem::take(&mut self.wants_binary)
    }

    fn text_arrived(&mut self) {}

    fn chunk(&mut self, id: &str, data: Option<&str>) {
        self.note(format!("chunk {id} {data:?}"));
    }

    fn end(&mut self, id: &str) {
        self.note(format!("end {id}"));
    }

    fn cancel(&mut self, id: &str) {
        self.note(format!("cancel {id}"));
    }

    fn use_flow_control(&mut self) {
        self.note("flow".into());
    }

    fn refuse_binary_bodies(&mut self) {
        self.wants_binary = false;
        self.note("no binary bodies".into());
    }

    fn credit(&mut self, id: &str, bytes: u64) {
        self.note(format!("credit {id} {bytes}"));
    }
}

/// Notes likewise, and what was sent before.
struct Sessions {
    calls: Arc<Mutex<Vec<String>>>,
    channel: Arc<Recorder>,
    live: bool,
}

impl Sessions {
    fn note(&self, call: &str) {
        let sent = self.channel.types().join(", ");
        self.calls.lock().push(format!("{call} after [{sent}]"));
    }
}

impl TunnelSink for Sessions {
    fn replace(&mut self, hello: &GatewayHello) {
        self.live = true;
        self.note(&format!("session of {:?}", hello.max_stream_window));
    }

    fn begin(&mut self) {
        self.note("begin");
    }

    fn binary(&mut self, message: &[u8]) -> bool {
        if self.live {
            let bytes = message.len();
            self.calls.lock().push(format!("yamux {bytes}"));
        }
        self.live
    }

    fn is_active(&self) -> bool {
        self.live
    }

    fn use_client_addresses(&mut self) {
        self.calls.lock().push("clients".into());
    }
}

struct Bench {
    dispatch: Dispatch<Sink>,
    channel: Arc<Recorder>,
    calls: Arc<Mutex<Vec<String>>>,
    heard: Arc<Mutex<Vec<PeerMessage>>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Sink::default())
    }

    fn with(sink: Sink) -> Self {
        let (channel, heard) = (Recorder::new(), Arc::new(Mutex::new(Vec::new())));
        let (calls, hears) = (sink.calls.clone(), heard.clone());
        let hear = Box::new(move |said| hears.lock().push(said));
        let late = LateAnswers::new();
        let tunnels = Box::new(Sessions {
            calls: calls.clone(),
            channel: channel.clone(),
            live: false,
        });
        Self {
            dispatch: Dispatch::new(1, channel.clone(), sink, tunnels, None, late, hear),
            channel,
            calls,
            heard,
        }
    }

    fn text(&mut self, message: &Value) {
        self.dispatch.text(&message.to_string());
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock())
    }

    fn heard(&self) -> Vec<PeerMessage> {
        std::mem::take(&mut self.heard.lock())
    }

    /// Waits for `count` answers of the request of this id.
    fn answers_to(&self, id: &str, count: usize) -> Vec<Value> {
        self.answers(Lane::Bulk(Slot::of(id)), count)
    }

    /// Waits for `count` answers; each must have come in `lane`.
    fn answers(&self, lane: Lane, count: usize) -> Vec<Value> {
        let sent = self.channel.take(count);
        assert_eq!(sent.len(), count, "{sent:?}");
        let value = |(by, text): (Lane, String)| {
            assert_eq!(by, lane, "{text}");
            serde_json::from_str(&text).expect("JSON")
        };
        sent.into_iter().map(value).collect()
    }
}

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
    for kind in ["proxy_websocket_start", "ws_start"] {
        let mut bench = Bench::new();
        bench.text(&json!({"type": kind, "request_id": "w", "payload": {"stream_id": "s"}}));
        let [error, close] = &bench.answers_to("w", 2)[..] else {
            panic!()
        };
        assert_eq!(
            (&error["type"], &error["request_id"]),
            (&json!("proxy_error"), &json!("w"))
        );
        assert_eq!(close["type"], "proxy_websocket_close");
        assert_eq!(close["payload"]["stream_id"], "s");
    }
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
    for kind in [
        "proxy_websocket_data",
        "ws_data",
        "proxy_stream_data",
        "proxy_websocket_close",
        "ws_close",
        "tcp_tunnel_data",
        "tcp_tunnel_close",
        "udp_tunnel_data",
    ] {
        bench.text(&json!({"type": kind, "request_id": "c-1", "payload": {}}));
    }
    assert!(bench.channel.types().is_empty());
}

fn hello(use_yamux: &Value, window: u32) -> Value {
    json!({"type": "gateway_hello", "payload": {
        "use_yamux": use_yamux, "yamux_config": {"max_stream_window_size": window},
    }})
}

/// The session has its place when the ack is queued, and speaks when it is.
#[test]
fn t28_a_hello_is_acknowledged_when_the_session_is_there_and_before_it_speaks() {
    let mut bench = Bench::new();
    bench.text(&hello(&json!(true), 1000));
    bench.dispatch.binary(&[0; 12]);
    let want = [
        "no binary bodies",
        "session of Some(1000) after []",
        "begin after [gateway_hello_ack]",
        "yamux 12",
    ];
    assert_eq!(bench.calls(), want);
    let ack = &bench.answers(Lane::Control, 1)[0];
    assert_eq!(ack["payload"], json!({"use_yamux": true}));
    assert!(ack.get("request_id").is_none());
}

#[test]
fn tt10_a_second_hello_replaces_the_session_and_is_acknowledged_too() {
    let mut bench = Bench::new();
    bench.text(&hello(&json!(true), 1));
    bench.text(&hello(&json!(true), 2));
    let want = [
        "no binary bodies",
        "session of Some(1) after []",
        "begin after [gateway_hello_ack]",
        "no binary bodies",
        "session of Some(2) after [gateway_hello_ack]",
        "begin after [gateway_hello_ack, gateway_hello_ack]",
    ];
    assert_eq!(bench.calls(), want);
}

#[test]
fn x15_a_hello_that_asks_for_no_yamux_changes_nothing() {
    let mut bench = Bench::new();
    for other in [json!("true"), json!(false), json!(1), json!(null)] {
        bench.text(&hello(&other, 1000));
    }
    assert!(bench.channel.types().is_empty());
    // JSON in binary is still read afterwards.
    bench.dispatch.binary(br#"{"type":"ping"}"#);
    bench.answers(Lane::Control, 1);
    assert!(bench.calls().is_empty());
}

/// Whatever it looks like, and whoever waited for one.
#[test]
fn x16_beside_a_session_a_binary_message_is_nothing_else() {
    let mut bench = Bench::with(Sink {
        wants_binary: true,
        ..Sink::default()
    });
    bench.text(&hello(&json!(true), 1000));
    bench.calls();
    bench.dispatch.binary(br#"{"type":"ping"}"#);
    assert_eq!(bench.calls(), ["yamux 15"]);
    assert_eq!(bench.channel.types(), ["gateway_hello_ack"]);
}

#[test]
fn plane_hello_agrees_on_what_both_know() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "plane_hello", "payload": {"features": ["tunnel_header_2", "raw-streams", "flow"]}}));
    assert_eq!(bench.calls(), ["flow", "clients"]);
    let ack = &bench.answers(Lane::Control, 1)[0];
    assert_eq!(ack["type"], "plane_hello_ack");
    assert_eq!(
        ack["payload"]["features"],
        json!(["flow", "tunnel_header_2"])
    );

    let mut bench = Bench::new();
    bench.text(&json!({"type": "plane_hello", "payload": {}}));
    let ack = &bench.answers(Lane::Control, 1)[0];
    assert_eq!(
        (bench.calls().len(), &ack["payload"]["features"]),
        (0, &json!([]))
    );
}

#[test]
fn a_plane_hello_that_comes_late_switches_nothing_on() {
    let mut bench = Bench::new();
    bench.text(&json!({"type": "proxy_request", "request_id": "r", "payload": {}}));
    bench.calls();
    bench.text(&json!({"type": "plane_hello", "payload": {"features": ["flow"]}}));
    assert!(bench.calls().is_empty());
    assert_eq!(
        bench.answers(Lane::Control, 1)[0]["payload"]["features"],
        json!([])
    );
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
