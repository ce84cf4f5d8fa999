//! Cluster names: what may stand in a token, a URL and a table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A cluster's name: 1 to 128 letters, digits, `-`, `_` and `.`, not
/// beginning with a dot. So it stands in a URL path as it is, and can never be `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

/// Why a text is no cluster name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a cluster name: 1 to {MAX_LENGTH} letters, digits, '-', '_' or '.', \
     not beginning with a dot"
)]
pub struct NameError(String);

impl ClusterName {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let valid = (1..=MAX_LENGTH).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(allowed);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            // What a stranger sent is repeated in the error, but not at any length.
            Err(NameError(text.chars().take(MAX_LENGTH).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

/// Longest name, in bytes.
const MAX_LENGTH: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name() {
        for good in [
            "a",
            "edge-berlin",
            "k3s.local",
            "A_1",
            "0",
            &"x".repeat(128),
        ] {
            assert!(ClusterName::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(129);
        for bad in [
            "", ".", "..", ".x", "a/b", "a b", "ü", "a%2Fb", "a\n", &long,
        ] {
            assert!(ClusterName::parse(bad).is_err(), "{bad}");
        }
    }
}
