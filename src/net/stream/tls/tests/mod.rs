//! The record reader against a peer that seals what it likes.

mod messages;

use proptest::prelude::*;
use rustls::{
    AlertDescription, ContentType, Error, HandshakeType, InvalidMessage, PeerMisbehaved,
    ProtocolVersion, Side,
};

use super::fuzz::{Asked, End, Peer, Suite, message, read, records};
use super::incoming::{Incoming, MAX_USELESS};
use super::record::MAX_CONTENT;

const V12: ProtocolVersion = ProtocolVersion::TLSv1_2;
const V13: ProtocolVersion = ProtocolVersion::TLSv1_3;

/// Everything that the unit tests can make keys for. AES-128 differs in the length
/// of the key alone; peers of the other tests speak it.
fn suites() -> impl Iterator<Item = Suite> {
    [V12, V13]
        .into_iter()
        .flat_map(|version| [false, true].map(|chacha| Suite { version, chacha }))
}

/// What came out of one direction of a connection.
struct Read {
    data: Vec<u8>,
    asked: Asked,
    end: End,
}

impl Read {
    /// Alert and error of a refusal.
    fn refusal(&self) -> (Option<AlertDescription>, &Error) {
        match &self.end {
            End::Refused(refusal) => (refusal.alert, &refusal.error),
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn read_all(suite: Suite, side: Side, wire: &[u8]) -> Read {
    let mut data = Vec::new();
    let asked = Asked::new(suite);
    let mut incoming: Incoming = suite.incoming(side);
    let end = read(
        &mut incoming,
        &asked,
        wire,
        || usize::MAX,
        |bytes| data.extend_from_slice(bytes),
    );
    Read { data, asked, end }
}

/// Plays `send` to a client with `version`.
fn client(version: ProtocolVersion, send: impl FnOnce(&mut Peer)) -> Read {
    one(version, Side::Client, send)
}

fn one(version: ProtocolVersion, side: Side, send: impl FnOnce(&mut Peer)) -> Read {
    let suite = Suite {
        version,
        chacha: false,
    };
    let mut peer = Peer::new(suite);
    send(&mut peer);
    read_all(suite, side, &peer.wire)
}

#[test]
fn what_is_sealed_is_opened() {
    for suite in suites() {
        let mut peer = Peer::new(suite);
        peer.data(b"one");
        peer.data(&[2; MAX_CONTENT]);
        peer.data(b"three");
        peer.send(ContentType::Alert, &[1, 0]);
        peer.data(b"behind the end");
        let read = read_all(suite, Side::Client, &peer.wire);
        assert!(matches!(read.end, End::Closed), "{suite:?}");
        let expected = [&b"one"[..], &[2; MAX_CONTENT], b"three"].concat();
        assert!(read.data == expected, "{suite:?}");
    }
}

#[test]
fn a_record_that_is_changed_anywhere_is_refused() {
    for suite in suites() {
        let mut peer = Peer::new(suite);
        peer.data(b"good");
        let begin = peer.wire.len();
        peer.data(b"changed");
        for bit in 0..(peer.wire.len() - begin) * 8 {
            let mut wire = peer.wire.clone();
            wire[begin + bit / 8] ^= 1 << (bit % 8);
            let read = read_all(suite, Side::Client, &wire);
            assert_eq!(read.data, b"good", "{suite:?}, bit {bit}");
            // A length that has grown waits for more.
            let grown = matches!(read.end, End::More) && matches!(bit / 8, 3 | 4);
            assert!(grown || matches!(read.end, End::Refused(_)));
        }
    }
}

#[test]
fn records_that_are_swapped_repeated_or_left_out_are_refused() {
    for suite in suites() {
        let mut peer = Peer::new(suite);
        let mut cuts = vec![0];
        for text in [b"a", b"b", b"c"] {
            peer.data(text);
            cuts.push(peer.wire.len());
        }
        let record = |at: usize| &peer.wire[cuts[at]..cuts[at + 1]];
        for order in [vec![0, 2], vec![0, 0], vec![0, 2, 1]] {
            let wire: Vec<u8> = order.iter().flat_map(|&at| record(at)).copied().collect();
            let read = read_all(suite, Side::Client, &wire);
            assert_eq!(read.data, b"a");
            assert_eq!(
                read.refusal(),
                (Some(AlertDescription::BadRecordMac), &Error::DecryptError)
            );
        }
    }
}

#[test]
fn a_record_without_encryption_is_refused() {
    for version in [V12, V13] {
        for kind in [20, 21, 22, 23] {
            for body in [vec![], vec![1], vec![1, 0], vec![1; 100]] {
                let read = client(version, |peer| {
                    peer.wire
                        .extend_from_slice(&[kind, 3, 3, 0, body.len() as u8]);
                    peer.wire.extend_from_slice(&body);
                });
                read.refusal();
                assert!(read.data.is_empty());
            }
        }
    }
}

#[test]
fn change_cipher_spec_is_over_once_the_handshake_is() {
    let read = client(V13, |peer| {
        peer.wire.extend_from_slice(&[20, 3, 3, 0, 1, 1]);
    });
    let error = Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec);
    let alert = Some(AlertDescription::UnexpectedMessage);
    assert_eq!(read.refusal(), (alert, &error));
    let read = client(V12, |peer| peer.send(ContentType::ChangeCipherSpec, &[1]));
    assert_eq!(read.refusal().0, alert);
    let read = client(V13, |peer| peer.send(ContentType::ChangeCipherSpec, &[1]));
    assert_eq!(read.refusal().0, alert);
}

#[test]
fn what_is_no_record_is_refused_at_its_header() {
    for (header, alert) in [
        (b"HTTP/", AlertDescription::UnexpectedMessage),
        (&[24, 3, 3, 0, 1], AlertDescription::UnexpectedMessage),
        (&[23, 3, 1, 0, 32], AlertDescription::ProtocolVersion),
        (&[23, 3, 3, 0x41, 0x01], AlertDescription::RecordOverflow),
        (&[23, 3, 3, 0xff, 0xff], AlertDescription::RecordOverflow),
    ] {
        for version in [V12, V13] {
            let read = client(version, |peer| peer.wire.extend_from_slice(header));
            assert_eq!(read.refusal().0, Some(alert), "{header:?}");
        }
    }
}

#[test]
fn content_is_limited_whatever_the_padding() {
    for version in [V12, V13] {
        let read = client(version, |peer| peer.data(&[1; MAX_CONTENT]));
        assert_eq!(read.data.len(), MAX_CONTENT);
        let read = client(version, |peer| peer.data(&vec![1; MAX_CONTENT + 1]));
        assert_eq!(
            read.refusal(),
            (
                Some(AlertDescription::RecordOverflow),
                &Error::PeerSentOversizedRecord
            )
        );
    }
    // Content, type and zeros together make 2^14 + 1 at most (RFC 8446 §5.4).
    let padded = |content: usize, zeros: usize| {
        let mut inner = vec![1; content];
        inner.push(23);
        // The sealer adds the last byte: a type of zero.
        inner.resize(content + zeros, 0);
        client(V13, |peer| peer.send(0, &inner))
    };
    assert_eq!(padded(10, MAX_CONTENT - 10).data, [1; 10]);
    let alert = Some(AlertDescription::RecordOverflow);
    assert_eq!(padded(10, MAX_CONTENT - 9).refusal().0, alert);
}

#[test]
fn nothing_but_padding_is_refused() {
    for zeros in [0, 1, 1_000] {
        let read = client(V13, |peer| peer.send(0, &vec![0; zeros]));
        let error = Error::PeerMisbehaved(PeerMisbehaved::IllegalTlsInnerPlaintext);
        let alert = Some(AlertDescription::UnexpectedMessage);
        assert_eq!(read.refusal(), (alert, &error));
    }
}

#[test]
fn empty_records_are_no_data_and_not_for_ever() {
    let few = MAX_USELESS as usize;
    for version in [V12, V13] {
        let read = client(version, |peer| {
            for _ in 0..3 {
                (0..few).for_each(|_| peer.data(b""));
                peer.data(b"x");
            }
        });
        assert_eq!(read.data, b"xxx");
        assert!(matches!(read.end, End::More));
        let read = client(version, |peer| (0..=few).for_each(|_| peer.data(b"")));
        let error = Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments);
        assert_eq!(*read.refusal().1, error);
    }
}

#[test]
fn the_corpus_of_the_fuzz_target_passes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/records");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        records(&std::fs::read(entry.expect("an entry").path()).expect("read"));
        count += 1;
    }
    assert!(count > 10, "{count} files");
}

proptest! {
    #[test]
    fn any_program_of_a_peer_passes(
        program in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        records(&program);
    }

    /// As above, but with operations that make sense more often.
    #[test]
    fn any_sensible_program_of_a_peer_passes(
        first in any::<u8>(),
        splits in any::<u8>(),
        operations in proptest::collection::vec((1..8u8, any::<[u8; 2]>()), 0..60),
    ) {
        let mut program = vec![first, splits];
        for (op, number) in operations {
            program.push(op);
            program.extend_from_slice(&number);
        }
        records(&program);
    }
}
