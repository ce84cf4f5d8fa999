//! From loose text to typed values (config-and-state.md §2.3).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::table::Kind;
use super::{Config, Secret};
use crate::duration;

/// A value as a source gave it, already of one shape.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    Text(String),
    List(Vec<String>),
    Map(BTreeMap<String, String>),
    Entries(Vec<BTreeMap<String, String>>),
    /// A structured value for a key that takes one as it is.
    Structure,
}

/// What to say about a value that was accepted all the same.
pub(super) type Remark = Option<String>;

/// Parses `input` by the key's type and puts it into its place. The error is one
/// clause without the key's name; it never shows a secret.
pub(super) fn apply(kind: &Kind, input: &Input, config: &mut Config) -> Result<Remark, String> {
    match kind {
        Kind::List(set) => {
            set(config, list(input)?);
            return Ok(None);
        }
        Kind::Map(set) => {
            set(config, map(input)?)?;
            return Ok(None);
        }
        Kind::Entries { set, .. } => {
            set(config, entries(input)?)?;
            return Ok(None);
        }
        Kind::Opaque => return Ok(None),
        Kind::JsonList(check) => {
            if let Input::Text(text) = input {
                check(text)?;
            }
            return Ok(None);
        }
        _ => {}
    }
    let Input::Text(text) = input else {
        return Err(format!(
            "expected one {}, found a list or section",
            kind.word()
        ));
    };
    let text = text.trim();
    let mut remark = None;
    match kind {
        Kind::Text(set) => set(config, text.to_owned()),
        Kind::Secret(set) => set(config, Secret::new(text)),
        Kind::Path(set) => set(config, PathBuf::from(text)),
        Kind::Bool(set) => set(config, boolean(text)?),
        Kind::Int { min, max, set } => {
            let value = integer(text)?;
            if !(*min..=*max).contains(&value) {
                return Err(format!("{value} is not between {min} and {max}"));
            }
            set(config, value);
        }
        Kind::Duration { min, set } => {
            let parsed = duration::parse(text)?;
            if parsed.bare {
                remark = Some(format!(
                    "{text} has no unit and is read as seconds; write {text}s"
                ));
            }
            set(config, at_least(parsed.value, *min)?);
        }
        Kind::Interval { unit, min, set } => {
            let parsed = duration::parse(text)?;
            let value = if parsed.bare {
                let seconds = parsed.value.as_secs_f64() * unit.as_secs_f64();
                std::time::Duration::try_from_secs_f64(seconds)
                    .map_err(|_| format!("{text} is too long"))?
            } else {
                parsed.value
            };
            set(config, at_least(value, *min)?);
        }
        Kind::Size { min, set } => {
            let value = size(text)?;
            if value < *min {
                return Err(format!("{value} bytes is less than the least of {min}"));
            }
            set(config, value);
        }
        Kind::Choice { of, set } => {
            let choice = of
                .iter()
                .find(|choice| choice.eq_ignore_ascii_case(text))
                .ok_or_else(|| format!("{} is none of {}", quote(text), of.join(", ")))?;
            set(config, choice);
        }
        Kind::Parsed { set, .. } => set(config, text)?,
        Kind::List(_) | Kind::Map(_) | Kind::Entries { .. } | Kind::JsonList(_) | Kind::Opaque => {
            unreachable!("answered above")
        }
    }
    Ok(remark)
}

/// Text in quotes, short and without control characters, for a message.
pub(super) fn quote(text: &str) -> String {
    let mut end = text.len().min(64);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let dots = if end < text.len() { "…" } else { "" };
    format!("{:?}{dots}", &text[..end])
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "yes" | "on" | "y" => Ok(true),
        "0" | "f" | "false" | "no" | "off" | "n" => Ok(false),
        _ => Err(format!("{} is neither true nor false", quote(text))),
    }
}

fn integer(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("{} is not a whole number", quote(text)))
}

fn at_least(
    value: std::time::Duration,
    min: std::time::Duration,
) -> Result<std::time::Duration, String> {
    if value < min {
        return Err(format!(
            "{} is less than the least of {}",
            duration::format(value),
            duration::format(min)
        ));
    }
    Ok(value)
}

/// `64MiB`, in bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let unit: u64 = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kb" | "kib" => 1 << 10,
        "m" | "mi" | "mb" | "mib" => 1 << 20,
        "g" | "gi" | "gb" | "gib" => 1 << 30,
        _ => return Err(format!("{} is not a size (write 64MiB)", quote(text))),
    };
    text[..end]
        .parse::<u64>()
        .ok()
        .and_then(|amount| amount.checked_mul(unit))
        .ok_or_else(|| format!("{} is not a size (write 64MiB)", quote(text)))
}

fn list(input: &Input) -> Result<Vec<String>, String> {
    match input {
        Input::Text(text) => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()),
        Input::List(parts) => Ok(parts.clone()),
        _ => Err("expected a list of text".to_owned()),
    }
}

fn map(input: &Input) -> Result<BTreeMap<String, String>, String> {
    match input {
        Input::Map(map) => Ok(map.clone()),
        Input::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    Ok((name.trim().to_owned(), value.trim().to_owned()))
                }
                _ => Err(format!("{} is not of the form name=value", quote(part))),
            })
            .collect(),
        _ => Err("expected a map of text to text".to_owned()),
    }
}

fn entries(input: &Input) -> Result<Vec<BTreeMap<String, String>>, String> {
    match input {
        Input::Entries(entries) => Ok(entries.clone()),
        Input::Text(text) => {
            let wrong = |error| format!("not a JSON array of objects: {error}");
            let objects: Vec<BTreeMap<String, serde_json::Value>> =
                serde_json::from_str(text).map_err(wrong)?;
            let text = |value| match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            let entry = |object: BTreeMap<String, serde_json::Value>| {
                let pairs = object.into_iter();
                pairs.map(|(name, value)| (name, text(value))).collect()
            };
            Ok(objects.into_iter().map(entry).collect())
        }
        _ => Err("expected a list of entries".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::table::keys;
    use super::*;

    #[test]
    fn booleans() {
        for text in [
            "1", "t", "T", "TRUE", "true", "True", "yes", "on", "Yes", "ON",
        ] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "no", "off"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "2", "maybe", "tru"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64Ki", 64 << 10),
            ("96MiB", 96 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1.5M", "1T", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn maps_and_lists_from_text() {
        let expected = BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "x".to_owned()),
            ("b".to_owned(), "1=2".to_owned()),
        ]);
        assert_eq!(
            map(&Input::Text("app.kubernetes.io/name=x, b=1=2,".into())),
            Ok(expected)
        );
        assert!(map(&Input::Text("anything".into())).is_err());
        assert_eq!(
            list(&Input::Text(" a, b,,c".into())),
            Ok(vec!["a".into(), "b".into(), "c".into()])
        );
    }

    #[test]
    fn long_or_hostile_text_is_quoted_short() {
        assert_eq!(quote("a\r\nb"), "\"a\\r\\nb\"");
        assert!(quote(&"é".repeat(1000)).len() < 150);
    }

    proptest! {
        #[test]
        fn any_text_for_any_key_is_accepted_or_refused(text in "\\PC{0,30}") {
            for key in keys() {
                let mut config = Config::default();
                if let Err(why) = apply(&key.kind, &Input::Text(text.clone()), &mut config) {
                    prop_assert!(!why.is_empty());
                }
            }
        }
    }
}
