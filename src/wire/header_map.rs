//! Header maps as peers write them.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::Str;
use crate::http::Headers;

/// Values are arrays of text or a single text,
/// anything else is an empty list (control-channel.md §8.1). Only an
/// `Authorization` that isn't text is an error: without it the call would be made
/// as somebody else.
#[derive(Default)]
pub(super) struct HeaderMap {
    /// The first of them, at most [`MAX_FIELDS`] and a few.
    pub(super) headers: Headers,
    /// There were more, or larger ones. A few MiB of JSON can name a million.
    pub(super) oversized: bool,
}

impl<'de> Deserialize<'de> for HeaderMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = HeaderMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of header fields")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(HeaderMap::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = HeaderMap::default();
                let mut size = 0;
                while let Some((Str(name), raw)) = map.next_entry::<Str<'de>, &'de RawValue>()? {
                    size += name.len() + raw.get().len();
                    found.oversized |= size > MAX_BYTES || found.headers.len() > MAX_FIELDS;
                    if found.oversized {
                        continue;
                    }
                    let values = Values::of(raw);
                    if values.lost && name.eq_ignore_ascii_case("authorization") {
                        return Err(serde::de::Error::custom("an Authorization that is no text"));
                    }
                    for value in values.texts {
                        found.headers.push(name.clone(), value);
                    }
                }
                found.oversized |= found.headers.len() > MAX_FIELDS;
                Ok(found)
            }
        }

        deserializer.deserialize_any(Fields)
    }
}

struct Values {
    texts: Vec<String>,
    /// There was something else than text.
    lost: bool,
}

impl Values {
    fn of(raw: &RawValue) -> Self {
        if let Ok(one) = serde_json::from_str::<String>(raw.get()) {
            return Self {
                texts: vec![one],
                lost: false,
            };
        }
        match serde_json::from_str::<Texts>(raw.get()) {
            Ok(Texts { texts, lost }) => Self { texts, lost },
            Err(_) => Self {
                texts: Vec::new(),
                lost: raw.get() != "null",
            },
        }
    }
}

/// The texts of an array; other elements are skipped.
struct Texts {
    texts: Vec<String>,
    lost: bool,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of text")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let (mut texts, mut lost) = (Vec::new(), false);
                while let Some(element) = seq.next_element::<TextOrOther>()? {
                    match element {
                        // One too many says that there are too many.
                        TextOrOther::Text(_) if texts.len() > MAX_FIELDS => {}
                        TextOrOther::Text(text) => texts.push(text),
                        TextOrOther::Other(_) => lost = true,
                    }
                }
                Ok(Texts { texts, lost })
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrOther {
    Text(String),
    Other(#[allow(dead_code)] IgnoredAny),
}

/// Header fields of a message: as many as an HTTP head may have.
const MAX_FIELDS: usize = crate::http::MAX_FIELDS;
/// Bytes of JSON for them: more than a head may have, with escapes.
const MAX_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_beyond_all_measure_are_not_kept() {
        let large = |headers: &str| {
            let map: HeaderMap = serde_json::from_str(headers).expect("valid");
            let HeaderMap { headers, oversized } = map;
            assert!(headers.len() <= 2 * (MAX_FIELDS + 1));
            assert!(headers.iter().all(|(n, v)| n.len() + v.len() <= MAX_BYTES));
            oversized
        };
        let fields = |count: usize| {
            let fields: Vec<String> = (0..count).map(|n| format!(r#""n{n}":["a"]"#)).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert!(!large(&fields(MAX_FIELDS)));
        assert!(large(&fields(MAX_FIELDS + 1)));
        assert!(large(&fields(10 * MAX_FIELDS)));
        let values = |count: usize| format!(r#"{{"a":[{}""]}}"#, "\"\",".repeat(count - 1));
        assert!(!large(&values(MAX_FIELDS)));
        assert!(large(&values(MAX_FIELDS + 1)));
        assert!(large(&values(1_000_000)));
        let long = "x".repeat(MAX_BYTES);
        assert!(large(&format!(r#"{{"a":"{long}"}}"#)));
        assert!(large(&format!(r#"{{"{long}":"a"}}"#)));
        assert!(large(&format!(r#"{{"{long}":"a","b":"c"}}"#)));
    }
}
