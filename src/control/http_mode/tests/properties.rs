//! Any answer to a registration: an id, or one line that says what it was.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing;

fn body() -> impl Strategy<Value = String> {
    let fields = testing::object(&[
        "cluster_id",
        "cluster_uuid",
        "cluster",
        "data",
        "token",
        "workspace_id",
        "gateway_ws_url",
        "message",
    ]);
    prop_oneof![
        3 => fields.clone().prop_map(|fields| Value::Object(fields).to_string()),
        1 => testing::json().prop_map(|json| json.to_string()),
        1 => (fields, 0usize..60).prop_map(|(fields, cut)| {
            let text = Value::Object(fields).to_string();
            text.chars().take(cut).collect()
        }),
        1 => (testing::text(), testing::text())
            .prop_map(|(id, uuid)| json!({"cluster_id": id, "cluster_uuid": uuid}).to_string()),
        1 => testing::text(),
    ]
}

/// One line, of a length that a log can bear.
fn assert_line(failure: &Failure) {
    let line = failure.to_string();
    assert!(line.chars().count() < 500, "{line}");
    assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
}

proptest! {
    #[test]
    fn an_answer_registers_with_an_id_or_fails_in_a_line(
        status in prop_oneof![Just(200u16), Just(201), Just(409), 100u16..1000],
        is_json: bool,
        is_page: bool,
        retry_after in prop::option::of(any::<u64>().prop_map(Duration::from_secs)),
        body in body(),
    ) {
        let answer = Answer { status, is_json, is_page, retry_after, body };
        match registered(&answer) {
            Ok(registered) => {
                assert!(registered.cluster_id.is_some_and(|id| !id.is_empty()));
                assert!((200..300).contains(&status) && is_json || status == 409);
            }
            Err(failure) => {
                assert_line(&failure);
                // A refusal comes from the control plane alone: in JSON, or as a
                // status that no page for people goes with.
                match &failure {
                    Failure::Unusable(_) => assert!((200..300).contains(&status) && is_json),
                    Failure::Status { code, .. } => {
                        assert_eq!(*code, status);
                        assert!(!(is_page && matches!(status, 401 | 403)));
                    }
                    Failure::Other(_) => {}
                }
            }
        }
    }
}

proptest! {
    // Each is a call over a socket.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_the_server_writes_the_call_ends(
        status in prop_oneof![
            3 => (100u16..1000).prop_map(|status| format!("HTTP/1.1 {status} x")),
            1 => testing::text(),
        ],
        fields in prop::collection::vec(
            prop_oneof![
                (testing::text(), testing::text()).prop_map(|(name, value)| format!("{name}: {value}")),
                prop::sample::select(vec![
                    "Content-Type: application/json",
                    "Content-Type: text/html",
                    "Transfer-Encoding: chunked",
                    "Content-Length: 4",
                    "Content-Length: 99999999999999999999",
                    "Content-Length: -1",
                    "Retry-After: 18446744073709551615",
                    "Content-Encoding: gzip",
                    "Location: /elsewhere",
                ]).prop_map(str::to_owned),
            ],
            0..6,
        ),
        body in body(),
    ) {
        let head = fields.join("\r\n");
        let (url, server) = server(&format!("{status}\r\n{head}\r\n\r\n{body}"));
        let outcome = register(&url);
        server.join().expect("server");
        match outcome {
            Ok(registered) => assert!(registered.cluster_id.is_some_and(|id| !id.is_empty())),
            Err(failure) => assert_line(&failure),
        }
    }
}
