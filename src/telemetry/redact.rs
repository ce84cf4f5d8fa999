//! Nothing secret in a log line: by value, and by the look of it
//! (config-and-state.md §13).

use std::borrow::Cow;

use parking_lot::RwLock;

use crate::config::Secret;

/// Makes every later log line show `[REDACTED]` where this text would stand. Very
/// short texts are left alone: hiding each `a` would hide the log.
pub fn register(secret: &Secret) {
    let text = secret.expose().trim();
    if text.len() < MIN_KNOWN {
        return;
    }
    remember(&mut KNOWN.write(), text);
}

/// The longest first: a secret may contain another one.
type Known = Vec<(u64, String)>;

fn remember(known: &mut Known, text: &str) {
    let newest = known.iter().map(|(at, _)| at + 1).max().unwrap_or(0);
    if let Some((at, _)) = known.iter_mut().find(|(_, other)| other == text) {
        *at = newest;
        return;
    }
    // Tokens that rotate for months must not pile up: the one that was heard of
    // longest ago gives way.
    if known.len() >= MAX_KNOWN {
        let oldest = known.iter().map(|(at, _)| *at).min();
        known.retain(|(at, _)| Some(*at) != oldest);
    }
    known.push((newest, text.to_owned()));
    known.sort_by_key(|(_, text)| std::cmp::Reverse(text.len()));
}

/// `text` without known secrets, and without what looks like one.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    for (_, secret) in KNOWN.read().iter() {
        if out.contains(secret.as_str()) {
            out = Cow::Owned(out.replace(secret.as_str(), MASK));
        }
    }
    match by_look(&out) {
        Some(masked) => Cow::Owned(masked),
        None => out,
    }
}

/// Whether a field of this name is secret whatever it holds.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `has_token`, `token_file` and the like say something about one.
    if name.starts_with("has_") || name.ends_with("_file") {
        return false;
    }
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// Masks by pattern; `None` when there is nothing to mask.
fn by_look(text: &str) -> Option<String> {
    let mut masked: Option<String> = None;
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        if let Some((start, end)) = secret_at(text, at) {
            let out = masked.get_or_insert_with(String::new);
            out.push_str(&text[copied..start]);
            out.push_str(MASK);
            copied = end;
            at = end.max(at + 1);
        } else {
            at += 1;
        }
        while at < text.len() && !text.is_char_boundary(at) {
            at += 1;
        }
    }
    masked.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

/// The range to mask of a secret whose mark begins at `at`.
fn secret_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let begins_word = at == 0 || !is_word(bytes[at - 1]);
    let rest = &text[at..];
    // `https://user:password@host`
    if let Some(after) = rest.strip_prefix("://") {
        let authority = after
            .find(|c: char| c == '/' || c == '"' || c.is_whitespace())
            .unwrap_or(after.len());
        let userinfo = after[..authority].rfind('@')?;
        return (userinfo > 0).then_some((at + 3, at + 3 + userinfo));
    }
    if !begins_word {
        return None;
    }
    // `Authorization: Bearer …`
    for scheme in ["bearer ", "basic "] {
        if starts_with(rest, scheme) {
            let start = at + scheme.len();
            let end = start + word_length(&text[start..]);
            // "bearer token" in a sentence is none.
            return (end - start >= MIN_LOOK).then_some((start, end));
        }
    }
    // Tokens of the control plane and of ours, JSON Web Tokens, node tokens of k3s, and
    // what browsers have for `Authorization` in a WebSocket's subprotocols.
    for prefix in ["sat_", "ppa_", "ppu_", "eyJ", "K10", SUBPROTOCOL] {
        if rest.starts_with(prefix) {
            let length = word_length(rest);
            let enough = match prefix {
                "K10" => rest[..length].contains("::"),
                "eyJ" => length >= 20 && rest[..length].contains('.'),
                SUBPROTOCOL => length > SUBPROTOCOL.len(),
                _ => length >= MIN_LOOK,
            };
            return enough.then_some((at, at + length));
        }
    }
    // `K3S_TOKEN=…`, `"token":"…"`, `password: …`
    for name in ASSIGNED {
        if starts_with(rest, name) {
            let after = rest[name.len()..].trim_start_matches('"');
            let quoted = after.len() + name.len() < rest.len();
            let value = after.strip_prefix('=').or_else(|| {
                // "no token: set …" is a sentence.
                let assigns = quoted || *name != "token";
                after.strip_prefix(':').filter(|_| assigns)
            })?;
            let value = value.trim_start_matches([' ', '\'', '"']);
            let start = text.len() - value.len();
            let length = value
                .find(|c: char| c.is_whitespace() || "'\"&,;".contains(c))
                .unwrap_or(value.len());
            let masked = value.starts_with(MASK);
            return (length > 0 && !masked).then_some((start, start + length));
        }
    }
    None
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.as_bytes()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

fn word_length(text: &str) -> usize {
    text.bytes()
        .position(|byte| !is_token(byte))
        .unwrap_or(text.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// The characters of bearer tokens (RFC 6750), and those of node tokens.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/=:".contains(&byte)
}

static KNOWN: RwLock<Known> = RwLock::new(Vec::new());

const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

const MASK: &str = "[REDACTED]";

/// Known secrets shorter than this would mask ordinary words.
const MIN_KNOWN: usize = 6;

/// What only looks like a secret must have some length.
const MIN_LOOK: usize = 12;

const MAX_KNOWN: usize = 64;

const SECRET_NAMES: &[&str] = &["token", "password", "secret", "authorization", "credential"];

const ASSIGNED: &[&str] = &["token", "password", "passwd"];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_registered_secret_never_shows() {
        register(&Secret::new("correct-horse"));
        register(&Secret::new("correct-horse-battery"));
        assert_eq!(
            redact("x correct-horse-battery y correct-horse"),
            "x [REDACTED] y [REDACTED]"
        );
        register(&Secret::new("a"));
        assert_eq!(redact("a cat"), "a cat");
    }

    /// The longest went first, however recent it was.
    #[test]
    fn the_oldest_secret_is_forgotten_not_the_longest() {
        let mut known = Known::new();
        remember(&mut known, "first");
        remember(&mut known, &"long".repeat(100));
        for n in 0..MAX_KNOWN - 1 {
            remember(&mut known, &format!("token-{n}"));
        }
        let has = |text: &str| known.iter().any(|(_, other)| other == text);
        assert!(has(&"long".repeat(100)) && !has("first"));
        assert_eq!(known.len(), MAX_KNOWN);
    }

    #[test]
    fn what_looks_like_a_secret_is_masked() {
        for (text, masked) in [
            (
                "Authorization: Bearer abcdef0123456789",
                "Authorization: Bearer [REDACTED]",
            ),
            ("bearer abcdef0123456789, x", "bearer [REDACTED], x"),
            ("sat_abcdefghijklmnopqrstuvwxyz012345", "[REDACTED]"),
            ("it is ppu_0123456789abcdef, no", "it is [REDACTED], no"),
            (
                "base64url.bearer.authorization.k8s.io.cHB1, v4.channel.k8s.io",
                "[REDACTED], v4.channel.k8s.io",
            ),
            (
                "token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJr.c2ln in a line",
                "token [REDACTED] in a line",
            ),
            (
                "dial http://me:pw@proxy:3128/x failed",
                "dial http://[REDACTED]@proxy:3128/x failed",
            ),
            (
                "K3S_TOKEN='K10aabb::server:ccdd' sh",
                "K3S_TOKEN='[REDACTED]' sh",
            ),
            ("join with K10aabb::server:ccdd", "join with [REDACTED]"),
            ("?token=abc&x=1", "?token=[REDACTED]&x=1"),
            ("password: hunter2", "password: [REDACTED]"),
            ("{\"token\":\"abc\"}", "{\"token\":\"[REDACTED]\"}"),
        ] {
            assert_eq!(redact(text), masked);
        }
    }

    #[test]
    fn ordinary_lines_stay_as_they_are() {
        for text in [
            "connected to https://api.example.test:443/x",
            "the token file was read again",
            "a bearer of news",
            "no token: set PIPEOPS_TOKEN_FILE",
            "saturday eyJ K10",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn names_of_fields_tell() {
        for name in ["token", "cluster_token", "Authorization", "password"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["has_token", "token_file", "cluster_id"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_redacted_without_a_panic(text in "\\PC{0,60}") {
            let _ = redact(&text);
        }

        #[test]
        fn a_bearer_token_anywhere_is_masked(
            before in "[ -~é]{0,20}", token in "[a-zA-Z0-9._~+/-]{24,40}"
        ) {
            let line = format!("{before} Bearer {token}");
            prop_assert!(!redact(&line).contains(&token));
        }
    }
}
