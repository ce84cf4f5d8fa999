//! The URLs of the control plane (control-channel.md §2.1): from what is configured
//! or handed out to what is dialled.

use crate::percent;
use crate::url::{Url, UrlError};

/// Why a gateway is not dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("the controller is reached over TLS, but the gateway's URL is plain text")]
    Downgrade,
    #[error("{0} is not among pipeops.gateway_hosts")]
    HostNotAllowed(String),
}

/// The controller's WebSocket: scheme mapped without ever weakening it (T3), path
/// replaced, query kept.
pub fn controller(api_url: &Url) -> Url {
    Url {
        websocket: true,
        path: CONTROLLER_PATH.to_owned(),
        ..api_url.clone()
    }
}

/// A REST call to the controller (control-channel.md §12.7, §12.8): base path
/// kept, query dropped.
pub fn rest(api_url: &Url, path: &str) -> Url {
    Url {
        websocket: false,
        path: format!("{}{path}", api_url.base()),
        query: None,
        ..api_url.clone()
    }
}

/// What the gateway is told in its URL (control-channel.md §2.1).
#[derive(Clone, Copy, Debug)]
pub struct GatewayQuery<'a> {
    /// `cluster_uuid` of the registration, else its `cluster_id`.
    pub cluster_uuid: &'a str,
    pub agent_version: &'a str,
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
    fn check(&self, url: &Url) -> Result<(), GatewayError> {
        if !url.tls && !self.plaintext {
            return Err(GatewayError::Downgrade);
        }
        let is = |allowed: &String| {
            let allowed = allowed.trim_start_matches('*').to_ascii_lowercase();
            url.host == allowed || (allowed.starts_with('.') && url.host.ends_with(&allowed))
        };
        if self.hosts.is_empty() || self.hosts.iter().any(is) {
            return Ok(());
        }
        Err(GatewayError::HostNotAllowed(url.host.clone()))
    }
}

/// The gateway's WebSocket, if the rules allow it.
pub fn gateway(
    gateway_ws_url: &str,
    query: &GatewayQuery<'_>,
    rules: &GatewayRules<'_>,
) -> Result<Url, GatewayError> {
    let mut url = Url::parse(gateway_ws_url)?;
    rules.check(&url)?;
    url.websocket = true;
    if url.path.is_empty() {
        "/ws".clone_into(&mut url.path);
    }
    let able = || "true".to_owned();
    let ours = [
        ("agent_version", percent::encode_part(query.agent_version)),
        ("cluster_uuid", percent::encode_part(query.cluster_uuid)),
        ("supports_binary", able()),
        ("supports_response_streaming", able()),
        ("supports_streaming", able()),
        ("supports_websocket", able()),
        ("supports_yamux", able()),
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

const CONTROLLER_PATH: &str = "/api/v1/clusters/agent/ws";

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: GatewayQuery<'_> = GatewayQuery {
        cluster_uuid: "6f0c",
        agent_version: "1.4.0",
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

    fn configured(text: &str) -> Url {
        Url::parse_configured(text).expect(text)
    }

    fn dialled(url: &Url) -> String {
        let scheme = if url.tls { "wss" } else { "ws" };
        assert!(url.to_string().starts_with(&format!("{scheme}://")));
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
        ] {
            assert_eq!(dialled(&controller(&configured(api_url))), want);
        }
    }

    #[test]
    fn t03_wss_is_not_downgraded_to_clear_text() {
        assert!(controller(&configured("wss://h")).tls);
    }

    #[test]
    fn gateway_urls() {
        let own = "agent_version=1.4.0&cluster_uuid=6f0c&supports_binary=true\
                   &supports_response_streaming=true&supports_streaming=true\
                   &supports_websocket=true&supports_yamux=true";
        for (given, want) in [
            ("wss://g", format!("wss://g/ws?{own}")),
            ("https://g/", format!("wss://g/?{own}")),
            ("wss://g:1573/a/b", format!("wss://g:1573/a/b?{own}")),
            (
                "wss://g/ws?zone=b&zone=a&supports_yamux=false",
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
            Err(GatewayError::Downgrade)
        );
        assert_eq!(
            gateway("http://g", &QUERY, &TLS_ONLY),
            Err(GatewayError::Downgrade)
        );
        assert!(gateway("ws://g", &QUERY, &PLAIN).is_ok());
        let no_scheme = gateway("g:443/ws", &QUERY, &PLAIN);
        assert_eq!(no_scheme, Err(GatewayError::Url(UrlError::NoScheme)));
    }

    #[test]
    fn rest_urls_keep_the_base_path() {
        let url = rest(&configured("wss://h/base/?x=1"), "/api/v1/register");
        assert_eq!(url.to_string(), "https://h/base/api/v1/register");
        assert_eq!(url.target(), "/base/api/v1/register");
    }
}
