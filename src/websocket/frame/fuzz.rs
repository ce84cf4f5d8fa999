//! What a reader of frames finds in bytes that are cut anywhere; and the entry of its
//! fuzz target (`fuzz/fuzz_targets/websocket_frames.rs`).

use std::cell::Cell;

use super::{CloseFrame, Event, FrameReader, Listener};
use crate::websocket::Role;

pub(super) const LIMIT: usize = 400;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(CloseFrame),
    /// After it nothing is read any more.
    Refused,
}

/// What hears of binary messages in pieces: nobody, everybody, every other.
pub(super) const TAKES_PIECES: [fn(usize) -> bool; 3] = [|_| false, |_| true, |n| n % 2 == 1];

/// Puts pieces together.
struct Ours {
    takes_pieces: fn(usize) -> bool,
    asked: Cell<usize>,
    seen: Vec<Seen>,
    pieces: Option<Vec<u8>>,
}

impl Listener for Ours {
    fn takes_pieces(&self) -> bool {
        self.asked.update(|asked| asked + 1);
        (self.takes_pieces)(self.asked.get())
    }

    fn hear(&mut self, event: Event<'_>) {
        if matches!(event, Event::Text(_) | Event::Binary(_)) {
            assert!(self.pieces.is_none(), "inside another message");
        }
        self.seen.push(match event {
            Event::Text(text) => Seen::Text(text.to_owned()),
            Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Event::Piece { bytes, last } => {
                let pieces = self.pieces.get_or_insert_default();
                pieces.extend_from_slice(bytes);
                assert!(pieces.len() <= LIMIT);
                if !last {
                    return;
                }
                Seen::Binary(self.pieces.take().expect("just filled"))
            }
            Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Event::Close(close) => Seen::Close(close),
        });
    }
}

pub(super) fn ours(
    role: Role,
    stream: &[u8],
    cuts: &[usize],
    takes_pieces: fn(usize) -> bool,
) -> Vec<Seen> {
    let mut reader = FrameReader::new(role, LIMIT);
    let mut listener = Ours {
        takes_pieces,
        asked: Cell::new(0),
        seen: Vec::new(),
        pieces: None,
    };
    let mut from = 0;
    for to in cuts.iter().copied().chain([stream.len()]) {
        let mut slice = stream[from..to].to_vec();
        from = to;
        if reader.read(&mut slice, &mut listener).is_err() {
            listener.seen.push(Seen::Refused);
            break;
        }
    }
    listener.seen
}

/// Any bytes, in both roles, are the same messages or the same refusal however they are
/// cut, and whoever takes pieces.
#[cfg_attr(not(feature = "fuzzing"), allow(unreachable_pub))] // the fuzz target is another crate
pub fn frames(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first() else {
        return;
    };
    let role = [Role::Client, Role::Server][usize::from(seed & 1)];
    let step = usize::from(seed >> 1) + 1;
    let whole = ours(role, stream, &[], TAKES_PIECES[0]);
    let cuts: Vec<usize> = (0..stream.len()).step_by(step).collect();
    for takes_pieces in TAKES_PIECES {
        assert_eq!(ours(role, stream, &cuts, takes_pieces), whole);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpus_of_the_fuzz_target_passes() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/websocket_frames");
        for file in fs::read_dir(folder).expect("corpus") {
            frames(&fs::read(file.expect("entry").path()).expect("input"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_the_same_however_they_are_cut(data: Vec<u8>) {
            frames(&data);
        }
    }
}
