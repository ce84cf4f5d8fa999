//! The client's side of the upgrade.

use std::fmt::Write as _;
use std::io::IoSlice;

use httparse::Status;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use super::{Answer, MAX_HEAD, UpgradeError, lists, single};
use crate::net::{Cancel, Deadline, Halves, ReadHalf};

/// What is asked for (control-channel.md §2.1, §2.2).
pub struct Request<'a> {
    /// Host name or address, without brackets.
    pub host: &'a str,
    pub port: u16,
    /// The URL's scheme is `wss`; tells whether the port is the default one.
    pub tls: bool,
    /// Path and query as they go out: begins with a slash, percent-encoded.
    pub target: &'a str,
    /// Goes out as `Authorization: Bearer …`.
    pub token: Option<&'a str>,
}

/// Asks the peer for a WebSocket on a fresh connection. The deadline holds for
/// request and answer together. The halves come back as they are, with what the
/// peer has sent behind its answer unread.
pub fn upgrade(
    mut halves: Halves,
    request: &Request<'_>,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Halves, UpgradeError> {
    let key = generate_key();
    let head = request.head(&key)?;
    let guard = cancel
        .on_socket(halves.socket.clone())
        .map_err(UpgradeError::Cancelled)?;
    halves.set_deadline(Some(deadline));
    let answered = halves
        .write
        .write_all(&[IoSlice::new(head.as_bytes())])
        .map_err(UpgradeError::Io)
        .and_then(|()| read_answer(&mut halves.read, &key));
    drop(guard);
    if let Some(reason) = cancel.reason() {
        return Err(UpgradeError::Cancelled(reason));
    }
    answered?;
    halves.set_deadline(None);
    Ok(halves)
}

impl Request<'_> {
    /// The request's head: names, their case and their order as the original's.
    pub(super) fn head(&self, key: &str) -> Result<String, UpgradeError> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.target.starts_with('/') || !plain(self.target) {
            return Err(UpgradeError::Request("path"));
        }
        if self.host.is_empty() || !plain(self.host) {
            return Err(UpgradeError::Request("host"));
        }
        if !self.token.is_none_or(plain) {
            return Err(UpgradeError::Request("token"));
        }
        let mut head = format!("GET {} HTTP/1.1\r\nHost: ", self.target);
        let written = if self.host.contains(':') {
            write!(head, "[{}]", self.host)
        } else {
            write!(head, "{}", self.host)
        };
        written.expect("a String takes everything");
        if self.port != if self.tls { 443 } else { 80 } {
            write!(head, ":{}", self.port).expect("a String takes everything");
        }
        head.push_str("\r\nUser-Agent: pipeops-agent/");
        head.push_str(env!("CARGO_PKG_VERSION"));
        if let Some(token) = self.token {
            head.push_str("\r\nAuthorization: Bearer ");
            head.push_str(token);
        }
        head.push_str("\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ");
        head.push_str(key);
        head.push_str("\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n");
        Ok(head)
    }
}

/// Reads the answer and nothing behind it.
fn read_answer(read: &mut ReadHalf, key: &str) -> Result<(), UpgradeError> {
    loop {
        let head = read_head(read)?;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head);
        let (Ok(Status::Complete(_)), Some(version), Some(status)) =
            (parsed, response.version, response.code)
        else {
            return Err(UpgradeError::NotHttp);
        };
        match (status, version) {
            (101, 1) => return check(response.headers, key),
            // Only HTTP/1.1 can be upgraded.
            (101, _) => return Err(UpgradeError::NotHttp),
            // Hints; the answer is still to come.
            (100..=199, _) => {}
            (status, _) => {
                let answer = Answer::read(status, response.headers, read);
                return Err(UpgradeError::Refused(Box::new(answer)));
            }
        }
    }
}

/// Takes a head, up to and with its empty line.
fn read_head(read: &mut ReadHalf) -> Result<Vec<u8>, UpgradeError> {
    let mut head = Vec::new();
    loop {
        let bytes = read.fill()?;
        if bytes.is_empty() {
            return Err(UpgradeError::Closed);
        }
        let before = head.len();
        let room = (MAX_HEAD - before).min(bytes.len());
        head.extend_from_slice(&bytes[..room]);
        let end = head_end(&head, before);
        head.truncate(end.unwrap_or(head.len()));
        read.consume(head.len() - before);
        if end.is_some() {
            return Ok(head);
        }
        if head.len() == MAX_HEAD {
            return Err(UpgradeError::LongHead);
        }
        if !head.starts_with(&b"HTTP/1."[..head.len().min(7)]) {
            // No need to wait for the end of what isn't HTTP.
            return Err(UpgradeError::NotHttp);
        }
    }
}

/// Where the head ends, if it does behind the first `before` bytes.
fn head_end(head: &[u8], before: usize) -> Option<usize> {
    (before..head.len())
        .find(|&at| {
            head[at] == b'\n' && (head[..at].ends_with(b"\n\r") || head[..at].ends_with(b"\n"))
        })
        .map(|at| at + 1)
}

fn check(headers: &[httparse::Header<'_>], key: &str) -> Result<(), UpgradeError> {
    let headers = || headers.iter().map(|header| (header.name, header.value));
    if !lists(headers(), "upgrade", "websocket") {
        return Err(UpgradeError::Header("Upgrade"));
    }
    if !lists(headers(), "connection", "upgrade") {
        return Err(UpgradeError::Header("Connection"));
    }
    if single(headers(), "sec-websocket-accept")
        != Some(derive_accept_key(key.as_bytes()).as_bytes())
    {
        return Err(UpgradeError::Header("Sec-WebSocket-Accept"));
    }
    // We offered none, and an extension would change the frames. A subprotocol
    // changes nothing, and the original doesn't look at it.
    if headers().any(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions")) {
        return Err(UpgradeError::Header("Sec-WebSocket-Extensions"));
    }
    Ok(())
}

/// Headers of an answer; what has more isn't a WebSocket server.
const MAX_HEADERS: usize = 100;
