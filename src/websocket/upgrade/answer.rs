//! An answer that isn't the one we asked for: enough of it to tell who gave it
//! (the control plane, or a box in between), and when to come back.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::http::{Decoder, Framing, Headers, ResponseHead};
use crate::net::{Deadline, ReadHalf};

/// An HTTP answer to an upgrade request that isn't a 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    /// Decoded; 64 KiB of it at most, and what of it came within two seconds.
    pub body: Vec<u8>,
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

    /// Reads what belongs to an answer with that head. The answer is worth having
    /// without its body: what doesn't come of it is left out.
    pub(super) fn read(head: ResponseHead, read: &mut ReadHalf) -> Self {
        let framing = head.framing("GET").unwrap_or(Framing::UntilClose);
        let body = read_body(read, framing);
        let value = |name: &str| head.headers.get(name);
        let content_type = value("content-type").map(|value| {
            let kind = value.split(';').next().unwrap_or_default();
            excerpt(kind.trim().to_ascii_lowercase().as_bytes())
        });
        let retry_after =
            value("retry-after").and_then(|value| retry_after(value, SystemTime::now()));
        Self {
            status: head.status,
            content_type,
            retry_after,
            excerpt: excerpt(&body[..body.len().min(EXCERPT_OF)]),
            headers: head.headers,
            body,
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

/// The body, as far as it comes.
fn read_body(read: &mut ReadHalf, framing: Framing) -> Vec<u8> {
    let mut body = Vec::new();
    let mut decoder = Decoder::new(framing);
    let deadline = Deadline::after(BODY_WAIT);
    while body.len() < MAX_BODY && !decoder.is_done() {
        read.set_deadline(Some(deadline));
        let Ok(bytes) = read.fill() else { break };
        if bytes.is_empty() {
            break;
        }
        let Ok(step) = decoder.decode(bytes, MAX_BODY - body.len()) else {
            break;
        };
        let end = step.skip + step.data;
        body.extend_from_slice(&bytes[step.skip..end]);
        read.consume(end);
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

/// Bytes of the body that are read at most: a Status of the API server has a few
/// hundred.
const MAX_BODY: usize = 64 * 1024;

/// How long the body is waited for.
const BODY_WAIT: Duration = Duration::from_secs(2);

/// Bytes of the body that are looked at for the excerpt.
const EXCERPT_OF: usize = 2048;

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
