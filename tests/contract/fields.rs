//! Header fields, paths and identities on their way through.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pipeops_agent::agent::Agent;
use pipeops_agent::config::Secret;
use pipeops_agent::control::facts::ClusterFacts;
use pipeops_agent::http::client::Body;
use pipeops_agent::http::server::Request;
use pipeops_agent::kube::Auth;
use pipeops_agent::plane::GatewayUrl;

use crate::support::front::full;
use crate::support::house::{House, parts, start};
use crate::support::upstream::{Upstream, credentials, json, scripted};
use crate::support::wait::until;

/// An upstream that keeps what it was asked, and says yes to everything.
fn noting() -> (Upstream, Arc<Mutex<Vec<Request>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let upstream = Upstream::start_tls(move |request, mut body, responder| {
        let _ = body.read_all(1 << 20);
        drop(body);
        let answer: &[u8] = if request.target.contains("selfsubjectaccessreviews") {
            br#"{"status":{"allowed":true}}"#
        } else {
            b"{}"
        };
        noted.lock().push(request);
        responder.respond(200, &json(), answer).expect("answered");
    });
    (upstream, seen)
}

/// The one that is asked by users.
fn asked(seen: &Mutex<Vec<Request>>) -> Request {
    let all = seen.lock();
    let mut users = all.iter().filter(|r| !r.target.contains("selfsubject"));
    users.next_back().expect("it was asked").clone()
}

#[test]
fn the_users_token_stays_at_the_door() {
    let (upstream, seen) = noting();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    assert_eq!(front.get("/api/v1/pods").status, 200);
    let request = asked(&seen);
    assert_eq!(request.headers.get("Authorization"), None);
    for (name, value) in request.headers.iter() {
        assert!(!value.contains("ppu_"), "{name}: {value}");
    }
}

#[test]
fn the_token_that_the_agent_handed_over_goes_along() {
    let (upstream, seen) = noting();
    let house = House::new();
    let mut config = house.agent_config("edge");
    config.kubernetes.service_token = Some(Secret::new("of-the-cluster"));
    let _agent = start(&config, Some(upstream.credentials()));
    house.attached("edge");
    assert_eq!(house.front("edge").get("/api/v1/pods").status, 200);
    let request = asked(&seen);
    let all: Vec<&str> = request.headers.get_all("Authorization").collect();
    assert_eq!(all, ["Bearer of-the-cluster"]);
}

/// One cluster token after the other, as the kubelet replaces them.
#[derive(Clone)]
struct Mounted(Arc<Mutex<&'static str>>);

impl ClusterFacts for Mounted {
    fn service_tokens(&self) -> Vec<Secret> {
        vec![Secret::new(*self.0.lock())]
    }
}

#[test]
fn t14_a_replaced_token_takes_the_place_of_the_one_before_and_nothing_is_cut() {
    for gateway in [GatewayUrl::SameHost, GatewayUrl::Stay] {
        let (upstream, seen) = noting();
        let house = House::with_gateway(gateway);
        let mut config = house.agent_config("edge");
        config.agent.heartbeat_interval_connected = Duration::from_millis(20);
        let mut parts = parts(&config, Some(upstream.credentials()));
        let mounted = Mounted(Arc::new(Mutex::new("one")));
        parts.facts = Arc::new(mounted.clone());
        let agent = Agent::start(parts).expect("started");
        house.attached("edge");
        let front = house.front("edge");
        let travels_as = || {
            assert_eq!(front.get("/api/v1/pods").status, 200);
            let value = asked(&seen).headers.get("Authorization").map(str::to_owned);
            value.expect("a token")
        };
        assert_eq!(travels_as(), "Bearer one");
        *mounted.0.lock() = "two";
        until("the new token travels", || travels_as() == "Bearer two");
        assert_eq!(agent.status().connections, 1);
        assert!(house.is_connected("edge"));
    }
}

#[test]
fn the_agents_own_identity_is_lent_only_when_a_setting_says_so() {
    for lend in [true, false] {
        let (upstream, seen) = noting();
        let house = House::new();
        let mut config = house.agent_config("edge");
        config.kubernetes.impersonate_agent = lend;
        let mut credentials = upstream.credentials();
        credentials.auth = Auth::Token(Secret::new("of-the-agent"));
        let _agent = start(&config, Some(credentials));
        house.attached("edge");
        let front = house.front("edge");
        let headers = [
            ("X-Remote-User", "admin"),
            ("X-Remote-Group", "system:masters"),
        ];
        let answer = front.ask("GET", "/api/v1/pods", &headers, Body::Empty);
        assert_eq!(answer.status, 200);
        let request = asked(&seen);
        let own = lend.then_some("Bearer of-the-agent");
        assert_eq!(request.headers.get("Authorization"), own);
        assert_eq!(request.headers.get("X-Remote-User"), None);
        assert_eq!(request.headers.get("X-Remote-Group"), None);
    }
}

#[test]
fn nobody_becomes_somebody_else_through_the_plane() {
    let (upstream, _seen) = noting();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let headers = [("Impersonate-User", "admin")];
    let front = house.front("edge");
    let answer = front.ask("GET", "/api/v1/pods", &headers, Body::Empty);
    assert_eq!(answer.status, 403);
    assert!(answer.status_message().contains("impersonation"));
}

#[test]
fn what_concerns_one_connection_stays_on_it() {
    let (upstream, seen) = noting();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let mut raw = front.raw();
    raw.send(front.head(
        "GET",
        "/api/v1/pods",
        "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
         Trailer: X-Sum\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n\
         X-Yours: 2\r\n",
    ));
    assert_eq!(raw.head().status, 200);
    let request = asked(&seen);
    for name in [
        "Connection",
        "X-Mine",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Transfer-Encoding",
        "Content-Length",
        "Upgrade",
    ] {
        assert_eq!(request.headers.get(name), None, "{name}");
    }
    assert_eq!(request.headers.get("X-Yours"), Some("2"));
    let host = upstream.address().to_string();
    let hosts: Vec<&str> = request.headers.get_all("Host").collect();
    assert_eq!(hosts, [host.as_str()]);
}

#[test]
fn c7_what_concerns_the_api_servers_connection_stays_on_that() {
    let (address, _script) = scripted(|_, mut stream| {
        let answer = "HTTP/1.1 200 OK\r\nConnection: X-Theirs, close\r\nX-Theirs: 1\r\n\
                      Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nTrailer: X-Sum\r\n\
                      Upgrade: h2c\r\nAudit-Id: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
                      2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n";
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let house = House::new();
    let _agent = house.agent("edge", credentials(address, None));
    let answer = house.front("edge").get("/api/v1/pods");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    for name in [
        "Connection",
        "X-Theirs",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Trailer",
        "Upgrade",
        "X-Sum",
    ] {
        assert_eq!(answer.headers.get(name), None, "{name}");
    }
    assert_eq!(answer.headers.get("Audit-Id"), Some("3"));
}

#[test]
fn fields_with_many_values_and_letters_of_all_kinds() {
    let (upstream, seen) = noting();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    let long = "x".repeat(8 * 1024);
    let headers = [
        ("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("Accept", "application/json"),
        ("X-Place", "Zürich, 東京"),
        ("X-Empty", ""),
        ("x-lower-CASE", "a,b ,c"),
        ("X-Long", &long),
        ("X-Quoted", "\"a\\\"b\" <&> \t'"),
    ];
    let answer = front.ask("POST", "/api/v1/things", &headers, full("{}"));
    assert_eq!(answer.status, 200);
    let request = asked(&seen);
    for name in [
        "Accept",
        "X-Place",
        "X-Empty",
        "X-Lower-Case",
        "X-Long",
        "X-Quoted",
    ] {
        let sent = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let sent: Vec<&str> = sent.map(|(_, value)| *value).collect();
        let came: Vec<&str> = request.headers.get_all(name).collect();
        assert_eq!(came, sent, "{name}");
    }
}

#[test]
fn an_answers_fields_keep_their_number_and_order() {
    let (address, _script) = scripted(|_, mut stream| {
        let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nContent-Length: 0\r\n\
                      set-cookie: b=2\r\nX-Place: Zürich\r\nSet-Cookie: c=3\r\n\
                      Warning: 299 - \"one, two\"\r\nWarning: 299 - \"three\"\r\n\r\n";
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let house = House::new();
    let _agent = house.agent("edge", credentials(address, None));
    let answer = house.front("edge").get("/api/v1/pods");
    let all = |name| answer.headers.get_all(name).collect::<Vec<_>>();
    assert_eq!(all("Set-Cookie"), ["a=1; Path=/", "b=2", "c=3"]);
    assert_eq!(all("Warning"), ["299 - \"one, two\"", "299 - \"three\""]);
    assert_eq!(all("X-Place"), ["Zürich"]);
}

#[test]
fn t33_a_path_reaches_the_object_that_was_named() {
    let (upstream, seen) = noting();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    for target in [
        "/api/v1/namespaces/default/pods",
        "/api/v1/namespaces/z%C3%BCrich/configmaps/a%20b",
        "/api/v1/x%25252F",
        "/apis/apps/v1/deployments?labelSelector=app%3Dweb%2Ctier+in+%28a%29&limit=5&x=a%26b",
        "/api/v1/pods?watch=0&fieldSelector=metadata.name%3Da%2Fb",
        "/api/v1/a:b;c=d,e@f",
        "/openapi/v2?timeout=32s",
    ] {
        assert_eq!(front.get(target).status, 200, "{target}");
        assert_eq!(asked(&seen).target, target);
    }
    let before = seen.lock().len();
    for target in [
        "/api/v1/../../secret",
        "/api/v1/%2e%2e/%2e%2e/secret",
        "/api/v1/./x",
    ] {
        let answer = front.get(target);
        assert!(
            matches!(answer.status, 400 | 502),
            "{target}: {}",
            answer.status
        );
    }
    assert_eq!(
        seen.lock().len(),
        before,
        "nothing of it reaches the API server"
    );
}

#[test]
fn t41_the_true_length_of_a_short_body_is_announced() {
    let (upstream, seen) = noting();
    let house = House::new();
    let _agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = front.ask(method, "/api/v1/things", &[], full("12345"));
        assert_eq!(answer.status, 200);
        let request = asked(&seen);
        assert_eq!(request.headers.get("Content-Length"), Some("5"), "{method}");
        assert_eq!(request.headers.get("Transfer-Encoding"), None, "{method}");
    }
    let no_body = front.ask("GET", "/api/v1/things", &[], Body::Empty);
    assert_eq!(no_body.status, 200);
    assert_eq!(asked(&seen).headers.get("Content-Length"), None);
}
