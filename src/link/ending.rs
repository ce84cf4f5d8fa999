//! How a connection ended, and the one log line about it.

use std::fmt;
use std::time::Duration;

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// This process: it was closed or aborted here, or what the peer sent was
    /// refused.
    Us,
    /// The peer: by a close frame, or by ending the stream without one.
    Peer,
    /// Nobody on purpose: a reset, a time limit.
    Network,
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Us => "us",
            Self::Peer => "the peer",
            Self::Network => "the network",
        })
    }
}

/// How a connection ended: everything that its one log line says (which is what
/// `Display` gives; the owner of the link logs it).
#[derive(Clone, Debug)]
pub struct Ending {
    pub by: EndedBy,
    /// In words, safe to log.
    pub why: String,
    /// Close code, when a close frame was received (or sent, if we ended it).
    pub code: Option<u16>,
    pub lived: Duration,
    /// Age of the last byte received and of the last byte written.
    pub last_in: Duration,
    pub last_out: Duration,
    /// Bytes of frames, before encryption.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Text and binary messages.
    pub messages_in: u64,
    pub messages_out: u64,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection ended by {}: {}", self.by, self.why)?;
        if let Some(code) = self.code {
            write!(f, " (close code {code})")?;
        }
        write!(
            f,
            "; lived {:.1} s; received {} messages, {} bytes, the last {:.1} s ago; \
             sent {} messages, {} bytes, the last {:.1} s ago",
            self.lived.as_secs_f64(),
            self.messages_in,
            self.bytes_in,
            self.last_in.as_secs_f64(),
            self.messages_out,
            self.bytes_out,
            self.last_out.as_secs_f64(),
        )
    }
}

/// A peer's words, fit for one line of a log.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_who_why_ages_and_counts() {
        let ending = Ending {
            by: EndedBy::Peer,
            why: "closed: going away".into(),
            code: Some(1001),
            lived: Duration::from_secs(90),
            last_in: Duration::from_millis(1200),
            last_out: Duration::from_millis(300),
            bytes_in: 10,
            bytes_out: 20,
            messages_in: 1,
            messages_out: 2,
        };
        assert_eq!(
            ending.to_string(),
            "connection ended by the peer: closed: going away (close code 1001); lived 90.0 s; \
             received 1 messages, 10 bytes, the last 1.2 s ago; \
             sent 2 messages, 20 bytes, the last 0.3 s ago"
        );
    }

    #[test]
    fn a_peer_cannot_write_lines_of_its_own() {
        assert_eq!(printable("a\r\nERROR b\u{1b}[0m"), "a  ERROR b [0m");
    }
}
