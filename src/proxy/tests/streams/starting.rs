//! How a stream begins, and what passes on it.

use socket2::Socket;

use super::*;
use crate::http::Client;
use crate::http::client::{CallError, IdleCount, Pool, Way};
use crate::http::testing::plain_dialer;
use crate::net::{Dialer, Endpoint, Halves};

#[test]
fn c11_the_table_of_channels_both_ways_and_the_echo_of_a_close() {
    let mut house = House::new();
    let payload = json!({
        "stream_id": "s", "path": EXEC, "query": "command=sh&stdin=true", "protocol": V4,
        "headers": {"Authorization": ["Bearer t"], "Host": "evil.test"},
    });
    house.say("ws_start", "s", payload);
    let mut leg = upgrade(house.upstream.accept(), Some(V4));
    assert_eq!(
        leg.line,
        format!("GET {EXEC}?command=sh&stdin=true HTTP/1.1")
    );
    assert_eq!(leg.headers.get("Authorization"), Some("Bearer t"));
    assert_eq!(leg.headers.get("Sec-WebSocket-Protocol"), Some(V4));
    assert_eq!(
        leg.headers.get("Host"),
        Some(&*house.upstream.address.to_string())
    );
    assert_eq!(leg.headers.get("Sec-WebSocket-Extensions"), None);

    house.data("s", 1, b"ls\n");
    house.data("s", 2, b"\x04{}");
    assert_eq!(leg.read(), Said::binary(&b"\x00ls\n"[..]));
    assert_eq!(leg.read(), Said::binary(&b"\x04{}"[..]));
    leg.say(Said::binary(&b"\x01out"[..]));
    leg.say(Said::binary(&b"\xff\x00"[..]));
    leg.say(Said::text("t"));
    assert_eq!(house.expect_data("s"), (1, b"out".to_vec()));
    assert_eq!(house.expect_data("s"), (2, b"\xff\x00".to_vec()));
    assert_eq!(house.expect_data("s"), (1, b"t".to_vec()));

    house.say("ws_close", "s", json!({"stream_id": "s"}));
    leg.expect_cut();
    assert_eq!(house.expect_close("s"), json!({"stream_id": "s"}));
    house.expect_rest();
    // Nobody knows it any more.
    house.data("s", 1, b"late");
    house.close("s");
    house.expect_rest();
}

#[test]
fn t25_port_forward_passes_untouched() {
    let mut house = House::new();
    house.start("s", "/api/v1/namespaces/a/pods/b/portforward");
    let mut leg = upgrade(house.upstream.accept(), Some(V4));
    leg.say(Said::binary(&b"\x00\x50\x1f"[..]));
    assert_eq!(house.expect_data("s"), (2, b"\x00\x50\x1f".to_vec()));
    house.data("s", 1, b"text");
    assert_eq!(leg.read(), Said::text("text"));
}

#[test]
fn a_raw_stream_is_told_started_and_passes_all_untouched() {
    let mut house = House::new();
    house.start_raw("s", EXEC, "v5.channel.k8s.io, SPDY/3.1+portforward.k8s.io");
    let mut leg = upgrade(house.upstream.accept(), Some("v5.channel.k8s.io"));
    assert_eq!(
        leg.headers.get("Sec-WebSocket-Protocol"),
        Some("v5.channel.k8s.io, SPDY/3.1+portforward.k8s.io")
    );
    let started = house.expect("proxy_websocket_started", "s");
    let want = json!({"stream_id": "s", "protocol": "v5.channel.k8s.io"});
    assert_eq!(started, want);
    leg.say(Said::binary(&b"\x03{}"[..]));
    assert_eq!(house.expect_data("s"), (2, b"\x03{}".to_vec()));
    house.data("s", 1, b"text");
    house.data("s", 2, b"\xff\x00");
    assert_eq!(leg.read(), Said::text("text"));
    assert_eq!(leg.read(), Said::binary(&b"\xff\x00"[..]));
    // Who doesn't know raw streams gets the table, whatever he says.
    let mut house = House::new();
    let payload = json!({"stream_id": "s", "path": EXEC, "protocol": V4, "raw": true});
    house.say("ws_start", "s", payload);
    let mut leg = upgrade(house.upstream.accept(), Some(V4));
    leg.say(Said::binary(&b"\x01x"[..]));
    assert_eq!(house.expect_data("s"), (1, b"x".to_vec()));
}

#[test]
fn t8_what_comes_before_the_leg_is_there_is_kept_in_order() {
    let mut house = House::new();
    house.start("s", EXEC);
    let peer = house.upstream.accept();
    for n in 0..1000u32 {
        house.data("s", 2, &n.to_be_bytes());
    }
    let mut leg = upgrade(peer, Some(V4));
    for n in 1000..2000u32 {
        house.data("s", 2, &n.to_be_bytes());
    }
    for n in 0..2000u32 {
        assert_eq!(leg.read(), Said::binary(n.to_be_bytes().to_vec()));
    }
}

#[test]
fn t19_a_request_that_is_an_upgrade_keeps_its_headers_and_is_answered_without_a_101() {
    for streamed in [false, true] {
        let mut house = House::new();
        let payload = json!({
            "path": EXEC, "query": "command=sh", "is_websocket": true,
            "supports_response_streaming": streamed, "protocol": V4,
            "headers": {"authorization": ["Bearer t"], "X-Mine": "1"},
        });
        house.request("r", payload);
        if streamed {
            assert_eq!(house.expect("proxy_response_end", "r"), json!({}));
        } else {
            let want = json!({"status": 200, "headers": null});
            assert_eq!(house.expect("proxy_response", "r"), want);
        }
        let mut leg = upgrade(house.upstream.accept(), Some(V4));
        let given: Vec<&str> = leg.headers.get_all("Authorization").collect();
        assert_eq!(given, ["Bearer t"]);
        assert_eq!(leg.headers.get("X-Mine"), Some("1"));
        assert_eq!(leg.headers.get("Sec-WebSocket-Protocol"), Some(V4));
        leg.say(Said::binary(&b"\x01out"[..]));
        assert_eq!(house.expect_data("r"), (1, b"out".to_vec()));
        // It isn't the request any more (T18).
        house.requests().cancel("r");
        house.data("r", 1, b"in");
        assert_eq!(leg.read(), Said::binary(&b"\x00in"[..]));
    }
}

/// Whatever comes meanwhile, a request has an outcome (decisions.md §6.2).
#[test]
fn a_close_while_the_answer_waits_for_room_leaves_the_request_its_outcome() {
    for (streamed, outcome) in [(false, "proxy_error"), (true, "proxy_response_abort")] {
        let mut house = House::new();
        house.peer.set_room(Some(0));
        let payload = json!({
            "path": EXEC, "is_websocket": true, "supports_response_streaming": streamed,
        });
        house.request("r", payload);
        house.peer.wait_until(|state| state.waiting == 1);
        house.close("r");
        house.peer.set_room(None);
        let payload = house.expect(outcome, "r");
        let error = payload["error"].as_str().expect("a text");
        assert!(error.ends_with(": closed by the peer"), "{error}");
        house.expect_rest();
    }
}

/// The command ran all the same, once there was a place.
#[test]
fn t18_an_upgrade_that_is_cancelled_while_it_waits_is_never_asked_for() {
    let mut house = House::with(Settings {
        places: PlaceLimits {
            long: 1,
            ..PlaceLimits::default()
        },
        ..Settings::default()
    });
    let mut first = house.open("first");
    house.request("r", json!({"path": EXEC, "is_websocket": true}));
    house.wait_for_load(|load| load.waiting == 1);
    house.requests().cancel("r");
    first.say(Said::Close(None));
    house.expect_close("first");
    house.expect_rest();
    assert!(!house.upstream.is_wanted());
}

#[test]
fn an_upgrade_to_nowhere_and_one_to_a_bad_path_are_refused() {
    let mut house = House::new();
    house.request("a", json!({"path": "/shop", "is_websocket": true}));
    let want = "missing service routing information for WebSocket";
    assert_eq!(house.expect_error("a"), want);
    let payload =
        json!({"path": "/api/../x", "is_websocket": true, "supports_response_streaming": true});
    house.request("b", payload);
    let want = "invalid path: must be a Kubernetes API path";
    assert_eq!(house.expect_abort("b"), want);
    // As the error of a start, with the id once more.
    house.request("c", json!({"path": "/api/../x", "is_websocket": true}));
    assert_eq!(house.expect_stream_error("c"), want);
    house.expect_rest();
}

#[test]
fn t36_a_start_to_a_bad_path_is_refused_under_the_envelopes_id_and_without_a_close() {
    let mut house = House::new();
    for path in ["/api/v1/../x", "/apifoo", "", "/api//v1", "/api/v1/x?y"] {
        let payload = json!({"stream_id": "s", "path": path});
        house.say("proxy_websocket_start", "e", payload);
        let want = "invalid path: must be a Kubernetes API path";
        assert_eq!(house.expect_stream_error("e"), want);
    }
    house.say("proxy_websocket_start", "e", json!({"path": EXEC}));
    assert_eq!(house.expect_stream_error("e"), "missing stream_id");
    // Two who call are nobody.
    let headers = json!({"Authorization": ["Bearer a", "Bearer b"]});
    let payload = json!({"stream_id": "s", "path": EXEC, "headers": headers});
    house.say("proxy_websocket_start", "e", payload);
    let error = house.expect_stream_error("e");
    assert!(error.contains("Authorization"), "{error}");
    // The plane waits for a close.
    house.start_raw("s", "/apifoo", "");
    house.expect_stream_error("s");
    house.expect_close("s");
    assert!(!house.upstream.is_wanted());
    house.expect_rest();
}

/// The late answer was taken for something of the stream's.
#[test]
fn a_stream_under_the_id_of_a_waiting_answer_cancels_that() {
    let mut house = House::new();
    house.get("s", "/api/old");
    let mut old = house.upstream.accept();
    old.request();
    house.reconnect();
    house.start("s", EXEC);
    old.wait_for_end();
    let mut leg = upgrade(house.upstream.accept(), Some(V4));
    leg.say(Said::Close(None));
    house.expect_close("s");
    house.expect_rest();
}

#[test]
fn a_refusal_of_the_api_server_reaches_the_peer() {
    const ANSWER: &str = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\
        Connection: close\r\nAudit-Id: 7\r\nContent-Length: 17\r\n\r\n{\"kind\":\"Status\"}";
    let mut house = House::new();
    house.start("s", EXEC);
    let mut peer = house.upstream.accept();
    peer.head();
    peer.send(ANSWER);
    let error = house.expect_stream_error("s");
    assert_eq!(
        error,
        "failed to connect to K8s API: {\"kind\":\"Status\"} (status: 403)"
    );
    house.expect_close("s");

    house.start_raw("r", EXEC, "");
    let mut peer = house.upstream.accept();
    peer.head();
    peer.send(ANSWER);
    let payload = house.expect("proxy_error", "r");
    assert_eq!(payload["status"], 403);
    assert_eq!(decode(&payload["body"]), b"{\"kind\":\"Status\"}");
    let want = json!({"Content-Type": ["application/json"], "Audit-Id": ["7"]});
    assert_eq!(payload["headers"], want);
    assert_eq!(payload["request_id"], "r");
    house.expect_close("r");
    house.expect_rest();
}

#[test]
fn an_api_server_that_is_not_there_is_an_error_and_a_close() {
    let mut house = House::new();
    house.upstream = Upstream::new(); // the one before is closed
    house.start("s", EXEC);
    let error = house.expect_stream_error("s");
    assert!(
        error.starts_with("failed to connect to K8s API: "),
        "{error}"
    );
    house.expect_close("s");
    house.expect_rest();
}

/// Whose credential travels on which connections (decisions.md §6.2).
#[test]
fn a_callers_token_never_travels_beside_the_agents_certificate() {
    struct Lent;
    impl AgentIdentity for Lent {
        fn authorization(&self, _: &Cancel) -> Result<Option<Secret>, String> {
            Ok(Some(Secret::new("Bearer agent")))
        }
    }
    let own = Upstream::new();
    let callers = Upstream::new();
    let upstreams = Upstreams {
        callers: callers.client(),
        agent: Some(Agent {
            client: own.client(),
            identity: Arc::new(Lent),
        }),
        base: String::new(),
    };
    let mut house = House::on(Settings::default(), callers, Some(upstreams));
    let headers = json!({"authorization": "Bearer caller", "Impersonate-User": "u"});
    let payload = json!({"stream_id": "a", "path": EXEC, "headers": headers});
    house.say("ws_start", "a", payload);
    let leg = upgrade(house.upstream.accept(), None);
    assert_eq!(leg.headers.get("Authorization"), Some("Bearer caller"));
    assert_eq!(leg.headers.get("Impersonate-User"), Some("u"));
    let headers = json!({"Impersonate-User": "u"});
    let payload = json!({"stream_id": "b", "path": EXEC, "headers": headers});
    house.say("ws_start", "b", payload);
    let leg = upgrade(own.accept(), None);
    assert_eq!(leg.headers.get("Authorization"), Some("Bearer agent"));
    assert_eq!(leg.headers.get("Impersonate-User"), None);
}

/// Keeps the agent's end of a connection, too.
struct Seen {
    way: Dialer,
    endpoint: Endpoint,
    socket: Arc<Mutex<Option<Arc<Socket>>>>,
}

impl Way for Seen {
    fn open(&self, limit: Deadline, cancel: &Cancel) -> Result<Halves, CallError> {
        let halves = self.way.dial(&self.endpoint, limit, cancel).expect("there");
        let timeout = halves.socket.tcp_user_timeout().expect("an option");
        assert!(timeout.is_some(), "while the API server is asked");
        *self.socket.lock() = Some(halves.socket.clone());
        Ok(halves)
    }
}

/// `TCP_USER_TIMEOUT` counts the time in which a program takes nothing, too.
#[test]
fn a_program_that_sleeps_is_not_given_up_by_the_kernel() {
    let upstream = Upstream::new();
    let socket = Arc::new(Mutex::new(None));
    let way = Seen {
        way: plain_dialer(),
        endpoint: upstream.endpoint(),
        socket: socket.clone(),
    };
    let pool = Arc::new(Pool::new(1, FAR, IdleCount::default()));
    let upstreams = Upstreams {
        callers: Client::sharing(pool, way, "api.test", FAR),
        agent: None,
        base: String::new(),
    };
    let mut house = House::on(Settings::default(), upstream, Some(upstreams));
    house.start("s", EXEC);
    let peer = house.upstream.accept();
    let mut leg = upgrade(peer, Some(V4));
    leg.say(Said::binary(&b"\x01open"[..]));
    house.expect_data("s");
    let socket = socket.lock().take().expect("dialled");
    assert_eq!(socket.tcp_user_timeout().expect("an option"), None);
}
