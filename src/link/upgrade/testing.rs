//! The peer of an upgrade, as other tests need it.

use std::io::Read;

use tungstenite::handshake::derive_accept_key;

/// Takes the head of an upgrade; says what the answer's `Sec-WebSocket-Accept` must be.
pub(in crate::link) fn take_request(mut from: impl Read) -> String {
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
