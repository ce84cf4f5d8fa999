//! Answers: their framing, and who may hold what meanwhile.

use super::*;

#[test]
fn each_write_arrives_at_once() {
    let (send, receive) = mpsc::channel::<&'static str>();
    let receive = Mutex::new(receive);
    let server = serve(move |_, _, responder| {
        let mut writer = responder
            .start(200, &Headers::new(), None)
            .expect("started");
        for piece in &*receive.lock() {
            writer.write(piece.as_bytes()).expect("written");
        }
        writer.finish().expect("finished");
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("write");
    let mut reader = BufReader::new(stream);
    let (head, _) = answer(&mut reader, 0);
    assert!(
        head.contains("\r\nTransfer-Encoding: chunked\r\n"),
        "{head}"
    );
    for piece in ["first", "second piece"] {
        send.send(piece).expect("sent");
        let mut line = String::new();
        reader.read_line(&mut line).expect("size");
        assert_eq!(line, format!("{:x}\r\n", piece.len()));
        let mut data = vec![0; piece.len() + 2];
        reader.read_exact(&mut data).expect("data");
        assert_eq!(data, format!("{piece}\r\n").as_bytes());
    }
    drop(send);
    let mut end = [0; 5];
    reader.read_exact(&mut end).expect("end");
    assert_eq!(&end, b"0\r\n\r\n");
}

#[test]
fn an_answer_that_was_cut_does_not_look_whole() {
    let server = serve(|request, _, responder| {
        let length = (request.target == "/length").then_some(10);
        let mut writer = responder
            .start(200, &Headers::new(), length)
            .expect("started");
        writer.write(b"hello").expect("written");
    });
    let got = talk(&server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(got.ends_with("5\r\nhello\r\n"), "{got}");
    let got = talk(&server, "GET /length HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(got.ends_with("\r\n\r\nhello"), "{got}");
}

#[test]
fn a_length_is_enforced() {
    let server = serve(|_, _, responder| {
        let mut writer = responder
            .start(200, &Headers::new(), Some(3))
            .expect("started");
        writer.write(b"hello").expect_err("too long");
        writer.write(b"hel").expect("written");
        writer.finish().expect("whole");
    });
    let mut stream = connect(&server);
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .expect("write");
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        assert_eq!(answer(&mut reader, 3).1, b"hel");
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let server = serve(|request, _, responder| {
        let status = request.target[1..].parse().expect("a status");
        let mut writer = responder
            .start(status, &Headers::new(), Some(7))
            .expect("started");
        writer.write(b"ignored").expect("dropped");
        writer.finish().expect("finished");
    });
    let mut stream = connect(&server);
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    for (method, status, said) in [
        ("HEAD", "200", true),
        ("GET", "204", false),
        ("GET", "304", true),
    ] {
        write!(stream, "{method} /{status} HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        // Whatever came behind the head would be read as the next head.
        let (head, _) = answer(&mut reader, 0);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(head.contains("Content-Length: 7"), said, "{head}");
    }
}

#[test]
fn a_handler_cannot_break_the_framing() {
    let server = serve(|_, _, responder| {
        let headers: Headers = [
            ("Content-Length", "100"),
            ("transfer-encoding", "chunked"),
            ("Connection", "upgrade"),
            ("X-A", "b\r\nX-Smuggled: 1"),
            ("X B", "c"),
            ("X-Good", "1"),
        ]
        .into_iter()
        .collect();
        responder.respond(200, &headers, b"hi").expect("sent");
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("write");
    let (head, _) = answer(&mut BufReader::new(stream), 2);
    let fields: Vec<_> = head.lines().skip(2).collect();
    assert_eq!(fields, ["X-Good: 1", "Content-Length: 2", ""], "{head}");
}

#[test]
fn a_client_that_leaves_a_quiet_stream_is_noticed() {
    let (send, receive) = mpsc::channel();
    let server = serve(move |_, _, responder| {
        let cancel = Cancel::new();
        let _gone = responder.on_client_gone(&cancel).expect("watched");
        let (wake, woken) = mpsc::channel();
        let _guard = cancel
            .on_wake(Arc::new(move || {
                let _ = wake.send(());
            }))
            .expect("not yet");
        let _writer = responder
            .start(200, &Headers::new(), None)
            .expect("started");
        woken.recv_timeout(FAR).expect("the client left");
        send.send(cancel.reason()).expect("sent");
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("write");
    answer(&mut BufReader::new(stream.try_clone().expect("clone")), 0);
    drop(stream);
    let reason = receive.recv_timeout(FAR).expect("noticed");
    assert_eq!(reason, Some(Reason::Cancelled));
}

#[test]
fn an_early_answer_arrives_while_the_body_is_being_sent() {
    let server = serve(|_, _, responder| {
        responder
            .respond(413, &Headers::new(), b"no")
            .expect("sent");
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
        .expect("write");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    // The server takes and drops what comes, so that its answer isn't destroyed.
    for _ in 0..100 {
        stream.write_all(&vec![0; 100_000]).expect("taken");
    }
    let (head, body) = answer(&mut reader, 2);
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    assert_eq!(body, b"no");
}

#[test]
fn a_body_in_another_thread_does_not_keep_the_connection() {
    let server = serve(|_, mut body, responder| {
        threads::spawn("test-upload", Stack::Work, move || {
            while body.chunk(1000).is_ok_and(|chunk| !chunk.is_empty()) {}
        })
        .expect("thread");
        responder.respond(413, &Headers::new(), b"").expect("sent");
    });
    let mut stream = connect(&server);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        .expect("write");
    assert!(
        answer(&mut BufReader::new(stream.try_clone().expect("clone")), 0)
            .0
            .contains("413")
    );
    drop(stream);
    server.stop(FAR);
    assert_eq!(server.connections(), 0);
}
