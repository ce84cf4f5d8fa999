mod properties;
mod service;

use std::io::IoSlice;
use std::net::TcpStream;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::http::client::{Body, Call};
use crate::http::testing::{Peer, Upstream};
use crate::net::Cancel;
use crate::wire::Envelope;

fn with<T>(payload: &str, check: impl FnOnce(&ProxyRequest<'_>) -> T) -> T {
    let text = format!(r#"{{"type":"proxy_request","request_id":"r","payload":{payload}}}"#);
    let envelope = Envelope::parse(&text).expect("valid");
    check(&ProxyRequest::parse(&envelope.payload, None))
}

fn plan_lending(payload: &str, lend: bool) -> Result<Plan, PlanError> {
    with(payload, |request| Plan::for_api(request, "/base", lend))
}

fn plan(payload: &str) -> Result<Plan, PlanError> {
    plan_lending(payload, false)
}

fn kept(headers: &str) -> Vec<(String, String)> {
    let plan = plan(&format!(r#"{{"path":"/api","headers":{headers}}}"#)).expect("a plan");
    let fields = plan.headers.iter();
    fields.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

#[test]
fn a_plain_request() {
    let plan = plan(
        r#"{"path":"/api/v1/pods","query":"labelSelector=app%3Dweb&limit=5","headers":{"Accept":["a/b","c/d"],"User-Agent":"kubectl"}}"#,
    )
    .expect("a plan");
    assert_eq!(plan.method, "GET");
    assert_eq!(
        plan.target,
        "/base/api/v1/pods?labelSelector=app%3Dweb&limit=5"
    );
    let fields: Vec<_> = plan.headers.iter().collect();
    assert_eq!(
        fields,
        [
            ("Accept", "a/b"),
            ("Accept", "c/d"),
            ("User-Agent", "kubectl")
        ]
    );
    assert_eq!(plan.identity, Identity::Caller);
    assert!(!plan.live);
}

#[test]
fn fields_of_framing_target_and_connection_are_left_out() {
    let headers = r#"{"Host":"evil","content-length":"5","Transfer-Encoding":"chunked","TE":"trailers",
        "Trailer":"X","trailers":"X","Expect":"100-continue","Connection":["close, X-Hop","x-other"],
        "X-Hop":"1","X-OTHER":"2","Keep-Alive":"5","Proxy-Authorization":"Basic x","proxy-authenticate":"y",
        "Proxy-Connection":"keep-alive","HTTP2-Settings":"z","X-Kept":"3"}"#;
    assert_eq!(kept(headers), [("X-Kept".to_owned(), "3".to_owned())]);
    // No WebSocket, so it isn't refused as one; the API server must not hear of it.
    let h2c =
        r#"{"Upgrade":"h2c","Connection":"Upgrade, HTTP2-Settings","HTTP2-Settings":"AAMAAABk"}"#;
    assert_eq!(kept(h2c), []);
}

#[test]
fn accept_encoding_is_the_callers() {
    assert_eq!(kept("{}"), []);
    let want = [("Accept-Encoding".to_owned(), "gzip".to_owned())];
    assert_eq!(kept(r#"{"Accept-Encoding":"gzip"}"#), want);
}

#[test]
fn impersonation_needs_the_callers_own_authorization() {
    let both =
        kept(r#"{"authorization":"Bearer t","Impersonate-User":"u","impersonate-extra-x":"y"}"#);
    assert_eq!(both.len(), 3);
    assert_eq!(
        kept(r#"{"Impersonate-User":"u","IMPERSONATE-Group":"system:masters"}"#),
        []
    );
    let lent = plan_lending(
        r#"{"path":"/api","headers":{"Impersonate-User":"u","X-Remote-User":"admin","X-Remote-Extra-A":"b"}}"#,
        true,
    )
    .expect("a plan");
    assert_eq!(lent.identity, Identity::Agent);
    assert!(lent.headers.is_empty(), "{:?}", lent.headers);
}

#[test]
fn the_agents_identity_is_lent_only_where_there_is_no_other() {
    for (headers, want) in [
        ("{}", Identity::Agent),
        (r#"{"Authorization":"Bearer t"}"#, Identity::Caller),
        (r#"{"AUTHORIZATION":""}"#, Identity::Caller),
    ] {
        let payload = format!(r#"{{"path":"/api","headers":{headers}}}"#);
        let lending = plan_lending(&payload, true).expect("a plan");
        assert_eq!(lending.identity, want, "{headers}");
        let not = plan_lending(&payload, false).expect("a plan");
        assert_eq!(not.identity, Identity::Caller, "{headers}");
    }
}

#[test]
fn endless_fields_are_refused_before_the_link_reader_works_through_them() {
    let names = "x,".repeat(MAX_HEAD);
    let long = format!(r#"{{"path":"/api","headers":{{"Connection":"{names}"}}}}"#);
    assert_eq!(plan(&long), Err(PlanError::TooLarge));
    let many = r#""1","#.repeat(MAX_FIELDS);
    let many = format!(r#"{{"path":"/api","headers":{{"TE":[{many}"1"]}}}}"#);
    assert_eq!(plan(&many), Err(PlanError::TooLarge));
    let method = format!(r#"{{"path":"/api","method":"{}"}}"#, "M".repeat(MAX_HEAD));
    assert_eq!(plan(&method), Err(PlanError::TooLarge));
}

#[test]
fn an_unreadable_authorization_is_not_replaced_by_the_agents() {
    for headers in [
        r#"{"Authorization":"Bearer \ud800"}"#,
        r#"{"Authorization":[7]}"#,
    ] {
        let payload = format!(r#"{{"path":"/api","headers":{headers}}}"#);
        assert_eq!(
            plan_lending(&payload, true),
            Err(PlanError::Unreadable("headers")),
            "{headers}"
        );
    }
}

#[test]
fn a_connection_header_cannot_take_the_identity_away() {
    for name in ["Authorization", "impersonate-user", "X-Remote-User"] {
        let payload = format!(
            r#"{{"path":"/api","headers":{{"Connection":"close, {name}","Authorization":"Bearer t"}}}}"#
        );
        let error = plan(&payload).expect_err("refused");
        assert!(matches!(error, PlanError::ConnectionNames(_)), "{error}");
    }
    let two = plan(r#"{"path":"/api","headers":{"Authorization":["a","b"]}}"#);
    assert_eq!(two, Err(PlanError::TwoAuthorizations));
    let two = plan(r#"{"path":"/api","headers":{"Authorization":"a","authorization":"b"}}"#);
    assert_eq!(two, Err(PlanError::TwoAuthorizations));
}

#[test]
fn what_cannot_be_sent_is_refused_without_its_value() {
    for (payload, text) in [
        (
            r#"{"path":"/api","headers":{"X Y":"secret"}}"#,
            "header name",
        ),
        (r#"{"path":"/api","headers":{"":"secret"}}"#, "header name"),
        (
            r#"{"path":"/api","headers":{"X":"secret\r\nY: 1"}}"#,
            "header \"X\"",
        ),
        (
            r#"{"path":"/api","headers":{"X":"secret\u0000"}}"#,
            "header \"X\"",
        ),
        (r#"{"path":"/api","method":"GE T"}"#, "method"),
        (r#"{"path":"/api","method":"connect"}"#, "method"),
        (r#"{"path":"/api","method":"TRACE"}"#, "method"),
        (r#"{"path":"/api/../x"}"#, "invalid path"),
        (r#"{"path":"/api/./x"}"#, "invalid path"),
        (
            r#"{"path":"/api","query":"a=secret\r\nX: 1"}"#,
            "invalid query",
        ),
    ] {
        let error = plan(payload).expect_err(payload).to_string();
        assert!(error.contains(text), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let long = format!(r#"{{"path":"/api","query":"{}"}}"#, "a".repeat(70_000));
    assert_eq!(plan(&long), Err(PlanError::TooLarge));
    let many = "\"a\",".repeat(300);
    let many = format!(r#"{{"path":"/api","headers":{{"X":[{many}"a"]}}}}"#);
    assert_eq!(plan(&many), Err(PlanError::TooLarge));
}

#[test]
fn t33_a_path_reaches_what_it_names_and_nothing_else() {
    for (path, want) in [
        ("/api/a%2Fb", "/base/api/a%252Fb"),
        ("api/v1", "/base/api/v1"),
        ("/api/a?b#c", "/base/api/a%3Fb%23c"),
        ("/api/%2e%2e/x", "/base/api/%252e%252e/x"),
        ("/api/a\\\\..\\\\b", "/base/api/a%5C..%5Cb"),
        ("/api//x/", "/base/api//x/"),
    ] {
        let got = plan(&format!(r#"{{"path":"{path}"}}"#)).expect("a plan");
        assert_eq!(got.target, want);
    }
}

#[test]
fn a_payload_that_is_none_is_no_request() {
    for nothing in ["{}", r#"{"path":""}"#, r#"{"path":7}"#] {
        assert_eq!(plan(nothing), Err(PlanError::Unreadable("path")));
        let service = with(nothing, Plan::for_service);
        assert_eq!(service, Err(PlanError::Unreadable("path")));
    }
}

#[test]
fn watches_and_followed_logs_are_known() {
    let live = |path: &str, query: &str| is_live(path, query);
    assert!(live("/api/v1/pods", "watch=true"));
    assert!(live("/api/v1/pods", "limit=1&watch=1"));
    assert!(live("/api/v1/pods", "watch"));
    assert!(live("/api/v1/namespaces/d/pods/p/log", "follow=True"));
    assert!(live("/api/v1/watch/pods", ""));
    assert!(live("/apis/apps/v1/watch/deployments", ""));
    assert!(!live("/api/v1/pods", "watch=false&follow=0"));
    assert!(!live("/api/v1/pods", "labelSelector=watch%3Dtrue"));
    assert!(!live("/api/v1/namespaces/watch/pods", ""));
}

#[test]
fn the_callers_length_counts_only_for_a_streamed_body() {
    let length = |extra: &str| plan(&format!(r#"{{"path":"/api",{extra}}}"#)).map(|p| p.length);
    let said = r#""headers":{"Content-Length":"12"}"#;
    assert_eq!(length(said), Ok(None));
    assert_eq!(
        length(&format!(r#""use_streaming":true,{said}"#)),
        Ok(Some(12))
    );
    let chunked =
        r#""streaming":true,"headers":{"Content-Length":"12","transfer-encoding":"chunked"}"#;
    assert_eq!(length(chunked), Ok(None));
    for bad in [
        r#"["1","2"]"#,
        r#""-1""#,
        r#""""#,
        r#""1, 1""#,
        r#""99999999999999999999""#,
    ] {
        let bad = format!(r#""streaming":true,"headers":{{"Content-Length":{bad}}}"#);
        assert!(length(&bad).is_err(), "{bad}");
    }
}

#[test]
fn answers_lose_their_hop_by_hop_fields() {
    let headers: Headers = [
        ("Connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("Transfer-Encoding", "chunked"),
        ("Trailer", "x"),
        ("Keep-Alive", "5"),
        ("Content-Length", "200"),
        ("Content-Type", "a/b"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]
    .into_iter()
    .collect();
    let kept = answer_headers(&headers);
    let names: Vec<_> = kept.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["Content-Length", "Content-Type", "Set-Cookie", "Set-Cookie"]
    );
}
