//! A peer for the record reader, and the entry of its fuzz target
//! (`fuzz/fuzz_targets/records.rs`), which property tests run as well.

use std::cell::Cell;
use std::collections::VecDeque;

use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, HandshakeType, ProtocolVersion, Side};

use super::incoming::{Incoming, MAX_USELESS, Session, Step};
use super::record::{HEADER, Opener, Refusal, Sealed, Sealer};

/// Version and algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) version: ProtocolVersion,
    pub(super) chacha: bool,
}

impl Suite {
    /// Keys that both ends know, of the `generation`th update.
    fn secrets(self, generation: u8) -> (u64, ConnectionTrafficSecrets) {
        let key = AeadKey::from([generation; 32]);
        let iv = Iv::from([!generation; 12]);
        let secrets = if self.chacha {
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }
        } else {
            ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        };
        (0, secrets)
    }

    fn opener(self, generation: u8) -> Opener {
        Opener::new(self.version, self.secrets(generation)).expect("supported")
    }

    pub(super) fn incoming(self, side: Side) -> Incoming {
        Incoming::new(self.opener(0), self.version, side)
    }
}

/// The peer, which seals whatever it is told to.
pub(super) struct Peer {
    suite: Suite,
    generation: u8,
    sealer: Sealer,
    sealed: Sealed,
    /// All that it has sent.
    pub(super) wire: Vec<u8>,
}

impl Peer {
    pub(super) fn new(suite: Suite) -> Self {
        Self {
            suite,
            generation: 0,
            sealer: Self::sealer(suite, 0),
            sealed: Sealed::default(),
            wire: Vec::new(),
        }
    }

    pub(super) fn send(&mut self, kind: impl Into<ContentType>, content: &[u8]) {
        self.sealer
            .seal(&mut self.sealed, kind.into(), content)
            .expect("sealed");
        self.wire.extend_from_slice(self.sealed.bytes());
        self.sealed.clear();
    }

    pub(super) fn data(&mut self, content: &[u8]) {
        self.send(ContentType::ApplicationData, content);
    }

    pub(super) fn handshake(&mut self, kind: HandshakeType, payload: &[u8]) {
        self.send(ContentType::Handshake, &message(kind, payload));
    }

    /// A key update and new keys.
    pub(super) fn key_update(&mut self, ask: u8) {
        self.handshake(HandshakeType::KeyUpdate, &[ask]);
        self.generation = self.generation.wrapping_add(1);
        self.sealer = Self::sealer(self.suite, self.generation);
    }

    fn sealer(suite: Suite, generation: u8) -> Sealer {
        Sealer::new(suite.version, suite.secrets(generation), u64::MAX).expect("supported")
    }
}

/// A handshake message with its header.
pub(super) fn message(kind: HandshakeType, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut message = vec![kind.into(), a, b, c];
    message.extend_from_slice(payload);
    message
}

/// What reading asked for.
pub(super) struct Asked {
    suite: Suite,
    generation: Cell<u8>,
    pub(super) tickets: Cell<usize>,
    pub(super) answers: Cell<usize>,
    pub(super) renegotiations: Cell<usize>,
}

impl Asked {
    pub(super) fn new(suite: Suite) -> Self {
        Self {
            suite,
            generation: Cell::new(0),
            tickets: Cell::new(0),
            answers: Cell::new(0),
            renegotiations: Cell::new(0),
        }
    }
}

impl Session for Asked {
    fn ticket(&self, _payload: &[u8]) -> Result<(), Error> {
        self.tickets.set(self.tickets.get() + 1);
        Ok(())
    }

    fn new_keys(&self, answer: bool) -> Result<Opener, Error> {
        self.generation.set(self.generation.get().wrapping_add(1));
        self.answers.set(self.answers.get() + usize::from(answer));
        Ok(self.suite.opener(self.generation.get()))
    }

    fn refuse_renegotiation(&self) {
        self.renegotiations.set(self.renegotiations.get() + 1);
    }
}

/// How reading ended.
#[derive(Debug)]
pub(super) enum End {
    /// Within a record, or right behind one.
    More,
    Closed,
    #[cfg_attr(not(test), allow(dead_code))] // seen through Debug
    Refused(Refusal),
}

/// Reads what has come in pieces of the sizes that `split` says; each piece of
/// data goes to `data`.
pub(super) fn read(
    incoming: &mut Incoming,
    session: &Asked,
    wire: &[u8],
    mut split: impl FnMut() -> usize,
    mut data: impl FnMut(&[u8]),
) -> End {
    let mut buf = Vec::new();
    let mut rest = wire;
    let mut others = 0;
    loop {
        match incoming.next(&mut buf, session) {
            Ok(Step::Incomplete(need)) => {
                assert!(need > buf.len() && need <= HEADER + 0xffff);
                if rest.is_empty() {
                    return End::More;
                }
                let (piece, behind) = rest.split_at(split().clamp(1, rest.len()));
                buf.extend_from_slice(piece);
                rest = behind;
            }
            Ok(Step::Data { at, used }) => {
                assert!(!at.is_empty() && at.end <= used);
                data(&buf[at]);
                buf.drain(..used);
                others = 0;
            }
            Ok(Step::Other { used }) => {
                buf.drain(..used);
                others += 1;
                // A message may be cut into as many records as it has bytes.
                assert!(others <= (MAX_USELESS as usize + 1) * 0x1_0004);
            }
            Ok(Step::Closed) => return End::Closed,
            Err(refusal) => return End::Refused(refusal),
        }
    }
}

/// Runs `input` as a program: what a peer sends, honest or not. Data that it
/// sealed arrives in order and unchanged, nothing else arrives, and how the bytes
/// are cut makes no difference.
#[cfg_attr(not(feature = "fuzzing"), allow(unreachable_pub))] // the fuzz target is another crate
pub fn records(input: &[u8]) {
    let [first, splits, program @ ..] = input else {
        return;
    };
    let suite = Suite {
        version: if first & 1 == 0 {
            ProtocolVersion::TLSv1_3
        } else {
            ProtocolVersion::TLSv1_2
        },
        chacha: first & 2 != 0,
    };
    let side = if first & 4 == 0 {
        Side::Client
    } else {
        Side::Server
    };
    let (wire, sealed) = play(suite, program);
    let mut ends = Vec::new();
    let mut step = usize::from(*splits);
    let pieces: [&mut dyn FnMut() -> usize; 3] = [
        &mut || usize::MAX,
        &mut || usize::from(*splits) + 1,
        &mut || {
            step = (step * 31 + 7) % 5_000;
            step
        },
    ];
    for split in pieces {
        let session = Asked::new(suite);
        let mut expected: VecDeque<&[u8]> = sealed.iter().map(Vec::as_slice).collect();
        let end = read(&mut suite.incoming(side), &session, &wire, split, |data| {
            assert_eq!(Some(data), expected.pop_front(), "not what was sealed");
        });
        ends.push((
            format!("{end:?}"),
            expected.len(),
            session.tickets.get(),
            session.answers.get(),
            session.renegotiations.get(),
        ));
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
}

/// What the peer puts on the wire, and the data in it.
fn play(suite: Suite, mut program: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut peer = Peer::new(suite);
    let mut sealed = Vec::new();
    // Bounded, as the input is: so many bytes on the wire at most.
    while let [op, high, low, rest @ ..] = program {
        if peer.wire.len() > 1_000_000 {
            break;
        }
        let number = usize::from(u16::from_be_bytes([*high, *low]));
        let (bytes, behind) = rest.split_at(rest.len().min(number));
        program = rest;
        match op % 8 {
            // As it is.
            0 => {
                peer.wire.extend_from_slice(bytes);
                program = behind;
            }
            // Any type of record.
            1 => {
                let [kind, content @ ..] = bytes else {
                    continue;
                };
                let content = &content[..content.len().min(17_000)];
                if ContentType::from(*kind) == ContentType::ApplicationData {
                    push(&mut sealed, content);
                }
                // With a type of zero, TLS 1.3 finds another one in the content.
                if *kind != 0 || suite.version == ProtocolVersion::TLSv1_2 {
                    peer.send(*kind, content);
                }
                program = behind;
            }
            // Much data, up to more than is allowed.
            2 => {
                let content = vec![number as u8; number % 17_000];
                push(&mut sealed, &content);
                peer.data(&content);
            }
            // One byte changed on the way.
            3 => {
                let at = peer.wire.len();
                peer.data(b"tampered");
                let size = peer.wire.len() - at;
                peer.wire[at + number % size] ^= 1 << (number % 7);
            }
            4 => peer.key_update((number % 3) as u8),
            // Data with padding.
            5 if suite.version == ProtocolVersion::TLSv1_3 => {
                let mut content = vec![1; number % 100];
                push(&mut sealed, &content);
                content.push(ContentType::ApplicationData.into());
                content.resize(content.len() + number % 20_000, 0);
                peer.send(0, &content);
            }
            // A ticket, perhaps in two records.
            6 => {
                let ticket = message(HandshakeType::NewSessionTicket, &[9; 40]);
                let (one, two) = ticket.split_at(number % ticket.len());
                if !one.is_empty() {
                    peer.send(ContentType::Handshake, one);
                }
                peer.send(ContentType::Handshake, two);
            }
            // An alert.
            _ => peer.send(ContentType::Alert, &[*high, *low]),
        }
    }
    (peer.wire, sealed)
}

fn push(sealed: &mut Vec<Vec<u8>>, content: &[u8]) {
    if !content.is_empty() {
        sealed.push(content.to_vec());
    }
}
