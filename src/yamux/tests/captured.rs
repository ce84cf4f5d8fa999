//! The original and its peer, recorded (`tests/golden/yamux.jsonl`, both made of
//! hashicorp's library): either of our ends can take their place.

use std::collections::VecDeque;

use super::endpoint::Tap;
use super::*;
use crate::yamux::{Decoder, Event, Kind};

/// One binary message. Bulk payloads were left out: zeros stand for them.
struct Message {
    line: u64,
    by_agent: bool,
    bytes: Vec<u8>,
}

fn recorded(conn: &str) -> Vec<Message> {
    let file = include_str!("../../../tests/golden/yamux.jsonl");
    let lines = file.lines().map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (entry["conn"] == conn).then(|| Message {
            line: entry["line"].as_u64().expect("a number"),
            by_agent: entry["dir"] == "agent",
            bytes: match entry["len"].as_u64() {
                Some(len) => vec![0; len as usize],
                None => unhex(entry["hex"].as_str().expect("hex")),
            },
        })
    });
    lines.flatten().collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex
        .chars()
        .map(|c| c.to_digit(16).expect("hex") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// The frames of one end: each with the line in which it begins.
fn frames(messages: &[Message], by_agent: bool) -> Vec<(u64, Header)> {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for message in messages
        .iter()
        .filter(|message| message.by_agent == by_agent)
    {
        let mut bytes = &message.bytes[..];
        while let Some(event) = decoder.next(&mut bytes).expect("valid") {
            if let Event::Frame(header) = event {
                frames.push((message.line, header));
            }
        }
    }
    frames
}

#[test]
fn the_rules_that_we_check_are_theirs_too() {
    let messages = recorded("gateway#1");
    let mut all = frames(&messages, true);
    all.extend(
        frames(&messages, false)
            .iter()
            .map(|(line, header)| (*line, *header)),
    );
    let agents = frames(&messages, true);
    all.sort_by_key(|(line, _)| *line);
    let mut tap = Tap::default();
    for (line, header) in &all {
        let by_agent = agents.iter().any(|(agents, _)| agents == line);
        tap.watch(usize::from(by_agent), header);
    }
    assert_eq!(all.len(), 88);
}

/// What the peer wrote in `lines`, given to our end, which reads all of it at once.
fn upload(lines: std::ops::RangeInclusive<u64>) -> Vec<Header> {
    let mut ours = Ours::agent();
    let mut streams = Vec::new();
    let mut written = Vec::new();
    for message in recorded("gateway#1") {
        if message.by_agent || !lines.contains(&message.line) {
            continue;
        }
        let now = ours.now;
        ours.end.receive(&message.bytes, now).expect("allowed");
        streams.extend(ours.end.hub.accepted.drain(..));
        for stream in &streams {
            ours.read_all(stream);
            if ours.read(stream) == Ok(Input::End) {
                ours.finish(stream);
            }
        }
        written.extend(ours.written());
    }
    assert_eq!(ours.streams(), 0);
    written
}

#[test]
fn the_agents_end_answers_as_the_original_did() {
    let original = |stream: u32| {
        let frames = frames(&recorded("gateway#1"), true).into_iter();
        let of_stream = frames
            .map(|(_, header)| header)
            .filter(move |header| header.id == stream);
        of_stream
            .filter(|header| header.kind != Kind::Data)
            .collect::<Vec<_>>()
    };
    // An upload: the window updates are equal to the byte.
    assert_eq!(upload(291..=316), original(12));
    assert_eq!(
        original(12)[1..3],
        [update(12, 131_101), update(12, 131_072)]
    );
    // A header in nine writes, half closed by the peer.
    assert_eq!(upload(197..=221), original(4));
}

#[test]
fn the_planes_end_says_what_the_originals_peer_did() {
    let messages = recorded("gateway#1");
    let mut ours = Ours::plane();
    let mut streams: Vec<Handle> = Vec::new();
    let mut expected: VecDeque<_> = frames(&messages, false).into();
    for message in &messages {
        if message.by_agent {
            let now = ours.now;
            ours.end.receive(&message.bytes, now).expect("allowed");
            for stream in &streams {
                ours.read_all(stream);
            }
            continue;
        }
        let Some((_, header)) = expected.pop_front_if(|(line, _)| *line == message.line) else {
            continue;
        };
        let stream = streams.last().cloned();
        match (header.kind, header.flags) {
            (Kind::Ping, _) => {
                ours.end
                    .receive(&Header::ping(Flags::SYN, 0).encode(), ours.now)
                    .expect("answered");
                ours.written();
                continue;
            }
            (_, Flags::SYN) => streams.push(ours.end.open(ours.now).expect("opens")),
            (Kind::Data, _) => ours.queue(&stream.expect("opened"), &vec![0; header.len as usize]),
            (_, Flags::FIN) => {
                let of_id = streams
                    .iter()
                    .find(|stream| stream.borrow().id() == header.id);
                ours.finish(&of_id.expect("opened").clone());
            }
            (_, Flags::RST) => ours.reset(&stream.expect("opened"), Reset::AtOnce),
            _ => {
                // Of reading: ours have been written by now, or are one larger one.
                let updates = ours.written();
                assert!(updates.iter().all(|update| update.flags == Flags::NONE));
                continue;
            }
        }
        assert_eq!(ours.written(), [header], "line {}", message.line);
    }
    assert!(expected.is_empty());
}

#[test]
fn a_peer_with_larger_windows_is_understood() {
    let messages = recorded("gateway#2");
    let mut ours = Ours::agent();
    for message in messages.iter().filter(|message| !message.by_agent) {
        let now = ours.now;
        ours.end.receive(&message.bytes, now).expect("allowed");
    }
    let stream = ours.end.hub.accepted.pop_front().expect("accepted");
    ours.queue(&stream, &vec![0; 1 << 20]);
    assert_eq!(ours.read_all(&stream).len(), 29 + 5);

    let mut plane = Ours::plane();
    let stream = plane.end.open(plane.now).expect("opens");
    plane.written();
    for message in messages.iter().filter(|message| message.by_agent) {
        let now = plane.now;
        plane.end.receive(&message.bytes, now).expect("allowed");
    }
    plane.queue(&stream, &vec![0; 1 << 20]);
    assert_eq!(plane.read_all(&stream), b"alive");
}
