//! Connections of clients and targets, looked at from outside.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, JoinHandle};

use tungstenite::WebSocket;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use super::pattern::{Check, PIECE, piece};
use super::wait::LIMIT;

/// Only a test that hangs waits for long.
pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    stream.set_write_timeout(Some(LIMIT)).expect("set");
    stream
}

/// Leaves without an end.
pub(crate) fn reset(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    let now = std::time::Duration::ZERO;
    socket.set_linger(Some(now)).expect("set");
    drop(stream);
}

/// What reading it ends with: a reset, not an end.
pub(crate) fn is_reset(mut stream: &TcpStream) -> bool {
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).expect_err("a reset");
    error.kind() == std::io::ErrorKind::ConnectionReset
}

/// Sends a pattern of this length and then an end.
pub(crate) fn send(mut stream: TcpStream, length: u64) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut sent = 0;
        while sent < length {
            let next = piece(sent, length);
            stream.write_all(next).expect("sent");
            sent += next.len() as u64;
        }
        stream.shutdown(Shutdown::Write).expect("shut down");
    })
}

/// Reads that pattern to its end.
pub(crate) fn receive(mut stream: &TcpStream, length: u64) {
    let (mut check, mut buf) = (Check::default(), vec![0; PIECE]);
    loop {
        match stream.read(&mut buf).expect("read") {
            0 => break,
            count => check.take(&buf[..count]),
        }
    }
    assert_eq!(check.received, length);
}

/// Answers an upgrade whose head has been read, with this subprotocol.
pub(crate) fn websocket(
    head: &str,
    mut stream: TcpStream,
    protocol: Option<&str>,
) -> WebSocket<TcpStream> {
    let mut lines = head.lines();
    let key = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = derive_accept_key(key.expect("a key").as_bytes());
    let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         {}Sec-WebSocket-Accept: {accept}\r\n\r\n",
        protocol.unwrap_or_default()
    );
    stream.write_all(answer.as_bytes()).expect("written");
    WebSocket::from_raw_socket(stream, Role::Server, None)
}
