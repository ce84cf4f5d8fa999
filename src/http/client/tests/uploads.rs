//! Bodies of requests on their way out.

use super::*;

/// A source that is fed by the test.
#[derive(Default)]
pub(super) struct Fed {
    pieces: Mutex<(VecDeque<Piece>, bool)>,
    changed: Condvar,
}

impl Fed {
    pub(super) fn feed(&self, piece: Piece) {
        self.pieces.lock().0.push_back(piece);
        self.changed.notify_all();
    }

    pub(super) fn wait_until_stopped(&self) {
        let mut pieces = self.pieces.lock();
        while !pieces.1 {
            assert!(!self.changed.wait_for(&mut pieces, FAR).timed_out());
        }
    }
}

impl Source for Fed {
    fn next(&self) -> Piece {
        let mut pieces = self.pieces.lock();
        loop {
            if pieces.1 {
                return Err(io::Error::other("stopped"));
            }
            if let Some(piece) = pieces.0.pop_front() {
                return piece;
            }
            self.changed.wait(&mut pieces);
        }
    }

    fn stop(&self) {
        self.pieces.lock().1 = true;
        self.changed.notify_all();
    }
}

pub(super) fn stream(length: Option<u64>) -> (Arc<Fed>, Body) {
    let fed = Arc::new(Fed::default());
    let source = fed.clone();
    (fed, Body::Stream { length, source })
}

#[test]
fn t41_a_buffered_body_has_its_true_length() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for size in [0, 1, SMALL, SMALL + 1, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|i| i as u8).collect();
        let call = calling(&client, post(full(bytes.clone())), &Cancel::new());
        let mut peer = upstream.accept();
        let request = peer.request();
        assert_eq!(
            request.headers.get("Content-Length"),
            Some(&*size.to_string())
        );
        assert_eq!(request.body, bytes);
        peer.answer("200 OK", "");
        call.join().expect("call").expect("answer");
        assert_eq!(client.idle(), 1, "{size}");
        client.close_idle();
    }
    let call = calling(&client, post(Body::Empty), &Cancel::new());
    let mut peer = upstream.accept();
    assert_eq!(peer.request().headers.get("Content-Length"), Some("0"));
    peer.answer("200 OK", "");
    call.join().expect("call").expect("answer");
}

#[test]
fn a_streamed_body_is_chunked_or_has_the_length_that_was_said() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for length in [None, Some(5)] {
        let (fed, body) = stream(length);
        let call = calling(&client, post(body), &Cancel::new());
        let mut peer = upstream.accept();
        let (_, headers) = peer.head();
        assert_eq!(headers.contains("Transfer-Encoding"), length.is_none());
        assert_eq!(headers.contains("Content-Length"), length.is_some());
        for piece in ["he", "", "llo"] {
            fed.feed(Ok(Some(piece.into())));
            // It arrives before the next one is there.
            match length {
                _ if piece.is_empty() => {}
                None => assert_eq!(peer.chunk(), piece.as_bytes()),
                Some(_) => assert_eq!(peer.exactly(piece.len()), piece.as_bytes()),
            }
        }
        fed.feed(Ok(None));
        if length.is_none() {
            assert!(peer.chunk().is_empty());
        }
        peer.answer("200 OK", "");
        call.join().expect("call").expect("answer");
        assert_eq!(client.idle(), 1);
        client.close_idle();
    }
}

#[test]
fn a_length_that_was_said_is_enforced() {
    let upstream = Upstream::new();
    let client = upstream.client();
    for (piece, long) in [("hello!", true), ("hell", false)] {
        let (fed, body) = stream(Some(5));
        let call = calling(&client, post(body), &Cancel::new());
        let mut peer = upstream.accept();
        peer.head();
        fed.feed(Ok(Some(piece.into())));
        fed.feed(Ok(None));
        peer.wait_for_end();
        match call.join().expect("call").expect_err("wrong length") {
            CallError::Upload(UploadError::TooLong) => assert!(long),
            CallError::Upload(UploadError::TooShort) => assert!(!long),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_body_that_fails_fails_the_call_and_does_not_look_whole() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (fed, body) = stream(None);
    let call = calling(&client, post(body), &Cancel::new());
    let mut peer = upstream.accept();
    peer.head();
    fed.feed(Ok(Some("hello".into())));
    assert_eq!(peer.chunk(), b"hello");
    fed.feed(Err(io::Error::other("bad base64")));
    peer.wait_for_end();
    let error = call.join().expect("call").expect_err("failed");
    assert!(
        matches!(error, CallError::Upload(UploadError::Source(_))),
        "{error}"
    );
    assert!(error.to_string().contains("bad base64"));
}

#[test]
fn an_early_answer_arrives_while_a_large_body_is_being_sent() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let call = calling(&client, post(full(vec![7; 10 << 20])), &Cancel::new());
    let mut peer = upstream.accept();
    peer.head();
    // Nothing of the body is read: the sender is stuck.
    peer.answer("413 Content Too Large", "no");
    let (status, body) = call.join().expect("call").expect("answer");
    assert_eq!((status, body.as_slice()), (413, &b"no"[..]));
    peer.wait_for_end();
    assert_eq!(client.idle(), 0);
}

#[test]
fn an_early_answer_ends_a_streamed_body() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (fed, body) = stream(None);
    let call = calling(&client, post(body), &Cancel::new());
    let mut peer = upstream.accept();
    peer.head();
    peer.answer("401 Unauthorized", "no");
    assert_eq!(call.join().expect("call").expect("answer").0, 401);
    fed.wait_until_stopped();
    peer.wait_for_end();
}

#[test]
fn cancelling_ends_a_stuck_upload() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let cancel = Cancel::new();
    let sent = Arc::new(vec![7; 10 << 20]);
    let call = calling(&client, post(Body::Full(sent.clone())), &cancel);
    let mut peer = upstream.accept();
    peer.head();
    cancel.cancel(Reason::Cancelled);
    call.join().expect("call").expect_err("cancelled");
    peer.wait_for_end();
    // The thread that sent it has let go of it.
    let until = Instant::now() + FAR;
    while Arc::strong_count(&sent) > 1 {
        assert!(Instant::now() < until);
        thread::yield_now();
    }
}

#[test]
fn a_body_that_ends_with_its_connection_is_not_whole_when_the_upload_failed() {
    let upstream = Upstream::new();
    let client = upstream.client();
    let (fed, body) = stream(None);
    let call = thread::spawn(move || client.call(&post(body), &Cancel::new()));
    let mut peer = upstream.accept();
    peer.head();
    peer.send("HTTP/1.1 200 OK\r\n\r\nhalf");
    let mut response = call.join().expect("call").expect("an answer");
    assert_eq!(response.body.chunk(100).expect("a piece"), b"half");
    fed.feed(Err(io::Error::other("the body broke off")));
    let end = response.body.chunk(100);
    assert!(
        matches!(end, Err(CallError::Upload(UploadError::Source(_)))),
        "{end:?}"
    );
}
