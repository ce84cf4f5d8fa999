//! Connections of clients and targets, looked at from outside.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, JoinHandle};

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
