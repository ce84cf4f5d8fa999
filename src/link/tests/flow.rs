//! Lanes, back-pressure, what goes between the frames of a message.

use super::*;

/// Fills the way to a peer that doesn't read until a sender waits; gives back the
/// waiting sender, which goes on when the peer reads.
fn fill(link: &Link) -> thread::JoinHandle<Result<usize, (usize, SendError)>> {
    fill_with(link, Cancel::new())
}

fn fill_with(link: &Link, cancel: Cancel) -> thread::JoinHandle<Result<usize, (usize, SendError)>> {
    let sender = link.clone();
    let filling = thread::spawn(move || {
        for count in 0..4096 {
            let message = Message::binary(8192, |buf| {
                buf.extend_from_slice(&pattern(8192));
            });
            if let Err(error) = sender.send(bulk(), message, &cancel) {
                return Err((count, error));
            }
        }
        Ok(4096)
    });
    until("a sender waits", || {
        assert!(!filling.is_finished(), "the lane takes everything");
        link.waiting() > 0
    });
    filling
}

#[test]
fn a_peer_that_reads_nothing_makes_senders_wait_and_control_goes_first() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    let filling = fill(&near.link);
    near.text(Lane::Control, "heartbeat").expect("open");
    let (mut bulk, mut before) = (0, None);
    while bulk < 4096 || before.is_none() {
        assert!(far.read(&mut |event| match event {
            Event::Binary(_) => bulk += 1,
            Event::Text(_) => before = Some(bulk),
            _ => {}
        }));
    }
    assert_eq!(filling.join().expect("no panic"), Ok(4096));
    let before = before.expect("it came");
    let queued = Settings::new(Role::Client).bulk_bytes / (8192 + 64);
    assert!(before + queued <= 4096, "{before} went before it");
}

#[test]
fn a_sender_that_is_cancelled_stops_waiting() {
    let (near, _far) = against_raw(quiet(Role::Client));
    let cancel = Cancel::new();
    let filling = fill_with(&near.link, cancel.clone());
    cancel.cancel(Reason::Deadline);
    let (_, error) = filling.join().expect("no panic").expect_err("cancelled");
    assert_eq!(error, SendError::Cancelled(Reason::Deadline));
    assert!(near.link.is_open());
}

#[test]
fn a_lost_connection_ends_waiting_senders() {
    let (near, far) = against_raw(quiet(Role::Client));
    let filling = fill(&near.link);
    // With something unread in it, a socket is closed by a reset; without, by a good end.
    far.stream.peek(&mut [0]).expect("something came");
    drop(far);
    let (_, error) = filling.join().expect("no panic").expect_err("lost");
    assert_eq!(error, SendError::Closed);
    assert_eq!(near.link.wait().by, EndedBy::Network);
    assert_eq!(near.text(Lane::Control, ""), Err(SendError::Closed));
}

#[test]
fn a_full_control_lane_ends_the_link() {
    let (near, _far) = against_raw(quiet(Role::Client));
    let _filling = fill(&near.link);
    let mut sent = 0;
    while near.text(Lane::Control, "window update").is_ok() {
        sent += 1;
    }
    assert!(sent >= 1000, "{sent}");
    let ending = near.link.wait();
    assert_eq!(ending.by, EndedBy::Us);
    assert!(ending.why.contains("control lane"), "{}", ending.why);
}

#[test]
fn a_ping_is_answered_inside_a_large_message() {
    const SIZE: usize = 64 * 1024 * 1024;
    let (near, mut far) = against_raw(quiet(Role::Server));
    near.binary(&vec![7; SIZE]).expect("open");
    assert!(far.read(&mut |_| {}), "it has begun");
    far.send(Opcode::Ping, b"are you there").expect("open");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        assert!(far.read(&mut |event| match event {
            Event::Pong(payload) => {
                assert_eq!(payload, b"are you there");
                seen.push("pong");
            }
            Event::Binary(bytes) => {
                assert_eq!(bytes.len(), SIZE);
                seen.push("message");
            }
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(seen, ["pong", "message"]);
}

#[test]
fn a_flood_of_pings_ends_the_link() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    let pings = far.frame(Opcode::Ping, &[7; 125]).repeat(1000);
    // Never reads a pong, and learns of the end although its write is blocked.
    while far.stream.write_all(&pings).is_ok() {}
    let ending = near.link.wait();
    assert_eq!(ending.by, EndedBy::Us);
    assert!(ending.why.contains("pings"), "{}", ending.why);
}

#[test]
fn frames_of_a_message_are_small_and_masked_by_different_keys() {
    let (near, mut far) = against_raw(quiet(Role::Client));
    near.binary(&pattern(200_000)).expect("open");
    near.link.close(1000, "");
    let mut bytes = Vec::new();
    let mut closed = false;
    while !closed {
        let mut buf = vec![0; 100_000];
        let count = far.stream.read(&mut buf).expect("read");
        bytes.extend_from_slice(&buf[..count]);
        far.frames
            .read(
                &mut buf[..count],
                &mut whole(|event| {
                    closed = matches!(event, Event::Close(_));
                }),
            )
            .expect("valid");
    }
    let (mut at, mut keys, mut payload) = (0, Vec::new(), Vec::new());
    while at < bytes.len() {
        // The byte layout of RFC 6455 §5.2, read without our own parser.
        let (opcode, second) = (bytes[at] & 0xf, bytes[at + 1]);
        assert!(second & 0x80 != 0, "masked");
        let (len, head) = match second & 0x7f {
            126 => (
                usize::from(bytes[at + 2]) << 8 | usize::from(bytes[at + 3]),
                4,
            ),
            127 => panic!("a large frame"),
            len => (usize::from(len), 2),
        };
        let key = &bytes[at + head..at + head + 4];
        let data = &bytes[at + head + 4..at + head + 4 + len];
        at += head + 4 + len;
        if opcode < 8 {
            assert_eq!(opcode, if payload.is_empty() { 2 } else { 0 });
            payload.extend(data.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b));
            keys.push(key.to_vec());
        }
    }
    assert!(payload == pattern(200_000));
    assert_eq!(keys.len(), 4);
    keys.dedup();
    assert_eq!(keys.len(), 4, "a key of its own for each frame");
}

/// The metric belongs to the process, so it can only be seen to have grown.
#[test]
fn bytes_that_wait_are_counted() {
    const MUCH: usize = 40 * 1024 * 1024;
    let (near, _far) = against_raw(quiet(Role::Client));
    let sender = near.link.clone();
    let sending = thread::spawn(move || {
        let message = Message::binary(MUCH, |buf| buf.resize(buf.len() + MUCH, 7));
        sender.send(bulk(), message, &Cancel::new())
    });
    until("it is counted", || {
        metrics::LINK_QUEUED_BYTES.value() >= MUCH as i64
    });
    near.link.abort("for the test");
    // It had room, or it was told that there is no link any more.
    let _ = sending.join().expect("no panic");
}
