//! `proxy_request` (control-channel.md §8.1).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::envelope::Payload;
use crate::duration;
use crate::http::Headers;

/// One request to be executed. What can be long borrows from the message.
#[derive(Debug)]
pub struct ProxyRequest<'a> {
    /// Upper case; GET when empty. Not checked to be a token.
    pub method: String,
    /// Decoded, as the gateway forwards it; not checked.
    pub path: Cow<'a, str>,
    /// Raw, without `?`; not checked.
    pub query: Cow<'a, str>,
    pub headers: Headers,
    pub body: RequestBody<'a>,
    /// The answer is wanted in form S.
    pub stream_response: bool,
    /// The client's scheme.
    pub scheme: Option<Cow<'a, str>>,
    pub deadline: Option<jiff::Timestamp>,
    /// At most 24 h.
    pub timeout: Option<Duration>,
    /// The envelope's own time: `deadline` counts from it, because clocks at the
    /// edge are wrong (decisions.md §6.2).
    pub sent_at: Option<jiff::Timestamp>,
    /// A WebSocket upgrade by field, `protocol` or header (control-channel.md §8.3 step 3).
    pub upgrade: bool,
    pub service: ServiceTarget<'a>,
    /// A field that is there and can't be read, although its type is right (half a
    /// surrogate pair, say) or it says who calls: without it the request would be
    /// another one, a DELETE without its selector or a call in another name.
    pub unreadable: Option<&'static str>,
}

/// Where the body of a request is.
#[derive(Debug)]
pub enum RequestBody<'a> {
    None,
    /// To be decoded strictly; bad base64 fails the request.
    Base64(Cow<'a, str>),
    Text(Cow<'a, str>),
    /// An object or array: its text as it came.
    Json(&'a RawValue),
    /// In the next message, which must be binary (control-channel.md §5.3).
    BinaryFollows,
    /// In `proxy_request_chunk` messages (control-channel.md §8.2).
    Streamed,
}

/// The fields that name a cluster Service, unchecked.
#[derive(Debug, Default)]
pub struct ServiceTarget<'a> {
    pub name: Option<Cow<'a, str>>,
    pub namespace: Option<Cow<'a, str>>,
    pub port: Option<i64>,
}

impl ServiceTarget<'_> {
    /// All three are there: the request goes to a Service (control-channel.md §8.3 step 4).
    pub fn is_complete(&self) -> bool {
        self.name.is_some() && self.namespace.is_some() && self.port.is_some_and(|port| port > 0)
    }
}

impl<'a> ProxyRequest<'a> {
    pub fn parse(payload: &Payload<'a>, sent_at: Option<jiff::Timestamp>) -> Self {
        let method = payload
            .text("method")
            .map_or_else(|| "GET".to_owned(), |m| m.to_uppercase());
        let mut headers = payload.parse::<HeaderMap>("headers").unwrap_or_default().0;
        let body = body(payload);
        let unreadable = unreadable(payload, &headers, &body);
        let mut upgrade = payload.flag("is_websocket") || payload.flag("isWebSocket");
        if let Some(protocol) = payload.text("protocol").filter(|p| !p.trim().is_empty()) {
            upgrade = true;
            if !headers.contains("Sec-WebSocket-Protocol") {
                headers.push("Sec-WebSocket-Protocol", protocol);
            }
        }
        upgrade |= has_upgrade_headers(&headers);
        Self {
            method,
            path: payload.str("path").unwrap_or_default(),
            query: payload.str("query").unwrap_or_default(),
            body,
            stream_response: payload.flag("supports_response_streaming"),
            scheme: payload.text("scheme"),
            deadline: payload
                .time("deadline")
                .filter(|time| time.as_second() > ZERO_TIME),
            timeout: timeout(payload),
            sent_at: sent_at.filter(|time| time.as_second() > ZERO_TIME),
            upgrade,
            service: ServiceTarget {
                name: payload.text("service_name"),
                namespace: payload.text("namespace"),
                port: payload.integer("service_port"),
            },
            headers,
            unreadable,
        }
    }

    /// The next message must be its body (control-channel.md §5.3).
    pub fn wants_binary_body(&self) -> bool {
        matches!(self.body, RequestBody::BinaryFollows)
    }
}

fn unreadable(
    payload: &Payload<'_>,
    headers: &Headers,
    body: &RequestBody<'_>,
) -> Option<&'static str> {
    let is = |name, first| {
        payload
            .raw(name)
            .is_some_and(|raw| raw.get().starts_with(first))
    };
    let text = ["method", "path", "query"];
    let text = text
        .into_iter()
        .find(|name| is(name, '"') && payload.str(name).is_none());
    let lost_body =
        matches!(body, RequestBody::None) && is("body", '"') && payload.str("body").is_none();
    let lost_headers =
        headers.is_empty() && is("headers", '{') && payload.parse::<HeaderMap>("headers").is_none();
    text.or(lost_body.then_some("body"))
        .or(lost_headers.then_some("headers"))
}

fn has_upgrade_headers(headers: &Headers) -> bool {
    let blank = |name| headers.get_all(name).all(|value| value.trim().is_empty());
    headers
        .list("Upgrade")
        .any(|value| value.eq_ignore_ascii_case("websocket"))
        || !blank("Sec-WebSocket-Key")
        || !blank("Sec-WebSocket-Version")
        || !blank("Sec-WebSocket-Protocol")
}

fn body<'a>(payload: &Payload<'a>) -> RequestBody<'a> {
    if payload.flag("use_streaming") || payload.flag("streaming") {
        return RequestBody::Streamed;
    }
    if payload.flag("body_binary") {
        return RequestBody::BinaryFollows;
    }
    let Some(raw) = payload.raw("body") else {
        return RequestBody::None;
    };
    if let Some(text) = payload.str("body") {
        let encoding = payload
            .text("body_encoding")
            .or_else(|| payload.text("encoding"));
        let base64 = encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("base64"));
        return match text {
            text if text.is_empty() => RequestBody::None,
            text if base64 => RequestBody::Base64(text),
            text => RequestBody::Text(text),
        };
    }
    match raw.get().as_bytes().first() {
        Some(b'{' | b'[') => RequestBody::Json(raw),
        _ => RequestBody::None,
    }
}

/// Numbers are milliseconds, unless that would be over a day: then a Go peer has
/// written its nanoseconds (control-channel.md T32).
fn timeout(payload: &Payload<'_>) -> Option<Duration> {
    let limit = match payload.number("timeout") {
        Some(number) if number > MAX_TIMEOUT_MS => {
            Duration::from_nanos(number.min(u64::MAX as f64) as u64)
        }
        Some(number) if number > 0.0 => Duration::from_secs_f64(number / 1e3),
        Some(_) => return None,
        None => {
            let text = payload.text("timeout")?;
            duration::parse(&text)
                .ok()
                .filter(|parsed| !parsed.bare)?
                .value
        }
    };
    (!limit.is_zero()).then(|| limit.min(MAX_TIMEOUT))
}

/// Header maps as peers write them: values are arrays of text or a single text,
/// anything else is an empty list (control-channel.md §8.1). Only an
/// `Authorization` that isn't text is an error: without it the call would be made
/// as somebody else.
#[derive(Default)]
pub(super) struct HeaderMap(pub(super) Headers);

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
                let mut headers = Headers::new();
                while let Some((name, values)) = map.next_entry::<String, Values>()? {
                    if values.lost && name.eq_ignore_ascii_case("authorization") {
                        return Err(serde::de::Error::custom("an Authorization that is no text"));
                    }
                    for value in values.texts {
                        headers.push(name.clone(), value);
                    }
                }
                Ok(HeaderMap(headers))
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

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'de RawValue>::deserialize(deserializer)?;
        if let Ok(one) = serde_json::from_str::<String>(raw.get()) {
            return Ok(Self {
                texts: vec![one],
                lost: false,
            });
        }
        Ok(match serde_json::from_str::<Texts>(raw.get()) {
            Ok(Texts { texts, lost }) => Self { texts, lost },
            Err(_) => Self {
                texts: Vec::new(),
                lost: raw.get() != "null",
            },
        })
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

/// Go's zero time is in the year 1; nothing before 1970 is a usable time.
const ZERO_TIME: i64 = 0;
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const MAX_TIMEOUT_MS: f64 = 86_400_000.0;

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Envelope;

    fn with<T>(payload: &str, check: impl FnOnce(ProxyRequest<'_>) -> T) -> T {
        let text = format!(r#"{{"type":"proxy_request","request_id":"r","payload":{payload}}}"#);
        let envelope = Envelope::parse(&text).expect("valid");
        check(ProxyRequest::parse(&envelope.payload, envelope.timestamp))
    }

    #[test]
    fn an_empty_method_is_get() {
        with("{}", |r| assert_eq!(r.method, "GET"));
        with(r#"{"method":"post"}"#, |r| assert_eq!(r.method, "POST"));
    }

    #[test]
    fn timeouts_in_every_unit() {
        let timeout = |json: &str| with(&format!(r#"{{"timeout":{json}}}"#), |r| r.timeout);
        assert_eq!(timeout("20000"), Some(Duration::from_secs(20)));
        assert_eq!(timeout("\"1m30s\""), Some(Duration::from_secs(90)));
        assert_eq!(timeout("0"), None);
        assert_eq!(timeout("-5"), None);
        assert_eq!(timeout("true"), None);
    }

    #[test]
    fn t32_a_timeout_in_nanoseconds_is_noticed() {
        let timeout = |json: &str| with(&format!(r#"{{"timeout":{json}}}"#), |r| r.timeout);
        assert_eq!(timeout("20000000000"), Some(Duration::from_secs(20)));
        assert_eq!(timeout("86400000"), Some(MAX_TIMEOUT));
        assert_eq!(timeout("1e300"), Some(MAX_TIMEOUT));
        assert_eq!(timeout("\"48h\""), Some(MAX_TIMEOUT));
    }

    #[test]
    fn headers_as_arrays_as_text_and_as_nonsense() {
        with(
            r#"{"headers":{"A":["1","2"],"b":"3","c":7,"d":{},"e":["x",1,null]}}"#,
            |r| {
                let got: Vec<_> = r.headers.iter().collect();
                assert_eq!(got, [("A", "1"), ("A", "2"), ("b", "3"), ("e", "x")]);
            },
        );
        with(r#"{"headers":null}"#, |r| assert!(r.headers.is_empty()));
        with(r#"{"headers":[]}"#, |r| assert!(r.headers.is_empty()));
    }

    #[test]
    fn what_cannot_be_read_does_not_just_vanish() {
        for (payload, field) in [
            (r#"{"method":"\ud800"}"#, "method"),
            (r#"{"path":"/api/\ud800"}"#, "path"),
            (r#"{"query":"labelSelector=\ud800"}"#, "query"),
            (r#"{"body":"\ud800"}"#, "body"),
            (r#"{"headers":{"A":"b","\ud800":"c"}}"#, "headers"),
            (
                r#"{"headers":{"Authorization":["Bearer \ud800"]}}"#,
                "headers",
            ),
            (r#"{"headers":{"authorization":[7]}}"#, "headers"),
            (r#"{"headers":{"authorization":{}}}"#, "headers"),
        ] {
            with(payload, |r| {
                assert_eq!(r.unreadable, Some(field), "{payload}");
            });
        }
        for payload in [
            "{}",
            r#"{"path":"","query":7,"body":"","headers":{}}"#,
            r#"{"headers":{"Authorization":[]}}"#,
            r#"{"headers":{"Authorization":null,"A":[1]}}"#,
            r#"{"streaming":true,"body":"\ud800"}"#,
        ] {
            with(payload, |r| assert_eq!(r.unreadable, None, "{payload}"));
        }
    }

    #[test]
    fn the_body_in_all_its_forms() {
        with(r#"{"body":"YQ==","body_encoding":"Base64"}"#, |r| {
            assert!(matches!(r.body, RequestBody::Base64(_)));
        });
        with(r#"{"body":"YQ==","encoding":"base64"}"#, |r| {
            assert!(matches!(r.body, RequestBody::Base64(_)));
        });
        with(r#"{"body":"YQ=="}"#, |r| {
            assert!(matches!(r.body, RequestBody::Text(t) if t == "YQ=="));
        });
        with(r#"{"body":""}"#, |r| {
            assert!(matches!(r.body, RequestBody::None));
        });
        with(r#"{"body":7}"#, |r| {
            assert!(matches!(r.body, RequestBody::None));
        });
        with(r#"{"body":"x","body_binary":true}"#, |r| {
            assert!(r.wants_binary_body());
        });
        for spelling in ["use_streaming", "streaming"] {
            with(&format!(r#"{{"body":"ignored","{spelling}":true}}"#), |r| {
                assert!(matches!(r.body, RequestBody::Streamed));
            });
        }
    }

    #[test]
    fn a_json_body_keeps_its_very_text() {
        with(
            r#"{"body":{"z":12345678901234567890,"a":1.50,"h":"<&>"}}"#,
            |r| {
                let RequestBody::Json(raw) = r.body else {
                    panic!("not JSON")
                };
                assert_eq!(
                    raw.get(),
                    r#"{"z":12345678901234567890,"a":1.50,"h":"<&>"}"#
                );
            },
        );
    }

    #[test]
    fn upgrades_by_every_sign() {
        for sign in [
            r#"{"is_websocket":true}"#,
            r#"{"isWebSocket":true}"#,
            r#"{"protocol":"chat"}"#,
            r#"{"headers":{"upgrade":["WebSocket"]}}"#,
            r#"{"headers":{"sec-websocket-key":["x"]}}"#,
            r#"{"headers":{"Sec-WebSocket-Version":"13"}}"#,
        ] {
            with(sign, |r| assert!(r.upgrade, "{sign}"));
        }
        with(
            r#"{"headers":{"Connection":["Upgrade"]},"protocol":" "}"#,
            |r| assert!(!r.upgrade),
        );
        with(r#"{"protocol":"chat"}"#, |r| {
            assert_eq!(r.headers.get("sec-websocket-protocol"), Some("chat"));
        });
    }

    #[test]
    fn zero_times_are_no_times() {
        with(r#"{"deadline":"0001-01-01T00:00:00Z"}"#, |r| {
            assert_eq!(r.deadline, None);
        });
        with(r#"{"deadline":"soon"}"#, |r| assert_eq!(r.deadline, None));
        with(r#"{"deadline":"2026-03-01T10:00:00Z"}"#, |r| {
            assert!(r.deadline.is_some());
        });
    }
}
