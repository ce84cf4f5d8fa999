//! WebSockets to an HTTP Service that the plane exposes: a browser's, say.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use pipeops_agent::plane::{Entry, GatewayUrl};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

use super::stage::{Stage, address, view};
use crate::support::sockets::{is_reset, patient, reset};
use crate::support::wait::until;

const HOST: &str = "live.example.test";

/// A plane that leads the host to a Service behind the agent, and where its clients
/// come in.
struct Shop {
    stage: Stage,
    at: SocketAddr,
    entry: Entry,
}

type Socket = WebSocket<TcpStream>;

impl Shop {
    fn new() -> Self {
        let at = address();
        let mut stage = Stage::new(GatewayUrl::SameHost);
        stage.house = stage.house.again(|config| config.http = at);
        stage.house.attached("edge");
        let entry = Entry::parse("http", HOST).expect("a host");
        stage.expose(entry.clone(), "db:80");
        Self { stage, at, entry }
    }

    /// A client and the Service, each on another implementation than ours.
    fn open(&self) -> (Socket, Socket) {
        let stream = patient(TcpStream::connect(self.at).expect("connected"));
        let opening = thread::spawn(move || {
            let url = format!("ws://{HOST}/live?x=1");
            let request = url.into_client_request().expect("a request");
            tungstenite::client(request, stream).expect("open").0
        });
        let accepted = self.stage.accept();
        let config = WebSocketConfig::default();
        let server = tungstenite::accept_with_config(accepted, Some(config)).expect("accepted");
        (opening.join().expect("open"), server)
    }
}

/// Both ends of a close handshake: `first` begins it.
fn close(first: &mut Socket, second: &mut Socket) {
    let said = CloseFrame {
        code: 4007.into(),
        reason: "enough".into(),
    };
    first.close(Some(said.clone())).expect("sent");
    // It is a message; reading on answers it.
    let got = second.read().expect("a close");
    assert_eq!(got, Message::Close(Some(said.clone())));
    let answered = second.flush();
    assert!(matches!(answered, Ok(()) | Err(Error::ConnectionClosed)));
    assert!(matches!(first.read(), Ok(Message::Close(Some(echo))) if echo.code == said.code));
}

#[test]
fn messages_of_every_kind_pass_both_ways() {
    let shop = Shop::new();
    let (mut client, mut server) = shop.open();
    let large = vec![7; 3_000_000];
    for message in [
        Message::text("ü"),
        Message::binary(large),
        Message::text(""),
        Message::binary(vec![0x88, 0]),
    ] {
        for up in [true, false] {
            let (from, to) = if up {
                (&mut client, &mut server)
            } else {
                (&mut server, &mut client)
            };
            thread::scope(|scope| {
                scope.spawn(|| from.send(message.clone()).expect("sent"));
                assert_eq!(to.read().expect("came"), message);
            });
        }
    }
    let asked = Message::Ping(b"?".to_vec().into());
    server.send(asked.clone()).expect("sent");
    assert_eq!(client.read().expect("a ping"), asked);
    // tungstenite sends its pong with what it does next.
    client.send(Message::text("after")).expect("sent");
    let pong = Message::Pong(b"?".to_vec().into());
    let got = [(); 2].map(|()| server.read().expect("came"));
    assert!(got.contains(&pong) && got.contains(&Message::text("after")));
}

#[test]
fn either_end_closes_and_both_see_code_and_reason() {
    let shop = Shop::new();
    let (mut client, mut server) = shop.open();
    close(&mut client, &mut server);
    // The server ends the connection.
    drop(server);
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
    drop(client);
    let (mut client, mut server) = shop.open();
    close(&mut server, &mut client);
    drop(server);
    let end = client.read();
    assert!(matches!(end, Err(Error::ConnectionClosed)), "{end:?}");
    drop(client);
    until("both are over", || {
        view(&shop.stage.house.plane, &shop.entry).clients == 0
    });
}

#[test]
fn an_end_in_the_middle_is_seen_as_one() {
    let shop = Shop::new();
    // Half a frame, then an end.
    for client_ends in [true, false] {
        let (mut client, mut server) = shop.open();
        let (one, other) = if client_ends {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        one.get_mut().write_all(b"\x82\x7e\x10").expect("sent");
        one.get_mut().shutdown(Shutdown::Write).expect("shut down");
        let end = other.read().expect_err("no message");
        let cut = |error| matches!(error, Error::Protocol(_) | Error::Io(_));
        assert!(cut(end));
        // The other way is open still: who has ended his half can hear why.
        other.get_mut().write_all(b"late").expect("sent");
        other
            .get_mut()
            .shutdown(Shutdown::Write)
            .expect("shut down");
        let mut rest = Vec::new();
        one.get_mut().read_to_end(&mut rest).expect("an end");
        assert_eq!(rest, b"late");
    }
    // A reset is one at the other end.
    let (client, server) = shop.open();
    reset(client.into_inner());
    assert!(is_reset(server.get_ref()));
    let (client, server) = shop.open();
    reset(server.into_inner());
    assert!(is_reset(client.get_ref()));
    until("all are over", || {
        view(&shop.stage.house.plane, &shop.entry).clients == 0
    });
}

/// The Service's own no, with its body, and nothing of ours.
#[test]
fn a_refused_upgrade_is_the_services_answer() {
    let shop = Shop::new();
    let mut client = patient(TcpStream::connect(shop.at).expect("connected"));
    let request = format!(
        "GET /live HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.write_all(request.as_bytes()).expect("sent");
    let mut service = shop.stage.accept();
    let mut head = vec![0; 4096];
    let count = service.read(&mut head).expect("read");
    let head = String::from_utf8_lossy(&head[..count]).into_owned();
    assert!(head.contains("\r\nUpgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nConnection: Upgrade\r\n"), "{head}");
    let answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
    service.write_all(answer.as_bytes()).expect("sent");
    drop(service);
    let mut got = String::new();
    client.read_to_string(&mut got).expect("an answer");
    assert_eq!(got, answer);
}

/// The Service says no and keeps the connection. A proxy in front of the plane that puts
/// clients together would send the next one's request on it: it must not arrive.
#[test]
fn behind_a_refused_upgrade_nothing_reaches_the_service() {
    let shop = Shop::new();
    let mut client = patient(TcpStream::connect(shop.at).expect("connected"));
    let upgrade = format!(
        "GET /live HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    let next = "GET /secret HTTP/1.1\r\nHost: other.test\r\n\r\n";
    // One together with the upgrade, one behind its answer.
    client.write_all((upgrade + next).as_bytes()).expect("sent");
    let mut service = shop.stage.accept();
    let mut head = [0; 4096];
    let count = service.read(&mut head).expect("read");
    assert!(head[..count].ends_with(b"Connection: Upgrade\r\n\r\n"));
    let answer = b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno";
    service.write_all(answer).expect("sent");
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got).expect("an answer");
    assert_eq!(got, answer);
    let _ = client.write_all(next.as_bytes());
    let mut rest = Vec::new();
    service.read_to_end(&mut rest).expect("an end");
    assert_eq!(String::from_utf8_lossy(&rest), "");
    drop(service);
    let _ = client.read_to_end(&mut rest);
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

/// What a client sends before the answer waits for it.
#[test]
fn what_follows_an_upgrade_arrives_behind_its_101() {
    let shop = Shop::new();
    let mut client = patient(TcpStream::connect(shop.at).expect("connected"));
    let upgrade = format!(
        "GET /live HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly "
    );
    client.write_all(upgrade.as_bytes()).expect("sent");
    let mut service = shop.stage.accept();
    let mut head = [0; 4096];
    let count = service.read(&mut head).expect("read");
    assert!(head[..count].ends_with(b"Connection: Upgrade\r\n\r\n"));
    let answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\
        Connection: Upgrade\r\nUpgrade: echo\r\n\r\nhello";
    service.write_all(answer).expect("sent");
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got).expect("an answer");
    assert_eq!(got, answer);
    client.write_all(b"late").expect("sent");
    client.shutdown(Shutdown::Write).expect("shut");
    let mut said = String::new();
    service.read_to_string(&mut said).expect("an end");
    assert_eq!(said, "early late");
}

/// Many a Service breaks off its answer when its client's end comes before that is done.
#[test]
fn an_answer_that_is_no_101_is_passed_on_whole_however_late_its_rest_comes() {
    for (fields, begin, rest) in [
        ("Content-Length: 4", "no", "pe"),
        (
            "Transfer-Encoding: chunked",
            "2\r\nno\r\n",
            "2\r\npe\r\n0\r\n\r\n",
        ),
    ] {
        let shop = Shop::new();
        let mut client = patient(TcpStream::connect(shop.at).expect("connected"));
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        client.write_all(upgrade.as_bytes()).expect("sent");
        let mut service = shop.stage.accept();
        let mut head = [0; 4096];
        assert!(service.read(&mut head).expect("read") > 0);
        let head = format!("HTTP/1.1 426 Upgrade Required\r\n{fields}\r\n\r\n{begin}");
        service.write_all(head.as_bytes()).expect("sent");
        let mut got = vec![0; head.len()];
        client.read_exact(&mut got).expect("an answer");
        // An end would come at once, if it came.
        let moment = Some(Duration::from_millis(200));
        service.set_read_timeout(moment).expect("a limit");
        let error = service
            .read(&mut [0])
            .expect_err("no end before the answer's");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        service.write_all(rest.as_bytes()).expect("sent");
        let mut end = String::new();
        client.read_to_string(&mut end).expect("the rest");
        assert_eq!(end, rest);
        let mut service = patient(service);
        assert_eq!(service.read(&mut [0]).expect("an end"), 0);
    }
}
