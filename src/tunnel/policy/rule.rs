//! One rule, and the walk through all of them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::Ask;
use super::address::{Block, special};
use super::glob::Glob;
use crate::tunnel::Protocol;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
}

/// A condition that is empty holds for everything; all of them must hold.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// The operator's word for it, or its place in the file.
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) namespaces: Vec<Glob>,
    pub(super) services: Vec<Glob>,
    pub(super) ports: Vec<RangeInclusive<u16>>,
    pub(super) protocol: Option<Protocol>,
    pub(super) addresses: Vec<Block>,
    pub(super) external_names: Vec<Glob>,
}

/// What the rules say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'a> {
    Allowed(&'a Rule),
    Denied(&'a Rule),
    /// It depends on the address, which isn't known yet.
    Open,
    /// No rule matches.
    Nothing,
}

/// What is known of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Comes later.
    Unknown,
    Known(IpAddr),
    /// A Unix socket has none.
    None,
}

/// The first rule that matches decides. `named`: the target's own configuration
/// names what is special about it, so that no rule has to.
pub(super) fn decide<'a>(
    rules: &'a [Rule],
    ask: &Ask<'_>,
    address: Address,
    named: bool,
) -> Said<'a> {
    for rule in rules.iter().filter(|rule| rule.matches_names(ask)) {
        let allows = rule.action == Action::Allow;
        if allows && !rule.names_where(ask) {
            continue;
        }
        match rule.matches_address(address) {
            Some(true) if !allows => return Said::Denied(rule),
            Some(true) if named || rule.names_address(address) => return Said::Allowed(rule),
            None if allows => return Said::Open,
            // It doesn't hold, or whether it denies is seen later: another may allow.
            _ => {}
        }
    }
    Said::Nothing
}

impl Rule {
    fn matches_names(&self, ask: &Ask<'_>) -> bool {
        let any = |globs: &[Glob], name: &str| {
            globs.is_empty() || globs.iter().any(|glob| glob.matches(name))
        };
        let external = self.external_names.is_empty()
            || ask.target.external_name().is_some_and(|name| {
                let name = name.trim_end_matches('.');
                self.external_names.iter().any(|glob| glob.matches(name))
            });
        let port = self.ports.is_empty()
            || ask
                .port
                .is_some_and(|port| self.ports.iter().any(|range| range.contains(&port)));
        any(&self.namespaces, ask.namespace)
            && any(&self.services, ask.service)
            && self
                .protocol
                .is_none_or(|protocol| protocol == ask.protocol)
            && port
            && external
    }

    /// `None` when it can't be known yet.
    fn matches_address(&self, address: Address) -> Option<bool> {
        if self.addresses.is_empty() {
            return Some(true);
        }
        match address {
            Address::Unknown => None,
            Address::None => Some(false),
            Address::Known(ip) => Some(self.addresses.iter().any(|block| block.contains(ip))),
        }
    }

    /// Whether a rule that allows means a Service that points out of the cluster.
    fn names_where(&self, ask: &Ask<'_>) -> bool {
        ask.target.external_name().is_none() || !self.external_names.is_empty()
    }

    /// Whether a rule that allows means an address that is denied otherwise.
    fn names_address(&self, address: Address) -> bool {
        match address {
            Address::Known(ip) if special(ip).is_some() => {
                self.addresses.iter().any(|block| block.names(ip))
            }
            _ => true,
        }
    }
}
