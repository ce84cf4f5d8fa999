//! What holds whatever happens. The same functions are fuzz targets (`fuzz/`), and
//! their corpus is played here.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::hostile::{attack, decode, observe};
use super::play::play;
use crate::yamux::{Flags, Header, INITIAL_WINDOW, Kind};

/// Some bytes a peer could write: frames with few ids, so that they meet.
fn hostile_stream() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        6 => Just(Kind::Data),
        6 => Just(Kind::WindowUpdate),
        1 => Just(Kind::Ping),
        1 => Just(Kind::GoAway),
    ];
    let flags = prop_oneof![
        5 => Just(0),
        5 => Just(1),
        1 => 0..16u16,
    ];
    let len = prop_oneof![
        10 => 0..200u32,
        2 => Just(0),
        1 => Just(INITIAL_WINDOW),
        1 => any::<u32>(),
    ];
    let id = prop_oneof![20 => (1..5u32).prop_map(|n| 2 * n), 1 => 0..3u32];
    let frame = (kind, flags, id, len, 0..60u32).prop_map(|(kind, flags, id, len, broken)| {
        let header = Header {
            kind,
            flags: Flags::from_bits(flags),
            id,
            len,
        };
        let mut bytes = header.encode().to_vec();
        if broken == 0 {
            bytes[len as usize % 2] += 1;
        }
        let payload = header.payload().min(300_000);
        bytes.extend((0..payload).map(|n| (n % 251) as u8));
        bytes
    });
    prop::collection::vec(frame, 0..30).prop_map(|frames| frames.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_stream_is_the_same_stream(
        stream in hostile_stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(observe(&stream, &cuts), observe(&stream, &[]));
    }

    #[test]
    fn any_bytes_are_the_same_frames_in_any_slices(script in prop::collection::vec(any::<u8>(), 0..100)) {
        decode(&script);
    }

    #[test]
    fn two_ends_lose_nothing_whatever_they_do(script in prop::collection::vec(any::<u8>(), 0..800)) {
        play(&script);
    }

    #[test]
    fn no_peer_breaks_us(script in prop::collection::vec(any::<u8>(), 0..800)) {
        attack(&script);
    }
}

type Target = fn(&[u8]);

/// What fuzzing found worth keeping.
#[test]
fn the_corpus_is_played() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let targets: [(&str, Target); 3] = [
        ("yamux_frames", decode),
        ("yamux_attack", attack),
        ("yamux_pair", play),
    ];
    for (target, run) in targets {
        let files = fs::read_dir(corpus.join(target)).expect("a corpus");
        let mut played = 0;
        for file in files {
            run(&fs::read(file.expect("an entry").path()).expect("a file"));
            played += 1;
        }
        assert!(played > 0, "{target} has no corpus");
    }
}
