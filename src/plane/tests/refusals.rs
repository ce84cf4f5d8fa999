//! Users: what is refused, and what breaks off.

use serde_json::json;

use super::house::{CONTROLLER, House, name};
use crate::plane::*;

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    // Before the header.
    let mut client = house.client();
    client.get("/clusters/edge/slow", &token);
    let id = agent.request();
    drop(client);
    assert_eq!(agent.expect("proxy_cancel")["id"], id.as_str());
    // In the body, while nothing comes.
    let mut client = house.client();
    client.get("/clusters/edge/watch", &token);
    let id = agent.request();
    agent.header(&id, 200, json!({}));
    agent.chunk(&id, b"event");
    let head = client.head();
    assert_eq!(
        (head.status, client.chunk()),
        (200, Some(b"event".to_vec()))
    );
    drop(client);
    assert_eq!(agent.expect("proxy_cancel")["id"], id.as_str());
    // In the middle of its own body.
    let mut client = house.client();
    client.ask(
        "PUT",
        "/clusters/edge/big",
        &token,
        "Content-Length: 104857600\r\n",
    );
    client.send([b'x'; 1000]);
    let id = agent.request();
    drop(client);
    assert_eq!(agent.expect("proxy_cancel")["id"], id.as_str());
    house.until(|plane| plane.clusters()[0].requests == 0);
}

#[test]
fn an_agent_that_is_lost_breaks_answers_off_visibly() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let (mut begun, mut counted, mut waiting) = (house.client(), house.client(), house.client());
    begun.get("/clusters/edge/begun", &token);
    let id = agent.request();
    agent.header(&id, 200, json!({}));
    agent.chunk(&id, b"half");
    let head = begun.head();
    assert_eq!((head.status, begun.chunk()), (200, Some(b"half".to_vec())));
    counted.get("/clusters/edge/counted", &token);
    let id = agent.request();
    agent.header(&id, 200, json!({"Content-Length": ["8"]}));
    agent.chunk(&id, b"half");
    let counted_head = counted.head();
    waiting.get("/clusters/edge/waiting", &token);
    agent.request();
    agent.cut();
    assert_eq!(begun.chunk(), None, "no clean end");
    assert_eq!(counted.body(&counted_head), None, "no clean end");
    let (status, body) = waiting.json();
    assert_eq!((status, &body["kind"]), (502, &json!("Status")));
}

#[test]
fn an_answer_whose_end_the_agent_takes_back_breaks_off() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.get("/clusters/edge/x", &token);
    let id = agent.request();
    agent.header(&id, 200, json!({}));
    agent.chunk(&id, b"half");
    agent.send(
        "proxy_response_abort",
        &id,
        json!({"error": "upstream gone"}),
    );
    client.head();
    assert_eq!(
        (client.chunk(), client.chunk()),
        (Some(b"half".to_vec()), None)
    );
    // A body that is not as long as was said, either way.
    for body in [&b"short"[..], b"much too long"] {
        let mut client = house.client();
        client.get("/clusters/edge/x", &token);
        let id = agent.request();
        agent.header(&id, 200, json!({"Content-Length": ["8"]}));
        agent.chunk(&id, body);
        agent.end(&id);
        let head = client.head();
        assert_eq!(client.body(&head), None);
    }
}

#[test]
fn what_an_agent_refuses_is_a_status_that_kubectl_can_print() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    for (kind, text, code) in [
        ("proxy_response_abort", "agent busy", 503),
        (
            "proxy_response_abort",
            "kubernetes API request failed: refused",
            502,
        ),
        ("proxy_error", "kubernetes client not initialized", 502),
    ] {
        client.get("/clusters/edge/x", &token);
        let id = agent.request();
        agent.send(kind, &id, json!({"error": text}));
        let (status, body) = client.json();
        assert_eq!((status, &body["code"]), (code, &json!(code)));
        assert!(body["message"].as_str().expect("text").contains(text));
    }
}

#[test]
fn the_answers_of_the_door_itself() {
    let house = House::new();
    let agent = house.agent_token("edge");
    let mut registered = house.agent(CONTROLLER, &agent).expect("let in");
    registered.answer_hello(true);
    registered.register("edge", "agent-1");
    registered.expect("register_success");
    drop(registered);
    house.until(|plane| plane.clusters().len() == 1 && !plane.clusters()[0].connected);
    let user = house.user_token();
    let narrow = house.token(Grant::User {
        scope: Scope::Named([name("other")].into()),
        access: Access::Use,
    });
    let reader = house.token(Grant::User {
        scope: Scope::All,
        access: Access::ReadOnly,
    });
    let mut client = house.client();
    let upgrade = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    for (method, path, token, more, code) in [
        ("GET", "/clusters/edge/api", "ppu_wrong", "", 401),
        ("GET", "/clusters/edge/api", &*agent, "", 403),
        ("GET", "/clusters/edge/api", &narrow, "", 403),
        ("GET", "/clusters/nobody/api", &narrow, "", 403),
        ("DELETE", "/clusters/edge/api", &reader, "", 403),
        ("GET", "/clusters/edge/api", &reader, "", 503),
        ("GET", "/clusters/nobody/api", &user, "", 404),
        ("GET", "/clusters/edge/api", &user, "", 503),
        (
            "GET",
            "/clusters/edge/api",
            &user,
            "Impersonate-User: root\r\n",
            403,
        ),
        (
            "POST",
            "/clusters/edge/api/v1/namespaces/n/pods/p/exec",
            &user,
            upgrade,
            501,
        ),
        ("GET", "/clusters/edge/a%2Fb", &user, "", 400),
        ("GET", "/clusters/edge/../x", &user, "", 400),
        ("GET", "/elsewhere", &user, "", 404),
        ("GET", "*", &user, "", 400),
    ] {
        client.ask(method, path, token, more);
        let (status, body) = client.json();
        assert_eq!(status, code, "{method} {path} {body}");
        assert_eq!(body["kind"], "Status");
        assert_eq!(
            (&body["status"], &body["code"]),
            (&json!("Failure"), &json!(code))
        );
        assert!(!body["message"].as_str().expect("text").is_empty());
    }
}

#[test]
fn kubectls_discovery_gets_words_that_it_prints() {
    let house = House::new();
    let token = house.user_token();
    let mut client = house.client();
    let more =
        "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,x/y\r\n";
    client.ask("GET", "/clusters/nobody/api", &token, more);
    let head = client.head();
    assert_eq!(
        (head.status, head.field("content-type")),
        (502, Some("text/plain"))
    );
    let text = client.body(&head).expect("a body");
    assert_eq!(
        text,
        b"cluster \"nobody\" is not known: no agent has registered it"
    );
}

#[test]
fn a_revoked_user_token_ends_its_watches() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let grant = Grant::User {
        scope: Scope::All,
        access: Access::Use,
    };
    let (token, text) = house.plane.create_token(grant).expect("made");
    let mut client = house.client();
    client.get("/clusters/edge/watch", text.reveal());
    let id = agent.request();
    agent.header(&id, 200, json!({}));
    client.head();
    assert!(house.plane.revoke_token(&token.id).expect("written"));
    assert_eq!(client.chunk(), None);
    assert_eq!(agent.expect("proxy_cancel")["id"], id.as_str());
    let mut client = house.client();
    client.get("/clusters/edge/watch", text.reveal());
    assert_eq!(client.json().0, 401);
}

#[test]
fn a_token_with_too_many_requests_is_told_to_wait_and_keeps_nobody_else_out() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let grant = || Grant::User {
        scope: Scope::All,
        access: Access::Use,
    };
    let (token, text) = house.plane.create_token(grant()).expect("made");
    // As many requests of the token, without their connections.
    let quota = &house.plane.hub.quota;
    let mut others: Vec<_> = std::iter::from_fn(|| quota.take(&token.id)).collect();
    assert_eq!(others.len(), REQUESTS_PER_TOKEN);
    let mut client = house.client();
    for path in ["/clusters/edge/api/v1/pods", "/clusters"] {
        client.get(path, text.reveal());
        let head = client.head();
        assert_eq!((head.status, head.field("retry-after")), (429, Some("1")));
        client.body(&head).expect("a body");
    }
    // Somebody else.
    client.get("/clusters/edge/other", &house.user_token());
    let id = agent.request();
    agent.header(&id, 204, json!(null));
    agent.end(&id);
    assert_eq!(client.head().status, 204);
    // One of its requests ends: there is room for one.
    others.pop();
    for _ in 0..2 {
        client.get("/clusters/edge/mine", text.reveal());
        let id = agent.request();
        agent.header(&id, 204, json!(null));
        agent.end(&id);
        assert_eq!(client.head().status, 204);
    }
}
