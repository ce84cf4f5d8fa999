use proptest::prelude::*;

use super::*;

fn response(fields: &str) -> ResponseHead {
    let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    ResponseHead::parse(head.as_bytes()).expect("a head")
}

fn request(head: &str) -> Result<RequestHead, HeadError> {
    RequestHead::parse(head.as_bytes())
}

#[test]
fn a_request() {
    let head = request("GET /a?b HTTP/1.1\r\nHost: x\r\nA:  1 \r\nB:\r\n\r\n").expect("head");
    assert_eq!(
        (head.method.as_str(), head.target.as_str()),
        ("GET", "/a?b")
    );
    let fields: Vec<_> = head.headers.iter().collect();
    assert_eq!(fields, [("Host", "x"), ("A", "1"), ("B", "")]);
    assert_eq!(head.framing(), Ok(Framing::Length(0)));
    assert!(head.keeps_alive());
}

#[test]
fn how_long_an_answer_is() {
    let framing = |fields: &str| response(fields).framing("GET");
    assert_eq!(framing(""), Ok(Framing::UntilClose));
    assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
    assert_eq!(framing("Content-Length: 5, 5\r\n"), Ok(Framing::Length(5)));
    assert_eq!(
        framing("transfer-encoding: Chunked\r\n"),
        Ok(Framing::Chunked)
    );
}

#[test]
fn an_ambiguous_length_is_an_error() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5,\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding:\r\n",
        // Blanks to Unicode, but not to HTTP.
        "Transfer-Encoding: \u{a0}chunked\r\n",
        "Transfer-Encoding: chunked\u{2003}\r\n",
        "Content-Length: 5\u{85}\r\n",
    ] {
        assert!(response(fields).framing("GET").is_err(), "{fields}");
        let head = request(&format!("POST / HTTP/1.1\r\n{fields}\r\n")).expect("head");
        assert!(head.framing().is_err(), "{fields}");
    }
    let old = request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").expect("head");
    assert!(old.framing().is_err());
}

#[test]
fn answers_without_a_body_have_none_whatever_they_say() {
    let said = "Content-Length: 200\r\n";
    assert_eq!(response(said).framing("HEAD"), Ok(Framing::Length(0)));
    for status in [100, 103, 204, 304] {
        let mut head = response(said);
        head.status = status;
        assert_eq!(head.framing("GET"), Ok(Framing::Length(0)), "{status}");
    }
}

#[test]
fn what_is_no_head_is_refused() {
    for head in [
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n\r\n",
        "GET / HTTP/1.1\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET  HTTP/1.1\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\n\r\n",
        "G{T / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b",
    ] {
        assert!(request(head).is_err(), "{head:?}");
    }
    assert!(ResponseHead::parse(b"HTTP/1.1 099 \r\n\r\n").is_err());
}

#[test]
fn too_many_fields_are_refused() {
    let head = format!(
        "GET / HTTP/1.1\r\n{}\r\n",
        "a: b\r\n".repeat(MAX_FIELDS + 1)
    );
    assert_eq!(request(&head), Err(HeadError::TooManyFields));
}

#[test]
fn an_endless_head_is_refused() {
    let mut scanner = HeadScanner::default();
    let line = [b'a'; 1000];
    let mut refused = false;
    for _ in 0..=MAX_HEAD / 1000 {
        refused |= scanner.scan(&line).is_err();
    }
    assert!(refused);
    assert_eq!(
        HeadScanner::default().scan(&vec![b'\n'; MAX_HEAD]),
        Err(HeadError::TooLarge)
    );
}

#[test]
fn connections_that_stay() {
    for (head, stays) in [
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        assert_eq!(request(head).expect("head").keeps_alive(), stays, "{head}");
    }
}

proptest! {
    #[test]
    fn the_end_is_found_however_the_head_is_cut(
        cuts in prop::collection::vec(0usize..60, 0..10),
        lead in prop::sample::select(vec!["", "\r\n", "\r\n\r\n"]),
    ) {
        let text = format!("{lead}GET / HTTP/1.1\r\nHost: x\r\nB: c\r\n\r\nrest\r\n\r\n");
        let want = text.find("\r\n\r\nrest").expect("there") + 4;
        let mut scanner = HeadScanner::default();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        let (mut at, mut found) = (0, None);
        for end in cuts {
            found = scanner.scan(&text.as_bytes()[at..end]).expect("short");
            at = end;
            if found.is_some() {
                break;
            }
        }
        prop_assert_eq!(found, Some(want));
    }

    #[test]
    fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
        if let Ok(head) = RequestHead::parse(&bytes) {
            let _ = head.framing();
        }
        if let Ok(head) = ResponseHead::parse(&bytes) {
            let _ = head.framing("GET");
        }
    }

    #[test]
    fn what_is_written_is_read(
        fields in prop::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,20}"), 0..8),
    ) {
        let headers: Headers = fields
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
            .map(|(name, value)| (name.clone(), value.trim().to_owned()))
            .collect();
        let mut out = Vec::new();
        write_request(&mut out, "PUT", "/x", "h", &headers, Some(Framing::Length(3)));
        let head = RequestHead::parse(&out).expect("valid");
        prop_assert_eq!(head.framing(), Ok(Framing::Length(3)));
        let mut want = headers;
        want.push("Content-Length", "3");
        let got: Vec<_> = head.headers.iter().skip(1).collect();
        prop_assert_eq!(got, want.iter().collect::<Vec<_>>());
    }
}
