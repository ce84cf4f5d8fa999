//! What the original's gateway asked for, asked of our agent: requests to Services, exec,
//! WebSockets to Services. It answers as the original did, but where README.md says
//! otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::RangeInclusive;

use pipeops_agent::agent::Agent;
use pipeops_agent::config::{Config, Origin};
use pipeops_agent::kube::Credentials;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::support::fake_plane::{Conn, FakePlane};
use crate::support::house::{agent_config, start};
use crate::support::sockets::websocket;
use crate::support::upstream::{credentials, scripted};

/// An agent on the gateway of a plane that says what was recorded.
struct Stage {
    conn: Conn,
    _agent: Agent,
    _plane: FakePlane,
}

impl Stage {
    fn new(credentials: Option<Credentials>, change: impl FnOnce(&mut Config)) -> Self {
        let plane = FakePlane::start();
        let url = format!("https://{}", plane.address());
        let mut config = agent_config(&url, "t-1", &plane.ca_file());
        "edge".clone_into(&mut config.agent.cluster_name);
        change(&mut config);
        let agent = start(&config, credentials);
        Self {
            conn: plane.register(),
            _agent: agent,
            _plane: plane,
        }
    }

    /// Says what the peer said on these lines, as it is; what the agent said must come.
    fn play(&mut self, lines: RangeInclusive<u64>) {
        let recorded = crate::recorded(include_str!("streams.jsonl"));
        let mut played = 0;
        for (line, entry) in recorded {
            if !lines.contains(&line) {
                continue;
            }
            played += 1;
            let text = entry["text"].as_str().expect("text");
            if entry["dir"] == "peer" {
                // Where nobody listens: a plain machine's targets have no ports.
                let nobody = r#""service_name":"gone","service_port":1,"#;
                let text = text.replace(r#""service_name":"bench","service_port":1,"#, nobody);
                self.conn.send_text(&text);
                continue;
            }
            let recorded: Value = serde_json::from_str(text).expect("JSON");
            let id = recorded["request_id"].as_str().expect("an id");
            let ours = self.conn.answer(id);
            compare(line, &ours, &recorded);
        }
        assert!(played > 0, "nothing was recorded there");
        assert!(self.conn.is_quiet(), "it says more than was recorded");
    }
}

fn compare(line: u64, ours: &Value, recorded: &Value) {
    assert_eq!(ours["type"], recorded["type"], "{line}: {ours}");
    crate::assert_shape(ours, recorded);
    let (ours, recorded) = (&ours["payload"], &recorded["payload"]);
    for name in ["status", "data", "message_type", "stream_id", "request_id"] {
        assert_eq!(ours[name], recorded[name], "{line}: {ours}");
    }
    // How a text goes on is each program's own.
    let start = |payload: &Value| {
        let text = payload["error"].as_str()?;
        Some(text.split(": ").next().unwrap_or_default().to_owned())
    };
    assert_eq!(start(ours), start(recorded), "{line}");
    if recorded["status"] == 101 {
        let names = |payload: &Value| -> BTreeSet<String> {
            let headers = payload["headers"].as_object().expect("headers");
            headers.keys().cloned().collect()
        };
        assert_eq!(names(ours), names(recorded), "{line}");
    }
}

/// The Service of the recording.
fn bench(head: &str, mut stream: TcpStream) {
    let path = head.split([' ', '?']).nth(1).unwrap_or_default();
    let (status, body) = match path {
        "/ws" => {
            let mut lines = head.lines();
            let chosen = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
            return chat(websocket(head, stream, chosen));
        }
        "/early" => ("403 Forbidden", "no"),
        _ => ("200 OK", "what was asked"),
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.map_or(0, |length| length.parse().expect("a number"));
    stream.read_exact(&mut vec![0; length]).expect("a body");
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).expect("written");
}

/// Says everything back, and closes when it is asked to.
fn chat(mut socket: WebSocket<TcpStream>) {
    while let Ok(message) = socket.read() {
        match message {
            Message::Text(text) if text == "close please" => {
                let _ = socket.close(None);
            }
            Message::Text(_) | Message::Binary(_) => {
                let _ = socket.send(message);
            }
            _ => {}
        }
    }
}

/// The pod of the recording.
fn exec(head: &str, mut stream: TcpStream) {
    if !head.contains("Authorization: Bearer bench-kube-token\r\n") {
        let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(answer).expect("written");
        return;
    }
    let mut socket = websocket(head, stream, Some("v4.channel.k8s.io"));
    let say = |socket: &mut WebSocket<TcpStream>, channel: u8, text: &[u8]| {
        // The agent may have gone.
        let _ = socket.send(Message::binary([&[channel], text].concat()));
    };
    say(&mut socket, 1, b"hello from exec\n");
    while let Ok(message) = socket.read() {
        let bytes = message.into_data();
        match bytes.split_first() {
            Some((0, b"exit\n")) => {
                let status = br#"{"metadata":{},"status":"Success"}"#;
                say(&mut socket, 3, status);
                let _ = socket.close(None);
            }
            Some((0, line)) => say(&mut socket, 1, line),
            Some((4, size)) => say(&mut socket, 1, &[b"resized ", size].concat()),
            _ => {}
        }
    }
}

#[test]
fn services_answer_as_they_did() {
    let (address, _script) = scripted(|head, stream| bench(&head, stream));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let gone = closed.local_addr().expect("an address");
    drop(closed);
    let mut stage = Stage::new(None, |config| {
        let routes = [("bench.default", address), ("gone.default", gone)];
        config.daemon.routes = routes
            .into_iter()
            .map(|(name, at)| {
                (
                    name.to_owned(),
                    Origin::parse(&at.to_string()).expect("one"),
                )
            })
            .collect::<BTreeMap<_, _>>();
    });
    stage.play(95..=116);
    // The original gave no answer.
    let text = line(121);
    stage.conn.send_text(&text);
    let error = stage.conn.answer("px-27");
    assert_eq!(error["type"], "proxy_error");
    let text = "invalid base64 in the request body";
    assert_eq!(error["payload"], json!({"error": text}));

    stage.play(156..=165);
    stage.play(169..=173);
    // The original told nobody of the Service's close (T22).
    stage.conn.send_text(&line(174));
    let said = stage.conn.answer("ws-s");
    assert_eq!(said["type"], "proxy_websocket_data");
    assert_eq!(said["payload"]["message_type"], 8);
    let close = stage.conn.answer("ws-s");
    assert_eq!(close["type"], "proxy_websocket_close");
    let ids = json!({"request_id": "ws-s", "stream_id": "ws-s"});
    assert_eq!(close["payload"], ids);
    stage.play(178..=183);
}

#[test]
fn exec_goes_as_it_did() {
    let (address, _script) = scripted(|head, stream| exec(&head, stream));
    let mut stage = Stage::new(Some(credentials(address, None)), |_| {});
    stage.play(118..=119);
    stage.play(123..=154);
}

fn line(number: u64) -> String {
    let recorded = crate::recorded(include_str!("streams.jsonl"));
    let found = recorded.into_iter().find(|(line, _)| *line == number);
    let (_, entry) = found.expect("a line");
    entry["text"].as_str().expect("text").to_owned()
}
