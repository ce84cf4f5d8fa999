//! How a WebSocket ends, from either side.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

use super::{closed, farewell, next};
use crate::plane::tests::house::{Agent, EXEC, House, Tls};
use crate::plane::*;

fn close(agent: &mut Agent, id: &str, more: &serde_json::Value) {
    let mut payload = json!({"stream_id": id});
    for (name, value) in more.as_object().expect("fields") {
        payload[name] = value.clone();
    }
    agent.send("proxy_websocket_close", id, payload);
}

#[test]
fn the_api_servers_close_is_the_clients_behind_all_that_came_before() {
    let house = House::new();
    let mut agent = house.registered("edge");
    for (fields, code, reason) in [
        (json!({"code": 1000, "reason": ""}), 1000, ""),
        (json!({"code": 1000, "reason": "bye"}), 1000, "bye"),
        (json!({"code": 4001, "reason": "ü"}), 4001, "ü"),
        // Without a close frame it is no good end, and kubectl says so.
        (json!({}), 1011, "the other end broke off"),
    ] {
        let (mut socket, id) = house.socket(&mut agent);
        agent.say(&id, 2, b"\x03{}");
        close(&mut agent, &id, &fields);
        let (got, why, before) = closed(&mut socket);
        assert_eq!((got, &*why), (code, reason));
        assert_eq!(before, [Message::binary(&b"\x03{}"[..])]);
    }
    house.until(|plane| plane.clusters()[0].requests == 0);
}

/// As `kubectl exec -i` with a file for a program that reads only its first line.
#[test]
fn a_client_that_still_sends_reads_the_close_all_the_same() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut socket, id) = house.socket(&mut agent);
    // As much as there is credit for, and more.
    for _ in 0..24 {
        let message = Message::binary(vec![0; 64 * 1024]);
        socket.send(message).expect("sent");
    }
    agent.say(&id, 2, b"\x03{}");
    close(&mut agent, &id, &json!({"code": 1000, "reason": ""}));
    assert_eq!(next(&mut socket), Message::binary(&b"\x03{}"[..]));
    let Message::Close(Some(said)) = next(&mut socket) else {
        panic!("no close");
    };
    assert_eq!(u16::from(said.code), 1000);
    // It hasn't looked yet, and sends on. (tungstenite itself
    // wouldn't now, and takes a reset behind a close for a good end.)
    let mut message = b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0".to_vec();
    message.resize(message.len() + 64 * 1024, 0);
    for _ in 0..16 {
        socket.get_mut().write_all(&message).expect("taken");
    }
    let end = socket.read().expect_err("nothing follows");
    assert!(matches!(end, Error::ConnectionClosed), "{end}");
}

#[test]
fn the_clients_close_is_answered_and_the_agent_hears_its_code() {
    let house = House::new();
    let mut agent = house.registered("edge");
    for said in [Some((1001, "going")), None] {
        let (mut socket, id) = house.socket(&mut agent);
        socket.send(Message::binary(&b"last"[..])).expect("sent");
        let frame = said.map(|(code, reason)| CloseFrame {
            code: code.into(),
            reason: reason.into(),
        });
        socket.close(frame).expect("sent");
        let end = loop {
            if let Err(end) = socket.read() {
                break end;
            }
        };
        assert!(matches!(end, Error::ConnectionClosed), "{end}");
        assert_eq!(agent.hear(&id), (2, b"last".to_vec()));
        let (code, reason) = said.unwrap_or((1000, ""));
        let want = (Some(code.into()), Some(reason.to_owned()));
        assert_eq!(farewell(&mut agent, &id), want);
    }
    house.until(|plane| plane.clusters()[0].requests == 0);
}

#[test]
fn a_client_that_vanishes_ends_the_stream() {
    let house = House::new();
    let mut agent = house.registered("edge");
    // Before the agent has answered.
    let mut client = house.client();
    client.ask_socket(EXEC, &house.user_token(), "v5.channel.k8s.io");
    let start = agent.expect("proxy_websocket_start");
    let id = start["stream_id"].as_str().expect("text").to_owned();
    drop(client);
    assert_eq!(farewell(&mut agent, &id), (None, None));
    // Its answer comes too late, and hurts nobody.
    agent.send("proxy_websocket_started", &id, json!({"stream_id": &*id}));
    agent.say(&id, 2, b"nobody");
    // Later.
    let (socket, id) = house.socket(&mut agent);
    drop(socket);
    assert_eq!(farewell(&mut agent, &id), (None, None));
    // Behind its last words, which arrive.
    let (mut socket, id) = house.socket(&mut agent);
    socket.send(Message::binary(&b"last"[..])).expect("sent");
    drop(socket.get_ref().sock.shutdown(Shutdown::Write));
    assert_eq!(agent.hear(&id), (2, b"last".to_vec()));
    assert_eq!(farewell(&mut agent, &id), (None, None));
    house.until(|plane| plane.clusters()[0].requests == 0);
}

/// The code of the close frame, or none when the connection was cut.
fn end(socket: &mut WebSocket<Tls>) -> Option<u16> {
    loop {
        match socket.read() {
            Ok(Message::Close(said)) => return said.map(|said| said.code.into()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[test]
fn an_agent_that_is_lost_ends_its_websockets_at_once() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut open: Vec<_> = (0..3).map(|_| house.socket(&mut agent)).collect();
    agent.say(&open[0].1, 2, b"half");
    let mut waiting = house.client();
    waiting.ask_socket(EXEC, &token, "v5.channel.k8s.io");
    agent.expect("proxy_websocket_start");
    agent.cut();
    for (n, (socket, _)) in open.iter_mut().enumerate() {
        let (code, why, before) = closed(socket);
        assert_eq!(code, 1011);
        assert!(why.contains("the agent was lost"), "{why}");
        assert_eq!(before.len(), usize::from(n == 0));
    }
    let (status, body) = waiting.json();
    assert_eq!((status, &body["kind"]), (502, &json!("Status")));
}

#[test]
fn what_the_agent_says_against_the_rules_ends_that_stream_only() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut other, other_id) = house.socket(&mut agent);
    for (kind, payload) in [
        ("proxy_websocket_data", json!({"data": "*"})),
        ("proxy_websocket_data", json!({})),
        // A close, which isn't data.
        ("proxy_websocket_data", json!({"data": "CAPo"})),
        ("proxy_websocket_started", json!({})),
    ] {
        let (mut socket, id) = house.socket(&mut agent);
        agent.send(kind, &id, payload);
        assert_eq!(closed(&mut socket).0, 1011);
        assert_eq!(farewell(&mut agent, &id), (None, None));
    }
    let (mut socket, id) = house.socket(&mut agent);
    agent.send("proxy_error", &id, json!({"error": "upstream gone"}));
    let (code, why, _) = closed(&mut socket);
    assert_eq!((code, &*why), (1011, "upstream gone"));
    // Ids that nobody has.
    for id in ["pw-0-0", "px-1-1", ""] {
        agent.say(id, 2, b"x");
        close(&mut agent, id, &json!({}));
    }
    agent.say(&other_id, 2, b"still here");
    assert_eq!(next(&mut other), Message::binary(&b"still here"[..]));
}

#[test]
fn a_token_that_is_revoked_and_a_plane_that_stops_take_theirs_with_them() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let grant = Grant::User {
        scope: Scope::All,
        access: Access::Use,
    };
    let (token, text) = house.plane.create_token(grant).expect("made");
    let mut client = house.client();
    client.ask_socket(EXEC, text.reveal(), "v5.channel.k8s.io");
    let id = agent.open_stream();
    let (_, mut revoked) = client.into_socket();
    let (mut other, _) = house.socket(&mut agent);
    assert!(house.plane.revoke_token(&token.id).expect("written"));
    assert_eq!(end(&mut revoked), None);
    assert_eq!(farewell(&mut agent, &id), (None, None));
    let House { plane, .. } = house;
    plane.stop();
    assert_eq!(end(&mut other), Some(1011));
}
