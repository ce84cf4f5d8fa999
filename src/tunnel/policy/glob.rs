//! Patterns of names: `*` stands for any run of characters, `?` for one.

/// A pattern; case doesn't matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Glob(String);

impl Glob {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_LENGTH {
            return Err(format!("a pattern has 1 to {MAX_LENGTH} characters"));
        }
        let known = |b: u8| b.is_ascii_alphanumeric() || b"*?-_.".contains(&b);
        if !text.bytes().all(known) {
            return Err(format!(
                "{text:?} is no pattern of a name: letters, digits, '-', '_', '.', '*' and '?'"
            ));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// In time of pattern times name, whatever both are.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut place) = (0, 0);
        // Where the last `*` stands, and what it stands for so far.
        let mut star: Option<(usize, usize)> = None;
        while place < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, place));
                    at += 1;
                }
                Some(&b) if b == b'?' || b == name[place].to_ascii_lowercase() => {
                    at += 1;
                    place += 1;
                }
                _ => {
                    // The star takes one more.
                    let Some((star_at, taken)) = &mut star else {
                        return false;
                    };
                    *taken += 1;
                    (at, place) = (*star_at + 1, *taken);
                }
            }
        }
        pattern[at..].iter().all(|b| *b == b'*')
    }
}

/// As long as a name can be.
const MAX_LENGTH: usize = 253;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob::parse(pattern).expect(pattern).matches(name)
    }

    #[test]
    fn what_matches() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "anything"),
            ("postgres", "Postgres"),
            ("postgres*", "postgres"),
            ("*-db", "team-a-db"),
            ("team-?", "team-b"),
            ("a*b*c", "a-b-b-c"),
            ("**", "x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("postgres", "postgres1"),
            ("postgres", "my-postgres"),
            ("team-?", "team-"),
            ("a*b", "a-b-c"),
            ("?", ""),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        for bad in ["", " ", "a/b", "a,b", "[a-z]", "ü"] {
            assert!(Glob::parse(bad).is_err(), "{bad}");
        }
    }

    fn naive(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            Some((b'?', rest)) => !name.is_empty() && naive(rest, &name[1..]),
            Some((b, rest)) => name.first() == Some(b) && naive(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_obvious_way(pattern in "[ab*?]{1,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let pattern = "*a".repeat(120) + "b";
        assert!(!matches(&pattern, &"a".repeat(253)));
    }
}
