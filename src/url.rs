//! Absolute URLs: where the control plane, a gateway or an API server is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::net::Endpoint;

/// An absolute URL of one of the schemes `ws`, `wss`, `http`, `https`, read strictly.
/// No credential is ever part of one: user names and passwords are refused, and so are
/// fragments, which mean nothing on the wire.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Url {
    /// `wss` or `ws`.
    pub websocket: bool,
    /// `wss` or `https`.
    pub tls: bool,
    /// A name or an address, lower case, without brackets.
    pub host: String,
    pub port: u16,
    /// As given, percent-encoding included; may be empty.
    pub path: String,
    /// As given, without the question mark.
    pub query: Option<String>,
}

/// Why a text is no URL of ours. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the URL has no scheme")]
    NoScheme,
    #[error("the URL's scheme must be https, wss, http or ws")]
    Scheme,
    #[error("the URL must not contain a user name or a password")]
    UserInfo,
    #[error("the URL must not have a fragment")]
    Fragment,
    #[error("the URL has no valid host")]
    Host,
    #[error("the URL's port is not between 1 and 65535")]
    Port,
    #[error("the URL contains characters that must be percent-encoded")]
    Characters,
    #[error("the URL is longer than {MAX_URL} bytes")]
    TooLong,
}

impl Url {
    /// Reads a URL that must have a scheme.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(UrlError::NoScheme)?;
        let (websocket, tls) = match scheme.to_ascii_lowercase().as_str() {
            "https" => (false, true),
            "http" => (false, false),
            "wss" => (true, true),
            "ws" => (true, false),
            _ => return Err(UrlError::Scheme),
        };
        if rest.len() > MAX_URL {
            return Err(UrlError::TooLong);
        }
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let clean = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b))
        };
        if !clean(path) || !query.is_none_or(clean) {
            return Err(UrlError::Characters);
        }
        let (host, port) = host_and_port(authority)?;
        Ok(Self {
            websocket,
            tls,
            host,
            port: port.unwrap_or(default_port(tls)),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        })
    }

    /// The same for a text that people write: a missing scheme means `https`.
    pub fn parse_configured(text: &str) -> Result<Self, UrlError> {
        match Self::parse(text) {
            Err(UrlError::NoScheme) => Self::parse(&format!("https://{}", text.trim())),
            parsed => parsed,
        }
    }

    /// The path without slashes at its end; mostly empty.
    pub fn base(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// Where to connect.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: self.host.clone(),
            port: self.port,
            tls: self.tls,
        }
    }

    /// What the `Host` header says: no default ports.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// The request target: path and query.
    pub fn target(&self) -> String {
        let path = if self.path.is_empty() {
            "/"
        } else {
            &self.path
        };
        match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// This machine and nobody else: clear text is no concern there.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

/// For logs: without the query, which may hold anything.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.websocket, self.tls) {
            (false, true) => "https",
            (false, false) => "http",
            (true, true) => "wss",
            (true, false) => "ws",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

fn host_and_port(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    if authority.contains('@') {
        return Err(UrlError::UserInfo);
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (inner, after) = rest.split_once(']').ok_or(UrlError::Host)?;
        let address: Ipv6Addr = inner.parse().map_err(|_| UrlError::Host)?;
        let port = match after.strip_prefix(':') {
            Some(port) => port,
            None if after.is_empty() => "",
            None => return Err(UrlError::Host),
        };
        (address.to_string(), port)
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if host.is_empty() || host.len() > 253 || !host.bytes().all(valid) {
            return Err(UrlError::Host);
        }
        (host.to_ascii_lowercase(), port)
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok((host, Some(port))),
        _ => Err(UrlError::Port),
    }
}

/// Longer ones don't fit into a request head that a server accepts.
const MAX_URL: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(url: &Url) -> String {
        let query = url.query.as_ref().map(|query| format!("?{query}"));
        format!("{url}{}", query.unwrap_or_default())
    }

    #[test]
    fn schemes_hosts_ports_and_paths() {
        for (text, want, tls, port) in [
            (
                "https://api.example.test",
                "https://api.example.test",
                true,
                443,
            ),
            ("api.example.test", "https://api.example.test", true, 443),
            (
                "Api.Example.Test:8443",
                "https://api.example.test:8443",
                true,
                8443,
            ),
            (
                "WSS://Api.Example.Test/",
                "wss://api.example.test/",
                true,
                443,
            ),
            (
                "http://127.0.0.1:8080/v1/",
                "http://127.0.0.1:8080/v1/",
                false,
                8080,
            ),
            ("ws://localhost:80", "ws://localhost", false, 80),
            (
                "  https://[::0001]:8443/x ",
                "https://[::1]:8443/x",
                true,
                8443,
            ),
            ("https://h:443?x=1/2", "https://h?x=1/2", true, 443),
        ] {
            let url = Url::parse_configured(text).expect(text);
            assert_eq!((whole(&url).as_str(), url.tls, url.port), (want, tls, port));
        }
        assert_eq!(Url::parse("h:443/x"), Err(UrlError::NoScheme));
        let url = Url::parse("https://h/a/b//?c").expect("a URL");
        assert_eq!((url.base(), url.target().as_str()), ("/a/b", "/a/b//?c"));
    }

    /// config-and-state.md §16.7: the original dialled `wss://` in clear text.
    #[test]
    fn wss_is_never_downgraded_to_clear_text() {
        assert!(
            Url::parse("wss://gateway.example.test/ws")
                .expect("url")
                .tls
        );
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        for (text, error) in [
            ("", UrlError::Host),
            ("https://", UrlError::Host),
            ("ftp://h", UrlError::Scheme),
            ("gopher://h", UrlError::Scheme),
            ("https://u:p@h", UrlError::UserInfo),
            ("https://h/#x", UrlError::Fragment),
            ("https://h:0", UrlError::Port),
            ("https://h:+1", UrlError::Port),
            ("https://h:x", UrlError::Port),
            ("https://h:65536", UrlError::Port),
            ("https://h/a b", UrlError::Characters),
            ("https://h/a|b", UrlError::Characters),
            ("https://h/\r\nX: y", UrlError::Characters),
            ("https://h?ä", UrlError::Characters),
            ("https://h?x y", UrlError::Characters),
            ("https://a b", UrlError::Host),
            ("https://[::1", UrlError::Host),
            ("https://[zz]", UrlError::Host),
            ("https://[::1]x", UrlError::Host),
            ("https://ä.test", UrlError::Host),
        ] {
            assert_eq!(Url::parse_configured(text), Err(error), "{text:?}");
        }
        let long = format!("https://h/{}", "a".repeat(MAX_URL));
        assert_eq!(Url::parse(&long), Err(UrlError::TooLong));
    }

    #[test]
    fn loopback_is_known() {
        for text in ["http://LOCALHOST:1", "http://127.1.2.3", "http://[::1]"] {
            assert!(Url::parse(text).expect(text).is_loopback());
        }
        assert!(!Url::parse("http://10.0.0.1").expect("url").is_loopback());
    }

    #[test]
    fn logs_do_not_show_the_query() {
        let url = Url::parse("https://h?token=geheim").expect("url");
        assert!(!format!("{url} {url:?}").contains("geheim"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            if let Ok(url) = Url::parse_configured(&text) {
                prop_assert_eq!(Url::parse(&whole(&url)), Ok(url));
            }
        }

        #[test]
        fn a_url_never_breaks_the_request_line(text in "(wss?|https?)://[ -~\\r\\n]{0,40}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert!(url.target().bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(url.authority().bytes().all(|b| b.is_ascii_graphic()));
            }
        }
    }
}
