//! WebSockets through the front door: what opens, what flows, what is refused.

mod ends;
mod limits;
mod refusals;

use serde_json::json;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::house::{Agent, CONTROLLER, EXEC, House, Tls, id};

/// The next message; pings of the plane's would be a surprise.
fn next(socket: &mut WebSocket<Tls>) -> Message {
    socket.read().expect("a message")
}

/// Reads to the close frame, which tungstenite answers, and to the end behind it. Its
/// code and reason, and the messages before it.
fn closed(socket: &mut WebSocket<Tls>) -> (u16, String, Vec<Message>) {
    let mut before = Vec::new();
    let said = loop {
        match socket.read().expect("a close frame") {
            Message::Close(said) => break said.expect("a code"),
            message => before.push(message),
        }
    };
    let end = socket.read().expect_err("nothing follows");
    assert!(
        matches!(end, tungstenite::Error::ConnectionClosed),
        "a clean end: {end}"
    );
    (said.code.into(), said.reason.to_string(), before)
}

/// What the agent is told of the end of a stream: the code, and the reason.
fn farewell(agent: &mut Agent, id: &str) -> (Option<u64>, Option<String>) {
    let close = agent.expect_of("proxy_websocket_close", id);
    assert_eq!(close["stream_id"], id);
    let reason = close["reason"].as_str().map(str::to_owned);
    (close["code"].as_u64(), reason)
}

#[test]
fn a_websocket_opens_when_the_api_server_has_said_so_and_carries_messages_as_they_are() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.ask_socket(EXEC, &token, "SPDY/3.1+portforward.k8s.io, x");
    let start = agent.expect("proxy_websocket_start");
    let id = id(&start);
    assert!(id.starts_with("pw-"), "no request's id: {id}");
    assert_eq!(start["stream_id"], id.as_str());
    assert_eq!(start["path"], "/api/v1/namespaces/n/pods/p/exec");
    assert_eq!(start["query"], "command=sh&stdin=true");
    assert_eq!(start["raw"], true);
    assert_eq!(start["protocol"], "SPDY/3.1+portforward.k8s.io, x");
    let headers = json!({"X-Forwarded-For": ["127.0.0.1"]});
    assert_eq!(start["headers"], headers, "and the user's token stays here");
    let started = json!({"stream_id": &*id, "protocol": "SPDY/3.1+portforward.k8s.io"});
    agent.send("proxy_websocket_started", &id, started);
    // At once, in the same segment as the 101 perhaps.
    agent.say(&id, 2, b"\x01early");
    let (head, mut socket) = client.into_socket();
    let chosen = head.field("sec-websocket-protocol");
    assert_eq!(chosen, Some("SPDY/3.1+portforward.k8s.io"));
    assert_eq!(next(&mut socket), Message::binary(&b"\x01early"[..]));
    // Channel bytes, texts, empty messages, half closes: nothing is looked at.
    let large = vec![0xff; 100_000];
    for (kind, payload) in [
        (2, &b"\x00ls\n"[..]),
        (2, b"\xff\x00"),
        (1, "ü".as_bytes()),
        (2, b""),
        (1, b""),
        (2, &large),
    ] {
        let message = if kind == 1 {
            Message::text(str::from_utf8(payload).expect("text"))
        } else {
            Message::binary(payload.to_vec())
        };
        socket.send(message.clone()).expect("sent");
        assert_eq!(agent.hear(&id), (kind, payload.to_vec()));
        agent.say(&id, kind, payload);
        assert_eq!(next(&mut socket), message);
    }
    assert_eq!(house.plane.clusters()[0].requests, 1);
}

#[test]
fn one_without_a_subprotocol_is_one_too() {
    let house = House::new();
    let (mut agent, token) = (house.registered("edge"), house.user_token());
    let mut client = house.client();
    client.ask(
        "GET",
        "/clusters/edge/api/v1/pods?watch=1",
        &token,
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    let start = agent.expect("proxy_websocket_start");
    assert_eq!(start["protocol"], "");
    let id = id(&start);
    agent.send("proxy_websocket_started", &id, json!({"stream_id": &*id}));
    agent.say(&id, 1, b"{}");
    let (head, mut socket) = client.into_socket();
    assert_eq!(head.field("sec-websocket-protocol"), None);
    assert_eq!(next(&mut socket), Message::text("{}"));
}

/// kubectl asks every 5 s, and gives up after a minute without an answer.
#[test]
fn pings_are_answered_while_nothing_else_is_said() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let (mut socket, id) = house.socket(&mut agent);
    for n in 0..3u8 {
        socket.send(Message::Ping(vec![n].into())).expect("sent");
        assert_eq!(next(&mut socket), Message::Pong(vec![n].into()));
    }
    agent.say(&id, 2, b"later");
    assert_eq!(next(&mut socket), Message::binary(&b"later"[..]));
}

#[test]
fn the_clusters_own_credential_is_lent() {
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
    client.ask_socket(
        EXEC,
        &token,
        "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.cHB1X3g",
    );
    let start = agent.expect("proxy_websocket_start");
    assert_eq!(
        start["headers"]["Authorization"],
        json!(["Bearer svc-token"])
    );
    assert_eq!(start["protocol"], "v5.channel.k8s.io");
    assert!(!start.to_string().contains(&token));
}

#[test]
fn many_at_once_don_t_mix() {
    const COUNT: usize = 64;
    let house = House::new();
    let mut agent = house.registered("edge");
    let mut sockets: Vec<_> = (0..COUNT).map(|_| house.socket(&mut agent)).collect();
    assert_eq!(house.plane.clusters()[0].requests, COUNT);
    for round in 0..4u8 {
        for (n, (socket, _)) in sockets.iter_mut().enumerate() {
            let message = vec![round ^ n as u8; 10_000 + n];
            socket.send(Message::binary(message)).expect("sent");
        }
        for (n, (_, id)) in sockets.iter().enumerate().rev() {
            let (kind, payload) = agent.hear(id);
            assert_eq!(payload, vec![round ^ n as u8; 10_000 + n]);
            agent.say(id, kind, &payload);
        }
        for (n, (socket, _)) in sockets.iter_mut().enumerate() {
            let message = vec![round ^ n as u8; 10_000 + n];
            assert_eq!(next(socket), Message::binary(message));
        }
    }
    for (socket, id) in &mut sockets {
        let close = json!({"stream_id": &**id, "code": 1000, "reason": ""});
        agent.send("proxy_websocket_close", id, close);
        assert_eq!(closed(socket).0, u16::from(CloseCode::Normal));
    }
    house.until(|plane| plane.clusters()[0].requests == 0);
}
