use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use tungstenite::handshake::derive_accept_key;

use super::*;
use crate::http::Headers;
use crate::net::testing::{far_deadline, tcp_pair};
use crate::net::{Cancel, Deadline, Halves};

/// As the link's.
fn ask(halves: Halves, deadline: Deadline, cancel: &Cancel) -> Result<Halves, UpgradeError> {
    ask_for(&[], halves, deadline, cancel).map(|upgraded| upgraded.halves)
}

fn ask_for(
    subprotocols: &[String],
    halves: Halves,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Upgraded, UpgradeError> {
    let headers = headers();
    let request = Request {
        authority: "127.0.0.1:1573",
        target: "/ws?agent_version=1.4.0&cluster_uuid=6f0c",
        headers: &headers,
        subprotocols,
    };
    upgrade(halves, &request, deadline, cancel)
}

fn headers() -> Headers {
    [
        ("User-Agent", "pipeops-agent/1.0.0"),
        ("Authorization", "Bearer secret-token"),
    ]
    .into_iter()
    .collect()
}

/// A client's halves and the raw other end.
fn ends() -> (Halves, TcpStream) {
    let (near, far) = tcp_pair();
    (Halves::plain(near), far.into())
}

/// Reads up to the empty line.
fn head(far: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        far.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .expect("the header is there")
}

fn switching(head: &str) -> String {
    let accept = derive_accept_key(header(head, "Sec-WebSocket-Key").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\n\
         connection: keep-alive, Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
}

/// Runs an upgrade against a peer that makes its answer from the request's head
/// and then keeps the connection open until the client is done.
fn answered_by(answer: impl FnOnce(&str) -> Vec<u8> + Send) -> Result<Halves, UpgradeError> {
    let (near, mut far) = ends();
    thread::scope(|scope| {
        let held = scope.spawn(move || {
            let head = head(&mut far);
            far.write_all(&answer(&head)).expect("write");
            far
        });
        let result = ask(near, far_deadline(), &Cancel::new());
        held.join().expect("no panic");
        result
    })
}

fn refused(answer: &str) -> UpgradeError {
    answered_by(|_| answer.into()).expect_err("refused")
}

fn refusal(answer: &str) -> Answer {
    match refused(answer) {
        UpgradeError::Refused(answer) => *answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_request_has_the_shape_of_the_original_s() {
    let (near, mut far) = ends();
    let asking = thread::spawn(move || ask(near, far_deadline(), &Cancel::new()));
    let head = head(&mut far);
    let lines: Vec<&str> = head.trim_end().lines().collect();
    let names: Vec<&str> = lines[1..]
        .iter()
        .map(|line| line.split(':').next().expect("a name"))
        .collect();
    // Captures, lines 2 and 7.
    assert_eq!(
        names,
        [
            "Host",
            "User-Agent",
            "Authorization",
            "Connection",
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Upgrade"
        ]
    );
    assert_eq!(
        lines[0],
        "GET /ws?agent_version=1.4.0&cluster_uuid=6f0c HTTP/1.1"
    );
    assert_eq!(header(&head, "Host"), "127.0.0.1:1573");
    assert_eq!(header(&head, "Authorization"), "Bearer secret-token");
    assert!(header(&head, "User-Agent").starts_with("pipeops-agent/"));
    assert_eq!(header(&head, "Connection"), "Upgrade");
    assert_eq!(header(&head, "Upgrade"), "websocket");
    far.write_all(switching(&head).as_bytes()).expect("write");
    asking.join().expect("no panic").expect("upgraded");
}

#[test]
fn the_port_is_named_unless_it_is_the_scheme_s() {
    assert_eq!(authority("example.net", 443, true), "example.net");
    assert_eq!(authority("example.net", 80, false), "example.net");
    assert_eq!(authority("example.net", 80, true), "example.net:80");
    assert_eq!(authority("::1", 8080, false), "[::1]:8080");
}

#[test]
fn nothing_can_be_smuggled_into_the_request() {
    let refused = |target: &str, (name, value): (&str, &str), subprotocol: &str| {
        let headers = [(name, value)].into_iter().collect();
        let request = Request {
            authority: "h",
            target,
            headers: &headers,
            subprotocols: &[subprotocol.to_owned()],
        };
        match request.head("key") {
            Ok(_) => "",
            Err(UpgradeError::Request(what)) => what,
            Err(other) => panic!("{other}"),
        }
    };
    let plain = ("X-A", "b");
    assert_eq!(refused("/ws", plain, "a/1+b.c"), "");
    assert_eq!(refused("/ws HTTP/1.1\r\nX: y", plain, "a"), "path");
    assert_eq!(refused("ws", plain, "a"), "path");
    for header in [
        ("Authorization", "t\r\nX: y"),
        ("X: y\r\nX", "t"),
        ("host", "other"),
        ("Transfer-Encoding", "chunked"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        assert_eq!(refused("/ws", header, "a"), "headers", "{header:?}");
    }
    for subprotocol in ["a\r\nX: y", "a, b", ""] {
        assert_eq!(refused("/ws", plain, subprotocol), "subprotocols");
    }
}

#[test]
fn subprotocols_are_offered_as_they_are_and_any_choice_is_taken() {
    let offered = [
        "v5.channel.k8s.io".to_owned(),
        "SPDY/3.1+portforward.k8s.io".to_owned(),
    ];
    for (chosen, want) in [
        ("", None),
        ("Sec-WebSocket-Protocol: \r\n", None),
        (
            "sec-websocket-protocol: SPDY/3.1+portforward.k8s.io\r\n",
            Some("SPDY/3.1+portforward.k8s.io"),
        ),
        ("Sec-WebSocket-Protocol: other\r\n", Some("other")),
    ] {
        let (near, mut far) = ends();
        let offered = offered.clone();
        let asking = thread::spawn(move || ask_for(&offered, near, far_deadline(), &Cancel::new()));
        let head = head(&mut far);
        let line = header(&head, "Sec-WebSocket-Protocol");
        assert_eq!(line, "v5.channel.k8s.io, SPDY/3.1+portforward.k8s.io");
        let answer = switching(&head).replace("\r\n\r\n", &format!("\r\n{chosen}\r\n"));
        far.write_all(answer.as_bytes()).expect("write");
        let upgraded = asking.join().expect("no panic").expect("upgraded");
        assert_eq!(upgraded.subprotocol(), want);
        assert_eq!(upgraded.headers.get("upgrade"), Some("WebSocket"));
    }
}

/// `gateway_hello` may come in the same segment as the 101 (libraries.md).
#[test]
fn a_frame_in_the_same_segment_as_the_answer_is_not_lost() {
    let mut halves = answered_by(|head| {
        let mut bytes = switching(head).into_bytes();
        bytes.extend_from_slice(b"\x81\x05hello");
        bytes
    })
    .expect("upgraded");
    assert_eq!(halves.read.fill().expect("fill"), b"\x81\x05hello");
}

#[test]
fn an_answer_cut_at_any_byte_is_the_same_answer() {
    const FRAME: &[u8] = b"\x81\x05hello";
    let size = {
        let (near, mut far) = ends();
        let asking = thread::spawn(move || ask(near, far_deadline(), &Cancel::new()));
        let answer = switching(&head(&mut far));
        far.write_all(answer.as_bytes()).expect("write");
        asking.join().expect("no panic").expect("upgraded");
        answer.len() + FRAME.len()
    };
    for cut in 0..=size {
        let (near, mut far) = ends();
        let far = thread::spawn(move || {
            let answer = [switching(&head(&mut far)).as_bytes(), FRAME].concat();
            far.write_all(&answer[..cut]).expect("write");
            // They may still meet in one read; whatever happens must be right.
            thread::yield_now();
            far.write_all(&answer[cut..]).expect("write");
            far
        });
        let mut halves = ask(near, far_deadline(), &Cancel::new()).expect("upgraded");
        let mut frame = Vec::new();
        while frame.len() < FRAME.len() {
            let bytes = halves.read.fill().expect("fill");
            frame.extend_from_slice(bytes);
            let count = bytes.len();
            halves.read.consume(count);
        }
        assert_eq!(frame, FRAME, "cut at {cut}");
        drop(far.join().expect("no panic"));
    }
}

#[test]
fn an_answer_that_comes_byte_by_byte() {
    let (near, mut far) = ends();
    let far = thread::spawn(move || {
        let answer = switching(&head(&mut far));
        for byte in answer.as_bytes().iter().chain(b"\x89\x00") {
            far.write_all(&[*byte]).expect("write");
            thread::yield_now();
        }
        far
    });
    let mut halves = ask(near, far_deadline(), &Cancel::new()).expect("upgraded");
    assert_eq!(halves.read.fill().expect("fill")[0], 0x89);
    drop(far.join().expect("no panic"));
}

#[test]
fn hints_before_the_answer_are_skipped() {
    answered_by(|head| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        format!("{hints}{}", switching(head)).into_bytes()
    })
    .expect("upgraded");
}

#[test]
fn a_refusal_says_who_refused_and_when_to_come_back() {
    let answer = refusal(
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json; charset=utf-8\r\n\
         Retry-After: 60\r\nContent-Length: 26\r\n\r\n{\"error\":\n\"token expired\"}and more",
    );
    assert_eq!(answer.status, 401);
    assert!(answer.is_json());
    assert_eq!(answer.retry_after, Some(Duration::from_mins(1)));
    assert_eq!(answer.excerpt, "{\"error\": \"token expired\"}");
    assert_eq!(answer.body, b"{\"error\":\n\"token expired\"}");
    assert_eq!(answer.headers.get("retry-after"), Some("60"));
    let text = UpgradeError::Refused(Box::new(answer)).to_string();
    assert!(text.contains("status 401"), "{text}");
}

#[test]
fn a_page_of_a_middlebox_is_told_apart() {
    let answer = refusal(
        "HTTP/1.0 403 Forbidden\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\
         \r\n10;x=y\r\n<h1>Blocked</h1>\r\n0\r\n\r\n",
    );
    assert_eq!((answer.status, answer.is_json()), (403, false));
    assert_eq!(answer.excerpt, "<h1>Blocked</h1>");
}

#[test]
fn the_body_of_a_refusal_is_decoded_and_bounded() {
    let chunked = "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = refusal(&format!("{chunked}5\r\n{{\"a\":\r\n2\r\n1}}\r\n0\r\n\r\n"));
    assert_eq!(answer.body, b"{\"a\":1}");
    let long = "x".repeat(100_000);
    let answer = refusal(&format!(
        "HTTP/1.1 500 x\r\nContent-Length: 100000\r\n\r\n{long}"
    ));
    assert_eq!(answer.body, long.as_bytes()[..64 * 1024]);
    assert!(answer.excerpt.len() < 300);
}

#[test]
fn a_redirect_is_not_followed() {
    let answer = refusal("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((answer.status, answer.excerpt.as_str()), (302, ""));
}

#[test]
fn a_101_made_for_somebody_else_is_refused() {
    let changed = |from: &'static str, to: &'static str| {
        answered_by(move |head| switching(head).replace(from, to).into_bytes())
            .expect_err("refused")
            .to_string()
    };
    assert!(changed("sec-websocket-accept: ", "sec-websocket-accept: x").contains("Accept"));
    assert!(changed("WebSocket\r\n", "h2c\r\n").contains("Upgrade"));
    assert!(changed("keep-alive, Upgrade", "keep-alive").contains("Connection"));
    let extended = "sec-websocket-extensions: permessage-deflate\r\n\r\n";
    let error = answered_by(move |head| {
        let head = switching(head);
        format!("{}\r\n{extended}", head.trim_end()).into_bytes()
    });
    assert!(matches!(
        error,
        Err(UpgradeError::Header("Sec-WebSocket-Extensions"))
    ));
}

#[test]
fn what_is_not_http_or_too_long_is_refused_at_once() {
    assert!(matches!(
        refused("SSH-2.0-OpenSSH_9.2\r\n"),
        UpgradeError::NotHttp
    ));
    let long = format!("HTTP/1.1 101 OK\r\nX: {}", "y".repeat(MAX_HEAD));
    assert!(matches!(refused(&long), UpgradeError::LongHead));
}

#[test]
fn the_deadline_holds_for_the_whole_answer_and_an_end_is_an_end() {
    let (near, _far) = ends();
    let deadline = Deadline::after(Duration::from_millis(20));
    match ask(near, deadline, &Cancel::new()) {
        Err(UpgradeError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
        other => panic!("{other:?}"),
    }
    let (near, far) = ends();
    far.shutdown(Shutdown::Write).expect("shutdown");
    let result = ask(near, far_deadline(), &Cancel::new());
    assert!(matches!(result, Err(UpgradeError::Closed)));
}

#[test]
fn a_cancelled_upgrade_ends_at_once() {
    let (near, mut far) = ends();
    let cancel = Cancel::new();
    let its = cancel.clone();
    let asking = thread::spawn(move || ask(near, far_deadline(), &its));
    head(&mut far);
    cancel.cancel(Reason::Shutdown);
    let result = asking.join().expect("no panic");
    assert!(matches!(
        result,
        Err(UpgradeError::Cancelled(Reason::Shutdown))
    ));
}

#[test]
fn a_server_accepts_what_the_client_asks() {
    let (near, far) = tcp_pair();
    let (mut near, mut far) = (Halves::plain(near), Halves::plain(far));
    near.set_deadline(Some(far_deadline()));
    let asking = thread::spawn(move || ask(near, far_deadline(), &Cancel::new()));
    accept(&read_headers(&mut far), &mut far.write).expect("accepted");
    asking.join().expect("no panic").expect("upgraded");
}

#[test]
fn a_server_chooses_a_subprotocol() {
    let (near, far) = tcp_pair();
    let (near, mut far) = (Halves::plain(near), Halves::plain(far));
    let offered = ["a".to_owned(), "v5.channel.k8s.io".to_owned()];
    let asking = thread::spawn(move || ask_for(&offered, near, far_deadline(), &Cancel::new()));
    let accepted = Accept::check(&read_headers(&mut far)).expect("an upgrade");
    accepted
        .switch(Some("v5.channel.k8s.io"), &mut far.write)
        .expect("written");
    let upgraded = asking.join().expect("no panic").expect("upgraded");
    assert_eq!(upgraded.subprotocol(), Some("v5.channel.k8s.io"));
}

fn read_headers(halves: &mut Halves) -> Vec<(String, Vec<u8>)> {
    let bytes = halves.read.fill().expect("fill");
    let mut headers = [httparse::EMPTY_HEADER; 20];
    let mut request = httparse::Request::new(&mut headers);
    let size = request.parse(bytes).expect("valid").unwrap();
    let headers = request
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), header.value.to_vec()))
        .collect();
    halves.read.consume(size);
    headers
}

#[test]
fn a_server_refuses_what_is_no_upgrade() {
    let key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let version = ("sec-websocket-version", "13");
    let upgrade = ("Upgrade", "h2c, websocket");
    let connection = ("Connection", "keep-alive, Upgrade");
    let good = [key, version, upgrade, connection];
    let answer = |headers: &[(&str, &str)]| {
        let (near, mut far) = ends();
        let mut near = near;
        let result = accept(headers, &mut near.write);
        drop(near);
        let mut answer = String::new();
        far.read_to_string(&mut answer).expect("an answer");
        (result, answer)
    };
    let (result, text) = answer(&good);
    assert!(result.is_ok());
    // RFC 6455 §1.3.
    assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    for missing in 0..good.len() {
        let mut headers = good.to_vec();
        headers.remove(missing);
        let (result, text) = answer(&headers);
        assert!(matches!(result, Err(AcceptError::Bad(_))), "{text}");
        assert!(text.starts_with("HTTP/1.1 4"), "{text}");
    }
    let smuggled = ("Sec-WebSocket-Key", "dGhlIHNhbXBs\r\nX: 1ub25jZQ==");
    let (result, _) = answer(&[smuggled, version, upgrade, connection]);
    assert!(matches!(result, Err(AcceptError::Bad(BadRequest::Key))));
    let (result, _) = answer(&[key, key, version, upgrade, connection]);
    assert!(matches!(result, Err(AcceptError::Bad(BadRequest::Key))));
}
