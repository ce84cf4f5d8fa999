//! Bodies through the front door, both ways.

use std::io::Write;
use std::sync::Arc;

use crossbeam_channel::{bounded, unbounded};
use parking_lot::Mutex;
use pipeops_agent::http::Headers;
use pipeops_agent::http::client::{Body, CallError};
use pipeops_agent::http::server::{Request, RequestBody, Responder};
use pipeops_agent::net::Cancel;

use crate::support::front::{Front, full, piped, streamed};
use crate::support::house::House;
use crate::support::pattern::{Check, piece, whole};
use crate::support::upstream::{Upstream, content, credentials, scripted};
use crate::support::wait::{LIMIT, until};
use pipeops_agent::agent::Agent;

const LARGE: usize = 10 << 20;

/// An upstream with its plane, its agent, and a user at the door.
fn served(
    handle: impl Fn(Request, RequestBody, Responder) + Send + Sync + 'static,
) -> (Upstream, Agent, House, Front) {
    let upstream = Upstream::start_tls(handle);
    let house = House::new();
    let agent = house.agent("edge", upstream.credentials());
    let front = house.front("edge");
    (upstream, agent, house, front)
}

/// Answers with the body that came, and says in its fields what the request was.
#[allow(clippy::needless_pass_by_value)] // as upstreams take it
fn echo(request: Request, mut body: RequestBody, responder: Responder) {
    let bytes = body.read_all(64 << 20).expect("a whole body");
    let mut headers = content("application/octet-stream");
    headers.push("X-Method", &request.method);
    headers.push("X-Length", bytes.len().to_string());
    for name in ["Content-Length", "Transfer-Encoding"] {
        if let Some(value) = request.headers.get(name) {
            headers.push(format!("X-Said-{name}"), value);
        }
    }
    drop(body);
    responder.respond(200, &headers, &bytes).expect("answered");
}

#[test]
fn every_method_with_every_size_of_body_there_and_back() {
    let (_upstream, _agent, _house, front) = served(echo);
    for method in ["GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "PATCH"] {
        let sizes: &[usize] = match method {
            "GET" | "HEAD" | "OPTIONS" => &[0],
            "DELETE" => &[0, 100],
            _ => &[0, 1, 100, 64 * 1024, 64 * 1024 + 1, LARGE],
        };
        for &size in sizes {
            let sent = whole(size);
            let body = if size == 0 {
                Body::Empty
            } else {
                full(sent.clone())
            };
            let answer = front.ask(method, "/api/v1/things?x=1", &[], body);
            assert_eq!(answer.status, 200, "{method} {size}");
            assert_eq!(answer.headers.get("X-Method"), Some(method));
            let length = size.to_string();
            assert_eq!(answer.headers.get("X-Length"), Some(length.as_str()));
            assert_eq!(answer.headers.get("Content-Length"), Some(length.as_str()));
            assert!(
                answer.body == sent,
                "{method} {size}: another body came back"
            );
        }
    }
}

#[test]
fn a_body_is_framed_for_the_api_server_as_its_sender_framed_it() {
    let (_upstream, _agent, _house, front) = served(echo);
    for size in [100, 300_000] {
        let pieces = |size: usize| {
            let mut sent = 0;
            move || {
                let next = piece(sent, size as u64).to_vec();
                sent += next.len() as u64;
                (!next.is_empty()).then_some(next)
            }
        };
        let body = streamed(Some(size as u64), pieces(size));
        let answer = front.ask("PUT", "/api/v1/things", &[], body);
        let said = |name: &str| answer.headers.get(name).map(str::to_owned);
        assert_eq!(said("X-Said-Content-Length"), Some(size.to_string()));
        assert_eq!(said("X-Said-Transfer-Encoding"), None);
        assert!(answer.body == whole(size));

        let answer = front.ask("PUT", "/api/v1/things", &[], streamed(None, pieces(size)));
        let said = |name: &str| answer.headers.get(name).map(str::to_owned);
        assert_eq!(said("X-Said-Content-Length"), None);
        assert_eq!(said("X-Said-Transfer-Encoding").as_deref(), Some("chunked"));
        assert!(answer.body == whole(size));
    }
}

#[test]
fn an_upload_arrives_piece_by_piece_as_it_is_sent() {
    let (arrived, arrives) = unbounded();
    let (_upstream, _agent, _house, front) = served(move |_, mut body, responder| {
        loop {
            let piece = body.chunk(usize::MAX).expect("a body").to_vec();
            let ended = piece.is_empty();
            arrived.send(piece).expect("the test waits");
            if ended {
                break;
            }
        }
        drop(body);
        responder
            .respond(201, &Headers::new(), b"")
            .expect("answered");
    });
    // A shorter body that is announced may be waited for.
    let long = "x".repeat(70_000);
    for length in [None, Some(6 + long.len() as u64)] {
        let (pieces, body) = piped(length);
        let client = front.clone();
        let asked = std::thread::spawn(move || client.ask("POST", "/api/v1/things", &[], body));
        for text in ["one", "two", &long] {
            // The next isn't sent before this one is there.
            pieces.send(text.into()).expect("it is sent");
            let mut got = Vec::new();
            while got.len() < text.len() {
                let piece = arrives.recv_timeout(LIMIT).expect("arrives");
                assert!(!piece.is_empty(), "it ends too early");
                got.extend(piece);
            }
            assert!(got == text.as_bytes(), "{length:?}");
        }
        drop(pieces);
        let end = arrives.recv_timeout(LIMIT).expect("ends");
        assert!(end.is_empty());
        assert_eq!(asked.join().expect("answered").status, 201);
    }
}

#[test]
fn a_download_arrives_piece_by_piece_as_it_is_written() {
    let (writes, to_write) = bounded::<Vec<u8>>(0);
    let (_upstream, _agent, _house, front) = served(move |request, _, responder| {
        let length = request.target.ends_with('9').then_some(9);
        let mut writer = responder
            .start(200, &content("text/plain"), length)
            .expect("begun");
        for text in &to_write {
            if text.is_empty() {
                break;
            }
            writer.write(&text).expect("written");
        }
        writer.finish().expect("ended");
    });
    for target in ["/api/v1/things", "/api/v1/things?length=9"] {
        // The head arrives before there is any body.
        let mut answer = front.watch(target);
        let length = answer.response.headers.get("Content-Length");
        assert_eq!(length, target.ends_with('9').then_some("9"));
        for text in ["one", "two", "six"] {
            writes.send(text.into()).expect("it is written");
            answer.expect(text);
        }
        writes.send(Vec::new()).expect("it ends");
        assert_eq!(answer.piece().expect("a good end"), b"");
    }
}

#[test]
fn both_directions_at_once() {
    let (_upstream, _agent, _house, front) = served(|_, mut body, responder| {
        let mut writer = responder
            .start(200, &content("text/plain"), None)
            .expect("begun");
        loop {
            let piece = body.chunk(usize::MAX).expect("a body").to_vec();
            if piece.is_empty() {
                break;
            }
            writer.write(&piece).expect("written");
        }
        drop(body);
        writer.finish().expect("ended");
    });
    let mut raw = front.raw();
    raw.send(front.head("POST", "/api/v1/things", "Transfer-Encoding: chunked\r\n"));
    raw.send("4\r\nfour\r\n");
    let head = raw.head();
    assert_eq!(head.status, 200);
    assert_eq!(raw.chunk().as_deref(), Some(&b"four"[..]));
    for text in ["five5", "sixsix"] {
        raw.send(format!("{:x}\r\n{text}\r\n", text.len()));
        assert_eq!(raw.chunk().as_deref(), Some(text.as_bytes()));
    }
    raw.send("0\r\n\r\n");
    assert_eq!(raw.chunk().as_deref(), Some(&b""[..]));
    // A large one of which each side has more under way than any buffer holds.
    let body = streamed(None, {
        let mut sent = 0;
        move || {
            let next = piece(sent, LARGE as u64).to_vec();
            sent += next.len() as u64;
            (!next.is_empty()).then_some(next)
        }
    });
    let mut answer = front
        .open("POST", "/api/v1/things", &[], body, &Cancel::new())
        .expect("answered");
    let mut check = Check::default();
    loop {
        let piece = answer.body.chunk(usize::MAX).expect("goes on");
        if piece.is_empty() {
            break;
        }
        check.take(piece);
    }
    assert_eq!(check.received, LARGE as u64);
}

#[test]
fn an_early_413_is_not_lost_behind_the_upload() {
    let (_upstream, _agent, _house, front) = served(|_, body, responder| {
        let answer = responder.respond(413, &content("text/plain"), b"too much");
        answer.expect("answered");
        drop(body);
    });
    for _ in 0..3 {
        let answer = front.ask("PUT", "/api/v1/things", &[], full(whole(LARGE)));
        assert_eq!((answer.status, &answer.body[..]), (413, &b"too much"[..]));
        // Whoever doesn't announce the length gets it, too.
        let (pieces, body) = piped(None);
        pieces.send(whole(100)).expect("it is sent");
        let answer = front.ask("PUT", "/api/v1/things", &[], body);
        assert_eq!((answer.status, &answer.body[..]), (413, &b"too much"[..]));
    }
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    let (_upstream, _agent, _house, front) = served(echo);
    let mut raw = front.raw();
    raw.send(front.head(
        "PUT",
        "/api/v1/things",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    ));
    assert_eq!(raw.head().status, 100);
    raw.send("hello");
    assert_eq!(raw.head().status, 200);
    assert_eq!(raw.exactly(5).as_deref(), Some(&b"hello"[..]));
}

#[test]
fn interim_answers_of_the_api_server_are_not_taken_for_the_answer() {
    let (address, _script) = scripted(|_, mut stream| {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n\
                      HTTP/1.1 102 Processing\r\n\r\n\
                      HTTP/1.1 200 OK\r\nContent-Length: 2\r\nWarning: 299 - \"old\"\r\n\r\nok";
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let house = House::new();
    let _agent = house.agent("edge", credentials(address, None));
    let answer = house.front("edge").get("/api/v1/things");
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    assert_eq!(answer.headers.get("Warning"), Some("299 - \"old\""));
    assert_eq!(answer.headers.get("Link"), None);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_like_a_whole_one() {
    let (address, _script) = scripted(|head, mut stream| {
        let framing = if head.contains("length") {
            "Content-Length: 100\r\n\r\nhalf of it"
        } else {
            "Transfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n"
        };
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}");
        stream.write_all(answer.as_bytes()).expect("answered");
    });
    let house = House::new();
    let _agent = house.agent("edge", credentials(address, None));
    let front = house.front("edge");
    for target in ["/api/v1/things?chunked", "/api/v1/things?length"] {
        let mut answer = front.watch(target);
        // What has come is given out; then the client is told, by the connection.
        answer.expect("half of it");
        let error = answer.piece().expect_err("no good end");
        assert!(matches!(error, CallError::Body(_)), "{error}");
    }
}

#[test]
fn an_api_server_that_gives_no_answer_makes_a_readable_502() {
    let (address, script) = scripted(|head, mut stream| {
        if head.contains("garbage") {
            stream
                .write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
                .expect("said");
        }
    });
    let house = House::new();
    let agent = house.agent("edge", credentials(address, None));
    let front = house.front("edge");
    for target in ["/api/v1/things?nothing", "/api/v1/things?garbage"] {
        let answer = front.get(target);
        assert_eq!(answer.status, 502);
        let message = answer.status_message();
        assert!(
            message.contains("the agent of cluster \"edge\" says"),
            "{message}"
        );
        assert!(
            message.contains("kubernetes API request failed"),
            "{message}"
        );
        assert!(!message.contains('?'), "no query: {message}");
    }
    // A POST is not tried a second time.
    let answer = front.ask("POST", "/api/v1/things?nothing", &[], full("x"));
    assert_eq!(answer.status, 502);
    drop(script);
    until("nobody listens", || {
        std::net::TcpStream::connect(address).is_err()
    });
    let message = front.get("/api/v1/things?secret=geheim").status_message();
    assert!(
        message.contains("refused") && !message.contains("geheim"),
        "{message}"
    );
    drop(agent);
}

#[test]
fn t43_an_upload_that_breaks_off_is_not_taken_for_a_whole_one() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let (begun, begins) = unbounded();
    let noted = ends.clone();
    let (_upstream, _agent, _house, front) = served(move |_, mut body, _| {
        let mut received = 0;
        let end = loop {
            match body.chunk(usize::MAX) {
                Ok([]) => break "whole",
                Ok(bytes) => {
                    received += bytes.len();
                    begun.send(()).expect("the test waits");
                }
                Err(_) => break "broken",
            }
        };
        noted.lock().push((received, end));
    });
    for framing in [
        "Content-Length: 100000\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let mut raw = front.raw();
        raw.send(front.head("POST", "/api/v1/things", framing));
        let body = if framing.contains("chunked") {
            "4\r\nhalf\r\n"
        } else {
            "half"
        };
        raw.send(body);
        begins.recv_timeout(LIMIT).expect("arrives");
        raw.cut();
    }
    until("both have ended", || ends.lock().len() == 2);
    assert_eq!(*ends.lock(), [(4, "broken"), (4, "broken")]);
}
