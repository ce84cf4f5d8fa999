//! One connection: read one request's head within its limits, answer, close.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use socket2::Socket;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use super::routes::{self, Answer};
use super::{Limits, Shared};
use crate::net::Deadline;

/// Serves one request and closes. Probes open a connection each time anyway, and a
/// connection that is never idle needs no idle limit.
pub(super) fn serve(socket: &Arc<Socket>, shared: &Shared) -> io::Result<()> {
    let guard = shared
        .cancel
        .on_socket(socket.clone())
        .map_err(|reason| io::Error::other(reason.to_string()))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(shared.limits.write))?;
    let request = match read_head(socket, &shared.limits)? {
        Ok(request) => request,
        Err(refusal) => {
            return send(socket, &refusal, Version::Http11, true);
        }
    };
    let answer = routes::answer(
        &request.method,
        &request.target,
        &shared.health.snapshot(),
        shared.readiness,
        SystemTime::now(),
    );
    send(socket, &answer, request.version, request.method != "HEAD")?;
    drop(guard);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    target: String,
    version: Version,
}

/// Reads up to the end of the head. The inner error is an answer to give; the outer
/// one means that there is nobody to give it to.
fn read_head(socket: &Socket, limits: &Limits) -> io::Result<Result<Request, Answer>> {
    let deadline = Deadline::after(limits.head);
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let Some(left) = deadline.remaining() else {
            return Ok(Err(routes::plain(408, "request timeout")));
        };
        socket.set_read_timeout(Some(left))?;
        let mut reader = socket;
        let count = match reader.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if is_timeout(&error) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // Parsing anew for each byte that trickles in would be quadratic; a head
        // can only be complete when a line is.
        let ends_line = chunk[..count].contains(&b'\n');
        head.extend_from_slice(&chunk[..count]);
        if ends_line && let Some(result) = parse(&head) {
            return Ok(result);
        }
        if head.len() > limits.head_bytes {
            return Ok(Err(routes::plain(431, "request header fields too large")));
        }
    }
}

/// `None` while the head isn't complete.
fn parse(head: &[u8]) -> Option<Result<Request, Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let (Some(method), Some(target), Some(version)) =
                (request.method, request.path, request.version)
            else {
                return Some(Err(routes::plain(400, "bad request")));
            };
            Some(Ok(Request {
                method: method.to_owned(),
                target: target.to_owned(),
                version: match version {
                    0 => Version::Http10,
                    _ => Version::Http11,
                },
            }))
        }
        Err(httparse::Error::TooManyHeaders) => {
            Some(Err(routes::plain(431, "request header fields too large")))
        }
        Err(_) => Some(Err(routes::plain(400, "bad request"))),
    }
}

fn send(socket: &Socket, answer: &Answer, version: Version, with_body: bool) -> io::Result<()> {
    let bytes = encode(answer, version, with_body)?;
    let mut writer = socket;
    writer.write_all(&bytes)?;
    socket.shutdown(Shutdown::Write)?;
    linger(socket);
    Ok(())
}

/// The whole response in one buffer, written by tiny_http.
fn encode(answer: &Answer, version: Version, with_body: bool) -> io::Result<Vec<u8>> {
    let mut response = Response::from_data(answer.body.clone())
        .with_status_code(StatusCode(answer.status))
        .with_chunked_threshold(usize::MAX);
    let allow = answer.allow.map(|methods| ("Allow", methods));
    let fields = [
        ("Content-Type", answer.content_type),
        ("Cache-Control", "no-store"),
        ("Server", "pipeops-agent"),
    ];
    for (name, value) in fields.into_iter().chain(allow) {
        let header = Header::from_bytes(name, value)
            .map_err(|()| io::Error::other("a header of ours is not valid"))?;
        response.add_header(header);
    }
    let version = match version {
        Version::Http10 => HTTPVersion(1, 0),
        Version::Http11 => HTTPVersion(1, 1),
    };
    let mut bytes = Vec::with_capacity(512 + answer.body.len());
    response.raw_print(&mut bytes, version, &[], !with_body, None)?;
    // tiny_http reserves this header for its own connections.
    let line = bytes
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .map_or(bytes.len(), |at| at + 2);
    bytes.splice(line..line, *b"Connection: close\r\n");
    Ok(bytes)
}

/// Reads what the client still sends, for a moment: closing on unread bytes would
/// reset the connection, and the client could lose the answer.
fn linger(socket: &Socket) {
    let until = Instant::now() + LINGER;
    let mut scrap = [0; 4096];
    let mut left = LINGER_BYTES;
    while let Some(time) = until.checked_duration_since(Instant::now())
        && !time.is_zero()
        && left > 0
        && socket.set_read_timeout(Some(time)).is_ok()
    {
        let mut reader = socket;
        match reader.read(&mut scrap) {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// A probe sends three or four.
const MAX_HEADERS: usize = 100;

const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_response_is_complete_and_closes() {
        let answer = Answer {
            allow: Some("GET, HEAD"),
            ..routes::plain(405, "no")
        };
        let text = |version, body| {
            String::from_utf8(encode(&answer, version, body).expect("encoded")).expect("text")
        };
        let full = text(Version::Http11, true);
        assert!(full.starts_with("HTTP/1.1 405 Method Not Allowed\r\nConnection: close\r\n"));
        assert!(full.ends_with("\r\n\r\nno"), "{full}");
        for header in [
            "Content-Length: 2\r\n",
            "Content-Type: text/plain\r\n",
            "Cache-Control: no-store\r\n",
            "Server: pipeops-agent\r\n",
            "Allow: GET, HEAD\r\n",
            "Date: ",
        ] {
            assert_eq!(full.matches(header).count(), 1, "{header} in {full}");
        }
        let head = text(Version::Http10, false);
        assert!(head.starts_with("HTTP/1.0 405 "));
        assert!(head.ends_with("\r\n\r\n") && head.contains("Content-Length: 2\r\n"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
