//! WebSockets to origins, tungstenite there (control-channel.md §9.2).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use super::*;

/// An origin for one WebSocket, which `serve` has.
fn origin(
    serve: impl FnOnce(WebSocket<TcpStream>) + Send + 'static,
) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let serving = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("somebody");
        serve(tungstenite::accept(stream).expect("a WebSocket"));
    });
    (address, serving)
}

fn upgrade(streamed: bool) -> Value {
    json!({
        "path": "/chat", "is_websocket": true, "supports_response_streaming": streamed,
        "headers": {"Host": "shop.test", "Sec-WebSocket-Protocol": "chat"},
    })
}

fn open(conn: &mut Conn, streamed: bool) {
    conn.request("w", &upgrade(streamed));
    let answer = conn.answer("w");
    assert_eq!(answer["payload"]["status"], 101, "{answer}");
    if streamed {
        assert_eq!(conn.answer("w")["type"], "proxy_response_end");
    }
}

fn say(conn: &Conn, kind: u8, payload: &[u8]) {
    let data = base64_simd::STANDARD.encode_to_string([&[kind], payload].concat());
    conn.send(&json!({
        "type": "proxy_websocket_data", "request_id": "w",
        "payload": {"request_id": "w", "stream_id": "w", "data": data},
    }));
}

fn said(conn: &mut Conn) -> (u8, Vec<u8>) {
    let message = conn.answer("w");
    assert_eq!(message["type"], "proxy_websocket_data", "{message}");
    let data = message["payload"]["data"].as_str().expect("a text");
    let data = base64_simd::STANDARD.decode_to_vec(data).expect("base64");
    assert_eq!(message["payload"]["message_type"], data[0]);
    (data[0], data[1..].to_vec())
}

fn expect_close(conn: &mut Conn) {
    let message = conn.answer("w");
    assert_eq!(message["type"], "proxy_websocket_close", "{message}");
    let ids = json!({"request_id": "w", "stream_id": "w"});
    assert_eq!(message["payload"], ids);
}

#[test]
fn c12_t22_messages_pass_both_ways_and_a_close_of_the_origin_has_its_code() {
    for streamed in [false, true] {
        let (address, serving) = origin(|mut socket| {
            loop {
                match socket.read().expect("open") {
                    Message::Text(text) if text == "enough" => break,
                    message @ (Message::Text(_) | Message::Binary(_)) => {
                        socket.send(message).expect("taken");
                    }
                    Message::Ping(payload) => assert_eq!(&payload[..], b"there?"),
                    other => panic!("{other:?}"),
                }
            }
            let close = CloseFrame {
                code: 4001.into(),
                reason: "as you like".into(),
            };
            socket.close(Some(close)).expect("sent");
            while socket.read().is_ok() {}
        });
        let (_plane, _agent, mut conn) = machine(&[("shop.test", address.to_string())], |_| {});
        open(&mut conn, streamed);
        say(&conn, 9, b"there?");
        for number in 0..100 {
            say(&conn, 1, format!("{number}").as_bytes());
        }
        let large = whole(1 << 20);
        say(&conn, 2, &large);
        for number in 0..100 {
            assert_eq!(said(&mut conn), (1, format!("{number}").into_bytes()));
        }
        assert!(said(&mut conn) == (2, large), "one MiB, whole");
        say(&conn, 1, b"enough");
        assert_eq!(said(&mut conn), (8, b"\x0f\xa1as you like".to_vec()));
        expect_close(&mut conn);
        serving.join().expect("served");
        assert!(conn.is_quiet());
    }
}

#[test]
fn t22_a_close_of_the_peer_reaches_the_origin_and_has_no_echo() {
    let (address, serving) = origin(|mut socket| {
        assert_eq!(socket.read().expect("open"), Message::text("last"));
        let close = match socket.read().expect("a close") {
            Message::Close(Some(close)) => close,
            other => panic!("{other:?}"),
        };
        assert_eq!(u16::from(close.code), 1000);
        while socket.read().is_ok() {}
    });
    let (_plane, _agent, mut conn) = machine(&[("shop.test", address.to_string())], |_| {});
    open(&mut conn, true);
    say(&conn, 1, b"last");
    conn.send(&json!({
        "type": "proxy_websocket_close", "request_id": "w", "payload": {"stream_id": "w"},
    }));
    serving.join().expect("closed");
    assert!(conn.is_quiet());
}

/// The request is over with its 101; streams have messages of their own for their end.
/// And what comes in older forms reaches them.
#[test]
fn t18_t21_t24_a_cancel_leaves_a_stream_alone_and_every_form_of_data_reaches_it() {
    let (address, serving) = origin(|mut socket| {
        while let Ok(message) = socket.read() {
            if message.is_text() || message.is_binary() {
                socket.send(message).expect("taken");
            }
        }
    });
    let (_plane, _agent, mut conn) = machine(&[("shop.test", address.to_string())], |_| {});
    open(&mut conn, false);
    conn.send(&json!({"type": "proxy_cancel", "request_id": "w"}));
    let data = |bytes: &[u8]| base64_simd::STANDARD.encode_to_string(bytes);
    // The older form, which has only the envelope's id.
    let payload = json!({"data": data(b"\x01framed")});
    conn.send(&json!({"type": "proxy_stream_data", "request_id": "w", "payload": payload}));
    assert_eq!(said(&mut conn), (1, b"framed".to_vec()));
    // It begins as a frame does, and is none.
    for (kind, bytes) in [(1_u8, &b"\n"[..]), (2, b"\x01\x02"), (1, b"plain")] {
        let payload = json!({"request_id": "w", "data": data(bytes), "message_type": kind});
        conn.send(&json!({"type": "ws_data", "request_id": "w", "payload": payload}));
        assert_eq!(said(&mut conn), (kind, bytes.to_vec()));
    }
    conn.send(&json!({"type": "ws_close", "request_id": "w", "payload": {}}));
    serving.join().expect("served");
    // Of nobody any more, and no reason to crash (T21).
    let payload = json!({"data": data(b"\x01late")});
    conn.send(&json!({"type": "proxy_stream_data", "request_id": "w", "payload": payload}));
    assert!(conn.is_quiet());
}

/// Nobody has an origin of that name, and none can be made of it.
#[test]
fn t20_a_crafted_name_leads_nowhere() {
    let (address, serving) = origin(|mut socket| while socket.read().is_ok() {});
    let (_plane, _agent, mut conn) = machine(&[("web.shop", address.to_string())], |_| {});
    for (name, namespace) in [
        ("web.shop/x", "y"),
        ("127.0.0.1", "nip.io"),
        ("web", "shop.svc.evil.test"),
        ("web@evil.test", "shop"),
        ("web.shop:80#", "y"),
    ] {
        let mut payload = upgrade(false);
        payload["headers"] = json!({});
        payload["service_name"] = name.into();
        payload["namespace"] = namespace.into();
        payload["service_port"] = 80.into();
        let text = refusal(&mut conn, &payload);
        let start = "failed to connect to service WebSocket: ";
        assert!(text.starts_with(start), "{name}: {text}");
    }
    let mut payload = upgrade(false);
    payload["headers"] = json!({});
    payload["service_name"] = "web".into();
    payload["namespace"] = "shop".into();
    conn.request("w", &payload);
    assert_eq!(conn.answer("w")["payload"]["status"], 101);
    conn.send(&json!({"type": "ws_close", "request_id": "w", "payload": {}}));
    serving.join().expect("the one that was meant");
}

/// Without credit there is a limit, and never a gap.
#[test]
fn t8_an_origin_that_takes_nothing_ends_with_backpressure() {
    let (send, done) = unbounded::<()>();
    let (address, serving) = origin(move |_socket| {
        let _ = done.recv();
    });
    let (_plane, _agent, mut conn) = machine(&[("shop.test", address.to_string())], |_| {});
    open(&mut conn, true);
    let piece = whole(1 << 20);
    for _ in 0..40 {
        say(&conn, 2, &piece);
    }
    let message = conn.answer("w");
    assert_eq!(message["type"], "backpressure", "{message}");
    let why = json!({"reason": "channel_full", "request_id": "w"});
    assert_eq!(message["payload"], why);
    expect_close(&mut conn);
    assert!(conn.is_quiet());
    drop(send);
    serving.join().expect("no panic");
}

/// With credit everything else goes on while one origin takes nothing.
#[test]
fn a_stream_that_is_stalled_holds_up_nobody() {
    let (send, done) = unbounded::<()>();
    let (address, serving) = origin(move |mut socket| {
        let _ = done.recv();
        let mut total = 0;
        while total < 1 << 20 {
            total += socket.read().expect("open").len();
        }
        socket.send(Message::text(total.to_string())).expect("sent");
        while socket.read().is_ok() {}
    });
    let upstream = Upstream::start(echo("other"));
    let routes = [
        ("shop.test", address.to_string()),
        ("other.test", upstream.address().to_string()),
    ];
    let (plane, _agent, first) = machine(&routes, |_| {});
    first.link.abort("for one with credit");
    let mut conn = plane.accept();
    conn.send(&json!({"type": "plane_hello", "payload": {"features": ["flow"]}}));
    conn.expect("plane_hello_ack");
    conn.acknowledge();
    open(&mut conn, true);
    let piece = whole(64 << 10);
    for _ in 0..16 {
        say(&conn, 2, &piece);
    }
    for _ in 0..10 {
        let payload = json!({"path": "/", "headers": {"Host": "other.test"}});
        assert_eq!(ask(&mut conn, &payload)["name"], "other");
    }
    send.send(()).expect("waiting");
    let text = loop {
        let message = conn.answer("w");
        if message["type"] == "proxy_websocket_data" {
            let data = message["payload"]["data"]
                .as_str()
                .expect("a text")
                .to_owned();
            break base64_simd::STANDARD.decode_to_vec(data).expect("base64");
        }
    };
    assert_eq!(text, b"\x011048576");
    conn.send(&json!({"type": "ws_close", "request_id": "w", "payload": {}}));
    serving.join().expect("served");
}
