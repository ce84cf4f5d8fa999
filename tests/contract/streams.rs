//! Streams to the API server (control-channel.md §9.1), by a plane that says what the
//! original's would.

use std::io::Write;

use pipeops_agent::agent::Agent;
use pipeops_agent::config::Config;
use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::fake_plane::{Conn, FakePlane};
use crate::support::house::{agent_config, start};
use crate::support::sockets::websocket;
use crate::support::upstream::{Script, credentials, scripted};

const EXEC: &str = "/api/v1/namespaces/default/pods/web-0/exec";
const V4: &str = "v4.channel.k8s.io";

/// An API server: `/portforward` gives back what comes, `/slow` answers nothing, `/exec` says its head on channel 1 and then gives back on channel 2
/// what comes on channel 0, `/stall` takes nothing, `/deny` refuses, `/cut` ends in the
/// middle of a frame. Others are asked for by plain requests.
fn api_server() -> (std::net::SocketAddr, Script) {
    scripted(|head, mut stream| {
        let path = head.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        if !head.contains("Upgrade: websocket") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
            return;
        }
        if path.ends_with("/deny") {
            let _ = stream.write_all(
                b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\
                  Content-Length: 27\r\n\r\n{\"message\":\"pods forbidden\"}",
            );
            return;
        }
        if path.ends_with("/slow") {
            std::io::copy(&mut stream, &mut std::io::sink()).expect("its end");
            return;
        }
        let mut socket = websocket(&head, stream, Some(V4));
        if path.ends_with("/stall") {
            let _ = socket.send(Message::binary(&b"\x01stalled"[..]));
            std::thread::park();
        }
        if path.ends_with("/cut") {
            let _ = socket.get_mut().write_all(b"\x82\x0acut");
            return;
        }
        if path.ends_with("/portforward") {
            while let Ok(message) = socket.read() {
                if message.is_text() || message.is_binary() {
                    let _ = socket.send(message);
                }
            }
            return;
        }
        let _ = socket.send(Message::binary([b"\x01", head.as_bytes()].concat()));
        while let Ok(message) = socket.read() {
            if let Message::Binary(bytes) = message
                && bytes.first() == Some(&0)
            {
                let _ = socket.send(Message::binary([b"\x02", &bytes[1..]].concat()));
            }
        }
    })
}

/// A plane, an agent and an API server.
struct Stage {
    conn: Conn,
    _agent: Agent,
    _plane: FakePlane,
    _api: Script,
}

impl Stage {
    fn new() -> Self {
        let (address, api) = api_server();
        let plane = FakePlane::start();
        let url = format!("https://{}", plane.address());
        let mut config: Config = agent_config(&url, "t-1", &plane.ca_file());
        "edge".clone_into(&mut config.agent.cluster_name);
        let agent = start(&config, Some(credentials(address, None)));
        Self {
            conn: plane.register(),
            _agent: agent,
            _plane: plane,
            _api: api,
        }
    }

    #[allow(clippy::needless_pass_by_value)] // reads better at its uses
    fn say(&mut self, kind: &str, id: &str, payload: Value) {
        self.conn
            .send(&json!({"type": kind, "request_id": id, "payload": payload}));
    }

    fn start(&mut self, id: &str, path: &str) {
        let payload = json!({
            "stream_id": id, "path": path, "query": "command=sh&tty=true", "protocol": V4,
            "headers": {"Authorization": ["Bearer caller"]}, "method": "GET",
        });
        self.say("proxy_websocket_start", id, payload);
    }

    fn data(&mut self, kind: &str, id: &str, bytes: &[u8]) {
        let data = base64_simd::STANDARD.encode_to_string(bytes);
        self.say(kind, id, json!({"stream_id": id, "data": data}));
    }

    /// The next data of this stream.
    fn read(&mut self, id: &str) -> Vec<u8> {
        let message = self.conn.answer(id);
        assert_eq!(message["type"], "proxy_websocket_data", "{message}");
        assert_eq!(message["payload"]["stream_id"], id);
        let data = message["payload"]["data"].as_str().expect("data");
        base64_simd::STANDARD.decode_to_vec(data).expect("base64")
    }

    fn expect_close(&mut self, id: &str) {
        let message = self.conn.answer(id);
        assert_eq!(message["type"], "proxy_websocket_close", "{message}");
        assert_eq!(message["payload"], json!({"stream_id": id}));
    }
}

#[test]
fn c11_t8_t35_an_exec_from_its_start_to_the_echo_of_its_close() {
    let mut stage = Stage::new();
    stage.start("s", EXEC);
    // At once, before anything can be known of the dial.
    for n in 0..100u8 {
        stage.data("ws_data", "s", &[1, n]);
    }
    let head = String::from_utf8(stage.read("s")).expect("text");
    assert!(head.starts_with(
        "\u{1}GET /api/v1/namespaces/default/pods/web-0/exec?command=sh&tty=true HTTP/1.1\r\n"
    ));
    assert!(head.contains("Authorization: Bearer caller\r\n"), "{head}");
    assert!(
        head.contains("Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"),
        "{head}"
    );
    for n in 0..100u8 {
        assert_eq!(stage.read("s"), [1, n], "channel 2 is text, too");
    }
    // Only the payload says whose it is, and by another name.
    stage.say("ws_close", "", json!({"request_id": "s"}));
    stage.expect_close("s");
    stage.data("ws_data", "s", b"\x01late");
    assert!(stage.conn.is_quiet());
}

#[test]
fn t19_an_exec_by_a_request_is_made_as_its_caller() {
    let mut stage = Stage::new();
    for (id, streamed) in [("b", false), ("s", true)] {
        let payload = json!({
            "path": EXEC, "query": "command=sh", "isWebSocket": true,
            "supports_response_streaming": streamed,
            "headers": {"authorization": "Bearer caller", "Sec-WebSocket-Protocol": V4},
        });
        stage.conn.request(id, &payload);
        let answer = stage.conn.answer(id);
        if streamed {
            assert_eq!(answer["type"], "proxy_response_end");
        } else {
            assert_eq!(answer["type"], "proxy_response");
            assert_eq!(answer["payload"], json!({"status": 200, "headers": null}));
        }
        let head = String::from_utf8(stage.read(id)).expect("text");
        assert!(head.contains("authorization: Bearer caller\r\n"), "{head}");
        assert_eq!(head.to_lowercase().matches("\r\nauthorization:").count(), 1);
        // T42: its id is taken.
        stage.conn.request(id, &json!({"path": "/api/v1/pods"}));
        assert_eq!(stage.conn.answer(id)["type"], "proxy_error");
        stage.data("proxy_stream_data", id, b"\x01x");
        assert_eq!(stage.read(id), b"\x01x");
    }
}

#[test]
fn t36_a_refusal_and_an_end_in_a_frame_are_told_in_their_way() {
    let mut stage = Stage::new();
    stage.start("a", "/api/v1/../../secret");
    let error = stage.conn.answer("a");
    assert_eq!(error["type"], "proxy_error");
    assert_eq!(
        error["payload"],
        json!({"request_id": "a", "error": "invalid path: must be a Kubernetes API path"})
    );
    assert!(stage.conn.is_quiet());

    stage.start("b", "/api/v1/deny");
    let error = stage.conn.answer("b");
    assert_eq!(error["type"], "proxy_error");
    let text = error["payload"]["error"].as_str().expect("a text");
    assert!(
        text.contains("pods forbidden") && text.ends_with("(status: 403)"),
        "{text}"
    );
    stage.expect_close("b");

    stage.start("c", "/api/v1/cut");
    stage.expect_close("c");
    assert!(stage.conn.is_quiet());
}

/// Whatever one stream does, the others and all requests go on meanwhile; and its queue
/// is bounded.
#[test]
fn t8_a_stalled_stream_holds_up_nothing() {
    let mut stage = Stage::new();
    stage.start("stalled", "/api/v1/stall");
    assert_eq!(stage.read("stalled"), b"\x02\x01stalled");
    let block = vec![2; 1 << 20];
    for _ in 0..6 {
        stage.data("proxy_websocket_data", "stalled", &block);
    }
    for n in 0..20 {
        let (stream, request) = (format!("s-{n}"), format!("r-{n}"));
        stage.start(&stream, EXEC);
        stage.read(&stream);
        stage.data("ws_data", &stream, b"\x01in");
        assert_eq!(stage.read(&stream), b"\x01in");
        stage.conn.request(&request, &json!({"path": "/api/v1/x"}));
        assert_eq!(stage.conn.answer(&request)["type"], "proxy_response");
    }
    // It was stalled all the time: what is too much for it ends it, and it alone.
    for _ in 0..200 {
        stage.data("proxy_websocket_data", "stalled", &block);
        if !stage.conn.is_quiet() {
            break;
        }
    }
    stage.expect_close("stalled");
    stage.data("ws_data", "s-0", b"\x01still");
    assert_eq!(stage.read("s-0"), b"\x01still");
}

/// Its channels are ports, two each, and begin with the port's number.
#[test]
fn t25_what_a_port_forward_says_is_not_touched() {
    let mut stage = Stage::new();
    stage.start("p", "/api/v1/namespaces/n/pods/p/portforward");
    for frame in [&b"\x02\x00\x50\x1f"[..], b"\x02\x01\x50\x1f", b"\x01text"] {
        stage.data("proxy_websocket_data", "p", frame);
        assert_eq!(stage.read("p"), frame);
    }
    stage.say("proxy_websocket_close", "p", json!({"stream_id": "p"}));
    stage.expect_close("p");
}

#[test]
fn t26_a_close_ends_the_dial_and_a_second_start_takes_the_first_ones_place() {
    let mut stage = Stage::new();
    stage.start("s", "/api/v1/slow");
    stage.say("proxy_websocket_close", "s", json!({"stream_id": "s"}));
    stage.expect_close("s");
    assert!(stage.conn.is_quiet());
    stage.start("s", EXEC);
    stage.read("s");
    stage.start("s", "/api/v1/namespaces/n/pods/second/exec");
    let head = String::from_utf8(stage.read("s")).expect("text");
    assert!(head.contains("/pods/second/exec"), "{head}");
    stage.data("ws_data", "s", b"\x01x");
    assert_eq!(stage.read("s"), b"\x01x");
    stage.say("ws_close", "s", json!({"stream_id": "s"}));
    stage.expect_close("s");
    assert!(stage.conn.is_quiet(), "the first one says nothing");
}
