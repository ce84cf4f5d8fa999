//! Any bytes, in any slices, in both roles: ours and tungstenite's reader find the
//! same messages and then both go on, or both refuse.
//!
//! Differences that are wanted:
//! - Ours refuses as soon as it can tell (a header, the first invalid byte of a
//!   text); tungstenite waits for the frame's end. So tungstenite is shown enough
//!   zeros behind the stream to end any frame that fits in the limit.
//! - A close frame with a code that must not be on the wire is a refusal for us;
//!   tungstenite hands out a close with code 1002 in its place.
//! - 1014 (bad gateway, IANA's registry) is a code like others for us, and one of
//!   those for tungstenite.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use tungstenite::protocol::{Role as TheirRole, WebSocket, WebSocketConfig};

use super::fuzz::{LIMIT, Seen, TAKES_PIECES, ours};
use super::{CloseFrame, Header, Opcode, mask};
use crate::websocket::Role;

/// A stream that gives what it has, then "would block" for ever.
struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buf)
    }
}

impl Write for Bytes<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(role: Role, stream: &[u8]) -> Vec<Seen> {
    let role = match role {
        Role::Client => TheirRole::Client,
        Role::Server => TheirRole::Server,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(64)
        .max_message_size(Some(LIMIT))
        .max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Bytes(stream), role, Some(config));
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(tungstenite::Message::Text(text)) => Seen::Text(text.as_str().to_owned()),
            Ok(tungstenite::Message::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Ok(tungstenite::Message::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
            Ok(tungstenite::Message::Pong(bytes)) => Seen::Pong(bytes.to_vec()),
            Ok(tungstenite::Message::Close(close)) => {
                seen.push(match close {
                    Some(close) if close.reason.as_str() == "Protocol violation" => Seen::Refused,
                    close => Seen::Close(close.map_or_else(CloseFrame::default, |close| {
                        CloseFrame::new(close.code.into(), close.reason.as_str())
                    })),
                });
                return seen;
            }
            Ok(tungstenite::Message::Frame(_)) => unreachable!("never read"),
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return seen;
            }
            Err(_) => {
                seen.push(Seen::Refused);
                return seen;
            }
        });
    }
}

fn compare(role: Role, stream: &[u8], cuts: &[usize]) -> Result<(), TestCaseError> {
    let [mut ours, in_pieces, mixed] =
        TAKES_PIECES.map(|takes_pieces| ours(role, stream, cuts, takes_pieces));
    prop_assert_eq!(&in_pieces, &ours);
    prop_assert_eq!(&mixed, &ours);
    let mut theirs_seen = theirs(role, stream);
    if ours.last() == Some(&Seen::Refused) && theirs_seen.last() != Some(&Seen::Refused) {
        // Refused early: with the frame's end they refuse as well.
        let padded = [stream, &[0; LIMIT + 14]].concat();
        theirs_seen = theirs(role, &padded);
    }
    if let Some(Seen::Close(close)) = ours.last_mut()
        && close.code == Some(1014)
    {
        *ours.last_mut().expect("looked at") = Seen::Refused;
    }
    prop_assert_eq!(ours, theirs_seen);
    Ok(())
}

/// One frame, mostly a sensible one.
fn frame(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        3 => Just(Opcode::Continuation),
        3 => Just(Opcode::Text),
        2 => Just(Opcode::Binary),
        1 => Just(Opcode::Close),
        1 => Just(Opcode::Ping),
        1 => Just(Opcode::Pong),
    ];
    (opcode, any::<bool>(), payload(), any::<[u8; 4]>()).prop_map(
        move |(opcode, fin, mut payload, key)| {
            if opcode.is_control() {
                payload.truncate(125);
            }
            build(
                opcode,
                fin || opcode.is_control(),
                masked.then_some(key),
                payload,
            )
        },
    )
}

fn build(opcode: Opcode, fin: bool, key: Option<[u8; 4]>, mut payload: Vec<u8>) -> Vec<u8> {
    let header = Header {
        fin,
        opcode,
        mask: key,
        len: payload.len() as u64,
    };
    if let Some(key) = key {
        mask(&mut payload, key, 0);
    }
    let (head, size) = header.encode();
    [&head[..size], &payload].concat()
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => any::<String>().prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        1 => prop::collection::vec(any::<u8>(), 100..LIMIT + 10),
        1 => (900u16..5100, ".{0,8}").prop_map(|(code, reason)| {
            [&code.to_be_bytes()[..], reason.as_bytes()].concat()
        }),
        1 => Just(Vec::new()),
    ]
}

/// What stands right at a border.
fn border(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let key = any::<[u8; 4]>().prop_map(move |key| masked.then_some(key));
    let codes = vec![
        999u16, 1000, 1003, 1004, 1006, 1007, 1013, 1014, 1015, 1016, 2999, 3000, 4999, 5000,
    ];
    let close = (prop::sample::select(codes), key.clone())
        .prop_map(|(code, key)| build(Opcode::Close, true, key, code.to_be_bytes().to_vec()));
    let control = prop_oneof![Just(Opcode::Ping), Just(Opcode::Pong), Just(Opcode::Close)];
    let control = (control, any::<bool>(), 123usize..128, key.clone())
        .prop_map(|(opcode, fin, len, key)| build(opcode, fin, key, vec![3; len]));
    // Fragments whose sum is the limit, or a little less or more.
    let sum = (
        LIMIT - 2..LIMIT + 3,
        0..LIMIT - 2,
        any::<bool>(),
        key.clone(),
    );
    let sum = sum.prop_map(|(sum, first, text, key)| {
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        let first_frame = build(opcode, false, key, vec![b'a'; first]);
        let rest = build(Opcode::Continuation, true, key, vec![b'b'; sum - first]);
        [first_frame, rest].concat()
    });
    // A length in more bytes than it needs.
    let long = (0..LIMIT + 3, any::<bool>(), key).prop_map(|(len, longest, key)| {
        let mut head = vec![0x82, u8::from(key.is_some()) << 7];
        if longest {
            head[1] |= 0x7f;
            head.extend((len as u64).to_be_bytes());
        } else {
            head[1] |= 0x7e;
            head.extend((len as u16).to_be_bytes());
        }
        head.extend(key.into_iter().flatten());
        head.extend(vec![7; len]);
        head
    });
    prop_oneof![close, control, sum, long]
}

/// A valid message in fragments that are cut anywhere, also inside characters, with
/// control frames in between.
fn message(masked: bool) -> impl Strategy<Value = Vec<u8>> {
    let fragments = prop::collection::vec((0usize..60, any::<bool>(), any::<[u8; 4]>()), 1..6);
    ("\\PC{0,60}", any::<bool>(), fragments).prop_map(move |(text, is_text, fragments)| {
        let mut stream = Vec::new();
        let mut rest = text.as_bytes();
        let last = fragments.len() - 1;
        for (i, (len, ping, key)) in fragments.into_iter().enumerate() {
            let key = masked.then_some(key);
            if ping && i > 0 {
                stream.extend(build(Opcode::Ping, true, key, b"in between".to_vec()));
            }
            let len = if i == last {
                rest.len()
            } else {
                len.min(rest.len())
            };
            let opcode = match (i, is_text) {
                (0, true) => Opcode::Text,
                (0, false) => Opcode::Binary,
                _ => Opcode::Continuation,
            };
            stream.extend(build(opcode, i == last, key, rest[..len].to_vec()));
            rest = &rest[len..];
        }
        stream
    })
}

/// Streams for a reader of the given role.
fn stream(role: Role) -> impl Strategy<Value = Vec<u8>> {
    let masked = role == Role::Server;
    let part = prop_oneof![
        6 => message(masked),
        2 => frame(masked),
        2 => border(masked),
        1 => frame(!masked),
    ];
    let parts = prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat());
    let garbage = prop::collection::vec(any::<u8>(), 0..200);
    let flips = prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..3);
    let mutated = (parts.clone(), flips).prop_map(|(mut stream, flips)| {
        for (at, bit) in flips {
            if !stream.is_empty() {
                let at = at.index(stream.len());
                stream[at] ^= 1 << bit;
            }
        }
        stream
    });
    prop_oneof![3 => parts, 3 => mutated, 1 => garbage]
}

fn cuts(stream: &[u8], cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_client_reads_what_tungstenite_reads(
        stream in stream(Role::Client),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        compare(Role::Client, &stream, &cuts(&stream, &at))?;
    }

    #[test]
    fn a_server_reads_what_tungstenite_reads(
        stream in stream(Role::Server),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        compare(Role::Server, &stream, &cuts(&stream, &at))?;
    }

    #[test]
    fn byte_by_byte_is_the_same(stream in stream(Role::Server)) {
        let every: Vec<usize> = (0..stream.len()).collect();
        compare(Role::Server, &stream, &every)?;
    }
}
