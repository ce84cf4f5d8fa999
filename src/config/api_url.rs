//! The control plane's URL.

use std::fmt;
use std::net::Ipv6Addr;

/// Where the controller is (config-and-state.md §3.2 "URL handling"): `https` and
/// `wss` mean TLS, `http` and `ws` mean none, no scheme means `https`. Both the
/// WebSocket and the REST base come from this one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ApiUrl {
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
    /// Empty, or begins with `/` and doesn't end with one. For REST only; the
    /// WebSocket has its own path.
    pub path: String,
    /// Without `?`; goes with the WebSocket's URL (control-channel.md §2.1).
    pub query: Option<String>,
}

impl ApiUrl {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => ("https".to_owned(), text),
        };
        let tls = match scheme.as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => {
                return Err("the URL's scheme must be https, wss, http or ws".to_owned());
            }
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned()).filter(|q| !q.is_empty())),
            None => (rest, None),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("the URL must not contain a user name or a password".to_owned());
        }
        if text.contains('#') {
            return Err("the URL must not have a fragment".to_owned());
        }
        let parts = path
            .bytes()
            .chain(query.iter().flat_map(|query| query.bytes()));
        if !parts
            .into_iter()
            .all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
        {
            return Err("the URL has characters that must be encoded".to_owned());
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(port) => port,
            None if tls => 443,
            None => 80,
        };
        Ok(Self {
            tls,
            host,
            port,
            path: path.trim_end_matches('/').to_owned(),
            query,
        })
    }

    /// `host` or `host:port`, as a `Host` header has it (no default ports).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// This machine and nobody else: clear text is no concern there.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)?;
        self.query
            .iter()
            .try_for_each(|query| write!(f, "?{query}"))
    }
}

fn split_port(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (inner, after) = rest
            .split_once(']')
            .ok_or("the URL's IPv6 address has no closing bracket")?;
        let address: Ipv6Addr = inner
            .parse()
            .map_err(|_| "the URL's IPv6 address is not valid")?;
        let port = match after {
            "" => None,
            after => Some(
                after
                    .strip_prefix(':')
                    .ok_or("the URL has something after its IPv6 address")?,
            ),
        };
        (address.to_string(), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if host.is_empty() {
            return Err("the URL has no host".to_owned());
        }
        if host.len() > 253 || !host.bytes().all(valid) {
            return Err("the URL's host is not a valid name or address".to_owned());
        }
        (host.to_ascii_lowercase(), port)
    };
    match port {
        None | Some("") => Ok((host, None)),
        Some(port) => port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .map(|port| (host, Some(port)))
            .ok_or_else(|| "the URL's port is not between 1 and 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn schemes_ports_and_paths() {
        for (text, shown, tls, port) in [
            (
                "https://api.example.test",
                "https://api.example.test",
                true,
                443,
            ),
            ("api.example.test", "https://api.example.test", true, 443),
            (
                "WSS://Api.Example.Test/",
                "https://api.example.test",
                true,
                443,
            ),
            (
                "http://127.0.0.1:8080/v1/",
                "http://127.0.0.1:8080/v1",
                false,
                8080,
            ),
            ("ws://localhost", "http://localhost", false, 80),
            ("https://[::1]:8443/x", "https://[::1]:8443/x", true, 8443),
            ("https://h:443", "https://h", true, 443),
            ("https://h/?x=1/2", "https://h?x=1/2", true, 443),
        ] {
            let url = ApiUrl::parse(text).expect(text);
            assert_eq!(
                (url.to_string().as_str(), url.tls, url.port),
                (shown, tls, port)
            );
        }
    }

    /// config-and-state.md §16.7: the original dialled `wss://` in clear text.
    #[test]
    fn wss_is_never_downgraded_to_clear_text() {
        assert!(
            ApiUrl::parse("wss://gateway.example.test/ws")
                .expect("url")
                .tls
        );
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        for text in [
            "",
            "https://",
            "ftp://x",
            "https://a b",
            "https://u:p@host",
            "https://h:0",
            "https://h:65536",
            "https://h:x",
            "https://h?x y",
            "https://h/#x",
            "https://[::1",
            "https://[zz]",
            "https://[::1]x",
            "https://h/a b",
            // control::urls refuses it when it dials: `config validate` has to, too.
            "https://h/a|b",
            "https://é.test",
        ] {
            assert!(ApiUrl::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn loopback_is_known() {
        for text in ["http://localhost:1", "http://127.1.2.3", "http://[::1]"] {
            assert!(ApiUrl::parse(text).expect(text).is_loopback());
        }
        assert!(!ApiUrl::parse("http://10.0.0.1").expect("url").is_loopback());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,60}") {
            if let Ok(url) = ApiUrl::parse(&text) {
                let again = ApiUrl::parse(&url.to_string()).expect("its own form is readable");
                prop_assert_eq!(again, url);
            }
        }
    }
}
