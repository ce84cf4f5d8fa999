//! All the ways in which a link ends.

use std::net::Shutdown;

use super::*;

#[test]
fn an_orderly_close_writes_what_is_queued_first() {
    let (near, far) = tcp_pair();
    let near = Watched::start(Halves::plain(near), quiet(Role::Client));
    let far = Watched::start(Halves::plain(far), quiet(Role::Server));
    for i in 0..10 {
        near.binary(&pattern(10_000 * i)).expect("open");
    }
    near.link.close(1000, "shutting down");
    assert_eq!(near.text(Lane::Control, "late"), Err(SendError::Closed));
    let ending = near.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Us, Some(1000)));
    assert_eq!(ending.why, "closed: shutting down");
    for i in 0..10 {
        assert_eq!(far.next(), Seen::Binary(pattern(10_000 * i)));
    }
    assert_eq!(far.next(), Seen::Gone);
    let ending = far.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Peer, Some(1000)));
    assert_eq!(ending.why, "closed: shutting down");
}

#[test]
fn a_peer_s_close_is_answered_with_its_code() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    far.close(4001, "go away").expect("open");
    let events = far.rest();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains("4001"), "{events:?}");
    let ending = near.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Peer, Some(4001)));
    assert_eq!(ending.why, "closed: go away");
}

#[test]
fn a_close_is_answered_in_the_middle_of_a_large_message() {
    let (near, mut far) = against_raw(quiet(Role::Server));
    near.binary(&vec![7; 64 * 1024 * 1024]).expect("open");
    assert!(far.read(&mut |_| {}), "it has begun");
    far.close(1001, "").expect("open");
    let events = far.rest();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].starts_with("Close"), "{events:?}");
    assert_eq!(near.link.wait().code, Some(1001));
}

#[test]
fn what_arrives_after_our_close_is_dropped() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    near.link.close(1000, "");
    far.send(Opcode::Text, b"too late").expect("open");
    far.close(1000, "").expect("open");
    assert_eq!(near.next(), Seen::Gone);
    assert_eq!(near.link.wait().by, EndedBy::Us);
}

#[test]
fn a_peer_that_never_answers_our_close_is_cut() {
    let (near, mut far) = against_raw(Settings {
        drain: Duration::from_millis(30),
        ..quiet(Role::Client)
    });
    near.link.close(1000, "");
    let ending = near.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Us, Some(1000)));
    assert_eq!(far.rest().len(), 1, "the close frame");
}

#[test]
fn what_cannot_be_drained_is_given_up() {
    let (near, mut far) = against_raw(Settings {
        drain: Duration::from_millis(300),
        ..quiet(Role::Client)
    });
    near.binary(&vec![7; 64 * 1024 * 1024]).expect("open");
    near.link.close(1000, "");
    // The peer reads slowly: the close frame comes in the middle of the message.
    let mut closed = false;
    while far.read(&mut |event| closed |= matches!(event, Event::Close(_))) && !closed {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(closed);
    far.close(1000, "").expect("open");
    assert_eq!(near.link.wait().code, Some(1000));
}

#[test]
fn the_close_frame_counts_although_our_writes_fail() {
    // decisions.md §6.1: code 1008 before an answer is a refusal; a peer that
    // closes at once must not look like a broken network.
    for _ in 0..50 {
        let (near, mut far) = against_raw(quiet(Role::Client));
        let sender = near.link.clone();
        let sending = thread::spawn(move || {
            let message = || Message::binary(1000, |buf| buf.extend_from_slice(&[7; 1000]));
            while sender.send(bulk(), message(), &Cancel::new()).is_ok() {}
        });
        assert!(far.read(&mut |_| {}));
        far.close(1008, "no").expect("open");
        // Unread data makes this a reset.
        drop(far);
        sending.join().expect("no panic");
        let ending = near.link.wait();
        assert_eq!(
            (ending.by, ending.code),
            (EndedBy::Peer, Some(1008)),
            "{ending}"
        );
    }
}

#[test]
fn an_end_without_a_close_frame() {
    let (near, far) = against_raw(quiet(Role::Client));
    far.stream.shutdown(Shutdown::Write).expect("shutdown");
    let ending = near.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Peer, None));
    assert_eq!(ending.why, "the stream ended without a close frame");
}

#[test]
fn a_reset() {
    let (near, far) = against_raw(quiet(Role::Client));
    let far = socket2::Socket::from(far.stream);
    far.set_linger(Some(Duration::ZERO)).expect("linger");
    drop(far);
    assert_eq!(near.link.wait().by, EndedBy::Network);
    assert_eq!(near.next(), Seen::Gone);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told_the_code() {
    let cases: [(&[u8], u16); 3] = [
        (b"\x81\x02\xff\xfe", 1007),
        (b"\x82\x7f\x00\x00\x00\x01\x00\x00\x00\x00", 1009),
        (b"\x83\x00", 1002),
    ];
    for (bytes, code) in cases {
        let (near, mut far) = against_raw(quiet(Role::Client));
        far.stream.write_all(bytes).expect("open");
        let events = far.rest();
        assert!(events[0].contains(&code.to_string()), "{events:?}");
        let ending = near.link.wait();
        assert_eq!((ending.by, ending.code), (EndedBy::Us, Some(code)));
        assert!(ending.why.starts_with("the peer broke the protocol"));
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused() {
    let (near, mut far) = against_raw(Settings {
        max_message: 1000,
        ..quiet(Role::Server)
    });
    far.send(Opcode::Binary, &[7; 1000]).expect("open");
    assert_eq!(near.next(), Seen::Binary(vec![7; 1000]));
    far.send(Opcode::Binary, &[7; 1001]).expect("open");
    assert_eq!(near.link.wait().code, Some(1009));
}

#[test]
fn abort_ends_it_now() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    near.link.abort("the watchdog barked");
    let ending = near.link.wait();
    assert_eq!((ending.by, ending.code), (EndedBy::Us, None));
    assert_eq!(ending.why, "the watchdog barked");
    assert!(far.rest().is_empty());
}

#[test]
fn the_first_reason_counts() {
    let (near, _far) = against_raw(quiet(Role::Client));
    near.link.close(1000, "first");
    near.link.abort("second");
    assert_eq!(near.link.wait().why, "closed: first");
}

#[test]
fn both_close_at_once() {
    for _ in 0..20 {
        let (near, far) = tcp_pair();
        let near = Watched::start(Halves::plain(near), quiet(Role::Client));
        let far = Watched::start(Halves::plain(far), quiet(Role::Server));
        near.link.close(1000, "");
        far.link.close(1001, "");
        assert!(near.link.wait().code.is_some());
        assert!(far.link.wait().code.is_some());
    }
}

#[test]
fn a_receiver_that_panics_ends_its_link() {
    struct Panics;
    impl Receiver for Panics {
        fn text(&mut self, _: &str) {
            panic!("on purpose");
        }
        fn binary(&mut self, _: &[u8]) {}
    }
    let (near, far) = tcp_pair();
    let link = Link::start(Halves::plain(near), quiet(Role::Client), |_| Panics).expect("started");
    let far = Watched::start(Halves::plain(far), quiet(Role::Server));
    far.text(bulk(), "boo").expect("open");
    let ending = link.wait();
    assert_eq!(ending.by, EndedBy::Us);
    assert_eq!(ending.why, "link-reader panicked");
}

#[test]
fn a_handle_holds_no_descriptor_of_an_ended_link() {
    let (near, far) = tcp_pair();
    let near = Watched::start(Halves::plain(near), quiet(Role::Client));
    let mut far = TcpStream::from(far);
    near.link.abort("test");
    near.link.wait();
    // The socket is closed, not merely shut down: writing to it is refused.
    until("the peer's kernel hears of it", || {
        far.write_all(b"x").is_err()
    });
}

#[test]
fn a_peer_that_breaks_tls_gets_the_alert() {
    let (near, mut far) = tls_pair(&TLS13);
    let near = Watched::start(near, quiet(Role::Client));
    far.socket
        .send(b"plain text on a TLS connection")
        .expect("send");
    let ending = near.link.wait();
    assert_eq!(ending.by, EndedBy::Network, "{ending}");
    let error = far.read.fill().expect_err("an alert");
    assert!(error.to_string().contains("alert"), "{error}");
}
