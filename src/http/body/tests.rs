use proptest::prelude::*;

use super::*;

/// Decodes `input` cut into pieces; yields the body and what is left over.
fn decode(
    framing: Framing,
    input: &[u8],
    cuts: &[usize],
    max: usize,
) -> Result<(Vec<u8>, usize), BodyError> {
    let mut decoder = Decoder::new(framing);
    let mut body = Vec::new();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let mut at = 0;
    for end in cuts {
        while at < end && !decoder.is_done() {
            let step = decoder.decode(&input[at..end], max)?;
            assert!(step.data <= max);
            body.extend_from_slice(&input[at + step.skip..at + step.skip + step.data]);
            at += step.skip + step.data;
        }
    }
    decoder.at_end()?;
    Ok((body, input.len() - at))
}

fn whole(input: &[u8]) -> Result<(Vec<u8>, usize), BodyError> {
    decode(Framing::Chunked, input, &[], usize::MAX)
}

#[test]
fn chunks_with_extensions_and_trailers() {
    let input = b"5;a=b;c=\"d\"\r\nhello\r\n6 \r\n world\r\n0;x\r\nA: b\r\nC: d\r\n\r\nNEXT";
    assert_eq!(whole(input), Ok((b"hello world".to_vec(), 4)));
}

#[test]
fn what_is_no_chunk_is_refused() {
    for input in [
        &b"\r\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n",
        b"5\rhello",
        b"5;a\nb\r\n",
        b"5;\0\r\n",
        b"11111111111111111\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\n\rX",
    ] {
        assert!(
            matches!(whole(input), Err(BodyError::Chunk(_))),
            "{input:?}"
        );
    }
}

#[test]
fn what_is_cut_off_is_noticed() {
    let input = b"5\r\nhello\r\n0\r\n\r\n";
    for end in 0..input.len() {
        assert_eq!(whole(&input[..end]), Err(BodyError::Truncated), "{end}");
    }
    let cut = decode(Framing::Length(6), b"hello", &[], 100);
    assert_eq!(cut, Err(BodyError::Truncated));
}

#[test]
fn endless_lines_are_refused() {
    let mut input = b"5;".to_vec();
    input.resize(MAX_LINE + 10, b'a');
    assert!(matches!(whole(&input), Err(BodyError::Chunk(_))));
    let mut input = b"0\r\n".to_vec();
    for _ in 0..MAX_TRAILERS {
        input.extend_from_slice(b"a\r\n");
    }
    assert!(matches!(whole(&input), Err(BodyError::Chunk(_))));
}

#[test]
fn a_length_leaves_what_follows() {
    let got = decode(Framing::Length(5), b"helloNEXT", &[], 100);
    assert_eq!(got, Ok((b"hello".to_vec(), 4)));
    assert!(Decoder::new(Framing::Length(0)).is_done());
}

#[test]
fn until_close_takes_everything() {
    let got = decode(Framing::UntilClose, b"hello", &[2], 1);
    assert_eq!(got, Ok((b"hello".to_vec(), 0)));
}

#[test]
fn chunk_heads() {
    for (length, want) in [
        (1, "1\r\n"),
        (16, "10\r\n"),
        (32768, "8000\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        assert_eq!(chunk_head(length).as_ref(), want.as_bytes());
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_however_it_is_cut(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
        max in 1usize..300,
        after in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut input = Vec::new();
        for piece in &pieces {
            input.extend_from_slice(chunk_head(piece.len()).as_ref());
            input.extend_from_slice(piece);
            input.extend_from_slice(CHUNK_END);
        }
        input.extend_from_slice(LAST_CHUNK);
        input.extend_from_slice(&after);
        let got = decode(Framing::Chunked, &input, &cuts, max);
        prop_assert_eq!(got, Ok((pieces.concat(), after.len())));
    }

    #[test]
    fn any_bytes_mean_the_same_however_they_are_cut(
        input in prop::collection::vec(prop::sample::select(&b"0123abF;\r\n x="[..]), 0..60),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let at_once = decode(Framing::Chunked, &input, &[], usize::MAX);
        let in_pieces = decode(Framing::Chunked, &input, &cuts, 1);
        prop_assert_eq!(at_once, in_pieces);
    }
}
