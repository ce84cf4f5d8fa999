//! Heads that nobody should write: none ends in a panic, and none is taken for an
//! upgrade that isn't one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use httparse::Status;
use proptest::prelude::*;

use super::testing::take_request;
use super::*;
use crate::http::Headers;
use crate::net::testing::{far_deadline, tcp_pair};
use crate::net::{Cancel, Halves};
use crate::testing;

/// The peer's answer to our upgrade: a proper one, in pieces and with more or less.
#[derive(Clone, Debug)]
struct Lines {
    status: String,
    /// Name, value and line end; `KEY` is the accept key.
    fields: Vec<(String, String)>,
    line_end: &'static str,
    body: Vec<u8>,
    /// The answer is cut off there.
    cut: Option<usize>,
}

impl Lines {
    fn bytes(&self, accept: &str) -> Vec<u8> {
        let mut head = self.status.clone() + self.line_end;
        for (name, value) in &self.fields {
            let value = value.replace("KEY", accept);
            head.extend([name, ": ", &value, self.line_end]);
        }
        let mut bytes = (head + self.line_end).into_bytes();
        bytes.extend(&self.body);
        bytes.truncate(self.cut.unwrap_or(bytes.len()));
        bytes
    }
}

fn lines() -> impl Strategy<Value = Lines> {
    let status = prop_oneof![
        4 => Just("HTTP/1.1 101 Switching Protocols".to_owned()),
        1 => (0u16..1200).prop_map(|status| format!("HTTP/1.1 {status} x")),
        1 => prop::sample::select(vec!["HTTP/1.0 101 x", "HTTP/2 101", "SSH-2.0", "HTTP/1.1 101"])
            .prop_map(str::to_owned),
        1 => testing::text(),
    ];
    let field = |name: &str, value: &str| Just((name.to_owned(), value.to_owned()));
    let fields = prop_oneof![
        field("Upgrade", "websocket"),
        field("Connection", "keep-alive, Upgrade"),
        field("Sec-WebSocket-Accept", "KEY"),
    ];
    let odd = prop_oneof![
        field("Upgrade", "h2c"),
        field("Sec-WebSocket-Accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        field("Sec-WebSocket-Extensions", "permessage-deflate"),
        field("Transfer-Encoding", "chunked"),
        field("Content-Length", "99999999999999999999"),
        field("Content-Length", "3"),
        field("Retry-After", "99999999999999999999"),
        field("Retry-After", "Wed, 21 Oct 9999 07:28:00 GMT"),
        (testing::text(), testing::text()),
    ];
    let needed = vec![
        ("Upgrade".to_owned(), "websocket".to_owned()),
        ("Connection".to_owned(), "Upgrade".to_owned()),
        ("Sec-WebSocket-Accept".to_owned(), "KEY".to_owned()),
    ];
    let all = prop_oneof![
        prop::collection::vec(odd.clone(), 0..2)
            .prop_map(move |odd| [needed.clone(), odd].concat()),
        prop::collection::vec(prop_oneof![fields, odd], 0..8),
    ];
    let end = prop_oneof![4 => Just("\r\n"), 1 => Just("\n")];
    let body = prop::collection::vec(any::<u8>(), 0..100);
    let cut = prop_oneof![3 => Just(None), 1 => (0usize..200).prop_map(Some)];
    (status, all, end, body, cut).prop_map(|(status, fields, line_end, body, cut)| Lines {
        status,
        fields,
        line_end,
        body,
        cut,
    })
}

/// What an upgrade makes of an answer, and what it left unread of it.
fn upgraded(answer: impl FnOnce(&str) -> Vec<u8> + Send) -> Result<Vec<u8>, UpgradeError> {
    let (near, far) = tcp_pair();
    let mut far: TcpStream = far.into();
    let headers = Headers::new();
    let request = Request {
        authority: "h",
        target: "/ws",
        headers: &headers,
        subprotocols: &[],
    };
    thread::scope(|scope| {
        let answering = scope.spawn(move || {
            let accept = take_request(&mut far);
            // It may have enough before the end.
            let _ = far.write_all(&answer(&accept));
            let _ = far.shutdown(Shutdown::Write);
            far
        });
        let halves = upgrade(
            Halves::plain(near),
            &request,
            far_deadline(),
            &Cancel::new(),
        );
        let _far = answering.join().expect("no panic");
        let mut rest = Vec::new();
        let mut halves = halves?.halves;
        loop {
            let bytes = halves.read.fill().expect("open");
            let count = bytes.len();
            rest.extend_from_slice(bytes);
            halves.read.consume(count);
            if count == 0 {
                return Ok(rest);
            }
        }
    })
}

/// What the RFC wants of a 101, by another way than ours: whole lines.
fn is_upgrade(answer: &Lines, accept: &str) -> bool {
    let values = |name: &str| -> Vec<String> {
        let of_name = answer
            .fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        of_name
            .map(|(_, value)| value.replace("KEY", accept))
            .collect()
    };
    let lists = |name: &str, what: &str| {
        let all = values(name).join(",").to_ascii_lowercase();
        all.split(',').any(|item| item.trim() == what)
    };
    answer.status.starts_with("HTTP/1.1 101")
        && lists("Upgrade", "websocket")
        && lists("Connection", "upgrade")
        && values("Sec-WebSocket-Accept") == [accept]
        && values("Sec-WebSocket-Extensions").is_empty()
}

proptest! {
    #[test]
    fn an_answer_is_an_upgrade_or_is_refused_in_a_line(answer in lines()) {
        let mut accepted_key = String::new();
        let outcome = upgraded(|accept| {
            accept.clone_into(&mut accepted_key);
            answer.bytes(accept)
        });
        match outcome {
            Ok(rest) => {
                assert!(is_upgrade(&answer, &accepted_key), "{answer:?}");
                if answer.cut.is_none() && !answer.fields.iter().any(|(n, v)| (n.clone() + v).contains('\n')) {
                    assert_eq!(rest, answer.body, "what follows stays where it is");
                }
            }
            Err(UpgradeError::Refused(refusal)) => {
                assert_ne!(refusal.status, 101);
                let line = refusal.to_string();
                assert!(line.len() < 600 && !line.contains(char::is_control), "{line:?}");
                let day = std::time::Duration::from_hours(24);
                assert!(refusal.retry_after.is_none_or(|wait| wait <= day));
            }
            Err(_) => {}
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let outcome = upgraded(|_| bytes);
        prop_assert!(outcome.is_err());
    }

    /// Nothing of ours becomes a second line, or a second request.
    #[test]
    fn a_request_is_one_head_or_not_sent(
        authority in prop_oneof![testing::text(), Just("[::1]:8".to_owned()), Just("h.test".to_owned())],
        target in prop_oneof![testing::text(), testing::text().prop_map(|rest| format!("/{rest}"))],
        field in prop::option::of((
            prop_oneof![testing::text(), Just("X".to_owned())],
            testing::text(),
        )),
        subprotocols in prop::collection::vec(testing::text(), 0..3),
    ) {
        let headers: Headers = field.clone().into_iter().collect();
        let request = Request {
            authority: &authority,
            target: &target,
            headers: &headers,
            subprotocols: &subprotocols,
        };
        let Ok(head) = request.head("a2V5") else { return Ok(()) };
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut fields);
        let end = parsed.parse(head.as_bytes());
        prop_assert_eq!(end, Ok(Status::Complete(head.len())), "{}", head);
        prop_assert_eq!(parsed.path, Some(target.as_str()));
        let names: Vec<&str> = parsed.headers.iter().map(|field| field.name).collect();
        let count = 5 + usize::from(field.is_some()) + usize::from(!subprotocols.is_empty());
        prop_assert_eq!(names.len(), count, "{:?}", names);
        prop_assert_eq!(parsed.headers[0].name, "Host");
    }

    /// The server's side: 101 for what asks for it properly, else a refusal; either is
    /// one head, and nothing of the client's stands in it but the key's own answer.
    #[test]
    fn a_request_is_accepted_or_refused_in_one_answer(
        fields in prop::collection::vec(
            (
                prop_oneof![
                    prop::sample::select(vec![
                        "Upgrade", "upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key",
                    ]).prop_map(str::to_owned),
                    testing::text(),
                ],
                prop_oneof![
                    3 => prop::sample::select(vec![
                        "websocket", "Upgrade", "keep-alive, upgrade", "13", "8",
                        "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=", "x\r\nEvil: 1",
                    ]).prop_map(str::to_owned),
                    1 => testing::text(),
                ],
            ),
            0..8,
        ),
    ) {
        let values = |name: &str| -> Vec<&str> {
            let of_name = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            of_name.map(|(_, value)| value.as_str()).collect()
        };
        let lists = |name: &str, what: &str| {
            let all = values(name).join(",").to_ascii_lowercase();
            all.split(',').any(|item| item.trim_matches(|c: char| c.is_ascii_whitespace()) == what)
        };
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let proper = lists("upgrade", "websocket")
            && lists("connection", "upgrade")
            && values("sec-websocket-version") == ["13"]
            && values("sec-websocket-key") == [key];
        let (near, far) = tcp_pair();
        let mut halves = Halves::plain(near);
        let outcome = accept(&fields, &mut halves.write);
        drop(halves);
        let mut answer = String::new();
        TcpStream::from(far).read_to_string(&mut answer).expect("text");
        prop_assert_eq!(outcome.is_ok(), proper, "{:?} {}", fields, answer);
        prop_assert_eq!(answer.starts_with("HTTP/1.1 101 "), proper);
        prop_assert!(!answer.contains("Evil"));
        prop_assert_eq!(answer.matches("HTTP/1.1").count(), 1);
        if proper {
            prop_assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 §1.3: {}", answer);
        }
    }
}
