//! Reading the first request of a connection, and what is said instead of an answer.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::http::{Framing, RequestHead};
use crate::plane::expose::entrance::NoStream;

/// A request, read and rewritten.
pub(super) struct First {
    /// In lower case, without a port.
    pub(super) host: String,
    pub(super) method: String,
    /// The head, and what came behind it, if that may go to the Service at once.
    pub(super) bytes: Vec<u8>,
    /// It asks for an upgrade; what came behind its head, which may go to the Service
    /// only when that has agreed.
    pub(super) held: Option<Vec<u8>>,
}

/// Why a request isn't passed on: what its client is told.
pub(super) struct Refused {
    pub(super) status: &'static str,
    pub(super) text: String,
}

impl Refused {
    fn bad(text: impl Into<String>) -> Self {
        Self {
            status: "400 Bad Request",
            text: text.into(),
        }
    }

    pub(super) fn unknown(host: &str) -> Self {
        Self {
            status: "404 Not Found",
            text: format!("nothing is exposed as {host:?}"),
        }
    }

    pub(super) fn no_stream(why: NoStream) -> Self {
        Self {
            status: "503 Service Unavailable",
            text: why.to_string(),
        }
    }

    pub(super) fn unreadable(why: &dyn std::fmt::Display) -> Self {
        Self {
            status: "502 Bad Gateway",
            text: format!("the answer of the Service cannot be read: {why}"),
        }
    }

    /// A Service that says nothing.
    pub(super) fn late() -> Self {
        Self {
            status: "504 Gateway Timeout",
            text: "the Service has not answered".to_owned(),
        }
    }

    /// Best effort: who doesn't take it is gone.
    pub(super) fn say(&self, mut socket: &Socket) {
        let body = format!("{}\n", self.text);
        let answer = format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.status,
            body.len(),
        );
        let _ = socket.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = socket.write_all(answer.as_bytes());
        leave(socket);
    }
}

/// Ends a connection behind an answer. What the client sent and nobody read would turn
/// the end into a reset, which takes the answer with it.
pub(super) fn leave(mut socket: &Socket) {
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if !matches!(socket.read(&mut rest), Ok(1..)) {
            break;
        }
    }
}

/// Reads the head of the first request; `None`: there is none, and nobody to be told.
pub(super) fn read(socket: &Socket, client: SocketAddr) -> Option<Result<First, Refused>> {
    let until = Instant::now() + HEAD_LIMIT;
    let mut bytes = Vec::new();
    let mut buf = [0; 4096];
    let end = loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
            return None;
        }
        let mut reader = socket;
        let seen = bytes.len();
        match reader.read(&mut buf) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buf[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return None,
        }
        if let Some(end) = head_end(&bytes, seen) {
            break end;
        }
        if bytes.len() > MAX_HEAD {
            return Some(Err(Refused {
                status: "431 Request Header Fields Too Large",
                text: format!("a head of more than {MAX_HEAD} bytes"),
            }));
        }
    };
    // Copying waits as long as it takes.
    if socket.set_read_timeout(None).is_err() {
        return None;
    }
    Some(rewrite(&bytes[..end], &bytes[end..], client))
}

/// Where the head ends, of which `seen` bytes were looked at before: a client that
/// sends it byte by byte must not have all of it looked at each time.
pub(super) fn head_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(END.len() - 1);
    let at = bytes[from..].windows(END.len()).position(|w| w == END)?;
    Some(from + at + END.len())
}

fn rewrite(head: &[u8], rest: &[u8], client: SocketAddr) -> Result<First, Refused> {
    let head = RequestHead::parse(head).map_err(|error| Refused::bad(error.to_string()))?;
    let framing = head
        .framing()
        .map_err(|error| Refused::bad(error.to_string()))?;
    if !head.target.starts_with('/') && head.target != "*" {
        return Err(Refused::bad("the target is no path"));
    }
    let mut hosts = head.headers.get_all("host");
    let (Some(given), None) = (hosts.next(), hosts.next()) else {
        return Err(Refused::bad("one Host is needed"));
    };
    let given = given.to_owned();
    let host = match given.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => &given,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let connection: Vec<String> = head
        .headers
        .list("connection")
        .map(str::to_ascii_lowercase)
        .collect();
    // With a body it would have to be known where that ends; nobody does that. Another
    // HTTP or TLS is what some clients ask for with every request, and do without.
    let protocols: Vec<&str> = head.headers.list("upgrade").collect();
    let upgrade = framing == Framing::Length(0)
        && connection.iter().any(|c| c == "upgrade")
        && !protocols.is_empty()
        && !protocols.iter().any(|p| is_of_the_connection(p));
    let before = head.headers.list("x-forwarded-for").collect::<Vec<_>>();
    let mut forwarded = before.join(", ");
    if !forwarded.is_empty() {
        forwarded.push_str(", ");
    }
    // A listener on [::] shows the clients of IPv4 as addresses of IPv6.
    forwarded.push_str(&client.ip().to_canonical().to_string());

    let mut text = format!("{} {} HTTP/1.{}\r\n", head.method, head.target, head.minor);
    let mut field = |name: &str, value: &str| {
        text.extend([name, ": ", value, "\r\n"]);
    };
    for (name, value) in head.headers.iter() {
        let lower = name.to_ascii_lowercase();
        let ours = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "x-forwarded-for",
        ];
        let hop = connection.contains(&lower) && !(upgrade && lower == "upgrade");
        // Whoever names these there wants the Service to see another request than we
        // do.
        let kept = ["host", "content-length", "transfer-encoding"].contains(&lower.as_str());
        if !ours.contains(&lower.as_str()) && (kept || !hop) {
            field(name, value);
        }
    }
    field("X-Forwarded-For", &forwarded);
    if !head.headers.contains("x-forwarded-host") {
        field("X-Forwarded-Host", &given);
    }
    if !head.headers.contains("x-forwarded-proto") {
        field("X-Forwarded-Proto", "http");
    }
    field("Connection", if upgrade { "Upgrade" } else { "close" });
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    let held = upgrade.then(|| rest.to_vec());
    if !upgrade {
        bytes.extend_from_slice(rest);
    }
    Ok(First {
        host,
        method: head.method,
        bytes,
        held,
    })
}

/// A protocol that would carry the same requests: `h2c`, `TLS/1.2`.
fn is_of_the_connection(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    ["h2c", "http", "tls"]
        .iter()
        .any(|p| name.eq_ignore_ascii_case(p))
}

/// How long a client may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

const END: &[u8] = b"\r\n\r\n";

/// Bytes of a head.
pub(super) const MAX_HEAD: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(head: &str) -> Result<(String, String), &'static str> {
        let client = "192.0.2.7:4711".parse().expect("an address");
        match rewrite(head.as_bytes(), b"rest", client) {
            Ok(first) => {
                let upgrade = first.bytes.ends_with(b"\r\nConnection: Upgrade\r\n\r\n");
                assert_eq!(first.held, upgrade.then(|| b"rest".to_vec()));
                Ok((first.host, String::from_utf8(first.bytes).expect("text")))
            }
            Err(refused) => Err(refused.status),
        }
    }

    #[test]
    fn a_request_is_passed_on_as_the_only_one_of_its_connection() {
        let (host, text) = rewritten(
            "GET /a?b HTTP/1.1\r\nHost: Shop.Test:8088\r\nConnection: keep-alive, X-Mine\r\n\
             X-Mine: 1\r\nX-Forwarded-For: 198.51.100.1\r\nAccept: */*\r\n\r\n",
        )
        .expect("passed on");
        assert_eq!(host, "shop.test");
        assert_eq!(
            text,
            "GET /a?b HTTP/1.1\r\nHost: Shop.Test:8088\r\nAccept: */*\r\n\
             X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\nX-Forwarded-Host: Shop.Test:8088\r\n\
             X-Forwarded-Proto: http\r\nConnection: close\r\n\r\nrest"
        );
    }

    /// A body whose length the Service doesn't hear of would be its next request.
    #[test]
    fn connection_cannot_take_the_length_of_the_body_away() {
        for field in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
            let name = field.split(':').next().expect("a name");
            let (_, text) = rewritten(&format!(
                "POST / HTTP/1.1\r\nHost: h\r\nConnection: close, {name}, Host\r\n{field}\r\n\r\n"
            ))
            .expect("passed on");
            assert!(text.contains(&format!("\r\n{field}\r\n")), "{text}");
            assert!(text.contains("\r\nHost: h\r\n"), "{text}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_is_split() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for split in 0..head.len() {
            assert_eq!(head_end(&head[..split], 0), None);
            assert_eq!(head_end(head, split), Some(head.len()));
        }
        let mut longer = head.to_vec();
        longer.extend_from_slice(b"rest\r\n\r\n");
        assert_eq!(head_end(&longer, 10), Some(head.len()));
        // What was looked at isn't again.
        assert_eq!(head_end(&longer, head.len()), Some(longer.len()));
    }

    #[test]
    fn a_client_of_ipv4_is_one_at_a_listener_of_both() {
        let client = "[::ffff:192.0.2.7]:4711".parse().expect("an address");
        let first = rewrite(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"", client);
        let Ok(First { bytes, .. }) = first else {
            panic!("refused")
        };
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains("X-Forwarded-For: 192.0.2.7\r\n"), "{text}");
    }

    #[test]
    fn an_upgrade_stays_one() {
        let (_, text) = rewritten(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .expect("passed on");
        assert!(text.contains("\r\nUpgrade: websocket\r\n"));
        assert!(text.ends_with("\r\nConnection: Upgrade\r\n\r\n"));
    }

    /// Where a body ends isn't known here, so what follows it couldn't be held back.
    #[test]
    fn a_request_with_a_body_upgrades_nothing() {
        let (_, text) = rewritten(
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Content-Length: 4\r\n\r\n",
        )
        .expect("passed on");
        assert!(!text.contains("pgrade"), "{text}");
        assert!(
            text.ends_with("\r\nConnection: close\r\n\r\nrest"),
            "{text}"
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert_eq!(rewritten(head), Err("400 Bad Request"), "{head}");
        }
    }
}
