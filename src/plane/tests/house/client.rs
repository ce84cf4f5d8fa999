//! The client that a test plays.

use std::io::{ErrorKind, Read, Write};

use serde_json::Value;
use tungstenite::WebSocket;
use tungstenite::protocol::Role;

use super::Tls;

/// The client's end of a connection.
pub(in crate::plane) struct Client {
    stream: Tls,
    unread: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug)]
pub(in crate::plane) struct Head {
    pub(in crate::plane) status: u16,
    text: String,
}

impl Head {
    pub(in crate::plane) fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    pub(super) fn new(stream: Tls) -> Self {
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub(in crate::plane) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
        self.stream.flush().expect("sent");
    }

    pub(in crate::plane) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok() && self.stream.flush().is_ok()
    }

    /// A request without a body.
    pub(in crate::plane) fn get(&mut self, path: &str, token: &str) {
        self.ask("GET", path, token, "");
    }

    pub(in crate::plane) fn ask(&mut self, method: &str, path: &str, token: &str, more: &str) {
        self.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: plane\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
        ));
    }

    /// Asks for a WebSocket, as kubectl does.
    pub(in crate::plane) fn ask_socket(&mut self, path: &str, token: &str, protocols: &str) {
        let more = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocols}\r\n"
        );
        self.ask("GET", path, token, &more);
    }

    /// Asks for SPDY, as kubectl does when it has got no WebSocket.
    pub(in crate::plane) fn ask_spdy(&mut self, path: &str, token: &str) {
        let more = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                    X-Stream-Protocol-Version: v5.channel.k8s.io\r\n";
        self.ask("POST", path, token, more);
    }

    /// Reads the 101; from then on another implementation speaks.
    pub(in crate::plane) fn into_socket(mut self) -> (Head, WebSocket<Tls>) {
        let head = self.head();
        assert_eq!(head.status, 101);
        let key = head.field("sec-websocket-accept");
        assert_eq!(key, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3");
        let socket = WebSocket::from_partially_read(self.stream, self.unread, Role::Client, None);
        (head, socket)
    }

    pub(in crate::plane) fn head(&mut self) -> Head {
        let text = self.read_until(b"\r\n\r\n").expect("a head");
        let text = String::from_utf8(text).expect("text");
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        Head {
            status: status.expect("a status"),
            text,
        }
    }

    /// One chunk of a chunked body; `None` when the connection broke off instead.
    pub(in crate::plane) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.read_until(b"\r\n")?;
        let line = std::str::from_utf8(&line).expect("text").trim_end();
        let length = usize::from_str_radix(line, 16).expect("a length");
        let chunk = self.read(length)?;
        assert_eq!(self.read(2)?, b"\r\n");
        Some(chunk)
    }

    /// The rest of the body; `None` when it broke off.
    pub(in crate::plane) fn body(&mut self, head: &Head) -> Option<Vec<u8>> {
        if let Some(length) = head.field("content-length") {
            return self.read(length.parse().expect("a length"));
        }
        let mut body = Vec::new();
        loop {
            match self.chunk()? {
                chunk if chunk.is_empty() => return Some(body),
                chunk => body.extend(chunk),
            }
        }
    }

    /// Status and JSON body of an answer.
    pub(in crate::plane) fn json(&mut self) -> (u16, Value) {
        let head = self.head();
        let body = self.body(&head).expect("a body");
        (head.status, serde_json::from_slice(&body).expect("JSON"))
    }

    fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.more()?;
        }
        Some(self.unread.drain(..length).collect())
    }

    fn read_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|w| w == end) {
                return Some(self.unread.drain(..at + end.len()).collect());
            }
            self.more()?;
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut buf = [0; 16 * 1024];
        match self.stream.read(&mut buf) {
            Ok(0) => None,
            Ok(count) => {
                self.unread.extend_from_slice(&buf[..count]);
                Some(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("nothing came")
            }
            Err(_) => None,
        }
    }
}
