//! Users: what the front door lets through, and how it comes back.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::house::{CONTROLLER, Client, House, chunk, id, name, unchunk};
use crate::plane::flow::{UNMETERED_LIMIT, WINDOW};
use crate::plane::*;

#[test]
fn a_request_goes_through_and_its_answer_comes_back() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    let more = "Accept: application/json\r\nConnection: X-Mine\r\nX-Mine: 1\r\n";
    client.ask(
        "GET",
        "/clusters/edge/api/v1/pods%20x?watch=0&q=%2F",
        &token,
        more,
    );
    let request = agent.expect("proxy_request");
    assert_eq!(request["method"], "GET");
    assert_eq!(request["path"], "/api/v1/pods x");
    assert_eq!(request["query"], "watch=0&q=%2F");
    assert_eq!(request["supports_response_streaming"], true);
    assert!(request["use_streaming"].is_null(), "there is no body");
    let headers = json!({"Accept": ["application/json"], "X-Forwarded-For": ["127.0.0.1"]});
    assert_eq!(
        request["headers"], headers,
        "and the user's token stays here"
    );
    let id = id(&request);
    let headers = json!({
        "Content-Type": ["text/plain"], "Connection": "close", "Content-Length": ["5"],
    });
    agent.header(&id, 418, headers);
    agent.chunk(&id, b"hel");
    agent.chunk(&id, b"lo");
    agent.end(&id);
    let head = client.head();
    assert_eq!(
        (head.status, head.field("content-type")),
        (418, Some("text/plain"))
    );
    assert_eq!(head.field("content-length"), Some("5"));
    assert_eq!(head.field("connection"), None);
    assert_eq!(client.body(&head).as_deref(), Some(&b"hello"[..]));
    // The same connection serves the next.
    client.ask("HEAD", "/clusters/edge/api", &token, "");
    let id = agent.request();
    agent.header(&id, 200, json!({"Content-Length": ["77"]}));
    agent.end(&id);
    let head = client.head();
    assert_eq!(
        (head.status, head.field("content-length")),
        (200, Some("77"))
    );
    client.get("/clusters/edge/third", &token);
    assert_eq!(agent.expect("proxy_request")["path"], "/third");
}

#[test]
fn a_watch_is_passed_on_as_it_comes() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.get("/clusters/edge/api/v1/pods?watch=1", &token);
    let id = agent.request();
    agent.header(&id, 200, json!({"Content-Type": ["application/json"]}));
    let head = client.head();
    assert_eq!(head.field("transfer-encoding"), Some("chunked"));
    for event in ["one", "two", "three"] {
        // Each is there before the next exists.
        agent.chunk(&id, event.as_bytes());
        assert_eq!(client.chunk().expect("came"), event.as_bytes());
    }
    agent.end(&id);
    assert_eq!(client.chunk().expect("came"), b"");
}

#[test]
fn a_small_body_goes_in_one_piece() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    for (more, body, length) in [
        ("Content-Length: 5\r\n", "hello", json!(["5"])),
        (
            "Transfer-Encoding: chunked\r\n",
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            json!(null),
        ),
    ] {
        client.ask("POST", "/clusters/edge/api", &token, more);
        client.send(body);
        let request = agent.expect("proxy_request");
        assert_eq!(request["use_streaming"], true);
        assert_eq!(request["headers"]["Content-Length"], length);
        let id = id(&request);
        let mut got = Vec::new();
        while got.len() < 5 {
            got.extend(unchunk(&agent.expect("proxy_request_chunk")));
        }
        assert_eq!(got, b"hello");
        assert_eq!(agent.expect("proxy_request_stream_end")["id"], id.as_str());
        agent.header(&id, 201, json!({"Content-Length": ["0"]}));
        agent.end(&id);
        assert_eq!(client.head().status, 201);
    }
}

#[test]
fn an_upload_follows_the_agents_credit() {
    const TOTAL: u64 = 5 * 1024 * 1024 + 7;
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    let more = format!("Content-Length: {TOTAL}\r\nExpect: 100-continue\r\n");
    client.ask("PUT", "/clusters/edge/big", &token, &more);
    let id = agent.request();
    assert_eq!(client.head().status, 100);
    let sending = std::thread::spawn(move || {
        client.send(vec![b'x'; usize::try_from(TOTAL).expect("small")]);
        client
    });
    let (mut granted, mut got) = (WINDOW, 0);
    while got < TOTAL {
        if got == granted {
            agent.send("proxy_flow", &id, json!({"credit": 300_000}));
            granted += 300_000;
        }
        let data = unchunk(&agent.expect("proxy_request_chunk"));
        assert!(data.len() <= 32 * 1024 && data.iter().all(|b| *b == b'x'));
        got += data.len() as u64;
        assert!(got <= granted, "more than was granted");
    }
    agent.expect("proxy_request_stream_end");
    agent.header(&id, 200, json!({"Content-Length": ["0"]}));
    agent.end(&id);
    let mut client = sending.join().expect("joined");
    assert_eq!(client.head().status, 200);
    client.get("/clusters/edge/next", &token);
    assert_eq!(agent.expect("proxy_request")["path"], "/next");
}

#[test]
fn an_upload_goes_on_while_the_client_does_not_read_its_answer() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.ask(
        "PUT",
        "/clusters/edge/both",
        &token,
        "Content-Length: 200000\r\n",
    );
    client.send([b'x'; 100]);
    let id = agent.request();
    let mut got = unchunk(&agent.expect("proxy_request_chunk")).len();
    agent.header(&id, 200, json!({}));
    // More than the window and the kernels take: somebody in the plane waits for
    // the client now.
    let mut credit = WINDOW;
    let data = vec![b'y'; 32 * 1024];
    let mut without_a_grant = 0;
    while without_a_grant < 30 {
        while credit >= data.len() as u64 {
            agent.chunk(&id, &data);
            credit -= data.len() as u64;
        }
        match agent.grants(&id) {
            // That nothing more will come can't be waited for. Too short a time
            // makes this test weaker, not wrong.
            0 => {
                without_a_grant += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            granted => {
                without_a_grant = 0;
                credit += granted;
            }
        }
    }
    client.send(vec![b'x'; 199_900]);
    while got < 200_000 {
        got += unchunk(&agent.expect("proxy_request_chunk")).len();
    }
    agent.expect("proxy_request_stream_end");
}

#[test]
fn an_early_answer_stops_an_upload() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.ask(
        "PUT",
        "/clusters/edge/big",
        &token,
        "Content-Length: 104857600\r\n",
    );
    client.send([b'x'; 1000]);
    let id = agent.request();
    agent.expect("proxy_request_chunk");
    agent.header(&id, 413, json!({"Content-Length": ["4"]}));
    agent.chunk(&id, b"full");
    agent.end(&id);
    let head = client.head();
    assert_eq!(
        (head.status, head.field("connection")),
        (413, Some("close"))
    );
    assert_eq!(client.body(&head).as_deref(), Some(&b"full"[..]));
    while client.try_send(&vec![b'x'; 64 * 1024]) {}
    house.until(|plane| plane.clusters()[0].requests == 0);
}

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
fn buffered_answers_are_understood() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").expect("packed");
    let gzip = base64_simd::STANDARD.encode_to_string(gzip.finish().expect("packed"));
    for (body, encoding) in [("aGVsbG8=", "base64"), (&*gzip, "gzip")] {
        client.get("/clusters/edge/x", &token);
        let id = agent.request();
        let payload = json!({"status": 200, "headers": null, "body": body, "encoding": encoding});
        // As the controller's own peers do: JSON in a binary message.
        let message = json!({"type": "proxy_response", "request_id": id, "payload": payload});
        agent.send_binary(message.to_string().into_bytes());
        let head = client.head();
        assert_eq!(
            client.body(&head).as_deref(),
            Some(&b"hello"[..]),
            "{encoding}"
        );
    }
    // The binary form can't be read safely: it says so.
    client.get("/clusters/edge/x", &token);
    let id = agent.request();
    let length = u16::try_from(id.len()).expect("short").to_be_bytes();
    agent.send_binary(
        [
            &length[..],
            id.as_bytes(),
            &[0, 0, 0, 200, 0, 0, 0, 2],
            b"{}hi",
        ]
        .concat(),
    );
    assert_eq!(client.json().0, 502);
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
fn the_list_shows_what_the_token_reaches() {
    let house = House::new();
    let _agents = [house.registered("a"), house.registered("b")];
    let all = house.user_token();
    let one = house.token(Grant::User {
        scope: Scope::Named([name("b")].into()),
        access: Access::ReadOnly,
    });
    let mut client = house.client();
    let mut names = |token: &str| -> Vec<Value> {
        client.get("/clusters", token);
        let (_, mut body) = client.json();
        let clusters = body["clusters"].as_array_mut().expect("a list");
        clusters.iter_mut().map(|c| c["name"].take()).collect()
    };
    assert_eq!(names(&all), ["a", "b"]);
    assert_eq!(names(&one), ["b"]);
    client.get("/clusters", "wrong");
    assert_eq!(client.json().0, 401);
}

#[test]
fn the_clusters_own_credential_is_lent_and_the_users_is_not() {
    let house = House::new();
    let token = house.user_token();
    let mut agent = house
        .agent(CONTROLLER, &house.agent_token("edge"))
        .expect("let in");
    agent.answer_hello(true);
    let payload = json!({"agent_id": "1", "name": "edge", "k8s_service_token": "svc-token"});
    agent.send("register", "req_1", payload);
    agent.expect("register_success");
    house.attached("edge");
    let mut client = house.client();
    client.get("/clusters/edge/api", &token);
    let request = agent.expect("proxy_request");
    assert_eq!(
        request["headers"]["Authorization"],
        json!(["Bearer svc-token"])
    );
    assert!(!request.to_string().contains(&token));
}

/// A client that asks and then doesn't read.
fn idle_client(house: &House, path: &str) -> Client {
    let mut client = house.client();
    client.get(path, &house.user_token());
    client
}

#[test]
fn a_slow_client_is_waited_for_and_hurts_nobody() {
    let house = House::new();
    let token = house.user_token();
    let mut agent = house.registered("edge");
    let slow = idle_client(&house, "/clusters/edge/flood");
    let slow_id = agent.request();
    agent.header(&slow_id, 200, json!({}));
    // An honest agent: sends what it may. What the client's kernel takes is granted
    // again; what it doesn't take isn't.
    let (mut credit, mut sent) = (WINDOW, 0);
    let data = vec![b'x'; 32 * 1024];
    while sent < 64 * 1024 * 1024 {
        while credit >= data.len() as u64 {
            agent.chunk(&slow_id, &data);
            credit -= data.len() as u64;
            sent += data.len() as u64;
        }
        // Somebody else's request goes through meanwhile, each time.
        let mut client = house.client();
        client.get("/clusters/edge/other", &token);
        let id = agent.request();
        agent.header(&id, 204, json!(null));
        agent.end(&id);
        assert_eq!(client.head().status, 204);
        let granted: u64 = agent.grants(&slow_id);
        if granted == 0 {
            break;
        }
        credit += granted;
    }
    assert!(sent < 64 * 1024 * 1024, "somebody has kept it all");
    // It comes back to life.
    drop(slow);
    assert_eq!(agent.expect("proxy_cancel")["id"], slow_id.as_str());
}

#[test]
fn an_agent_that_floods_a_slow_client_loses_that_request_only() {
    for knows_flow in [true, false] {
        let house = House::new();
        let mut agent = house
            .agent(CONTROLLER, &house.agent_token("edge"))
            .expect("let in");
        agent.answer_hello(knows_flow);
        agent.register("edge", "agent-1");
        agent.expect("register_success");
        house.attached("edge");
        let mut slow = idle_client(&house, "/clusters/edge/flood");
        let id = agent.request();
        agent.header(&id, 200, json!({}));
        let data = vec![b'x'; 512 * 1024];
        // Far more than the window and than kernels keep.
        for _ in 0..(UNMETERED_LIMIT + 64 * 1024 * 1024) / (512 * 1024) {
            agent.send("proxy_response_chunk", &id, chunk(&data));
        }
        let cluster_id = house.plane.clusters()[0].cluster.id.clone();
        agent.heartbeat(&cluster_id, "agent-1");
        agent.expect("heartbeat_ack");
        // What was taken is delivered, then it breaks off.
        slow.head();
        while slow.chunk().is_some_and(|chunk| !chunk.is_empty()) {}
        assert!(slow.is_over());
        assert_eq!(
            agent.expect("proxy_cancel")["id"],
            id.as_str(),
            "flow: {knows_flow}"
        );
    }
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
fn many_at_once_and_a_plane_that_stops_lets_go_of_all() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut clients: Vec<Client> = (0..50).map(|_| house.client()).collect();
    for client in &mut clients {
        client.get("/clusters/edge/watch", &token);
    }
    for _ in &clients {
        let id = agent.request();
        agent.header(&id, 200, json!({}));
        agent.chunk(&id, id.as_bytes());
    }
    for client in &mut clients {
        assert_eq!(client.head().status, 200);
        assert!(client.chunk().expect("came").starts_with(b"px-"));
    }
    assert_eq!(house.plane.clusters()[0].requests, 50);
    let House { plane, .. } = house;
    plane.stop();
    for client in &mut clients {
        assert_eq!(client.chunk(), None);
    }
}
