//! The peer of an upgrade, as other tests need it.

use std::io::Read;

use tungstenite::handshake::derive_accept_key;

use super::{Request, upgrade};
use crate::http::Headers;
use crate::net::testing::far_deadline;
use crate::net::{Cancel, Halves};

/// Asks for a WebSocket, without more ado.
pub(crate) fn ask(halves: Halves) -> Halves {
    let headers = Headers::new();
    let request = Request {
        authority: "127.0.0.1",
        target: "/ws",
        headers: &headers,
        subprotocols: &[],
    };
    let upgraded = upgrade(halves, &request, far_deadline(), &Cancel::new());
    upgraded.expect("upgraded").halves
}

/// Takes the head of an upgrade; says what the answer's `Sec-WebSocket-Accept` must be.
pub(crate) fn take_request(mut from: impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    derive_accept_key(key.expect("a key").as_bytes())
}
