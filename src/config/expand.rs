//! `${NAME}` and `${NAME:-default}` in string values of the file
//! (config-and-state.md §2.3).

/// A value after expansion.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    pub text: String,
    /// Names that were neither set nor given a default; they expanded to nothing.
    pub undefined: Vec<String>,
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$${` gives a literal `${`. An empty
/// variable counts as unset, as everywhere. What isn't of this form stays as it is.
pub(super) fn expand(text: &str, var: &dyn Fn(&str) -> Option<String>) -> Expanded {
    let mut out = Expanded::default();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.text.push_str(&rest[..at - 1]);
            out.text.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.text.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let Some((reference, after)) = inner.split_once('}') else {
            rest = &rest[at..];
            break;
        };
        let (name, default) = match reference.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        if !is_name(name) {
            out.text.push_str("${");
            rest = inner;
            continue;
        }
        match var(name).filter(|value| !value.is_empty()) {
            Some(value) => out.text.push_str(&value),
            None => match default {
                Some(default) => out.text.push_str(default),
                None => out.undefined.push(name.to_owned()),
            },
        }
        rest = after;
    }
    out.text.push_str(rest);
    out
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str) -> Expanded {
        expand(text, &|name| match name {
            "HOST" => Some("example.test".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn the_forms() {
        for (text, expected) in [
            ("plain", "plain"),
            ("https://${HOST}/x", "https://example.test/x"),
            ("${NOPE:-there}", "there"),
            ("${EMPTY:-there}", "there"),
            ("${HOST:-there}", "example.test"),
            ("${NOPE:-}", ""),
            ("$${HOST}", "${HOST}"),
            ("$HOST", "$HOST"),
            ("a$", "a$"),
            ("${unclosed", "${unclosed"),
            ("${not a name}", "${not a name}"),
            ("${1X}${HOST}", "${1X}example.test"),
        ] {
            let out = with(text);
            assert_eq!(out.text, expected, "{text}");
            assert!(out.undefined.is_empty(), "{text}");
        }
    }

    #[test]
    fn undefined_names_are_reported_and_expand_to_nothing() {
        let out = with("a${NOPE}b${EMPTY}c");
        assert_eq!(out.text, "abc");
        assert_eq!(out.undefined, ["NOPE", "EMPTY"]);
    }

    #[test]
    fn what_a_variable_holds_is_not_expanded_again() {
        let out = expand("${A}", &|_| Some("${B}".to_owned()));
        assert_eq!(out.text, "${B}");
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_without_a_panic(text in "[$:{}a-c\\-é ]{0,30}") {
            let _ = with(&text);
        }
    }
}
