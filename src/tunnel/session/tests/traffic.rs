//! Bytes that go both ways.

use super::pair::{Pair, start};
use super::*;
use crate::link::Message;
use crate::tunnel::session::Payload;
use crate::yamux::{Datagram, HEADER, Input, MAX_PAYLOAD};

/// The byte of stream `id` at `at`.
fn byte(id: u32, at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ id as u8 ^ (at >> 11) as u8
}

/// Sends `count` bytes in pieces of any size, then finishes.
fn send(stream: &Stream, count: usize) {
    let mut at = 0;
    while at < count {
        let room = stream.room(Some(soon())).expect("room");
        let len = fastrand::usize(1..=room).min(count - at);
        let mut payload = Payload::new();
        payload.fill(|buf| buf.extend((at..at + len).map(|at| byte(stream.id(), at))));
        stream.send(payload, Some(soon())).expect("sent");
        at += len;
    }
    stream.finish();
}

/// Reads to the end: how many bytes, each of them right.
fn receive(stream: &Stream) -> usize {
    stream.join_frames();
    let mut at = 0;
    loop {
        match stream.read(Some(soon())).expect("not cut") {
            Input::Some(chunk) => {
                for &byte_read in &chunk[..] {
                    assert_eq!(byte_read, byte(stream.id(), at), "at {at}");
                    at += 1;
                }
                stream.give_back(chunk);
            }
            Input::End => return at,
            Input::Wait => panic!("nothing came"),
        }
    }
}

/// Sends back what comes.
pub(super) fn echo(stream: Stream) {
    start("echo", move || {
        stream.join_frames();
        while let Ok(Input::Some(chunk)) = stream.read(Some(soon())) {
            stream
                .send(Payload::from(&chunk[..]), Some(soon()))
                .expect("sent");
            stream.give_back(chunk);
        }
        stream.finish();
    });
}

#[test]
fn bulk_both_ways_on_several_streams_arrives_as_it_was_sent() {
    const BYTES: usize = 1 << 20;
    let pair = Pair::new(|stream: Stream| {
        start("agent", move || {
            let other = stream.clone();
            let sender = start("agent-send", move || send(&other, BYTES));
            assert_eq!(receive(&stream), BYTES);
            sender.join().expect("caught").expect("no panic");
        });
    });
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let stream = pair.plane.open(soon()).expect("opened");
            let other = stream.clone();
            let sender = start("plane-send", move || send(&other, BYTES));
            let receiver = start("plane-receive", move || {
                assert_eq!(receive(&stream), BYTES);
            });
            [sender, receiver]
        })
        .collect();
    for thread in streams.into_iter().flatten() {
        thread.join().expect("caught").expect("no panic");
    }
    assert_eq!(pair.plane.drain(soon()), 0);
    assert_eq!(pair.agent.drain(soon()), 0);
    pair.end().assert_none();
}

#[test]
fn a_thousand_streams_at_once() {
    let pair = Pair::new(echo);
    let plane = pair.plane.clone();
    let streams: Vec<_> = (0..1000)
        .map(|_| {
            let stream = plane.open(soon()).expect("opened");
            let hello = Payload::from(&[byte(stream.id(), 0)][..]);
            stream.send(hello, Some(soon())).expect("sent");
            stream
        })
        .collect();
    assert_eq!(plane.figures().streams, 1000);
    let threads: Vec<_> = streams
        .chunks(125)
        .map(|streams| {
            let streams = streams.to_vec();
            start("plane", move || {
                for stream in &streams {
                    let more = (1..3000).map(|at| byte(stream.id(), at));
                    let more = Payload::from(&more.collect::<Vec<_>>()[..]);
                    stream.send(more, Some(soon())).expect("sent");
                    stream.finish();
                }
                for stream in &streams {
                    assert_eq!(receive(stream), 3000);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("caught").expect("no panic");
    }
    drop(streams);
    drop(plane);
    assert_eq!(pair.plane.drain(soon()), 0);
    assert_eq!(pair.agent.drain(soon()), 0);
    pair.end().assert_none();
}

#[test]
fn what_precedes_the_data_is_parsed_where_it_lies() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    ours.peer_data(2, b"he");
    let take = |bytes: &mut &[u8]| {
        let taken = bytes.to_vec();
        *bytes = &[];
        taken
    };
    assert_eq!(stream.parse(None, take), Ok(Input::Some(b"he".to_vec())));
    ours.peer_data(2, b"ader|data");
    let to_bar = |bytes: &mut &[u8]| {
        let at = bytes.iter().position(|&byte| byte == b'|').expect("there");
        let (taken, rest) = bytes.split_at(at + 1);
        *bytes = rest;
        taken.to_vec()
    };
    let parsed = stream.parse(None, to_bar);
    assert_eq!(parsed, Ok(Input::Some(b"ader|".to_vec())));
    let Ok(Input::Some(chunk)) = stream.read(None) else {
        panic!("the rest is data");
    };
    assert_eq!(&chunk[..], b"data");
    stream.give_back(chunk);
    let past = Some(Instant::now());
    assert_eq!(stream.parse(past, take), Ok(Input::Wait));
    ours.peer(Header::window(2, Flags::FIN, 0));
    assert_eq!(stream.parse(None, take), Ok(Input::End));
}

#[test]
fn datagrams_keep_their_ends_and_are_dropped_when_there_is_no_room() {
    let mut ours = Ours::new();
    let stream = ours.open(2);
    ours.peer_data(2, b"one");
    ours.peer_data(2, &[7; 2000]);
    ours.peer_data(2, b"three");
    let mut out = Vec::new();
    let past = Some(Instant::now());
    let next = |out: &mut Vec<u8>| stream.read_datagram(1500, out, past);
    assert_eq!(next(&mut out), Ok(Input::Some(Datagram::Whole(3))));
    assert_eq!(next(&mut out), Ok(Input::Some(Datagram::TooLong(2000))));
    assert_eq!(next(&mut out), Ok(Input::Some(Datagram::Whole(5))));
    assert_eq!(next(&mut out), Ok(Input::Wait));
    assert_eq!(out, b"onethree");

    let datagram = |len: usize| Payload::from(&vec![1; len][..]);
    assert_eq!(stream.try_send_datagram(datagram(0)), Ok(false));
    // Larger than a frame of a byte stream may be.
    assert_eq!(stream.try_send_datagram(datagram(65_507)), Ok(true));
    assert_eq!(stream.try_send_datagram(datagram(9)), Ok(true));
    assert_eq!(stream.try_send_datagram(datagram(9)), Ok(false));
    let written = [Header::data(2, 65_507), Header::data(2, 9)];
    assert_eq!(ours.frames(), written);
    assert_eq!(stream.try_send_datagram(datagram(9)), Ok(true));
}

#[test]
fn a_payload_goes_out_from_where_it_lies() {
    let mut payload = Payload::new();
    let at = payload.fill(|buf| {
        let at = buf.as_ptr().wrapping_add(buf.len());
        buf.resize(buf.len() + MAX_PAYLOAD, 5);
        at
    });
    assert_eq!(payload.len(), MAX_PAYLOAD);
    let header = Header::data(2, MAX_PAYLOAD as u32);
    let mut messages = Vec::new();
    payload.into_messages(&header, &mut messages);
    let [message] = &messages[..] else {
        panic!("{messages:?}")
    };
    assert_eq!(message.payload()[..HEADER], header.encode());
    assert_eq!(message.payload()[HEADER..], vec![5; MAX_PAYLOAD]);
    assert_eq!(message.payload()[HEADER..].as_ptr(), at);
}

#[test]
fn a_long_datagram_is_one_frame_in_messages_of_32_kib_at_most() {
    for (len, count) in [(MAX_PAYLOAD, 1), (MAX_PAYLOAD + 1, 2), (65_507, 3)] {
        let bytes: Vec<u8> = (0..len).map(|at| byte(2, at)).collect();
        let header = Header::data(2, len as u32);
        let mut messages = Vec::new();
        Payload::from(&bytes[..]).into_messages(&header, &mut messages);
        assert_eq!(messages.len(), count, "{len}");
        let payloads: Vec<&[u8]> = messages.iter().map(Message::payload).collect();
        assert!(payloads.iter().all(|part| part.len() <= 32 << 10), "{len}");
        assert!(payloads.concat() == [&header.encode()[..], &bytes].concat());
    }
}
