//! Header fields in the order in which they came.

use std::fmt;

/// A list of header fields. Names are compared without regard to case; a field
/// that came several times is there several times, in order. `Debug` shows no
/// credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Replaces every field of that name by one.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.push(name, value);
    }

    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let matches = move |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.0
            .iter()
            .filter(matches)
            .map(|(_, value)| value.as_str())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The elements of all fields of that name, read as comma-separated lists
    /// (RFC 9110 §5.6.1), trimmed, empty ones left out.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.get_all(name)
            .flat_map(|value| value.split(','))
            .map(trim_blanks)
            .filter(|e| !e.is_empty())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(name, value)| {
            let is_secret = SECRET
                .iter()
                .any(|secret| secret.eq_ignore_ascii_case(name));
            (name, if is_secret { "…" } else { value })
        });
        f.debug_map().entries(shown).finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        Self(
            iter.into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// `content-type` → `Content-Type`: the form in which the original's headers go
/// out (control-channel.md §8.6). A name that is no token stays as it is.
pub fn canonical_name(name: &str) -> String {
    if !is_token(name) {
        return name.to_owned();
    }
    let mut start = true;
    let canonical = |c: char| {
        let c = if start {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        };
        start = c == '-';
        c
    };
    name.chars().map(canonical).collect()
}

/// RFC 9110 §5.6.2: what a field name and a method may consist of.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// RFC 9110 §5.5, without obs-fold: no CR, LF, NUL or other control character but tab.
pub fn is_field_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

/// Without what HTTP calls blanks (RFC 9110 §5.6.3) at both ends. `str::trim` takes
/// more, and a field whose length or coding begins with a no-break space means
/// something to one reader and nothing to the next.
pub fn trim_blanks(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

/// Fields whose values let somebody in. A subprotocol may be a token of the Kubernetes
/// API (`base64url.bearer.authorization.k8s.io.…`).
const SECRET: [&str; 5] = [
    "Authorization",
    "Proxy-Authorization",
    "Cookie",
    "Set-Cookie",
    "Sec-WebSocket-Protocol",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case() {
        let headers: Headers = [("content-TYPE", "a"), ("X", "1"), ("Content-Type", "b")]
            .into_iter()
            .collect();
        assert_eq!(headers.get("Content-Type"), Some("a"));
        assert_eq!(
            headers.get_all("content-type").collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn lists_are_split_and_trimmed() {
        let headers: Headers = [("Connection", "close, X-Foo ,"), ("connection", "TE")]
            .into_iter()
            .collect();
        assert_eq!(
            headers.list("connection").collect::<Vec<_>>(),
            ["close", "X-Foo", "TE"]
        );
    }

    #[test]
    fn credentials_are_not_shown() {
        let headers: Headers = [
            ("authorization", "Bearer hunter2"),
            ("COOKIE", "session=hunter2"),
            ("Sec-WebSocket-Protocol", "base64url.bearer.hunter2"),
            ("X-Seen", "yes"),
        ]
        .into_iter()
        .collect();
        let shown = format!("{headers:?} {headers:#?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("COOKIE") && shown.contains("yes"), "{shown}");
    }

    #[test]
    fn canonical_names() {
        assert_eq!(canonical_name("x-forwarded-for"), "X-Forwarded-For");
        assert_eq!(canonical_name("ETAG"), "Etag");
        assert_eq!(canonical_name("no token"), "no token");
    }
}
