//! The envelope that every message has (control-channel.md §3), and the lenient
//! view of its payload.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A parsed envelope. Everything borrows from the message; the payload's fields
/// are looked at only when asked for.
#[derive(Debug)]
pub struct Envelope<'a> {
    pub kind: Cow<'a, str>,
    /// A number is accepted and becomes text (control-channel.md §3, recommendation).
    pub request_id: Option<Cow<'a, str>>,
    /// Empty when the message had none, or null.
    pub payload: Payload<'a>,
    /// `None` when absent or not RFC 3339.
    pub timestamp: Option<jiff::Timestamp>,
}

/// Why a message is undecodable; carries what could be read of it.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    #[error("not a JSON object: {0}")]
    NotAnObject(serde_json::Error),
    #[error("no type")]
    NoType,
    #[error("{kind}: the payload is not an object")]
    BadPayload {
        kind: String,
        request_id: Option<String>,
    },
    #[error("{kind}: the request_id is neither text nor a number")]
    BadRequestId { kind: String },
}

impl<'a> Envelope<'a> {
    pub fn parse(text: &'a str) -> Result<Self, EnvelopeError> {
        let fields: Payload<'a> = serde_json::from_str(text).map_err(EnvelopeError::NotAnObject)?;
        let kind = fields.str("type").ok_or(EnvelopeError::NoType)?;
        let request_id = match fields.raw("request_id") {
            None => None,
            Some(raw) => match as_id(raw) {
                Some(id) => Some(id).filter(|id| !id.is_empty()),
                None => {
                    return Err(EnvelopeError::BadRequestId {
                        kind: kind.into_owned(),
                    });
                }
            },
        };
        let payload = match fields.raw("payload") {
            None => Payload::default(),
            Some(raw) => match serde_json::from_str(raw.get()) {
                Ok(payload) => payload,
                Err(_) => {
                    return Err(EnvelopeError::BadPayload {
                        kind: kind.into_owned(),
                        request_id: request_id.map(Cow::into_owned),
                    });
                }
            },
        };
        let timestamp = fields.time("timestamp");
        Ok(Self {
            kind,
            request_id,
            payload,
            timestamp,
        })
    }
}

/// `None` for a type that can't be an id.
fn as_id(raw: &RawValue) -> Option<Cow<'_, str>> {
    if let Some(text) = as_str(raw) {
        return Some(text);
    }
    let is_integer = raw.get().bytes().all(|b| b.is_ascii_digit() || b == b'-');
    is_integer.then(|| Cow::Borrowed(raw.get()))
}

/// The fields of a JSON object, values unparsed. A null counts as absent; of a
/// field that is there twice the last one counts, as in the original.
#[derive(Debug, Default)]
pub struct Payload<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Payload<'a> {
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, raw)| *raw)
    }

    /// Text, borrowed from the message unless it has escapes in it.
    pub fn str(&self, name: &str) -> Option<Cow<'a, str>> {
        as_str(self.raw(name)?)
    }

    /// Text that isn't empty.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.str(name).filter(|text| !text.is_empty())
    }

    /// As [`text`](Self::text), copied.
    pub fn string(&self, name: &str) -> Option<String> {
        self.text(name).map(Cow::into_owned)
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        serde_json::from_str(self.raw(name)?.get()).ok()
    }

    pub fn flag(&self, name: &str) -> bool {
        self.bool(name).unwrap_or(false)
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        serde_json::from_str(self.raw(name)?.get()).ok()
    }

    /// A number, its fraction cut off (control-channel.md §3).
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.number(name).map(|n| n.trunc() as i64)
    }

    pub fn time(&self, name: &str) -> Option<jiff::Timestamp> {
        self.text(name)?.parse().ok()
    }

    pub fn object(&self, name: &str) -> Option<Self> {
        serde_json::from_str(self.raw(name)?.get()).ok()
    }

    pub fn parse<T: Deserialize<'a>>(&self, name: &str) -> Option<T> {
        serde_json::from_str(self.raw(name)?.get()).ok()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }
}

fn as_str(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str(raw.get()).ok().map(|Str(text)| text)
}

/// serde's own `Cow` always copies; this one borrows where it can.
#[derive(Deserialize)]
pub(super) struct Str<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Payload<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Payload<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Str(name), raw)) = map.next_entry::<Str<'de>, &'de RawValue>()? {
                    if raw.get() == "null" {
                        continue;
                    }
                    if fields.len() == MAX_FIELDS {
                        return Err(serde::de::Error::custom("too many fields"));
                    }
                    fields.push((name, raw));
                }
                Ok(Payload(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// No message has more than some thirty; look-ups walk the list.
const MAX_FIELDS: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_in_any_order_and_unknown_ones() {
        let text = r#"{"payload":{"a":1},"x":[],"request_id":"r","timestamp":"2026-03-01T10:00:00.5+05:30","type":"ping"}"#;
        let envelope = Envelope::parse(text).expect("valid");
        assert_eq!(envelope.kind, "ping");
        assert_eq!(envelope.request_id.as_deref(), Some("r"));
        assert_eq!(envelope.payload.integer("a"), Some(1));
        assert_eq!(
            envelope.timestamp.expect("time").to_string(),
            "2026-03-01T04:30:00.5Z"
        );
    }

    #[test]
    fn no_payload_null_and_bad_timestamp_are_fine() {
        for text in [
            r#"{"type":"ping"}"#,
            r#"{"type":"ping","payload":null,"timestamp":"yesterday","request_id":""}"#,
        ] {
            let envelope = Envelope::parse(text).expect("valid");
            assert!(envelope.request_id.is_none());
            assert!(envelope.timestamp.is_none());
        }
    }

    #[test]
    fn a_number_as_request_id_becomes_text() {
        let envelope = Envelope::parse(r#"{"type":"ping","request_id":17}"#).expect("valid");
        assert_eq!(envelope.request_id.as_deref(), Some("17"));
        assert!(Envelope::parse(r#"{"type":"ping","request_id":{}}"#).is_err());
        assert!(Envelope::parse(r#"{"type":"ping","request_id":true}"#).is_err());
    }

    #[test]
    fn a_payload_that_is_no_object_keeps_type_and_id() {
        let error = Envelope::parse(r#"{"type":"proxy_request","request_id":"r","payload":[1]}"#)
            .expect_err("refused");
        let EnvelopeError::BadPayload { kind, request_id } = error else {
            panic!("{error}")
        };
        assert_eq!(
            (kind.as_str(), request_id.as_deref()),
            ("proxy_request", Some("r"))
        );
    }

    #[test]
    fn a_field_of_the_wrong_type_counts_as_absent() {
        let envelope =
            Envelope::parse(r#"{"type":"x","payload":{"s":1,"b":"true","n":"1","f":2.9}}"#)
                .expect("valid");
        assert_eq!(envelope.payload.str("s"), None);
        assert_eq!(envelope.payload.bool("b"), None);
        assert_eq!(envelope.payload.number("n"), None);
        assert_eq!(envelope.payload.integer("f"), Some(2));
    }

    #[test]
    fn of_a_field_given_twice_the_last_one_counts() {
        let envelope =
            Envelope::parse(r#"{"type":"x","type":"y","payload":{"a":1,"a":2}}"#).expect("valid");
        assert_eq!(envelope.kind, "y");
        assert_eq!(envelope.payload.integer("a"), Some(2));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = Envelope::parse(&text);
        }

        #[test]
        fn any_json_is_parsed_or_refused(text in r#"\{("(type|request_id|payload)":("[a-z]*"|[0-9]{1,4}|null|true|\[\]|\{("[a-z]":[0-9])?\}),){0,4}"type":"[a-z]*"\}"#) {
            let _ = Envelope::parse(&text);
        }
    }
}
