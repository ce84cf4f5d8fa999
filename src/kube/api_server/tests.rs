//! Against a server that answers by token.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use parking_lot::Mutex;

use super::*;
use crate::http::server::{self, Handler, Request, RequestBody, Responder, Server};
use crate::kube::Auth;
use crate::net::testing::far_deadline;

/// Answers by token, and remembers what was asked.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<(String, Option<String>)>>,
}

impl Handler for Fake {
    fn handle(&self, request: Request, mut body: RequestBody, responder: Responder) {
        let authorization = request.headers.get("authorization").map(str::to_owned);
        self.asked
            .lock()
            .push((request.target.clone(), authorization.clone()));
        drop(body.read_all(1 << 20));
        let (status, answer) = match (authorization.as_deref(), request.target.as_str()) {
            (Some("Bearer old"), _) => (401, r#"{"kind":"Status","message":"Unauthorized"}"#),
            (_, "/base/version") => (200, r#"{"major":"1","gitVersion":"v1.36.0"}"#),
            (_, "/base/api/v1/nodes?limit=1") => (
                200,
                r#"{"metadata":{"remainingItemCount":41},"items":[{"x":[1]}]}"#,
            ),
            (_, "/base/api/v1/pods?limit=1") => (200, r#"{"metadata":{},"items":[]}"#),
            (_, "/base/api/v1/namespaces/shop/services/outside") => (
                200,
                r#"{"kind":"Service","spec":{"type":"ExternalName","externalName":"db.example.test"}}"#,
            ),
            (_, "/base/api/v1/namespaces/shop/services/plain") => (
                200,
                r#"{"kind":"Service","spec":{"type":"ClusterIP","clusterIP":"10.0.0.1","externalName":""}}"#,
            ),
            (Some("Bearer strong"), _) => (201, r#"{"status":{"allowed":true}}"#),
            (Some("Bearer weak"), _) => (201, r#"{"status":{"allowed":false}}"#),
            _ => (403, r#"{"kind":"Status","message":"forbidden: \"x\""}"#),
        };
        responder
            .respond(status, &Headers::new(), answer.as_bytes())
            .expect("answered");
    }
}

fn start(auth: Auth) -> (Server, Arc<Fake>, ApiServer) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let fake = Arc::new(Fake::default());
    let server =
        Server::start(listener, server::Settings::default(), fake.clone()).expect("a server");
    let url = format!("http://{}/base", server.address());
    let credentials = Credentials {
        server: ServerUrl::parse(&url).expect("a URL"),
        ca: None,
        insecure: false,
        server_name: None,
        proxy: None,
        client: None,
        auth,
    };
    (
        server,
        fake,
        ApiServer::new(credentials, &Settings::default()).expect("nothing to read"),
    )
}

#[test]
fn version_and_counts_by_lists_of_one() {
    let (_server, _, api) = start(Auth::Token(Secret::new("t")));
    let cancel = Cancel::new();
    assert_eq!(
        api.version(far_deadline(), &cancel).expect("a version"),
        "v1.36.0"
    );
    assert_eq!(
        api.count("nodes", far_deadline(), &cancel)
            .expect("a count"),
        42
    );
    assert_eq!(
        api.count("pods", far_deadline(), &cancel).expect("a count"),
        0
    );
}

#[test]
fn a_refusal_says_what_the_server_said() {
    let (_server, _, api) = start(Auth::None);
    let error = api
        .count("secrets", far_deadline(), &Cancel::new())
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the API server answered 403: forbidden: \"x\""
    );
}

#[test]
fn a_rotated_token_is_read_again_after_a_401() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("token");
    fs::write(&path, "old").expect("written");
    let (_server, fake, api) = start(Auth::TokenFile(path.clone()));
    let first = api.authorization(None, &Cancel::new());
    assert!(first.expect("readable").is_some());
    fs::write(&path, "new").expect("written");
    assert_eq!(
        api.version(far_deadline(), &Cancel::new())
            .expect("a version"),
        "v1.36.0"
    );
    let asked = fake
        .asked
        .lock()
        .iter()
        .map(|(_, a)| a.clone())
        .collect::<Vec<_>>();
    assert_eq!(
        asked,
        [Some("Bearer old".to_owned()), Some("Bearer new".to_owned())]
    );
}

#[test]
fn a_token_is_judged_under_its_own_identity() {
    let (_server, fake, api) = start(Auth::Token(Secret::new("agent")));
    let usable = |token: &str| api.is_usable(&Secret::new(token), far_deadline(), &Cancel::new());
    assert!(usable("strong").expect("reviewed"));
    assert!(!usable("weak").expect("reviewed"));
    usable("old").expect_err("401 is no verdict");
    assert!(
        fake.asked
            .lock()
            .iter()
            .all(|(_, a)| a.as_deref() != Some("Bearer agent"))
    );
}

#[test]
fn a_service_that_is_another_name_says_where_it_points_to() {
    let (_server, _, api) = start(Auth::Token(Secret::new("t")));
    let ask = |service| api.external_name("shop", service, far_deadline(), &Cancel::new());
    let outside = ask("outside").expect("an answer");
    assert_eq!(outside.as_deref(), Some("db.example.test"));
    assert_eq!(ask("plain").expect("an answer"), None);
    let refused = ask("secret").expect_err("refused");
    assert!(matches!(refused, ApiError::Status { status: 403, .. }));
}
