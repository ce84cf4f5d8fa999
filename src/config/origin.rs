//! Origins: what a plain machine offers (config-and-state.md §12.2).

use std::fmt;
use std::path::PathBuf;

use super::value::quote;

/// One local address to which traffic is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub place: Place,
    /// Given as `http://` or `https://`: how HTTP is spoken there. Without, as the
    /// request says. It means nothing to a byte stream.
    pub https: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A name in lower case, or an address without brackets.
    Host {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl Origin {
    /// Reads `host:port`, `http://host[:port]`, `https://host[:port]` or
    /// `unix:///absolute/path`. The error is one clause.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = |why: &str| format!("{} is not an origin: {why}", quote(text));
        if let Some(path) = text.strip_prefix("unix://") {
            if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
                return Err(wrong("write unix:///absolute/path"));
            }
            if path.len() > MAX_UNIX_PATH {
                return Err(wrong("the path of a socket has at most 107 bytes"));
            }
            return Ok(Self {
                place: Place::Unix(path.into()),
                https: None,
            });
        }
        let (https, authority) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(false), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(true), rest),
            Some(_) => return Err(wrong("the scheme is none of http, https, unix")),
            None => (None, text),
        };
        if authority.contains(['/', '?', '#', '@']) {
            return Err(wrong("nothing may follow host:port or stand before it"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest
                    .split_once(']')
                    .ok_or_else(|| wrong("a ] is missing"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(wrong("no IPv6 address stands in the brackets"));
                }
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(wrong("only a port may follow the brackets")),
                }
            }
            None => match authority.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err(wrong("an IPv6 address stands in brackets"));
                }
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let plausible = (1..=253).contains(&host.len())
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if !plausible {
            return Err(wrong("no host name or address stands in it"));
        }
        let port = match (port, https) {
            // Digits alone: the parser of numbers takes a sign, too.
            (Some(port), _) => port
                .parse()
                .ok()
                .filter(|number| *number > 0 && port.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| wrong("the port is not between 1 and 65535"))?,
            (None, Some(https)) => {
                if https {
                    443
                } else {
                    80
                }
            }
            (None, None) => return Err(wrong("it has no port")),
        };
        Ok(Self {
            place: Place::Host {
                host: host.to_ascii_lowercase(),
                port,
            },
            https,
        })
    }
}

impl fmt::Display for Origin {
    /// As it could be written, but for the scheme of HTTP.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Host { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What fits into the kernel's `sockaddr_un` beside its final zero.
const MAX_UNIX_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, shown, https) in [
            ("localhost:3000", "localhost:3000", None),
            ("Localhost:3000", "localhost:3000", None),
            ("127.0.0.1:1", "127.0.0.1:1", None),
            ("[::1]:65535", "[::1]:65535", None),
            ("http://web:8080", "web:8080", Some(false)),
            (
                "https://web.example.test",
                "web.example.test:443",
                Some(true),
            ),
            ("http://[::1]", "[::1]:80", Some(false)),
            ("unix:///run/app.sock", "unix:///run/app.sock", None),
        ] {
            let origin = Origin::parse(text).expect(text);
            assert_eq!((origin.to_string().as_str(), origin.https), (shown, https));
        }
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        let long = format!("unix:///{}", "x".repeat(107));
        for text in [
            "",
            "localhost",
            ":80",
            "a:0",
            "a:65536",
            "a:+80",
            "a:80/",
            "a:80/path",
            "http://",
            "http://a/x",
            "http://u:p@a",
            "ftp://a:1",
            "::1:80",
            "[::1",
            "[::1]80",
            "[a]:1",
            "unix://run/x",
            "unix:///",
            "unix://",
            "a b:1",
            "a:80?x",
            &long,
        ] {
            let error = Origin::parse(text).expect_err(text);
            assert!(error.contains("is not an origin"), "{error}");
        }
    }
}
