//! Tokens: how one looks, what is kept of it, and what it opens (decisions.md §6.4).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::name::ClusterName;
use crate::http::Headers;

/// What a token opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Grant {
    /// Registers one cluster, under the name that the token was made for.
    Agent { cluster: ClusterName },
    /// Sends requests to clusters through the front door.
    User { scope: Scope, access: Access },
}

/// Which clusters a user token reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    All,
    Named(BTreeSet<ClusterName>),
}

impl Scope {
    pub fn covers(&self, cluster: &ClusterName) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(cluster),
        }
    }
}

/// What a user token may do with the clusters that it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// `GET`, `HEAD` and `OPTIONS`, but not what runs in or behind a pod
    /// (`proxy`, `exec`, `attach`, `portforward`), which a GET can start.
    ReadOnly,
    Use,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { cluster } => write!(f, "agent of {cluster}"),
            Self::User { scope, access } => {
                f.write_str(match access {
                    Access::ReadOnly => "user, read-only: ",
                    Access::Use => "user: ",
                })?;
                match scope {
                    Scope::All => f.write_str("all clusters"),
                    Scope::Named(names) => {
                        for (i, name) in names.iter().enumerate() {
                            if i > 0 {
                                f.write_str(", ")?;
                            }
                            write!(f, "{name}")?;
                        }
                        Ok(())
                    }
                }
            }
        }
    }
}

/// The text of a token: `ppa_` (agent) or `ppu_` (user) and 32 random bytes in
/// hexadecimal. It is shown once, when it is made; only its hash is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText(String);

impl TokenText {
    /// A new one; fails only where the system has no random numbers.
    pub fn generate(grant: &Grant) -> Result<Self, getrandom::Error> {
        let prefix = match grant {
            Grant::Agent { .. } => "ppa_",
            Grant::User { .. } => "ppu_",
        };
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self(format!("{prefix}{}", hex(&secret))))
    }

    /// The text itself, to be handed to whom the token is for.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenText(…)")
    }
}

/// SHA-256 of a token's text. A slow password hash would protect nothing: the
/// secret has 256 random bits. Looking a hash up takes a time that depends on the
/// hash alone, from which nobody learns a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash(pub(super) [u8; 32]);

impl TokenHash {
    pub(crate) fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// The token of `Authorization: Bearer …`; `None` when there is no such field,
/// several, or one of another scheme.
pub(crate) fn bearer(headers: &Headers) -> Option<&str> {
    let mut fields = headers.get_all("authorization");
    let (Some(value), None) = (fields.next(), fields.next()) else {
        return None;
    };
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim_start();
    let right =
        scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN;
    right.then_some(token)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Longer than any token of ours, in bytes; what is longer isn't even hashed.
const MAX_TOKEN: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ClusterName {
        ClusterName::parse(text).expect("a name")
    }

    fn user(scope: Scope) -> Grant {
        let access = Access::Use;
        Grant::User { scope, access }
    }

    #[test]
    fn texts_are_long_different_and_say_their_role() {
        let agent = Grant::Agent { cluster: name("a") };
        let one = TokenText::generate(&agent).expect("random");
        let two = TokenText::generate(&agent).expect("random");
        assert_ne!(one, two);
        assert!(one.reveal().starts_with("ppa_") && one.reveal().len() == 4 + 64);
        let user = TokenText::generate(&user(Scope::All)).expect("random");
        assert!(user.reveal().starts_with("ppu_"));
    }

    #[test]
    fn a_token_is_not_in_its_debug_text() {
        let token = TokenText::generate(&user(Scope::All)).expect("random");
        assert!(!format!("{token:?}").contains(&token.reveal()[4..]));
    }

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            hex(&TokenHash::of("abc").0),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn scopes() {
        let some = Scope::Named([name("a"), name("b")].into());
        assert!(Scope::All.covers(&name("x")));
        assert!(some.covers(&name("a")) && !some.covers(&name("c")));
        assert_eq!(user(some).to_string(), "user: a, b");
    }

    #[test]
    fn bearer_fields() {
        let headers =
            |values: &[&str]| -> Headers { values.iter().map(|v| ("authorization", *v)).collect() };
        assert_eq!(bearer(&headers(&["Bearer ppu_1"])), Some("ppu_1"));
        assert_eq!(bearer(&headers(&["bearer  ppu_1 "])), Some("ppu_1"));
        for bad in [
            &[][..],
            &["Bearer"],
            &["Bearer "],
            &["Basic ppu_1"],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
        let long = format!("Bearer {}", "x".repeat(257));
        assert_eq!(bearer(&headers(&[&long])), None);
    }

    #[test]
    fn grants_survive_their_stored_form() {
        for grant in [
            Grant::Agent { cluster: name("a") },
            user(Scope::All),
            Grant::User {
                scope: Scope::Named([name("a")].into()),
                access: Access::ReadOnly,
            },
        ] {
            let text = serde_json::to_string(&grant).expect("text");
            assert_eq!(
                serde_json::from_str::<Grant>(&text).expect("a grant"),
                grant
            );
        }
    }
}
