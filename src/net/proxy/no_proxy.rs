//! The exceptions: `NO_PROXY`, by the rules of Go's net/http, which the original
//! uses for its HTTP calls and which cluster operators know.

use std::net::IpAddr;

use super::{normalized, split_host_port};
use crate::net::dial::Endpoint;

/// Targets that are reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoProxy {
    rules: Vec<Rule>,
    /// This machine is reached directly whatever the rules say.
    loopback: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    matcher: Matcher,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    Everything,
    Address(IpAddr),
    /// Network and length of its prefix.
    Network(IpAddr, u8),
    /// `example.com`: the name and all below it.
    Domain(String),
    /// `.example.com`, `*.example.com`: only what is below it.
    Below(String),
}

impl Default for NoProxy {
    fn default() -> Self {
        Self::parse("")
    }
}

impl NoProxy {
    /// No exceptions at all.
    pub(super) fn nothing() -> Self {
        Self {
            rules: Vec::new(),
            loopback: false,
        }
    }

    /// A list separated by commas or white space: names with or without a leading
    /// dot, addresses, networks, `*`; all but networks with an optional port. What
    /// makes no sense matches nothing.
    pub(super) fn parse(list: &str) -> Self {
        Self {
            rules: list
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter(|entry| !entry.is_empty())
                .filter_map(Rule::parse)
                .collect(),
            loopback: true,
        }
    }

    pub(super) fn covers(&self, target: &Endpoint) -> bool {
        let host = normalized(&target.host);
        let is_loopback = match &host {
            Ok(address) => address.is_loopback(),
            Err(name) => name == "localhost",
        };
        (self.loopback && is_loopback)
            || self
                .rules
                .iter()
                .any(|rule| rule.covers(&host, target.port))
    }
}

impl Rule {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self {
                matcher: Matcher::Everything,
                port: None,
            });
        }
        if let Some((network, length)) = entry.split_once('/') {
            let network: IpAddr = network.parse().ok()?;
            let length = length.parse().ok()?;
            let most = if network.is_ipv4() { 32 } else { 128 };
            return (length <= most).then_some(Self {
                matcher: Matcher::Network(network, length),
                port: None,
            });
        }
        let (host, port) = split_host_port(entry)?;
        let matcher = match normalized(host) {
            Ok(address) => Matcher::Address(address),
            Err(name) => {
                let below = name.strip_prefix('*').unwrap_or(&name);
                match below.strip_prefix('.') {
                    Some("") => return None,
                    Some(parent) => Matcher::Below(parent.to_owned()),
                    None if name.is_empty() || name.contains('*') => return None,
                    None => Matcher::Domain(name),
                }
            }
        };
        Some(Self { matcher, port })
    }

    fn covers(&self, host: &Result<IpAddr, String>, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match (&self.matcher, host) {
            (Matcher::Everything, _) => true,
            (Matcher::Address(address), Ok(host)) => address == host,
            (Matcher::Network(network, length), Ok(host)) => within(*host, *network, *length),
            (Matcher::Domain(domain), Err(host)) => host == domain || is_below(host, domain),
            (Matcher::Below(parent), Err(host)) => is_below(host, parent),
            _ => false,
        }
    }
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

fn within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let (address, network, unused) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (
            u128::from(a.to_bits()),
            u128::from(n.to_bits()),
            32 - u32::from(length),
        ),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128 - u32::from(length)),
        _ => return false,
    };
    // A prefix of no bits is everything; shifting by 128 would overflow.
    let cut = |bits: u128| bits.checked_shr(unused).unwrap_or(0);
    cut(address) == cut(network)
}
