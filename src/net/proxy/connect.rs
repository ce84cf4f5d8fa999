//! The CONNECT exchange with a proxy (RFC 9110 §9.3.6).

use std::fmt::Write as _;
use std::io::{self, IoSlice};

use super::Proxy;
use crate::net::{Endpoint, Halves};

/// What became of a CONNECT that didn't open a tunnel.
#[derive(Debug)]
pub(in crate::net) enum Refused {
    Io(io::Error),
    /// The proxy closed the connection before its answer was complete.
    Closed,
    /// It answered with something that isn't an answer.
    Malformed(&'static str),
    /// It answered no.
    Status(ProxyRefusal),
}

/// A proxy that answered CONNECT with anything but success. It speaks for itself,
/// not for the target: never a refused registration (decisions.md §6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRefusal {
    pub status: u16,
    /// What that means and what to do, in words.
    pub explanation: String,
}

/// Asks for a tunnel to `target`. What the proxy sends behind its answer stays in
/// the read half.
pub(in crate::net) fn open_tunnel(
    halves: &mut Halves,
    proxy: &Proxy,
    target: &Endpoint,
) -> Result<(), Refused> {
    halves
        .write
        .write_all(&[IoSlice::new(request(proxy, target).as_bytes())])
        .map_err(Refused::Io)?;
    let mut head = Head::default();
    loop {
        let bytes = halves.read.fill().map_err(Refused::Io)?;
        if bytes.is_empty() {
            return Err(Refused::Closed);
        }
        let (count, complete) = head.feed(bytes).map_err(Refused::Malformed)?;
        halves.read.consume(count);
        if !complete {
            continue;
        }
        let answer = head.parse().map_err(Refused::Malformed)?;
        match answer.status {
            // Interim answers precede the real one.
            100..=199 if answer.status != 101 => head = Head::default(),
            200..=299 => return Ok(()),
            _ => return Err(Refused::Status(answer.explain(proxy, target))),
        }
    }
}

fn request(proxy: &Proxy, target: &Endpoint) -> String {
    let mut text = format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: pipeops-agent/{}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    if let Some((user, password)) = &proxy.credentials {
        let basic = base64_simd::STANDARD.encode_to_string(format!("{user}:{password}"));
        write!(text, "Proxy-Authorization: Basic {basic}\r\n").expect("a String takes everything");
    }
    text.push_str("\r\n");
    text
}

/// Collects the head of an answer, byte by byte because what follows it isn't ours.
#[derive(Debug, Default)]
struct Head {
    bytes: Vec<u8>,
    /// Nothing but (part of) a line end since the last one.
    line_empty: bool,
}

impl Head {
    /// Takes bytes until the head is complete; says how many and whether it is.
    fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        for (index, &byte) in bytes.iter().enumerate() {
            if self.bytes.len() == MAX_HEAD {
                return Err("the head of its answer is larger than 16 KiB");
            }
            self.bytes.push(byte);
            match byte {
                b'\n' if self.line_empty => return Ok((index + 1, true)),
                b'\n' => self.line_empty = true,
                b'\r' => {}
                _ => self.line_empty = false,
            }
        }
        // Anything else than HTTP is known by its first bytes: don't wait for more.
        let known = self.bytes.len().min(PREFIX.len());
        if self.bytes[..known] != PREFIX[..known] {
            return Err("its answer is not HTTP");
        }
        Ok((bytes.len(), false))
    }

    fn parse(&self) -> Result<Answer, &'static str> {
        // Latin-1, as headers are.
        let text: String = self.bytes.iter().map(|&byte| char::from(byte)).collect();
        let mut lines = text.lines();
        let status_line = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .ok_or("its answer is not HTTP/1")?;
        let (_, status) = status_line
            .split_once(' ')
            .ok_or("its answer has no status")?;
        let (code, reason) = status
            .trim_start()
            .split_once(' ')
            .unwrap_or((status.trim(), ""));
        let status = match code.parse::<u16>() {
            Ok(status @ 100..=599) if code.len() == 3 => status,
            _ => return Err("its answer has no valid status"),
        };
        let schemes = lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.trim().eq_ignore_ascii_case("proxy-authenticate"))
            .filter_map(|(_, value)| value.split_whitespace().next())
            .map(printable)
            .take(8)
            .collect();
        Ok(Answer {
            status,
            reason: printable(reason),
            schemes,
        })
    }
}

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    reason: String,
    /// Ways to authenticate that a 407 offers.
    schemes: Vec<String>,
}

impl Answer {
    fn explain(self, proxy: &Proxy, target: &Endpoint) -> ProxyRefusal {
        let Self {
            status,
            reason,
            schemes,
        } = self;
        let basic = schemes.is_empty()
            || schemes
                .iter()
                .any(|scheme| scheme.eq_ignore_ascii_case("basic"));
        let meaning = match status {
            407 if !basic => format!(
                "the proxy asks for {}, which is not supported; only Basic is",
                schemes.join(", ")
            ),
            407 if proxy.credentials.is_some() => {
                "the proxy does not accept the user and password of its URL".into()
            }
            407 => {
                "the proxy asks for credentials: put them into its URL (http://user:password@host)"
                    .into()
            }
            401 | 403 => format!("the proxy does not allow connections to {target}"),
            405 | 501 => "the proxy does not do CONNECT".into(),
            502..=504 => format!("the proxy could not reach {target}"),
            300..=399 => "the proxy redirects (to a login page?)".into(),
            _ => "the proxy did not open a tunnel".into(),
        };
        let explanation = if reason.is_empty() {
            format!("{meaning} (status {status})")
        } else {
            format!("{meaning} (status {status} {reason})")
        };
        ProxyRefusal {
            status,
            explanation,
        }
    }
}

/// A peer's words for our log: printable and short.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(100)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Real ones have a few hundred bytes; login pages come in the body.
const MAX_HEAD: usize = 16 * 1024;

const PREFIX: &[u8] = b"HTTP/1.";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxy(credentials: Option<(&str, &str)>) -> Proxy {
        Proxy {
            endpoint: Endpoint {
                host: "proxy".into(),
                port: 3128,
                tls: false,
            },
            credentials: credentials.map(|(user, password)| (user.into(), password.into())),
        }
    }

    fn target(host: &str) -> Endpoint {
        Endpoint {
            host: host.into(),
            port: 443,
            tls: true,
        }
    }

    fn parse(text: &str) -> Result<Answer, &'static str> {
        let mut head = Head::default();
        let (count, complete) = head.feed(text.as_bytes())?;
        assert!(complete, "{text:?}");
        assert_eq!(count, text.len());
        head.parse()
    }

    #[test]
    fn the_request_brackets_v6_and_encodes_credentials() {
        let text = request(&proxy(Some(("me", "p:ä"))), &target("2001:db8::1"));
        assert!(
            text.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")
        );
        assert!(text.contains("\r\nProxy-Authorization: Basic bWU6cDrDpA==\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        let text = request(&proxy(None), &target("a"));
        assert!(!text.contains("Authorization"));
    }

    #[test]
    fn answers_that_are_understood() {
        for (text, status, reason) in [
            (
                "HTTP/1.1 200 Connection established\r\n\r\n",
                200,
                "Connection established",
            ),
            ("HTTP/1.0 200 OK\nVia: x\n\n", 200, "OK"),
            ("HTTP/1.1 407\r\n\r\n", 407, ""),
            (
                "HTTP/1.1 403 No\x1b[31m way\r\nA: b\r\n\r\n",
                403,
                "No[31m way",
            ),
        ] {
            let answer = parse(text).expect(text);
            assert_eq!((answer.status, &*answer.reason), (status, reason));
        }
    }

    #[test]
    fn answers_that_are_refused() {
        for text in [
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 20 x\r\n\r\n",
            "HTTP/1.1 999 x\r\n\r\n",
            "HTTP/1.1 +20 x\r\n\r\n",
        ] {
            parse(text).expect_err(text);
        }
    }

    #[test]
    fn what_is_not_http_is_known_at_once() {
        assert!(Head::default().feed(b"SSH-2.0").is_err());
        assert!(Head::default().feed(b"\x15\x03\x01").is_err());
        assert!(Head::default().feed(b"HT").is_ok());
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut head = Head::default();
        let mut result = head.feed(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..=MAX_HEAD / 8 {
            if result.is_err() {
                return;
            }
            result = head.feed(b"A: bbb\r\n");
        }
        panic!("took more than the limit");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let explain = |text: &str, credentials| {
            let answer = parse(text).expect(text);
            answer
                .explain(&proxy(credentials), &target("gw"))
                .explanation
        };
        let text = "HTTP/1.1 407 Auth\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
        assert!(explain(text, None).contains("put them into its URL"));
        let with = explain(text, Some(("me", "hunter2")));
        assert!(with.contains("does not accept"), "{with}");
        assert!(!with.contains("hunter2"));
        let text = "HTTP/1.1 407 Auth\r\nproxy-authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n";
        assert!(explain(text, None).contains("NTLM, Negotiate"));
        assert!(explain("HTTP/1.1 403 No\r\n\r\n", None).contains("gw:443"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            let mut head = Head::default();
            if let Ok((_, true)) = head.feed(&bytes) {
                let _ = head.parse();
            }
        }

        /// Wherever the stream is cut, the head is the same and what follows stays.
        #[test]
        fn the_cut_does_not_matter(
            status in 100u16..600,
            reason in "[ -~]{0,40}",
            headers in prop::collection::vec("[A-Za-z-]{1,10}: [ -~]{0,20}", 0..5),
            tail: Vec<u8>,
            cuts in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut stream = format!("HTTP/1.1 {status} {reason}\r\n");
            for header in &headers {
                stream.push_str(header);
                stream.push_str("\r\n");
            }
            stream.push_str("\r\n");
            let length = stream.len();
            let mut stream = stream.into_bytes();
            stream.extend_from_slice(&tail);

            let mut head = Head::default();
            let mut rest = &stream[..];
            let mut cuts = cuts.into_iter().cycle();
            loop {
                let cut = cuts.next().expect("endless").min(rest.len());
                let (count, complete) = head.feed(&rest[..cut]).expect("good");
                rest = &rest[count..];
                if complete {
                    break;
                }
            }
            prop_assert_eq!(rest, &stream[length..]);
            prop_assert_eq!(head.parse().expect("good").status, status);
        }
    }
}
