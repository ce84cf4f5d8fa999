//! Any request at all: what arrives is read by a stricter parser than ours.

use super::*;

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
                    host: None,
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
