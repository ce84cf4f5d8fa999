//! The server's side of the upgrade: the request's head has been read and parsed
//! by whoever accepts connections, and its path and token have been looked at.

use std::io::{self, IoSlice};

use tungstenite::handshake::derive_accept_key;

use super::{lists, single};
use crate::net::WriteHalf;

/// What is wrong with an upgrade request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// It doesn't ask for a WebSocket at all.
    #[error("not a WebSocket upgrade")]
    NotUpgrade,
    #[error("not WebSocket version 13")]
    Version,
    #[error("Sec-WebSocket-Key is missing or wrong")]
    Key,
}

/// Why a request was not accepted. Of a bad request the client has been told.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Bad(#[from] BadRequest),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A `GET` of HTTP/1.1 with these headers that asks for a WebSocket as it should.
/// What becomes of it may be decided later.
#[derive(Debug)]
pub struct Accept {
    /// What `Sec-WebSocket-Accept` says.
    key: String,
}

impl Accept {
    pub fn check<N: AsRef<str>, V: AsRef<[u8]>>(headers: &[(N, V)]) -> Result<Self, BadRequest> {
        accept_key(headers).map(|key| Self { key })
    }

    /// Answers 101, after which the connection is a WebSocket: one for a link, or for a
    /// [leg](crate::websocket::open).
    /// `subprotocol` is one of those that were offered, or none. Time limits are those
    /// of the half. Extensions that the client offers are left unanswered.
    pub fn switch(self, subprotocol: Option<&str>, write: &mut WriteHalf) -> io::Result<()> {
        let subprotocol = match subprotocol {
            Some(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => {
                format!("Sec-WebSocket-Protocol: {name}\r\n")
            }
            Some(_) => return Err(io::ErrorKind::InvalidInput.into()),
            None => String::new(),
        };
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n{subprotocol}\r\n",
            self.key
        );
        write.write_all(&[IoSlice::new(answer.as_bytes())])
    }
}

/// Answers such a `GET` at once: 101 without a subprotocol, or 400 or 426, after which
/// the connection should be closed.
pub fn accept<N: AsRef<str>, V: AsRef<[u8]>>(
    headers: &[(N, V)],
    write: &mut WriteHalf,
) -> Result<(), AcceptError> {
    let bad = match Accept::check(headers) {
        Ok(accept) => return Ok(accept.switch(None, write)?),
        Err(bad) => bad,
    };
    let (status, version) = match bad {
        BadRequest::Key => ("400 Bad Request", ""),
        BadRequest::NotUpgrade | BadRequest::Version => (
            "426 Upgrade Required",
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        ),
    };
    let body = format!("{bad}\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\n{version}Connection: close\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    write.write_all(&[IoSlice::new(answer.as_bytes())])?;
    Err(bad.into())
}

fn accept_key<N: AsRef<str>, V: AsRef<[u8]>>(headers: &[(N, V)]) -> Result<String, BadRequest> {
    let headers = || {
        headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    };
    if !lists(headers(), "upgrade", "websocket") || !lists(headers(), "connection", "upgrade") {
        return Err(BadRequest::NotUpgrade);
    }
    if single(headers(), "sec-websocket-version") != Some(b"13") {
        return Err(BadRequest::Version);
    }
    // 16 bytes in base64. What they are doesn't matter, only that nothing but a key
    // goes into our answer.
    match single(headers(), "sec-websocket-key") {
        Some(key) if key.len() == 24 && base64_simd::STANDARD.check(key).is_ok() => {
            Ok(derive_accept_key(key))
        }
        _ => Err(BadRequest::Key),
    }
}
