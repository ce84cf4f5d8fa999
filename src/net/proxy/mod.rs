//! The way out through a corporate proxy (decisions.md §6.2 "Ways out").
//!
//! `HTTPS_PROXY` is for targets with TLS, `HTTP_PROXY` for those without,
//! `NO_PROXY` names the exceptions; each in upper or lower case, upper first.
//! `http://` and `https://` proxies are spoken to by CONNECT ([`connect`]).

pub(super) mod connect;
mod no_proxy;

use std::fmt;
use std::net::IpAddr;

use super::dial::Endpoint;
use super::resolve::literal;
use crate::percent;
use no_proxy::NoProxy;

/// Which proxy, if any, stands before which target.
#[derive(Clone, Debug, Default)]
pub struct ProxyRules {
    https: Option<Proxy>,
    http: Option<Proxy>,
    except: NoProxy,
}

/// A proxy. Shown without its credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is, and whether it is spoken to over TLS.
    pub(super) endpoint: Endpoint,
    /// User and password, percent-decoded.
    pub(super) credentials: Option<(String, String)>,
}

/// Why a proxy setting can't be used. The value itself may hold a password and is
/// never repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ProxyError {
    /// The variable or the key.
    pub setting: String,
    pub problem: String,
}

impl ProxyRules {
    /// No proxy for anything: the way to the API server of a cluster.
    pub fn none() -> Self {
        Self::default()
    }

    /// One proxy for every target (kubeconfig's `proxy-url`). `setting` is what
    /// errors call it.
    pub fn always(setting: &str, url: &str) -> Result<Self, ProxyError> {
        let proxy = Proxy::parse(setting, url)?;
        Ok(Self {
            https: Some(proxy.clone()),
            http: Some(proxy),
            except: NoProxy::nothing(),
        })
    }

    /// The rules of an environment; `get` looks a variable up.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let either = |upper: &str| {
            let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
            let lower = upper.to_lowercase();
            set(upper)
                .map(|value| (upper.to_owned(), value))
                .or_else(|| set(&lower).map(|value| (lower, value)))
        };
        let proxy = |name: &str| {
            either(name)
                .map(|(name, value)| Proxy::parse(&name, &value))
                .transpose()
        };
        Ok(Self {
            https: proxy("HTTPS_PROXY")?,
            http: proxy("HTTP_PROXY")?,
            except: NoProxy::parse(&either("NO_PROXY").map_or(String::new(), |(_, value)| value)),
        })
    }

    /// The proxy for a target; `None` means straight to it.
    pub fn proxy_for(&self, target: &Endpoint) -> Option<&Proxy> {
        let proxy = if target.tls { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.except.covers(target))
    }
}

impl Proxy {
    /// `http://user:password@host:port`; the scheme may be missing (http then),
    /// and so may the port (80, 443).
    fn parse(setting: &str, url: &str) -> Result<Self, ProxyError> {
        let error = |problem: String| ProxyError {
            setting: setting.to_owned(),
            problem,
        };
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            socks @ ("socks" | "socks4" | "socks4a" | "socks5" | "socks5h") => {
                return Err(error(format!(
                    "{socks}:// proxies are not supported; use an http:// or https:// proxy"
                )));
            }
            _ => return Err(error("a proxy URL begins with http:// or https://".into())),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if rest[authority.len()..].contains('@') {
            // Else half a password would be taken for a port.
            return Err(error(
                "the credentials have characters that must be percent-encoded (/ ? #)".into(),
            ));
        }
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) =
            split_host_port(place).ok_or_else(|| error("the port is not a number".into()))?;
        if host.is_empty() {
            return Err(error("the proxy URL has no host".into()));
        }
        if !super::dial::is_plausible_host(host) {
            return Err(error(
                "the proxy's host has characters that no name has".into(),
            ));
        }
        let credentials = match credentials {
            None => None,
            Some(text) => {
                let (user, password) = text.split_once(':').unwrap_or((text, ""));
                let decode = |part| {
                    let decoded = percent::decode(part);
                    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
                    decoded.ok_or_else(|| {
                        error("the credentials are not valid percent-encoding of UTF-8".into())
                    })
                };
                Some((decode(user)?, decode(password)?))
            }
        };
        Ok(Self {
            endpoint: Endpoint {
                host: host.to_owned(),
                port: port.unwrap_or(if tls { 443 } else { 80 }),
                tls,
            },
            credentials,
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.endpoint.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.endpoint)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6 address; `None` when the
/// port isn't one.
fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    if text.parse::<IpAddr>().is_ok() {
        return Some((text, None));
    }
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, "")) => Some((host, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

/// The address or lower-case name by which hosts are compared.
fn normalized(host: &str) -> Result<IpAddr, String> {
    match literal(host) {
        // `::ffff:10.0.0.1` is 10.0.0.1.
        Some(address) => Ok(address.to_canonical()),
        None => Err(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests;
