//! A real browser at an HTTP service that the plane exposes:
//!
//! ```text
//!  Chromium ──► plane, --http ══ tunnel ══ agent ──► a page and an echo WebSocket
//! ```
//!
//! `tests/run browser` installs Chromium, Node and playwright-core (`talk.cjs`).

#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::thread;

use pipeops_agent::config::{Forward, Origin};
use pipeops_agent::plane::{Entry, ExposureState};
use serde_json::{Value, json};
use support::house::{House, name, start};
use support::sockets::patient;
use support::wait::until;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

#[test]
#[ignore = "needs Chromium: tests/run browser"]
fn a_page_and_its_websockets() {
    let service = TcpListener::bind("127.0.0.1:0").expect("bound");
    let origin = service.local_addr().expect("an address").to_string();
    let (closes, closed) = mpsc::channel();
    thread::spawn(move || {
        for stream in service.incoming().map_while(Result::ok) {
            let closes = closes.clone();
            thread::spawn(move || serve(patient(stream), &closes));
        }
    });

    let at = free();
    let house = House::new().again(|config| config.http = at);
    let mut config = house.agent_config("edge");
    config.tunnels.forwards.push(Forward {
        name: "web".to_owned(),
        origin: Origin::parse(&origin).expect("an origin"),
    });
    let agent = start(&config, None);
    house.attached("edge");
    let entry = Entry::parse("http", HOST).expect("a host");
    let service = "web:80".parse().expect("a service");
    house
        .plane
        .expose(entry, name("edge"), service)
        .expect("exposed");
    until("it is open", || {
        let exposures = house.plane.exposures();
        exposures
            .iter()
            .all(|view| view.state == ExposureState::Open)
    });

    let seen = browse(at);
    assert_eq!(seen["title"], "a page from behind the agent");
    assert_eq!(seen["protocol"], "echo.v1");
    assert_eq!(seen["equal"], seen["sent"], "{seen}");
    let close = |code, reason, clean| json!({"code": code, "reason": reason, "wasClean": clean});
    assert_eq!(seen["by_browser"], close(4001, "the browser leaves", true));
    assert_eq!(seen["by_service"], close(4002, "the service leaves", true));
    // 1006: without a word.
    assert_eq!(seen["vanished"], close(1006, "", false));
    let heard = closed.recv().expect("a close at the service");
    assert_eq!(heard, (4001, "the browser leaves".to_owned()));
    agent.stop();
    agent.wait().expect("an orderly end");
}

fn browse(at: SocketAddr) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/talk.cjs");
    let output = Command::new("node")
        .arg(script)
        .args([format!("http://{HOST}:{}/", at.port()), at.ip().to_string()])
        .output()
        .expect("node runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// One connection of the service: the page, or a WebSocket. The codes that it is
/// closed with from outside are told to `closes`.
fn serve(stream: TcpStream, closes: &Sender<(u16, String)>) {
    if !starts_with(&stream, b"GET /echo ") {
        return answer(stream);
    }
    #[expect(clippy::result_large_err, reason = "tungstenite's")]
    let choose = |request: &Request, mut response: Response| {
        let offered = &request.headers()["sec-websocket-protocol"];
        assert!(offered.to_str().expect("text").contains("echo.v1"));
        let chosen = HeaderValue::from_static("echo.v1");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", chosen);
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, choose).expect("an upgrade");
    loop {
        match socket.read() {
            Ok(Message::Text(text)) if text == "please close" => {
                let frame = CloseFrame {
                    code: 4002.into(),
                    reason: "the service leaves".into(),
                };
                socket.close(Some(frame)).expect("sent");
                return to_the_end(socket);
            }
            Ok(Message::Text(text)) if text == "please vanish" => return,
            Ok(Message::Close(frame)) => {
                let frame = frame.expect("a code");
                // The test has failed when nobody hears it.
                let _ = closes.send((frame.code.into(), frame.reason.to_string()));
                return to_the_end(socket);
            }
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                socket.send(message).expect("sent");
            }
            Ok(_) => {}
            // Seen at the other end.
            Err(_) => return,
        }
    }
}

/// Answers a close, or waits for the answer.
fn to_the_end(mut socket: WebSocket<TcpStream>) {
    while socket.read().is_ok() {}
}

fn starts_with(stream: &TcpStream, head: &[u8]) -> bool {
    let mut first = vec![0; head.len()];
    loop {
        let count = stream.peek(&mut first).expect("a request");
        if count == head.len() || count == 0 || first[..count] != head[..count] {
            return first == head;
        }
        thread::yield_now();
    }
}

fn answer(mut stream: TcpStream) {
    let page = "<!doctype html><title>a page from behind the agent</title>";
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    // A browser that leaves early is its own affair.
    let _ = stream.read(&mut [0; 8192]);
    let _ = stream.write_all(answer.as_bytes());
}

/// An address of this machine's own with a port that nobody has there.
fn free() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high | 128, low, 1], 15480))
}

const HOST: &str = "shop.example.test";
