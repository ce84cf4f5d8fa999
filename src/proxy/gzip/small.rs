//! Deflate for small bodies (RFC 1951), with the fixed codes.
//!
//! A general compressor clears 128 KiB and builds tables of codes before it begins: for
//! a body of 1 KiB that is most of its cost. This one clears 4 KiB, and takes an eighth
//! of the time for a fourth more bytes (vendor-notes/flate2.md).

/// Appends `bytes`, at most [`LONGEST`], as one final block.
pub(super) fn deflate(bytes: &[u8], out: &mut Vec<u8>) {
    debug_assert!(bytes.len() <= LONGEST);
    out.reserve(bytes.len() + bytes.len() / 8 + 16);
    let mut bits = Bits {
        out,
        held: 0,
        count: 0,
    };
    bits.put(0b011, 3); // the last block; fixed codes
    // Where four bytes with this hash were last seen. What was never seen is taken
    // for the beginning: a look there tells.
    let mut seen = [0_u16; 1 << HASH_BITS];
    let mut at = 0;
    while let Some(four) = bytes[at..].first_chunk::<4>() {
        let place = &mut seen[hash(*four)];
        let before = usize::from(std::mem::replace(place, at as u16));
        if before == at || !bytes[before..].starts_with(four) {
            bits.symbol(usize::from(four[0]));
            at += 1;
            continue;
        }
        let (old, new) = (&bytes[before + 4..], &bytes[at + 4..]);
        let length = 4 + common(old, new).min(LONGEST_MATCH - 4);
        bits.matched(length, at - before);
        // The others inside of it are left out: they would find little more.
        for inside in at + 1..at + 3 {
            if let Some(four) = bytes[inside..].first_chunk::<4>() {
                seen[hash(*four)] = inside as u16;
            }
        }
        at += length;
    }
    for byte in &bytes[at..] {
        bits.symbol(usize::from(*byte));
    }
    bits.symbol(END_OF_BLOCK);
    bits.finish();
}

/// How many bytes both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut count = 0;
    while let (Some(a), Some(b)) = (a[count..].first_chunk::<8>(), b[count..].first_chunk::<8>()) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return count + differ.trailing_zeros() as usize / 8;
        }
        count += 8;
    }
    let rest = a[count..].iter().zip(&b[count..]);
    count + rest.take_while(|(a, b)| a == b).count()
}

fn hash(four: [u8; 4]) -> usize {
    (u32::from_le_bytes(four).wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize
}

/// Writes bits, the lowest first.
struct Bits<'a> {
    out: &'a mut Vec<u8>,
    held: u64,
    count: u32,
}

impl Bits<'_> {
    /// 32 at most.
    fn put(&mut self, bits: u32, count: u32) {
        self.held |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.out
                .extend_from_slice(&(self.held as u32).to_le_bytes());
            self.held >>= 32;
            self.count -= 32;
        }
    }

    fn symbol(&mut self, symbol: usize) {
        let (code, count) = CODES[symbol];
        self.put(u32::from(code), u32::from(count));
    }

    fn matched(&mut self, length: usize, distance: usize) {
        // RFC 1951 §3.2.5: after the first few, four codes for each power of two of
        // lengths, and two for each of distances.
        match length - 3 {
            rest @ ..8 => self.symbol(257 + rest),
            255 => self.symbol(285),
            rest => {
                let extra = rest.ilog2() - 2;
                self.symbol(257 + 4 * (extra as usize + 1) + ((rest >> extra) & 3));
                self.put(rest as u32 & ((1 << extra) - 1), extra);
            }
        }
        let rest = distance as u32 - 1;
        let (code, extra) = match rest {
            ..4 => (rest, 0),
            _ => {
                let extra = rest.ilog2() - 1;
                (2 * (extra + 1) + ((rest >> extra) & 1), extra)
            }
        };
        self.put(code.reverse_bits() >> 27, 5);
        self.put(rest & ((1 << extra) - 1), extra);
    }

    fn finish(self) {
        let bytes = self.count.div_ceil(8) as usize;
        self.out
            .extend_from_slice(&self.held.to_le_bytes()[..bytes]);
    }
}

/// The fixed code of each symbol, its first bit lowest, and how many bits it has
/// (RFC 1951 §3.2.6).
const CODES: [(u16, u8); 286] = {
    let mut codes = [(0, 0); 286];
    let mut symbol = 0;
    while symbol < codes.len() {
        let (code, count) = match symbol as u16 {
            symbol @ ..144 => (0x30 + symbol, 8),
            symbol @ 144..256 => (0x190 + symbol - 144, 9),
            symbol @ 256..280 => (symbol - 256, 7),
            symbol => (0xc0 + symbol - 280, 8),
        };
        codes[symbol] = (code.reverse_bits() >> (16 - count), count as u8);
        symbol += 1;
    }
    codes
};

/// In longer bodies tables of their own pay.
pub(super) const LONGEST: usize = 2048;

const LONGEST_MATCH: usize = 258;
const END_OF_BLOCK: usize = 256;
const HASH_BITS: u32 = 11;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packed = b"x".to_vec();
        deflate(bytes, &mut packed);
        packed.split_off(1)
    }

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut unpacked = Vec::new();
        let mut decoder = flate2::bufread::DeflateDecoder::new(packed);
        decoder.read_to_end(&mut unpacked).expect("deflate");
        assert!(decoder.into_inner().is_empty(), "something behind it");
        unpacked
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Pieces of what was there before, and new ones.
        #[test]
        fn what_was_packed_can_be_unpacked(
            pieces in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..20), any::<usize>(), 0..400_usize),
                0..40,
            ),
        ) {
            let mut bytes = Vec::new();
            for (new, from, count) in &pieces {
                bytes.extend_from_slice(new);
                for at in 0..*count {
                    let from = from % bytes.len().max(1);
                    bytes.push(bytes.get(from + at).copied().unwrap_or(7));
                }
            }
            bytes.truncate(LONGEST);
            prop_assert_eq!(unpacked(&packed(&bytes)), bytes);
        }
    }

    #[test]
    fn every_length_and_distance_of_a_match() {
        for length in 4..=2 * LONGEST_MATCH {
            let bytes = vec![b'a'; length + 1];
            assert_eq!(unpacked(&packed(&bytes)), bytes);
        }
        for distance in 4..LONGEST - 4 {
            let mut bytes: Vec<u8> = (0..distance).map(|i| (i % 251) as u8).collect();
            bytes[..4].copy_from_slice(b"\xff\xfe\xfd\xfc");
            bytes.extend_from_within(..4);
            assert_eq!(unpacked(&packed(&bytes)), bytes);
        }
    }

    #[test]
    fn repetition_is_found() {
        let bytes = b"{\"name\":\"web\"},".repeat(100);
        assert!(packed(&bytes).len() < 60);
    }
}
