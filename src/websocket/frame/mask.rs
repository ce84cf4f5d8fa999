//! Masking (RFC 6455 §5.3).

/// Masks or unmasks `payload` in place. `offset` is the place of its first byte in
/// the frame's payload, so that a frame can be unmasked in pieces.
pub(crate) fn mask(payload: &mut [u8], key: [u8; 4], offset: usize) {
    let mut key = key;
    key.rotate_left(offset % 4);
    let word = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    // Whole words, which the compiler turns into vector instructions. A word is
    // twice the key, so the rest begins at the key's first byte again.
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_definition(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ key[i % 4])
            .collect()
    }

    proptest! {
        #[test]
        fn a_payload_masked_in_pieces_is_masked_by_definition(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            key: [u8; 4],
            cuts in prop::collection::vec(0usize..100, 0..4),
        ) {
            let expected = by_definition(&payload, key);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (payload.len() + 1)).collect();
            cuts.push(payload.len());
            cuts.sort_unstable();
            let mut masked = payload;
            let mut from = 0;
            for to in cuts {
                mask(&mut masked[from..to], key, from);
                from = to;
            }
            prop_assert_eq!(masked, expected);
        }
    }
}
