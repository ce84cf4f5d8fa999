//! The client's side of the upgrade.

use std::fmt::Write as _;
use std::io::IoSlice;

use httparse::Status;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use super::{Answer, MAX_HEAD, UpgradeError, lists, single};
use crate::http::{Headers, ResponseHead, is_field_value, is_token, trim_blanks};
use crate::net::{Cancel, Deadline, Halves, ReadHalf};

/// What is asked for (control-channel.md §2.1, §2.2, §9).
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What `Host` says: see [`authority`].
    pub authority: &'a str,
    /// Path and query as they go out: begins with a slash, percent-encoded.
    pub target: &'a str,
    /// Sent as they are. Those of the handshake itself are ours and may not be there,
    /// nor may those of framing.
    pub headers: &'a Headers,
    /// Offered as they are, in this order; they needn't be tokens
    /// (`SPDY/3.1+portforward.k8s.io` has a slash).
    pub subprotocols: &'a [String],
}

/// What an upgrade brought.
#[derive(Debug)]
pub struct Upgraded {
    /// As they were given, with what the peer has sent behind its answer unread.
    pub halves: Halves,
    /// Of the 101.
    pub headers: Headers,
}

impl Upgraded {
    /// The subprotocol that the server chose; it needn't have chosen one, and what it
    /// chose needn't be one of those offered.
    pub fn subprotocol(&self) -> Option<&str> {
        let chosen = self.headers.get("Sec-WebSocket-Protocol");
        chosen.filter(|chosen| !chosen.is_empty())
    }
}

/// What `Host` says of a host without brackets: the port where it isn't the scheme's.
pub fn authority(host: &str, port: u16, tls: bool) -> String {
    let mut text = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    if port != if tls { 443 } else { 80 } {
        write!(text, ":{port}").expect("a String takes everything");
    }
    text
}

/// Asks the peer for a WebSocket on a fresh connection. The deadline holds for
/// request and answer together; the halves come back without one.
pub fn upgrade(
    mut halves: Halves,
    request: &Request<'_>,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Upgraded, UpgradeError> {
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
    let headers = answered?;
    halves.set_deadline(None);
    Ok(Upgraded { halves, headers })
}

impl Request<'_> {
    /// The request's head: names, their case and their order as the original's.
    pub(super) fn head(&self, key: &str) -> Result<String, UpgradeError> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.target.starts_with('/') || !plain(self.target) {
            return Err(UpgradeError::Request("path"));
        }
        if self.authority.is_empty() || !plain(self.authority) {
            return Err(UpgradeError::Request("host"));
        }
        let mut head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\n",
            self.target, self.authority
        );
        for (name, value) in self.headers.iter() {
            if !is_token(name) || !is_field_value(value) || is_ours(name) {
                return Err(UpgradeError::Request("headers"));
            }
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        }
        head.push_str("Connection: Upgrade\r\nSec-WebSocket-Key: ");
        head.push_str(key);
        if !self.subprotocols.is_empty() {
            let offered = |text: &String| plain(text) && !text.is_empty() && !text.contains(',');
            if !self.subprotocols.iter().all(offered) {
                return Err(UpgradeError::Request("subprotocols"));
            }
            head.push_str("\r\nSec-WebSocket-Protocol: ");
            head.push_str(&self.subprotocols.join(", "));
        }
        head.push_str("\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\r\n");
        Ok(head)
    }
}

/// Fields that the handshake writes, or that would say that a body follows.
fn is_ours(name: &str) -> bool {
    let ours = [
        "host",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
    ];
    ours.iter().any(|ours| ours.eq_ignore_ascii_case(name))
        || name
            .get(..14)
            .is_some_and(|start| start.eq_ignore_ascii_case("sec-websocket-"))
}

/// Reads the answer and nothing behind it; the headers of a 101.
fn read_answer(read: &mut ReadHalf, key: &str) -> Result<Headers, UpgradeError> {
    loop {
        let head = read_head(read)?;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&head);
        let (Ok(Status::Complete(_)), Some(minor), Some(status)) =
            (parsed, response.version, response.code)
        else {
            return Err(UpgradeError::NotHttp);
        };
        match (status, minor) {
            (101, 1) => {
                check(response.headers, key)?;
                return Ok(collect(response.headers));
            }
            // Only HTTP/1.1 can be upgraded.
            (101, _) => return Err(UpgradeError::NotHttp),
            // Hints; the answer is still to come.
            (100..=199, _) => {}
            (status, _) => {
                let head = ResponseHead {
                    status,
                    headers: collect(response.headers),
                    // Boxes in between chunk what they call 1.0.
                    minor: 1,
                };
                let answer = Answer::read(head, read);
                return Err(UpgradeError::Refused(Box::new(answer)));
            }
        }
    }
}

/// What isn't UTF-8 in a value is replaced.
fn collect(fields: &[httparse::Header<'_>]) -> Headers {
    let text = |value| trim_blanks(&String::from_utf8_lossy(value)).to_owned();
    fields
        .iter()
        .map(|field| (field.name.to_owned(), text(field.value)))
        .collect()
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
    // changes nothing: some servers choose none, or one that wasn't offered.
    if headers().any(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-extensions")) {
        return Err(UpgradeError::Header("Sec-WebSocket-Extensions"));
    }
    Ok(())
}

/// Headers of an answer; what has more isn't a WebSocket server.
const MAX_HEADERS: usize = 100;
