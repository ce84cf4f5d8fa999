//! An answer that isn't the one we asked for: enough of it to tell who gave it
//! (the control plane, or a box in between), and when to come back.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use crate::net::{Deadline, ReadHalf};

/// An HTTP answer to an upgrade request that isn't a 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Without parameters, in lower case: `application/json`.
    pub content_type: Option<String>,
    /// What `Retry-After` asks for, from now; at most a day.
    pub retry_after: Option<Duration>,
    /// The beginning of the body as one line of printable text.
    pub excerpt: String,
}

impl Answer {
    /// True for an answer that a program wrote for a program; a box in between
    /// that wants to be read by people sends HTML or nothing.
    pub fn is_json(&self) -> bool {
        self.content_type
            .as_deref()
            .is_some_and(|kind| kind == "application/json" || kind.ends_with("+json"))
    }

    /// Reads what belongs to an answer: headers, and a little of the body.
    pub(super) fn read(status: u16, headers: &[httparse::Header<'_>], read: &mut ReadHalf) -> Self {
        let value = |name: &str| {
            headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .and_then(|header| str::from_utf8(header.value).ok())
                .map(str::trim)
        };
        let content_type = value("content-type").map(|value| {
            let kind = value.split(';').next().unwrap_or_default();
            excerpt(kind.trim().to_ascii_lowercase().as_bytes())
        });
        let retry_after =
            value("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
        let length = value("content-length").and_then(|value| value.parse().ok());
        let chunked = value("transfer-encoding").is_some();
        let mut body = read_some(read, length.unwrap_or(MAX_BODY).min(MAX_BODY));
        if chunked && let Some(end) = body.iter().position(|byte| *byte == b'\n') {
            // The size of the first chunk, which is all that is shown.
            let size = str::from_utf8(&body[..end]).unwrap_or_default();
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).unwrap_or(MAX_BODY);
            body.drain(..=end);
            body.truncate(size);
        }
        Self {
            status,
            content_type,
            retry_after,
            excerpt: excerpt(&body),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        if let Some(kind) = &self.content_type {
            write!(f, ", {kind}")?;
        }
        if !self.excerpt.is_empty() {
            write!(f, ": {}", self.excerpt)?;
        }
        Ok(())
    }
}

/// Up to `count` bytes of the body. The answer is worth having without it, so an
/// error is an end, and it isn't waited for long.
fn read_some(read: &mut ReadHalf, count: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let deadline = Deadline::after(BODY_WAIT);
    while body.len() < count {
        read.set_deadline(Some(deadline));
        let filled: io::Result<&mut [u8]> = read.fill();
        let Ok(bytes) = filled else { break };
        if bytes.is_empty() {
            break;
        }
        let taken = bytes.len().min(count - body.len());
        body.extend_from_slice(&bytes[..taken]);
        read.consume(taken);
    }
    body
}

/// One line of printable text that says what `bytes` say.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > MAX_EXCERPT {
            line.truncate(line.floor_char_boundary(MAX_EXCERPT));
            line.push('…');
            break;
        }
    }
    line
}

/// `Retry-After` in its two forms (RFC 9110 §10.2.3), from `now`; at most a day.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let wait = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let at = jiff::fmt::rfc2822::parse(value).ok()?;
        let at = SystemTime::from(at.timestamp());
        at.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Bytes of the body that are read at most.
const MAX_BODY: usize = 2048;

/// How long the body is waited for.
const BODY_WAIT: Duration = Duration::from_secs(1);

/// Bytes of the excerpt.
const MAX_EXCERPT: usize = 200;

const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_400);
        let parsed = |value| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(parsed("120"), Some(120));
        assert_eq!(parsed("Wed, 21 Oct 2015 07:28:00 GMT"), Some(80));
        assert_eq!(parsed("Tue, 20 Oct 2015 07:28:00 GMT"), Some(0));
        assert_eq!(parsed("99999999999"), Some(86_400));
        assert_eq!(parsed("soon"), None);
    }

    #[test]
    fn an_excerpt_is_one_short_printable_line() {
        assert_eq!(
            excerpt(b"<p>\r\n\tno\x1b[1m \xff</p>"),
            "<p> no [1m \u{fffd}</p>"
        );
        let long = excerpt("é".repeat(1000).as_bytes());
        assert!(long.len() <= MAX_EXCERPT + 3 && long.ends_with('…'));
    }
}
