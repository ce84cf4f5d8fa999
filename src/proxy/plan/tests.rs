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
    with(payload, |request| Plan::of(request, "/base", lend))
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
        assert!(
            error.starts_with("failed to create Kubernetes request: "),
            "{error}"
        );
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
fn what_is_not_built_yet_is_refused_in_words() {
    for (payload, want) in [
        (r#"{"path":"/api","is_websocket":true}"#, PlanError::Upgrade),
        (
            r#"{"path":"/x","service_name":"a","namespace":"b","service_port":80}"#,
            PlanError::Service,
        ),
    ] {
        assert_eq!(plan(payload), Err(want), "{payload}");
    }
}

/// `kubectl get --raw /` was taken for a request to an ingress controller.
#[test]
fn what_names_no_service_is_for_the_api_server() {
    for path in [
        "/",
        "/apifoo",
        "/shop",
        "/api",
        "/apis/x",
        "/healthz",
        "/livez/ping",
        "/version",
        "/openapi/v3",
        "/metrics",
    ] {
        assert!(plan(&format!(r#"{{"path":"{path}"}}"#)).is_ok(), "{path}");
    }
    for nothing in ["{}", r#"{"path":""}"#, r#"{"path":7}"#] {
        assert_eq!(plan(nothing), Err(PlanError::Unreadable("path")));
    }
    // A part of the fields is no Service (control-channel.md §8.3 step 6).
    assert!(plan(r#"{"path":"/x","service_name":"a"}"#).is_ok());
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

/// Any text, with the characters that do harm more often than not.
fn nasty() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        prop::collection::vec(
            prop::sample::select(vec![
                "\r\n", "\n", "\r", "\0", ":", " ", "\t", "HTTP/1.1", "GET /x", "é", "%", "?", "#",
                "/", "..", "a", "chunked", "close", "Host", "0", "\u{85}", "\u{2028}",
            ]),
            0..8
        )
        .prop_map(|parts| parts.concat()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => nasty(),
        // What is planned at all is what this is about.
        12 => prop::sample::select(vec![
            "Host",
            "host",
            "Content-Length",
            "content-length",
            "Transfer-Encoding",
            "TE",
            "Trailer",
            "Trailers",
            "Expect",
            "Upgrade",
            "HTTP2-Settings",
            "Connection",
            "connection",
            "Keep-Alive",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "Authorization",
            "Impersonate-User",
            "Impersonate-Extra-x",
            "X-A",
            "X-B",
            "Accept",
            "Proxy-Connection",
            "x-remote-user",
        ])
        .prop_map(str::to_owned),
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => nasty(),
        6 => prop::sample::select(vec![
            "5",
            "chunked",
            "100-continue",
            "X-A",
            "Host",
            "evil.example",
            "close",
            "h2c",
            "Upgrade, HTTP2-Settings",
            "keep-alive, X-B"
        ])
        .prop_map(str::to_owned),
    ]
}

/// What a peer's fields must not decide: framing (RFC 9112 §6), the connection and
/// whatever is for one hop (RFC 9110 §7.6.1, §7.8, §10.1.1; RFC 7540 §3.2.1), and the
/// credentials of a proxy (RFC 9110 §11.7).
const NEVER_THE_PEERS: &[&str] = &[
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

proptest! {
    /// Whatever a peer says, what arrives at the API server is exactly one request,
    /// with our framing, our Host, and no field that isn't the peer's to send.
    #[test]
    fn no_request_smuggles_anything(
        fields in prop::collection::vec((name(), value()), 0..6),
        method in prop_oneof![9 => prop::sample::select(vec!["GET", "POST", "x-y"]).prop_map(str::to_owned), 1 => nasty()],
        path in prop_oneof![9 => nasty().prop_map(|rest| format!("/api/{rest}")), 1 => nasty()],
        query in prop_oneof![nasty(), Just("limit=1".to_owned())],
        body in prop::option::of(prop::collection::vec(any::<u8>(), 0..50)),
        lend: bool,
    ) {
        thread_local! {
            static UPSTREAM: Upstream = Upstream::new();
        }
        let object: serde_json::Map<_, _> = fields
            .iter()
            .map(|(name, value)| (name.clone(), serde_json::Value::from(vec![value.clone()])))
            .collect();
        let payload = serde_json::json!({
            "method": method, "path": path, "query": query, "headers": object,
        });
        let Ok(plan) = plan_lending(&payload.to_string(), lend) else {
            return Ok(());
        };
        UPSTREAM.with(|upstream| {
            let client = upstream.client();
            let body_sent = body.clone().unwrap_or_default();
            let sent = match body {
                Some(bytes) => Body::Full(Arc::new(bytes)),
                None => Body::Empty,
            };
            let (made, call) = (plan.clone(), client.clone());
            let calling = std::thread::spawn(move || {
                let call_it = Call {
                    method: &made.method,
                    target: &made.target,
                    headers: &made.headers,
                    body: sent,
                    deadline: None,
                };
                call.call(&call_it, &Cancel::new()).map(|response| response.status)
            });
            let mut peer = upstream.accept();
            let raw = peer.request();
            // Exactly one request: nothing follows it.
            assert!(peer.is_quiet(), "something follows");
            let words: Vec<&str> = raw.line.split(' ').collect();
            assert_eq!(words.len(), 3, "{}", raw.line);
            assert_eq!((words[0], words[2]), (plan.method.as_str(), "HTTP/1.1"));
            assert!(words[1].starts_with("/base/"), "{}", raw.line);
            assert!(words[1].bytes().all(|b| b.is_ascii_graphic() && b != b'#'));
            assert_eq!(raw.headers.get("Host"), Some(upstream.address.to_string().as_str()));
            assert!(!raw.chunked);
            assert_eq!(raw.body, body_sent);
            assert_eq!(raw.headers.get_all("Host").count(), 1);
            let named: Vec<&str> = object
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
                .filter_map(|(_, values)| values[0].as_str())
                .flat_map(|value| value.split(',').map(str::trim))
                .collect();
            let authorized = object.keys().any(|n| n.eq_ignore_ascii_case("authorization"));
            for (name, value) in raw.headers.iter() {
                if matches!(name, "Host" | "Content-Length") {
                    continue;
                }
                assert!(!is_one_of(name, NEVER_THE_PEERS), "{name}");
                assert!(!is_one_of(name, &named), "Connection names {name}");
                let theirs = object.iter().any(|(n, v)| {
                    n == name && v[0].as_str().is_some_and(|v| v.trim() == value.trim())
                });
                assert!(theirs, "{name}: {value:?} is not the peer's");
                assert!(authorized || !has_prefix(name, "impersonate-"), "{name}");
            }
            answer_head(&mut peer, &plan.method);
            assert_eq!(calling.join().expect("call").expect("answer"), 200);
        });
    }

    #[test]
    fn any_request_is_planned_or_refused(
        path in ".{0,40}",
        query in ".{0,40}",
        method in ".{0,10}",
        name in ".{0,10}",
        value in ".{0,10}",
    ) {
        let payload = serde_json::json!({
            "method": method, "path": path, "query": query, "headers": {name: value},
        });
        let _ = plan(&payload.to_string());
    }
}

fn answer_head(peer: &mut Peer, _method: &str) {
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
}

#[test]
fn the_strict_parser_of_these_tests_is_strict() {
    let (near, far) = crate::net::testing::tcp_pair();
    let mut near = crate::net::Halves::plain(near);
    let text = b"GET / HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n";
    near.write
        .write_all(&[IoSlice::new(text)])
        .expect("written");
    let strict = std::panic::catch_unwind(move || {
        Peer::new(TcpStream::from(far)).request();
    });
    assert!(strict.is_err());
}
