//! Where the control plane's token comes from, and reading it again.

use std::path::PathBuf;

use super::Secret;
use super::surroundings::{Process, Surroundings};

/// A source of the token that can be asked again: after a 401 the operator may
/// have rotated it (decisions.md §2, "After registration").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// None was configured; a loaded `Config` never has this.
    #[default]
    Missing,
    /// From a flag, the environment or the configuration file.
    Literal(Secret),
    /// A file, or a systemd credential; read each time.
    File(PathBuf),
}

/// Why there is no token to be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(
        "no token: set PIPEOPS_TOKEN, PIPEOPS_TOKEN_FILE, pipeops.token_file in the \
         configuration file, or --token"
    )]
    Missing,
    #[error("cannot read the token file {}: {cause}", path.display())]
    Unreadable {
        path: PathBuf,
        cause: std::io::Error,
    },
    /// It is empty, a placeholder, or can't be sent in a header.
    #[error("the token {origin} {why}")]
    Unusable { origin: String, why: &'static str },
}

impl TokenSource {
    /// The token as it is now.
    pub fn read(&self) -> Result<Secret, TokenError> {
        self.read_from(&Process)
    }

    pub(super) fn read_from(&self, around: &dyn Surroundings) -> Result<Secret, TokenError> {
        match self {
            Self::Missing => Err(TokenError::Missing),
            Self::Literal(secret) => usable(secret.expose(), || "given".to_owned()),
            Self::File(path) => {
                let bytes =
                    around
                        .read(path, MAX_TOKEN_FILE)
                        .map_err(|cause| TokenError::Unreadable {
                            path: path.clone(),
                            cause,
                        })?;
                let origin = || format!("in {}", path.display());
                let text = std::str::from_utf8(&bytes).map_err(|_| TokenError::Unusable {
                    origin: origin(),
                    why: "is not text",
                })?;
                usable(text, origin)
            }
        }
    }
}

/// Texts that stand in samples where a token belongs (config-and-state.md §2.5).
pub(super) fn is_placeholder(text: &str) -> bool {
    let text = text.trim();
    text.contains("${")
        || PLACEHOLDERS
            .iter()
            .any(|known| text.eq_ignore_ascii_case(known))
}

fn usable(text: &str, origin: impl Fn() -> String) -> Result<Secret, TokenError> {
    let text = text.trim();
    let why = if text.is_empty() {
        "is empty"
    } else if is_placeholder(text) {
        "is a placeholder; put the real one there"
    } else if text.len() > MAX_TOKEN {
        "is longer than 16 KiB"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "has spaces, line breaks or characters that a header cannot carry"
    } else {
        return Ok(Secret::new(text));
    };
    Err(TokenError::Unusable {
        origin: origin(),
        why,
    })
}

const PLACEHOLDERS: &[&str] = &[
    "your-token-here",
    "your-cluster-token-here",
    "your-pipeops-token-here",
    "<YOUR_PIPEOPS_TOKEN>",
    "replace-with-your-token",
];

/// A header line of more would be refused on the way.
const MAX_TOKEN: usize = 16 * 1024;

/// A token file holds one token and perhaps a line break.
const MAX_TOKEN_FILE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Result<Secret, TokenError> {
        TokenSource::Literal(Secret::new(text)).read()
    }

    #[test]
    fn a_token_is_trimmed() {
        assert_eq!(literal(" abc\n").expect("token").expose(), "abc");
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_without_showing_it() {
        for text in [
            "",
            " ",
            "your-token-here",
            "a${B}",
            "se cret",
            "se\r\ncret",
            "sécret",
        ] {
            let error = literal(text).expect_err(text).to_string();
            assert!(!error.contains("cret"), "{error}");
        }
        assert!(literal(&"x".repeat(MAX_TOKEN + 1)).is_err());
    }

    #[test]
    fn a_rotated_file_is_read_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        assert!(matches!(source.read(), Err(TokenError::Unreadable { .. })));
        std::fs::write(&path, "one\n").expect("written");
        assert_eq!(source.read().expect("token").expose(), "one");
        std::fs::write(&path, "two\n").expect("written");
        assert_eq!(source.read().expect("token").expose(), "two");
        std::fs::write(&path, "x".repeat(MAX_TOKEN_FILE + 1)).expect("written");
        assert!(matches!(source.read(), Err(TokenError::Unreadable { .. })));
    }
}
