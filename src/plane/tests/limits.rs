//! Slow clients, large bodies, many at once.

use std::time::Duration;

use serde_json::json;

use super::house::{CONTROLLER, Client, House, chunk, unchunk};
use crate::plane::flow::UNMETERED_LIMIT;
use crate::wire::INITIAL_CREDIT;

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
    let (mut granted, mut got) = (INITIAL_CREDIT, 0);
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
    let mut credit = INITIAL_CREDIT;
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
    let (mut credit, mut sent) = (INITIAL_CREDIT, 0);
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
        // The last that it reads for long.
        assert_eq!(slow.head().status, 200);
        let data = vec![b'x'; 512 * 1024];
        // Far more than the window and than kernels keep.
        for _ in 0..(UNMETERED_LIMIT + 64 * 1024 * 1024) / (512 * 1024) {
            agent.send("proxy_response_chunk", &id, chunk(&data));
        }
        let cluster_id = house.plane.clusters()[0].cluster.id.clone();
        agent.heartbeat(&cluster_id, "agent-1");
        agent.expect("heartbeat_ack");
        // The agent hears of it although the client still reads nothing.
        assert_eq!(
            agent.expect("proxy_cancel")["id"],
            id.as_str(),
            "flow: {knows_flow}"
        );
        while let Some(chunk) = slow.chunk() {
            assert!(!chunk.is_empty(), "it doesn't look whole");
        }
    }
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
