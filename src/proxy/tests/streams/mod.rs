//! Streams to an API server that does as it is told.

mod ending;
mod limits;
mod services;
mod starting;

use std::net::TcpStream;

pub(super) use tungstenite::Message as Said;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocket};

use super::*;
use crate::http::Headers;
use crate::http::testing::Peer;
use crate::wire::ToAgent;

pub(super) const EXEC: &str = "/api/v1/namespaces/default/pods/web-0/exec";
pub(super) const V4: &str = "v4.channel.k8s.io";

/// The API server's end of a stream.
pub(super) struct Leg {
    line: String,
    headers: Headers,
    socket: WebSocket<TcpStream>,
}

/// Answers the upgrade that has come on this connection.
pub(super) fn upgrade(mut peer: Peer, subprotocol: Option<&str>) -> Leg {
    let (line, headers) = peer.head();
    let key = headers.get("Sec-WebSocket-Key").expect("a key");
    let accept = derive_accept_key(key.as_bytes());
    let chosen = subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    peer.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        chosen.unwrap_or_default()
    ));
    let socket = WebSocket::from_raw_socket(peer.into_socket().into(), Role::Server, None);
    Leg {
        line,
        headers,
        socket,
    }
}

impl Leg {
    pub(super) fn read(&mut self) -> Said {
        self.socket.read().expect("open")
    }

    pub(super) fn say(&mut self, message: Said) {
        self.socket.send(message).expect("open");
    }

    /// The other end has closed, with that code; the answer goes out.
    pub(super) fn expect_close(&mut self) -> (u16, String) {
        let close = match self.read() {
            Said::Close(Some(close)) => close,
            other => panic!("{other:?}"),
        };
        let ended = self.socket.read();
        assert!(ended.is_err(), "{ended:?}");
        (close.code.into(), close.reason.to_string())
    }

    fn expect_cut(&mut self) {
        loop {
            match self.socket.read() {
                Ok(Said::Close(_)) => panic!("a clean end"),
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

impl House {
    /// Any message about streams.
    #[allow(clippy::needless_pass_by_value)] // reads better at its uses
    fn say(&mut self, kind: &str, id: &str, payload: Value) {
        let text = json!({"type": kind, "request_id": id, "payload": payload}).to_string();
        let envelope = Envelope::parse(&text).expect("valid");
        let requests = self.requests();
        match ToAgent::parse(&envelope) {
            ToAgent::WebSocketStart(start) => requests.start_stream(&start),
            ToAgent::WebSocketData(data) => requests.stream_data(&data),
            ToAgent::WebSocketClose { ids, said } => requests.close_stream(&ids, said),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn start(&mut self, id: &str, path: &str) {
        let payload = json!({"stream_id": id, "path": path, "protocol": V4});
        self.say("proxy_websocket_start", id, payload);
    }

    fn start_raw(&mut self, id: &str, path: &str, protocol: &str) {
        self.requests().use_raw_streams();
        let payload = json!({"stream_id": id, "path": path, "protocol": protocol, "raw": true});
        self.say("proxy_websocket_start", id, payload);
    }

    /// A framed message (control-channel.md §5.4).
    pub(super) fn data(&mut self, id: &str, kind: u8, payload: &[u8]) {
        let data = encode([&[kind], payload].concat());
        self.say(
            "proxy_websocket_data",
            id,
            json!({"stream_id": id, "data": data}),
        );
    }

    pub(super) fn close(&mut self, id: &str) {
        self.say("proxy_websocket_close", id, json!({"stream_id": id}));
    }

    /// A stream that runs.
    fn open(&mut self, id: &str) -> Leg {
        self.start(id, EXEC);
        let mut leg = upgrade(self.upstream.accept(), Some(V4));
        // Nothing tells the peer that it is open but what comes.
        leg.say(Said::binary(&b"\x01open"[..]));
        assert_eq!(self.expect_data(id), (1, b"open".to_vec()));
        leg
    }

    fn open_raw(&mut self, id: &str) -> Leg {
        self.start_raw(id, EXEC, "v5.channel.k8s.io");
        let leg = upgrade(self.upstream.accept(), Some("v5.channel.k8s.io"));
        self.expect("proxy_websocket_started", id);
        leg
    }

    /// The next message, a framed one of this stream.
    pub(super) fn expect_data(&self, id: &str) -> (u8, Vec<u8>) {
        let payload = self.expect("proxy_websocket_data", id);
        assert_eq!(payload["stream_id"], id);
        let data = decode(&payload["data"]);
        (data[0], data[1..].to_vec())
    }

    /// The one close of a stream; nothing follows.
    pub(super) fn expect_close(&self, id: &str) -> Value {
        let payload = self.expect("proxy_websocket_close", id);
        assert_eq!(payload["stream_id"], id);
        payload
    }

    fn expect_stream_error(&self, id: &str) -> String {
        let payload = self.expect("proxy_error", id);
        assert_eq!(payload["request_id"], id);
        payload["error"].as_str().expect("a text").to_owned()
    }
}
