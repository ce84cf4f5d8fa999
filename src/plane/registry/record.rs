//! What the registry keeps: one record per cluster and per token.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::plane::name::ClusterName;
use crate::plane::token::Grant;

/// Seconds since 1970.
pub type UnixTime = i64;

/// A cluster that an agent has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: ClusterName,
    /// A UUID, given at the first registration and kept for ever.
    pub id: String,
    /// Who registered last.
    pub agent: AgentInfo,
    pub created: UnixTime,
    /// When the agent was heard last; on disk at most 30 seconds old.
    pub last_seen: UnixTime,
    #[serde(default)]
    pub nodes: u64,
    #[serde(default)]
    pub pods: u64,
}

/// What an agent said about itself. Texts of a stranger: cut to [`AgentInfo::LIMIT`]
/// bytes and freed of control characters, because they are shown and logged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    pub id: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub kubernetes: String,
    #[serde(default)]
    pub hostname: String,
}

impl AgentInfo {
    /// Longest text, in bytes.
    pub const LIMIT: usize = 256;

    pub(crate) fn new(id: &str, version: &str, kubernetes: &str, hostname: &str) -> Self {
        Self {
            id: tidy(id),
            version: tidy(version),
            kubernetes: tidy(kubernetes),
            hostname: tidy(hostname),
        }
    }
}

/// A stranger's text, fit to be shown on one line.
pub(crate) fn tidy(text: &str) -> String {
    let mut tidy = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if tidy.len() + c.len_utf8() > AgentInfo::LIMIT {
            break;
        }
        tidy.push(c);
    }
    tidy
}

/// What is kept of a token: everything but its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// A short name for lists and for revoking; tells nothing about the secret.
    pub id: String,
    pub grant: Grant,
    /// What the person who made it calls it.
    #[serde(default)]
    pub label: Option<String>,
    pub created: UnixTime,
    /// On disk at most 30 seconds old.
    #[serde(default)]
    pub last_used: Option<UnixTime>,
}

/// A ServiceAccount token that an agent handed over. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServiceToken(Arc<str>);

impl ServiceToken {
    /// Longest one that is taken, in bytes: a JWT with many audiences has 2 KiB.
    pub(crate) const LIMIT: usize = 16 * 1024;

    /// `None` when it could not stand in a header field.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let fit = !text.is_empty()
            && text.len() <= Self::LIMIT
            && text.bytes().all(|b| b.is_ascii_graphic());
        fit.then(|| Self(text.into()))
    }

    /// For the `Authorization` field of a request to that cluster, and nothing else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServiceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServiceToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_text_is_cut_and_has_no_control_characters() {
        assert_eq!(tidy("a\x1b[31m\nb"), "a [31m b");
        assert_eq!(tidy(&"ü".repeat(500)).len(), AgentInfo::LIMIT);
    }

    #[test]
    fn a_service_token_that_would_break_a_field_is_refused() {
        assert!(ServiceToken::new("eyJ.a-b_c").is_some());
        for bad in [
            "",
            "a b",
            "a\r\nX: y",
            "ü",
            &"x".repeat(ServiceToken::LIMIT + 1),
        ] {
            assert!(ServiceToken::new(bad).is_none());
        }
        let token = ServiceToken::new("geheim").expect("fit");
        assert!(!format!("{token:?}").contains("geheim"));
    }
}
