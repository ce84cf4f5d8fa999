//! What the fields mean, by control-channel.md §8.1, for any JSON in them.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::testing;
use crate::wire::Envelope;

fn parsed<T>(payload: &Value, check: impl FnOnce(&ProxyRequest<'_>) -> T) -> T {
    let message = json!({"type": "proxy_request", "request_id": "r", "payload": payload});
    let text = message.to_string();
    let envelope = Envelope::parse(&text).expect("an envelope");
    check(&ProxyRequest::parse(&envelope.payload, envelope.timestamp))
}

/// Fields of a request, mostly of a type that somebody might send.
fn payload() -> impl Strategy<Value = Value> {
    const FIELDS: &[&str] = &[
        "method",
        "path",
        "query",
        "headers",
        "body",
        "body_encoding",
        "encoding",
        "body_binary",
        "use_streaming",
        "streaming",
        "supports_response_streaming",
        "scheme",
        "deadline",
        "timeout",
        "is_websocket",
        "isWebSocket",
        "protocol",
        "service_name",
        "namespace",
        "service_port",
        "unknown",
    ];
    testing::object(FIELDS).prop_map(Value::Object)
}

/// Header maps: arrays, single texts, and what is neither.
fn headers() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![
        testing::text(),
        prop::sample::select(vec!["Accept", "Authorization", "authorization", "Host"])
            .prop_map(str::to_owned),
    ];
    let values = prop_oneof![
        testing::text().prop_map(Value::String),
        prop::collection::vec(testing::text().prop_map(Value::String), 0..3).prop_map(Value::Array),
        prop::collection::vec(testing::json(), 0..3).prop_map(Value::Array),
        testing::json(),
    ];
    prop::collection::vec((name, values), 0..6).prop_map(Map::from_iter)
}

/// What of a header's value counts, and whether something else was there, too.
fn texts(value: &Value) -> (Vec<&str>, bool) {
    match value {
        Value::String(text) => (vec![text], false),
        Value::Array(all) => {
            let texts: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            let lost = texts.len() < all.len();
            (texts, lost)
        }
        other => (Vec::new(), !other.is_null()),
    }
}

proptest! {
    #[test]
    fn any_fields_make_a_request_within_its_limits(payload in payload()) {
        parsed(&payload, |request| {
            if let Some(timeout) = request.timeout {
                assert!(!timeout.is_zero() && timeout <= MAX_TIMEOUT, "{timeout:?}");
            }
            for time in [request.deadline, request.sent_at].into_iter().flatten() {
                assert!(time.as_second() > ZERO_TIME, "{time}");
            }
            assert!(!request.method.is_empty());
            let may_be = ["headers", "service_name", "namespace", "scheme", "service_port"];
            assert!(request.unreadable.is_none_or(|field| may_be.contains(&field)));
        });
    }

    #[test]
    fn a_timeout_is_milliseconds_or_text_and_never_more_than_a_day(number in testing::number()) {
        let given = number.as_f64().expect("a number");
        parsed(&json!({"timeout": number}), |request| match request.timeout {
            None => assert!(given < 1e-6, "{given} ms are no limit"),
            Some(timeout) => {
                assert!(timeout <= MAX_TIMEOUT && given > 0.0);
                if given <= 86_400_000.0 {
                    let wrong = (timeout.as_secs_f64() * 1e3 - given).abs();
                    assert!(wrong < 1e-3, "{given} ms became {timeout:?}");
                }
            }
        });
    }

    #[test]
    fn a_header_map_gives_its_texts_in_order_and_nothing_else(given in headers()) {
        let payload = json!({"headers": given});
        let mut want = Vec::new();
        let mut identity_lost = false;
        for (name, value) in &given {
            let (texts, lost) = texts(value);
            identity_lost |= lost && name.eq_ignore_ascii_case("authorization");
            want.extend(texts.into_iter().map(|text| (name.as_str(), text)));
        }
        parsed(&payload, |request| {
            let got: Vec<_> = request.headers.iter().collect();
            if want.len() > crate::http::MAX_FIELDS {
                assert!(request.oversized);
            } else if identity_lost {
                // Without it the call would be made as somebody else.
                assert_eq!(request.unreadable, Some("headers"));
            } else {
                assert_eq!(got, want);
                assert_eq!(request.unreadable, None);
            }
        });
    }

    #[test]
    fn a_body_is_where_its_fields_say(
        body in prop::option::of(testing::json()),
        encoding in prop::option::of(testing::text()),
        older in any::<bool>(),
        binary in prop::option::of(testing::json()),
        streaming in prop::option::of(testing::json()),
    ) {
        let name = if older { "encoding" } else { "body_encoding" };
        let mut payload = Map::new();
        for (name, value) in [
            ("body", body.clone()),
            (name, encoding.clone().map(Value::String)),
            ("body_binary", binary.clone()),
            ("streaming", streaming.clone()),
        ] {
            payload.extend(value.map(|value| (name.to_owned(), value)));
        }
        let base64 = encoding.is_some_and(|e| e.eq_ignore_ascii_case("base64"));
        parsed(&Value::Object(payload), |request| {
            let got = &request.body;
            if streaming == Some(Value::Bool(true)) {
                return assert!(matches!(got, RequestBody::Streamed), "{got:?}");
            }
            if binary == Some(Value::Bool(true)) {
                return assert!(matches!(got, RequestBody::BinaryFollows), "{got:?}");
            }
            match body {
                Some(Value::String(text)) if !text.is_empty() => match got {
                    RequestBody::Base64(got) => assert!(base64 && *got == text),
                    RequestBody::Text(got) => assert!(!base64 && *got == text),
                    other => panic!("{other:?}"),
                },
                Some(json @ (Value::Object(_) | Value::Array(_))) => match got {
                    RequestBody::Json(raw) => assert_eq!(raw.get(), json.to_string()),
                    other => panic!("{other:?}"),
                },
                _ => assert!(matches!(got, RequestBody::None), "{got:?}"),
            }
        });
    }
}
