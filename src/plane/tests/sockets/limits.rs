//! Slow and greedy ends, many at once.

use std::thread;
use std::time::Duration;

use serde_json::json;
use tungstenite::{Error, Message};

use super::{closed, farewell, next};
use crate::plane::REQUESTS_PER_TOKEN;
use crate::plane::tests::house::{EXEC, House};
use crate::wire::INITIAL_CREDIT;

const PIECE: usize = 32 * 1024;

#[test]
fn a_client_sends_what_the_agent_has_credit_for_and_no_more() {
    const TOTAL: usize = 6 * 1024 * 1024 / PIECE;
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut socket, id) = house.socket(&mut agent);
    let sending = thread::spawn(move || {
        for n in 0..TOTAL {
            let message = Message::binary(vec![n as u8; PIECE]);
            socket.send(message).expect("sent");
        }
        socket
    });
    let (mut granted, mut got) = (INITIAL_CREDIT, 0u64);
    for n in 0..TOTAL {
        if got >= granted {
            agent.send("proxy_flow", &id, json!({"credit": 300_000}));
            granted += 300_000;
        }
        let (_, payload) = agent.hear(&id);
        assert_eq!(payload, vec![n as u8; PIECE], "in order, without a gap");
        assert!(got < granted, "more than was granted");
        got += payload.len() as u64;
    }
    let mut socket = sending.join().expect("joined");
    agent.say(&id, 2, b"done");
    assert_eq!(next(&mut socket), Message::binary(&b"done"[..]));
}

#[test]
fn a_client_that_does_not_read_is_waited_for_and_hurts_nobody() {
    let house = House::new();
    let token = house.user_token();
    let mut agent = house.registered("edge");
    let (mut slow, slow_id) = house.socket(&mut agent);
    let (mut other, other_id) = house.socket(&mut agent);
    let data = vec![b'x'; PIECE];
    let (mut credit, mut sent, mut quiet) = (INITIAL_CREDIT as i64, 0usize, 0);
    while quiet < 30 {
        while credit > 0 {
            agent.say(&slow_id, 2, &data);
            credit -= data.len() as i64;
            sent += 1;
        }
        assert!(sent * PIECE < 64 * 1024 * 1024, "somebody has kept it all");
        // Another WebSocket and a request go through meanwhile, each time.
        other.send(Message::binary(&b"ls"[..])).expect("sent");
        assert_eq!(agent.hear(&other_id), (2, b"ls".to_vec()));
        agent.say(&other_id, 2, b"file");
        assert_eq!(next(&mut other), Message::binary(&b"file"[..]));
        let mut client = house.client();
        client.get("/clusters/edge/other", &token);
        let id = agent.request();
        agent.header(&id, 204, json!(null));
        agent.end(&id);
        assert_eq!(client.head().status, 204);
        match agent.grants(&slow_id) {
            // That nothing more will come can't be waited for. Too short a time
            // makes this test weaker, not wrong.
            0 => {
                quiet += 1;
                thread::sleep(Duration::from_millis(10));
            }
            granted => {
                quiet = 0;
                credit += i64::try_from(granted).expect("small");
            }
        }
    }
    // What it says is heard although it doesn't listen.
    slow.send(Message::binary(&b"\x00q"[..])).expect("sent");
    assert_eq!(agent.hear(&slow_id), (2, b"\x00q".to_vec()));
    // It reads on: nothing is missing, and there is credit again.
    for _ in 0..sent {
        assert_eq!(next(&mut slow).len(), PIECE);
    }
    let mut granted = 0;
    while granted == 0 {
        granted = agent.grants(&slow_id);
    }
    drop(slow);
    assert_eq!(farewell(&mut agent, &slow_id), (None, None));
}

#[test]
fn an_agent_that_ignores_credit_loses_that_stream_only() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut slow, id) = house.socket(&mut agent);
    let (mut other, other_id) = house.socket(&mut agent);
    let data = vec![b'x'; 512 * 1024];
    // Far more than the window and than kernels keep.
    for _ in 0..48 {
        agent.say(&id, 2, &data);
    }
    assert_eq!(farewell(&mut agent, &id), (None, None));
    agent.say(&other_id, 2, b"still here");
    assert_eq!(next(&mut other), Message::binary(&b"still here"[..]));
    while slow.read().is_ok() {}
    house.until(|plane| plane.clusters()[0].requests == 1);
}

/// Nobody who is gone keeps a stream because the agent doesn't take what he sent, once
/// the end of his connection can be seen: it comes behind what he sent.
#[test]
fn a_client_that_leaves_behind_a_full_window_ends_the_stream() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut socket, id) = house.socket(&mut agent);
    let data = vec![0; PIECE];
    for _ in 0..=INITIAL_CREDIT as usize / PIECE {
        socket.send(Message::binary(data.clone())).expect("sent");
    }
    drop(socket);
    assert_eq!(farewell(&mut agent, &id), (None, None));
}

#[test]
fn a_message_that_is_too_large_is_refused_with_its_code() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut socket, id) = house.socket(&mut agent);
    socket
        .send(Message::binary(vec![0; 1024 * 1024]))
        .expect("sent");
    assert_eq!(agent.hear(&id).1.len(), 1024 * 1024);
    agent.send("proxy_flow", &id, json!({"credit": 1024 * 1024}));
    let large = Message::binary(vec![0; 2 * 1024 * 1024]);
    match socket.send(large) {
        Ok(()) | Err(Error::Io(_)) => {}
        Err(error) => panic!("{error}"),
    }
    assert_eq!(closed(&mut socket).0, 1009);
    drop(socket);
    assert_eq!(farewell(&mut agent, &id), (None, None));
}

#[test]
fn a_websocket_counts_among_the_requests_of_its_token() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let grant = crate::plane::Grant::User {
        scope: crate::plane::Scope::All,
        access: crate::plane::Access::Use,
    };
    let (token, text) = house.plane.create_token(grant).expect("made");
    let quota = &house.plane.hub.quota;
    let mut others: Vec<_> = (1..REQUESTS_PER_TOKEN)
        .map(|_| quota.take(&token.id).expect("room"))
        .collect();
    let mut client = house.client();
    client.ask_socket(EXEC, text.reveal(), "v5.channel.k8s.io");
    let id = agent.open_stream();
    let (_, mut socket) = client.into_socket();
    assert!(quota.take(&token.id).is_none());
    let mut refused = house.client();
    refused.ask_socket(EXEC, text.reveal(), "v5.channel.k8s.io");
    assert_eq!(refused.json().0, 429);
    // Its second try is told the same, though there is room by then.
    others.pop();
    let mut second = house.client();
    second.ask_spdy(EXEC, text.reveal());
    assert_eq!(second.json().0, 429);
    others.extend(quota.take(&token.id));
    let close = json!({"stream_id": &*id, "code": 1000});
    agent.send("proxy_websocket_close", &id, close);
    assert_eq!(closed(&mut socket).0, 1000);
    house.until(|plane| plane.hub.quota.take(&token.id).is_some());
    others.pop();
}
