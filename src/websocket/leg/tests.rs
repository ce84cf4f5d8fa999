//! Legs over real sockets on loopback, with tungstenite at the other end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use socket2::{Domain, Socket, Type};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame as TheirClose, Role as TheirRole, WebSocket};
use tungstenite::{Error, Message};

use super::*;
use crate::net::testing::{tcp_pair, tls_pair};
use crate::net::{Cancel, Reason};

const LONG: Duration = Duration::from_mins(1);

const LIMITS: Limits = Limits {
    max_message: 1 << 20,
    write_limit: None,
    keepalive: None,
};

type Kept = (Kind, Vec<u8>);

/// A leg whose messages are kept.
struct Leg {
    writer: Writer,
    messages: Receiver<Kept>,
    reading: JoinHandle<End>,
}

impl Leg {
    fn open(halves: Halves, role: Role, limits: Limits) -> Self {
        let (reader, writer) = open(halves, role, limits).expect("set up");
        let (sender, messages) = channel();
        let reading = thread::spawn(move || {
            reader.run(|data| {
                let _ = sender.send((data.kind, data.payload.to_vec()));
                ControlFlow::Continue(())
            })
        });
        Self {
            writer,
            messages,
            reading,
        }
    }

    fn end(self) -> End {
        self.reading.join().expect("no panic")
    }
}

/// A leg and tungstenite.
fn against(role: Role, limits: Limits) -> (Leg, WebSocket<TcpStream>) {
    let (near, far) = tcp_pair();
    let theirs = match role {
        Role::Client => TheirRole::Server,
        Role::Server => TheirRole::Client,
    };
    let far = WebSocket::from_raw_socket(far.into(), theirs, None);
    (Leg::open(Halves::plain(near), role, limits), far)
}

#[test]
fn messages_pass_both_ways_in_both_roles() {
    for role in [Role::Client, Role::Server] {
        let (leg, mut far) = against(role, LIMITS);
        let large: Vec<u8> = (0..900_000u32).map(|n| n as u8).collect();
        let sent = large.clone();
        let writer = leg.writer.clone();
        let writing = thread::spawn(move || {
            writer.send(Kind::Text, &mut b"hi".to_vec()).expect("sent");
            writer.send(Kind::Binary, &mut []).expect("sent");
            writer.send(Kind::Binary, &mut sent.clone()).expect("sent");
        });
        assert_eq!(far.read().expect("read"), Message::text("hi"));
        assert_eq!(far.read().expect("read"), Message::binary(vec![]));
        assert_eq!(far.read().expect("read"), Message::binary(large.clone()));
        writing.join().expect("no panic");
        far.send(Message::text("ü")).expect("sent");
        far.send(Message::binary(large.clone())).expect("sent");
        let next = || leg.messages.recv().expect("open");
        assert_eq!(next(), (Kind::Text, "ü".into()));
        assert_eq!(next(), (Kind::Binary, large));
    }
}

/// Messages of several threads, pings of the clock, and pongs for the peer's.
#[test]
fn t27_what_is_written_at_once_never_mixes() {
    const EACH: usize = 200;
    let limits = Limits {
        keepalive: Some(Keepalive {
            every: Duration::from_millis(1),
            silence: LONG,
            misses: 3,
        }),
        ..LIMITS
    };
    let (leg, mut far) = against(Role::Client, limits);
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let writer = &leg.writer;
            scope.spawn(move || {
                for number in 0..EACH {
                    let mut payload = vec![thread; 100 * (number + 1)];
                    writer.send(Kind::Binary, &mut payload).expect("sent");
                    writer.ping(&mut [thread; 10]).expect("sent");
                }
            });
        }
        let mut lengths = [0; 4];
        while lengths.iter().any(|length| *length < 100 * EACH) {
            far.send(Message::Ping(vec![9; 100].into())).expect("sent");
            match far.read().expect("frames") {
                Message::Binary(payload) => {
                    let thread = payload[0];
                    assert!(payload.iter().all(|byte| *byte == thread));
                    let length = &mut lengths[usize::from(thread)];
                    *length += 100;
                    assert_eq!(payload.len(), *length, "in order");
                }
                Message::Ping(payload) => {
                    assert!(payload.windows(2).all(|pair| pair[0] == pair[1]));
                }
                Message::Pong(payload) => assert_eq!(&payload[..], [9; 100]),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn messages_pass_over_tls() {
    let (near, far) = tls_pair(&rustls::version::TLS13);
    let near = Leg::open(near, Role::Client, LIMITS);
    let far = Leg::open(far, Role::Server, LIMITS);
    near.writer
        .send(Kind::Binary, &mut b"there".to_vec())
        .expect("sent");
    far.writer
        .send(Kind::Text, &mut b"back".to_vec())
        .expect("sent");
    let expected = (Kind::Binary, b"there".to_vec());
    assert_eq!(far.messages.recv(), Ok(expected));
    assert_eq!(near.messages.recv(), Ok((Kind::Text, b"back".to_vec())));
    near.writer.close(1000, "done", LONG);
    assert!(matches!(far.end(), End::Closed { code: Some(1000), reason } if reason == "done"));
    assert!(matches!(
        near.end(),
        End::Closed {
            code: Some(1000),
            ..
        }
    ));
}

/// An origin may be one: it has no TCP options, and the leg failed behind its 101.
#[test]
fn messages_pass_over_a_unix_socket() {
    let (near, far) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair");
    let near = Leg::open(Halves::plain(near), Role::Client, LIMITS);
    let far = Leg::open(Halves::plain(far), Role::Server, LIMITS);
    near.writer
        .send(Kind::Text, &mut b"there".to_vec())
        .expect("sent");
    assert_eq!(far.messages.recv(), Ok((Kind::Text, b"there".to_vec())));
    near.writer.close(1000, "", LONG);
    assert!(matches!(far.end(), End::Closed { .. }));
    assert!(matches!(near.end(), End::Closed { .. }));
}

#[test]
fn pings_are_answered_with_what_they_carry() {
    let (_leg, mut far) = against(Role::Client, LIMITS);
    far.send(Message::Ping(vec![1, 2, 3].into())).expect("sent");
    let pong = far.read().expect("read");
    assert_eq!(pong, Message::Pong(vec![1, 2, 3].into()));
}

#[test]
fn a_close_is_seen_with_its_code_and_answered() {
    let (leg, mut far) = against(Role::Client, LIMITS);
    far.close(Some(TheirClose {
        code: CloseCode::Library(4001),
        reason: "enough".into(),
    }))
    .expect("sent");
    let answer = far.read().expect("an echo");
    assert!(
        matches!(&answer, Message::Close(Some(close)) if close.code == CloseCode::Library(4001)),
        "{answer:?}"
    );
    let mut late = b"late".to_vec();
    let error = leg.writer.send(Kind::Text, &mut late).expect_err("closed");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    match leg.end() {
        End::Closed { code, reason } => {
            assert_eq!((code, reason.as_str()), (Some(4001), "enough"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_close_of_ours_comes_behind_all_messages_and_waits_for_the_peer_s() {
    for role in [Role::Client, Role::Server] {
        let (leg, mut far) = against(role, LIMITS);
        let writer = leg.writer.clone();
        let closing = thread::spawn(move || {
            writer
                .send(Kind::Text, &mut b"last".to_vec())
                .expect("sent");
            writer.close(1000, "", LONG);
        });
        assert_eq!(far.read().expect("read"), Message::text("last"));
        assert!(matches!(far.read().expect("read"), Message::Close(Some(_))));
        // Its answer goes out with the next call.
        assert!(matches!(
            far.read(),
            Err(Error::ConnectionClosed | Error::Io(_))
        ));
        closing.join().expect("no panic");
        assert!(matches!(
            leg.end(),
            End::Closed {
                code: Some(1000),
                ..
            }
        ));
    }
}

#[test]
fn a_peer_that_doesn_t_answer_a_close_is_cut_off() {
    let (leg, _far) = against(Role::Client, LIMITS);
    leg.writer.close(1000, "", Duration::from_millis(20));
    assert!(matches!(leg.end(), End::Lost(_)));
}

#[test]
fn a_peer_that_takes_nothing_holds_up_no_close_for_long() {
    let (leg, _far) = against(Role::Client, LIMITS);
    let writer = leg.writer.clone();
    let writing = thread::spawn(move || {
        let mut block = vec![0; 1 << 20];
        while writer.send(Kind::Binary, &mut block).is_ok() {}
    });
    leg.writer.close(1000, "", Duration::from_millis(20));
    writing.join().expect("no panic");
    assert!(matches!(leg.end(), End::Lost(_)));
}

#[test]
fn a_cut_in_a_frame_is_no_message_and_no_close() {
    let (near, far) = tcp_pair();
    let leg = Leg::open(Halves::plain(near), Role::Client, LIMITS);
    let mut far: TcpStream = far.into();
    far.write_all(b"\x81\x05hel").expect("written");
    drop(far);
    assert!(leg.messages.recv().is_err(), "half a message");
    assert!(matches!(leg.end(), End::Lost(None)));
}

#[test]
fn what_breaks_the_protocol_is_refused_with_its_code() {
    for (bytes, code) in [
        (&b"\x83\x00"[..], 1002u16),
        (b"\x81\x01\xff", 1007),
        (b"\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x01", 1009),
    ] {
        let (near, far) = tcp_pair();
        let leg = Leg::open(Halves::plain(near), Role::Server, LIMITS);
        let mut far: TcpStream = far.into();
        // A client's frames are masked: so is this one, with zeros.
        let mut frame = bytes.to_vec();
        frame[1] |= 0x80;
        let payload = if code == 1007 {
            frame.split_off(2)
        } else {
            Vec::new()
        };
        frame.extend([0; 4]);
        frame.extend(payload);
        far.write_all(&frame).expect("written");
        let mut close = [0; 4];
        far.read_exact(&mut close).expect("a close frame");
        assert_eq!(close[0], 0x88);
        assert_eq!(close[2..], code.to_be_bytes());
        drop(far);
        assert!(matches!(leg.end(), End::Refused(_)));
    }
}

#[test]
fn a_silent_peer_is_pinged_and_then_given_up() {
    let short = Duration::from_millis(5);
    let keepalive = Keepalive {
        every: short,
        silence: short,
        misses: 3,
    };
    let limits = Limits {
        keepalive: Some(keepalive),
        ..LIMITS
    };
    let (near, far) = tcp_pair();
    let leg = Leg::open(Halves::plain(near), Role::Server, limits);
    let mut said = Vec::new();
    TcpStream::from(far).read_to_end(&mut said).expect("read");
    assert_eq!(said[..4], [0x89, 0, 0x89, 0], "pings");
    assert!(said.ends_with(b"\x03\xe9ping timeout"), "{said:x?}");
    assert!(matches!(leg.end(), End::Silent));
}

#[test]
fn whoever_answers_pings_lives_on() {
    let short = Duration::from_millis(5);
    let limits = Limits {
        keepalive: Some(Keepalive {
            every: short,
            silence: Duration::from_secs(30),
            misses: 1,
        }),
        ..LIMITS
    };
    let (leg, mut far) = against(Role::Client, limits);
    for _ in 0..5 {
        assert!(matches!(far.read().expect("open"), Message::Ping(_)));
    }
    far.send(Message::text("alive")).expect("sent");
    assert_eq!(leg.messages.recv(), Ok((Kind::Text, b"alive".to_vec())));
}

/// The peer writes, pings, and reads nothing until all is written: as a server does
/// that is one loop.
#[test]
fn a_peer_that_pings_and_doesn_t_read_stops_nothing() {
    let (leg, mut far) = against(Role::Client, LIMITS);
    let writer = leg.writer.clone();
    let writing = thread::spawn(move || {
        for _ in 0..16 {
            writer
                .send(Kind::Binary, &mut vec![7; 1 << 20])
                .expect("sent");
        }
    });
    for _ in 0..16 {
        far.send(Message::Ping(vec![1].into())).expect("sent");
        far.send(Message::binary(vec![0; 1 << 20])).expect("sent");
    }
    for _ in 0..16 {
        assert_eq!(leg.messages.recv().expect("open").1.len(), 1 << 20);
    }
    let (mut messages, mut pongs) = (0, 0);
    while messages < 16 || pongs == 0 {
        match far.read().expect("open") {
            Message::Binary(payload) => {
                assert_eq!(payload.len(), 1 << 20);
                assert!(payload.iter().all(|byte| *byte == 7));
                messages += 1;
            }
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    writing.join().expect("no panic");
}

#[test]
fn whoever_has_enough_stops_and_a_cancel_ends_what_waits() {
    let (near, far) = tcp_pair();
    let mut far = WebSocket::from_raw_socket(TcpStream::from(far), TheirRole::Server, None);
    let (reader, _writer) = open(Halves::plain(near), Role::Client, LIMITS).expect("set up");
    far.send(Message::text("a")).expect("sent");
    far.send(Message::text("b")).expect("sent");
    let mut count = 0;
    let end = reader.run(|_| {
        count += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(end, End::Stopped));
    assert_eq!(count, 1);

    let (near, _far) = tcp_pair();
    let halves = Halves::plain(near);
    let cancel = Cancel::new();
    let _guard = cancel.on_socket(halves.socket.clone()).expect("not yet");
    let leg = Leg::open(halves, Role::Client, LIMITS);
    cancel.cancel(Reason::Cancelled);
    assert!(matches!(leg.end(), End::Lost(_)));
}
