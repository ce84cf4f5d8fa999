//! The URLs of the control plane (control-channel.md §2.1): a strict reading of
//! what is configured or handed out, and what is dialled in the end.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::net::Endpoint;

/// An absolute URL of one of the schemes `ws`, `wss`, `http`, `https`. The bearer
/// token is never part of one: user names and passwords are refused.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url {
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

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the URL has no scheme")]
    NoScheme,
    #[error("the URL's scheme must be https, wss, http or ws")]
    Scheme,
    #[error("the URL must not contain a user name or a password")]
    UserInfo,
    #[error("the URL has no valid host")]
    Host,
    #[error("the URL's port is not between 1 and 65535")]
    Port,
    #[error("the URL contains characters that must be percent-encoded")]
    Characters,
    #[error("the URL is longer than {MAX_URL} bytes")]
    TooLong,
    #[error("the controller is reached over TLS, but the gateway's URL is plain text")]
    Downgrade,
    #[error("{0} is not among pipeops.gateway_hosts")]
    HostNotAllowed(String),
}

impl Url {
    /// Reads a URL that must have a scheme. A fragment is dropped: it has no
    /// meaning on the wire.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.trim().split_once("://").ok_or(UrlError::NoScheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return Err(UrlError::Scheme),
        };
        if rest.len() > MAX_URL {
            return Err(UrlError::TooLong);
        }
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
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
            tls,
            host,
            port: port.unwrap_or(default_port(tls)),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        })
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

/// For logs: without the query, which is the peer's business.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// The controller's WebSocket: scheme mapped without ever weakening it (T3), path
/// replaced, query kept. A missing scheme means TLS.
pub fn controller(api_url: &str) -> Result<Url, UrlError> {
    let mut url = api_base(api_url)?;
    CONTROLLER_PATH.clone_into(&mut url.path);
    Ok(url)
}

/// A REST call to the controller (control-channel.md §12.7, §12.8): base path
/// kept, query dropped.
pub fn rest(api_url: &str, path: &str) -> Result<Url, UrlError> {
    let mut url = api_base(api_url)?;
    url.path = format!("{}{path}", url.path.trim_end_matches('/'));
    url.query = None;
    Ok(url)
}

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    use fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// What the gateway is told in its URL (control-channel.md §2.1).
#[derive(Clone, Copy, Debug)]
pub struct GatewayQuery<'a> {
    /// `cluster_uuid` of the registration, else its `cluster_id`.
    pub cluster_uuid: &'a str,
    pub agent_version: &'a str,
    /// False until the tunnels are built.
    pub supports_yamux: bool,
}

/// Which gateways get our token (T30): their URL comes from a peer.
#[derive(Clone, Copy, Debug)]
pub struct GatewayRules<'a> {
    /// Plain text is good enough: the controller is reached so too, or a setting
    /// says so.
    pub plaintext: bool,
    /// `pipeops.gateway_hosts`: names, or `.example.com` for all below it; empty:
    /// any.
    pub hosts: &'a [String],
}

impl GatewayRules<'_> {
    fn check(&self, url: &Url) -> Result<(), UrlError> {
        if !url.tls && !self.plaintext {
            return Err(UrlError::Downgrade);
        }
        let is = |allowed: &String| {
            let allowed = allowed.trim_start_matches('*').to_ascii_lowercase();
            url.host == allowed || (allowed.starts_with('.') && url.host.ends_with(&allowed))
        };
        if self.hosts.is_empty() || self.hosts.iter().any(is) {
            return Ok(());
        }
        Err(UrlError::HostNotAllowed(url.host.clone()))
    }
}

/// The gateway's WebSocket, if the rules allow it.
pub fn gateway(
    gateway_ws_url: &str,
    query: &GatewayQuery<'_>,
    rules: &GatewayRules<'_>,
) -> Result<Url, UrlError> {
    let mut url = Url::parse(gateway_ws_url)?;
    rules.check(&url)?;
    if url.path.is_empty() {
        "/ws".clone_into(&mut url.path);
    }
    let flag = |value: bool| if value { "true" } else { "false" }.to_owned();
    let ours = [
        ("agent_version", encode(query.agent_version)),
        ("cluster_uuid", encode(query.cluster_uuid)),
        ("supports_binary", flag(true)),
        ("supports_response_streaming", flag(true)),
        ("supports_streaming", flag(true)),
        ("supports_websocket", flag(true)),
        ("supports_yamux", flag(query.supports_yamux)),
    ];
    let given = url.query.take().unwrap_or_default();
    let given = given.split('&').filter(|pair| !pair.is_empty());
    let given = given.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut pairs: Vec<(&str, &str)> = given
        .filter(|(name, _)| !ours.iter().any(|(our, _)| our == name))
        .chain(ours.iter().map(|(name, value)| (*name, value.as_str())))
        .collect();
    pairs.sort_by_key(|(name, _)| *name); // stable: repeated ones keep their order
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let query = pairs.join("&");
    url.query = Some(query);
    Ok(url)
}

fn api_base(api_url: &str) -> Result<Url, UrlError> {
    match Url::parse(api_url) {
        Err(UrlError::NoScheme) => Url::parse(&format!("https://{}", api_url.trim())),
        parsed => parsed,
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

const CONTROLLER_PATH: &str = "/api/v1/clusters/agent/ws";

/// Longer ones don't fit into a request head that a server accepts.
const MAX_URL: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUERY: GatewayQuery<'_> = GatewayQuery {
        cluster_uuid: "6f0c",
        agent_version: "1.4.0",
        supports_yamux: false,
    };

    const TLS_ONLY: GatewayRules<'_> = GatewayRules {
        plaintext: false,
        hosts: &[],
    };
    const PLAIN: GatewayRules<'_> = GatewayRules {
        plaintext: true,
        hosts: &[],
    };

    #[test]
    fn t30_the_token_goes_to_listed_hosts_only() {
        let hosts = ["Gw.test".to_owned(), "*.example.com".to_owned()];
        let rules = GatewayRules {
            hosts: &hosts,
            ..TLS_ONLY
        };
        let allowed = |url| gateway(url, &QUERY, &rules).is_ok();
        assert!(allowed("wss://gw.test:8443/ws") && allowed("wss://a.b.example.com"));
        for other in [
            "wss://example.com",
            "wss://evilexample.com",
            "wss://gw.test.evil",
        ] {
            assert!(!allowed(other), "{other}");
        }
    }

    fn dialled(url: &Url) -> String {
        let scheme = if url.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{}", url.authority(), url.target())
    }

    #[test]
    fn controller_urls() {
        for (api_url, want) in [
            ("https://h/x?y=1", "wss://h/api/v1/clusters/agent/ws?y=1"),
            ("wss://h:443", "wss://h/api/v1/clusters/agent/ws"),
            ("http://h:8080/", "ws://h:8080/api/v1/clusters/agent/ws"),
            (
                "ws://[::1]:81?a=%20b",
                "ws://[::1]:81/api/v1/clusters/agent/ws?a=%20b",
            ),
            (
                "Api.Example.Test:8443",
                "wss://api.example.test:8443/api/v1/clusters/agent/ws",
            ),
            ("  https://h#frag ", "wss://h/api/v1/clusters/agent/ws"),
        ] {
            assert_eq!(dialled(&controller(api_url).expect(api_url)), want);
        }
    }

    #[test]
    fn t03_wss_is_not_downgraded_to_clear_text() {
        assert!(controller("wss://h").expect("url").tls);
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for (text, error) in [
            ("ftp://h", UrlError::Scheme),
            ("https://", UrlError::Host),
            ("", UrlError::Host),
            ("https://u:p@h", UrlError::UserInfo),
            ("https://h:0", UrlError::Port),
            ("https://h:+1", UrlError::Port),
            ("https://h:99999", UrlError::Port),
            ("https://h/a b", UrlError::Characters),
            ("https://h/\r\nX: y", UrlError::Characters),
            ("https://h?ä", UrlError::Characters),
            ("https://a b", UrlError::Host),
            ("https://[::1", UrlError::Host),
            ("https://[::1]x", UrlError::Host),
            ("https://ä.test", UrlError::Host),
        ] {
            assert_eq!(controller(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn gateway_urls() {
        let own = "agent_version=1.4.0&cluster_uuid=6f0c&supports_binary=true\
                   &supports_response_streaming=true&supports_streaming=true\
                   &supports_websocket=true&supports_yamux=false";
        for (given, want) in [
            ("wss://g", format!("wss://g/ws?{own}")),
            ("https://g/", format!("wss://g/?{own}")),
            ("wss://g:1573/a/b", format!("wss://g:1573/a/b?{own}")),
            (
                "wss://g/ws?zone=b&zone=a&supports_yamux=true",
                format!("wss://g/ws?{own}&zone=b&zone=a"),
            ),
            ("wss://g/ws?aa", format!("wss://g/ws?aa=&{own}")),
        ] {
            let url = gateway(given, &QUERY, &TLS_ONLY).expect(given);
            assert_eq!(dialled(&url), want);
        }
    }

    #[test]
    fn values_in_the_query_are_encoded() {
        let query = GatewayQuery {
            cluster_uuid: "a&b=ü c",
            ..QUERY
        };
        let url = gateway("wss://g", &query, &TLS_ONLY).expect("url");
        assert!(
            url.target().contains("cluster_uuid=a%26b%3D%C3%BC%20c&"),
            "{}",
            url.target()
        );
    }

    #[test]
    fn t30_a_plain_gateway_is_refused_unless_it_is_good_enough() {
        assert_eq!(
            gateway("ws://g", &QUERY, &TLS_ONLY),
            Err(UrlError::Downgrade)
        );
        assert_eq!(
            gateway("http://g", &QUERY, &TLS_ONLY),
            Err(UrlError::Downgrade)
        );
        assert!(gateway("ws://g", &QUERY, &PLAIN).is_ok());
        assert_eq!(gateway("gopher://g", &QUERY, &PLAIN), Err(UrlError::Scheme));
        assert_eq!(gateway("g:443/ws", &QUERY, &PLAIN), Err(UrlError::NoScheme));
    }

    #[test]
    fn rest_urls_keep_the_base_path() {
        let url = rest("https://h/base/?x=1", "/api/v1/register").expect("url");
        assert_eq!(url.target(), "/base/api/v1/register");
    }

    #[test]
    fn logs_do_not_show_the_query() {
        let url = controller("https://h?token=geheim").expect("url");
        assert!(!format!("{url} {url:?}").contains("geheim"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            for url in [controller(&text), gateway(&text, &QUERY, &PLAIN)].into_iter().flatten() {
                let again = Url::parse(&dialled(&url)).expect("its own form is readable");
                prop_assert_eq!(again, url);
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
