//! What property tests of parsers share.

use proptest::prelude::*;
use serde_json::{Map, Number, Value};

/// Text as peers and attackers write it: empty, long, with line ends and escapes,
/// looking like something else.
pub(crate) fn text() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        2 => "[ -~]{0,16}",
        1 => ".{0,16}",
        2 => prop::sample::select(vec![
            "", " ", "true", "null", "0", "-1", "1e999", "base64", "BASE64", "gzip", "\r\nX: 1",
            "\0", "\u{feff}", "YQ==", "YQ", "20s", "24h1ns", "2026-03-01T10:00:00Z",
            "9999-12-31T23:59:59Z", "-009999-01-01T00:00:00Z", "0001-01-01T00:00:00Z",
        ])
        .prop_map(str::to_owned),
        1 => (0usize..3000).prop_map(|count| "a".repeat(count)),
    ]
}

/// Numbers at every edge.
pub(crate) fn number() -> impl Strategy<Value = Number> + Clone {
    let float = any::<f64>().prop_filter_map("JSON has no NaN", Number::from_f64);
    prop_oneof![
        any::<u64>().prop_map(Number::from),
        any::<i64>().prop_map(Number::from),
        float,
        prop::sample::select(vec![
            0.0,
            -0.0,
            0.1,
            1e-300,
            86_400_000.0,
            86_400_000.5,
            1e300
        ])
        .prop_filter_map("JSON has no NaN", Number::from_f64),
        prop::sample::select(vec![0_u64, 1, 99, 100, 200, 204, 304, 999, 1000, 65_536])
            .prop_map(Number::from),
    ]
}

/// Any JSON, a few levels deep.
pub(crate) fn json() -> impl Strategy<Value = Value> + Clone {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number().prop_map(Value::Number),
        text().prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// An object that has some of these fields, with text or any JSON in them.
pub(crate) fn object(
    names: &'static [&'static str],
) -> impl Strategy<Value = Map<String, Value>> + Clone {
    let name = prop::sample::select(names).prop_map(str::to_owned);
    let value = prop_oneof![text().prop_map(Value::String), json()];
    prop::collection::vec((name, value), 0..8).prop_map(Map::from_iter)
}
