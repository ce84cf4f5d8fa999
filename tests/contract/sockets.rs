//! WebSockets to the API server, all the way: a client of the front door, plane, agent,
//! and an API server that speaks another WebSocket than ours.

use std::net::{Shutdown, TcpStream};
use std::thread;

use crossbeam_channel::{Receiver, unbounded};
use pipeops_agent::agent::Agent;
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use pipeops_agent::plane::{Access, GatewayUrl, Grant, Scope};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use crate::support::fake_agent::{Tls, dial_tls};
use crate::support::house::House;
use crate::support::upstream::{Upstream, json};
use crate::support::wait::{LIMIT, until};

const EXEC: &str = "/api/v1/namespaces/n/pods/p/exec?command=sh&stdin=true&stdout=true";
const V5: &str = "v5.channel.k8s.io";

/// What an API server says to a user without the right.
const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"pods \"p\" is forbidden","reason":"Forbidden","code":403}"#;

type Near = WebSocket<Tls>;
type Far = WebSocket<TcpStream>;

/// A plane, an agent, and an API server whose ends of WebSockets the test has.
struct Stage {
    house: House,
    agent: Agent,
    upstream: Upstream,
    token: String,
    accepted: Receiver<(Request, Far)>,
}

impl Stage {
    fn new() -> Self {
        let house = House::with_gateway(GatewayUrl::SameHost);
        let (sender, accepted) = unbounded();
        let upstream = Upstream::start(move |request, body, responder| {
            if request.target.contains("forbidden") {
                let _ = responder.respond(403, &json(), FORBIDDEN.as_bytes());
            } else if let Some(far) = accept(&request, body, responder) {
                let _ = sender.send((request, far));
            }
        });
        let agent = house.agent("edge", upstream.credentials());
        let token = house.token(Grant::User {
            scope: Scope::All,
            access: Access::Use,
        });
        Self {
            house,
            agent,
            upstream,
            token,
            accepted,
        }
    }

    /// Asks for a WebSocket; the status of the refusal otherwise.
    fn dial(&self, path: &str, protocol: &str) -> Result<Near, u16> {
        let url = format!("wss://{}/clusters/edge{path}", self.house.address());
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {}", self.token).parse().expect("a value");
        request.headers_mut().insert("Authorization", bearer);
        let protocol = protocol.parse().expect("a value");
        let fields = request.headers_mut();
        fields.insert("Sec-WebSocket-Protocol", protocol);
        match tungstenite::client(request, dial_tls(&self.house)) {
            Ok((near, _)) => Ok(near),
            Err(HandshakeError::Failure(Error::Http(answer))) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Both ends of one.
    fn open(&self) -> (Near, Far) {
        let near = self.dial(EXEC, V5).expect("open");
        let (_, far) = self.accepted.recv_timeout(LIMIT).expect("accepted");
        (near, far)
    }

    fn is_idle(&self) {
        until("nothing is left of it", || {
            self.house.plane.clusters()[0].requests == 0
        });
    }
}

/// Answers 101 with the first subprotocol, unless there are none.
fn accept(request: &Request, body: RequestBody, responder: Responder) -> Option<Far> {
    let key = request.headers.get("sec-websocket-key")?;
    let key = derive_accept_key(key.as_bytes());
    let mut offered = request.headers.list("sec-websocket-protocol");
    let protocol = offered.next().map_or(String::new(), |protocol| {
        format!("Sec-WebSocket-Protocol: {protocol}\r\n")
    });
    let halves = responder.take_over(body)?;
    let stream: TcpStream = halves.socket.try_clone().ok()?.into();
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {key}\r\n{protocol}\r\n"
    );
    std::io::Write::write_all(&mut &stream, head.as_bytes()).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    stream.set_write_timeout(Some(LIMIT)).ok()?;
    Some(WebSocket::from_raw_socket(stream, Role::Server, None))
}

fn frame(code: u16, reason: &str) -> CloseFrame {
    CloseFrame {
        code: code.into(),
        reason: reason.to_owned().into(),
    }
}

/// Reads to the close frame: its code and reason, and the messages before it.
fn closed<S: std::io::Read + std::io::Write>(
    socket: &mut WebSocket<S>,
) -> (Vec<Message>, Option<(u16, String)>) {
    let mut before = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Close(said)) => {
                let said = said.map(|said| (said.code.into(), said.reason.to_string()));
                let _ = socket.flush();
                return (before, said);
            }
            Ok(message) => before.push(message),
            Err(error) => panic!("no close frame: {error}"),
        }
    }
}

#[test]
fn messages_are_what_they_were_at_the_other_end() {
    let stage = Stage::new();
    for offer in [V5, "SPDY/3.1+portforward.k8s.io"] {
        let mut near = stage.dial(EXEC, offer).expect("open");
        let (request, mut far) = stage.accepted.recv_timeout(LIMIT).expect("accepted");
        assert_eq!(request.target, EXEC);
        let offered: Vec<&str> = request.headers.list("sec-websocket-protocol").collect();
        assert_eq!(offered, [offer], "as it was, and nothing of ours");
        assert!(!format!("{:?}", request.headers).contains(&stage.token));
        for message in [
            Message::binary(&b"\x00ls\n"[..]),
            Message::binary(&b"\xff\x00"[..]),
            Message::binary(&b"\x03{}"[..]),
            Message::text("\u{1}text"),
            Message::binary(&b""[..]),
            Message::text(""),
            Message::binary(vec![3; 1_000_000]),
        ] {
            near.send(message.clone()).expect("sent");
            assert_eq!(far.read().expect("came"), message);
            far.send(message.clone()).expect("sent");
            assert_eq!(near.read().expect("came"), message);
        }
        far.close(Some(frame(1000, "done"))).expect("sent");
        let (before, said) = closed(&mut near);
        assert_eq!((before.len(), said), (0, Some((1000, "done".to_owned()))));
    }
    stage.is_idle();
}

#[test]
fn a_close_has_its_code_at_the_other_end_and_an_end_without_one_is_no_good_end() {
    let stage = Stage::new();
    let (mut near, mut far) = stage.open();
    near.send(Message::binary(&b"last"[..])).expect("sent");
    near.close(Some(frame(1001, "going"))).expect("sent");
    let (before, said) = closed(&mut far);
    assert_eq!(before, [Message::binary(&b"last"[..])]);
    assert_eq!(said, Some((1001, "going".to_owned())));
    // The API server dies.
    let (mut near, mut far) = stage.open();
    far.send(Message::binary(&b"last"[..])).expect("sent");
    far.get_mut().shutdown(Shutdown::Both).expect("cut");
    let (before, said) = closed(&mut near);
    assert_eq!(before, [Message::binary(&b"last"[..])]);
    assert_eq!(said.expect("a code").0, 1011);
    // The client does.
    let (near, mut far) = stage.open();
    drop(near);
    loop {
        match far.read() {
            Ok(Message::Close(Some(said))) => {
                assert_ne!(u16::from(said.code), 1000);
                break;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    stage.is_idle();
}

#[test]
fn the_api_servers_refusal_arrives_and_kubectls_second_try_gets_it_too() {
    let stage = Stage::new();
    let path = EXEC.replace("sh", "forbidden");
    let refused = stage.dial(&path, V5).expect_err("refused");
    assert_eq!(refused, 403);
    let front = stage.house.front("edge").with_token(&stage.token);
    let spdy = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    let answer = front.ask(
        "POST",
        &path,
        &spdy,
        pipeops_agent::http::client::Body::Empty,
    );
    assert_eq!(answer.status, 403);
    assert_eq!(answer.body, FORBIDDEN.as_bytes());
    stage.is_idle();
}

#[test]
fn an_agent_that_is_lost_ends_both_ends() {
    let stage = Stage::new();
    let (mut near, mut far) = stage.open();
    stage.agent.stop();
    let (_, said) = closed(&mut near);
    assert!(matches!(said.expect("a code").0, 1001 | 1011));
    while far.read().is_ok() {}
    stage.agent.wait().expect("an orderly end");
}

#[test]
fn two_hundred_at_once() {
    const COUNT: usize = 200;
    let stage = Stage::new();
    let far_ends = stage.accepted.clone();
    let echoing = thread::spawn(move || {
        let mut threads = Vec::new();
        for _ in 0..COUNT {
            let (_, mut far) = far_ends.recv_timeout(LIMIT).expect("accepted");
            threads.push(thread::spawn(move || {
                while let Ok(message) = far.read() {
                    if message.is_binary() {
                        far.send(message).expect("sent");
                    }
                }
            }));
        }
        threads
    });
    let mut all: Vec<Near> = (0..COUNT)
        .map(|_| stage.dial(EXEC, V5).expect("open"))
        .collect();
    for round in 0..3 {
        let message = |n: usize| Message::binary(vec![(n + round) as u8; 4_000 + n]);
        for (n, near) in all.iter_mut().enumerate() {
            near.send(message(n)).expect("sent");
        }
        for (n, near) in all.iter_mut().enumerate() {
            assert_eq!(near.read().expect("came"), message(n));
        }
    }
    for near in &mut all {
        near.close(Some(frame(1000, ""))).expect("sent");
    }
    for thread in echoing.join().expect("joined") {
        thread.join().expect("no panic");
    }
    stage.is_idle();
    drop(all);
    until("the API server is left alone", || {
        stage.upstream.connections() < 20
    });
}

/// With one that is stalled, everything else goes on, the other direction of the
/// stalled one too.
#[test]
fn one_that_is_stalled_hurts_nobody_and_loses_nothing() {
    const PIECE: usize = 64 * 1024;
    const COUNT: usize = 256;
    let stage = Stage::new();
    let (mut stalled, mut far) = stage.open();
    let speaking = thread::spawn(move || {
        for n in 0..COUNT {
            far.send(Message::binary(vec![n as u8; PIECE]))
                .expect("sent");
        }
        far
    });
    let front = stage.house.front("edge");
    for _ in 0..20 {
        let (mut near, mut other) = stage.open();
        near.send(Message::binary(vec![1; 300_000])).expect("sent");
        assert_eq!(other.read().expect("came").len(), 300_000);
        other.close(Some(frame(1000, ""))).expect("sent");
        assert_eq!(closed(&mut near).1, Some((1000, String::new())));
        assert_eq!(front.get("/version").status, 200);
    }
    stalled.send(Message::binary(&b"\x00q"[..])).expect("sent");
    for n in 0..COUNT {
        let got = stalled.read().expect("came");
        assert_eq!(got, Message::binary(vec![n as u8; PIECE]), "in order");
    }
    let mut far = speaking.join().expect("sent all");
    assert_eq!(far.read().expect("came"), Message::binary(&b"\x00q"[..]));
    // And into the cluster: who doesn't read there doesn't stop others either.
    let sending = thread::spawn(move || {
        for n in 0..COUNT {
            stalled
                .send(Message::binary(vec![n as u8; PIECE]))
                .expect("sent");
        }
        stalled
    });
    for _ in 0..20 {
        let (mut near, mut other) = stage.open();
        near.send(Message::binary(vec![1; 300_000])).expect("sent");
        assert_eq!(other.read().expect("came").len(), 300_000);
        assert_eq!(front.get("/version").status, 200);
    }
    for n in 0..COUNT {
        let got = far.read().expect("came");
        assert_eq!(got, Message::binary(vec![n as u8; PIECE]), "in order");
    }
    drop(sending.join().expect("sent all"));
}
