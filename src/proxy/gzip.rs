//! Bodies of buffered answers on their way into the message, gzipped where the wire
//! asks for it.
//!
//! A body is taken in blocks of 128 KiB. Each is compressed by itself and ends at a
//! byte, so that one after the other they are one gzip stream. So a request in
//! flight holds a block and what is packed, not the whole body, and a compressor is
//! on loan only while it works. There are few of them, for which requests wait.

mod compressors;

use std::sync::Arc;

use flate2::{CompressError, Crc, FlushCompress};

use super::body::BodyWriter;
use super::memory::{Budget, OverBudget, Paid};
use crate::wire::from_agent::Encoding;
pub(super) use compressors::Compressors;
use compressors::{Level, SMALL};

/// Why a body could not be packed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PackError {
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("cannot compress the response: {0}")]
    Gzip(#[from] CompressError),
}

/// Writes one body.
pub(super) struct Packer<'a> {
    compressors: &'a Compressors,
    budget: &'a Arc<Budget>,
    /// If not, it goes through as it comes.
    gzips: bool,
    /// What isn't packed yet.
    block: Paid,
    begun: bool,
    crc: Crc,
    /// The length, if it is known.
    known: Option<usize>,
}

impl<'a> Packer<'a> {
    /// `is_text`: worth it, if it is long enough.
    pub(super) fn new(
        compressors: &'a Compressors,
        budget: &'a Arc<Budget>,
        is_text: bool,
        known: Option<usize>,
    ) -> Result<Self, OverBudget> {
        let gzips = is_text && known.is_none_or(|known| known >= GZIP_FROM);
        let mut block = Paid::new(budget)?;
        if gzips {
            block.make_room(known.unwrap_or(0).min(BLOCK))?;
        }
        Ok(Self {
            compressors,
            budget,
            gzips,
            block,
            begun: false,
            crc: Crc::new(),
            known,
        })
    }

    /// Bytes of text that it will make, about: for a small body, as many as it can
    /// make. More of them take a piece ([`BodyWriter`]).
    pub(super) fn expected(&self) -> usize {
        let bytes = match self.known {
            Some(known) if self.gzips && known > SMALL => known / 5,
            Some(known) if self.gzips => most(known),
            Some(known) => known,
            None => UNKNOWN,
        };
        bytes.div_ceil(3) * 4
    }

    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        message: &mut BodyWriter<'_, '_>,
    ) -> Result<(), PackError> {
        if !self.gzips {
            message.write(bytes)?;
            return Ok(());
        }
        loop {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend(now)?;
            if later.is_empty() {
                return Ok(());
            }
            self.pack(FlushCompress::Sync, message)?;
            bytes = later;
        }
    }

    pub(super) fn finish(
        mut self,
        message: &mut BodyWriter<'_, '_>,
    ) -> Result<Encoding, PackError> {
        if !self.gzips || (!self.begun && self.block.len() < GZIP_FROM) {
            message.write(&self.block)?;
            return Ok(Encoding::Base64);
        }
        self.pack(FlushCompress::Finish, message)?;
        message.write(&self.crc.sum().to_le_bytes())?;
        message.write(&self.crc.amount().to_le_bytes())?;
        Ok(Encoding::Gzip)
    }

    /// Packs the block. `Finish`: the last one.
    fn pack(
        &mut self,
        flush: FlushCompress,
        message: &mut BodyWriter<'_, '_>,
    ) -> Result<(), PackError> {
        if !self.begun {
            self.begun = true;
            message.write(&HEADER)?;
        }
        self.crc.update(&self.block);
        let mut compressor = self.compressors.borrow(Level::of(self.block.len()));
        let _room = self.budget.reserve(COMPRESSOR)?;
        message.write(compressor.pack(&self.block, flush)?)?;
        self.block.clear();
        Ok(())
    }
}

/// Deflate, no name, no time, an unknown system (RFC 1952 §2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Smaller bodies are not gzipped (control-channel.md §8.6).
const GZIP_FROM: usize = 1024;

/// What a compressor takes while it works, in bytes.
const COMPRESSOR: usize = 512 * 1024;

/// What a body of unknown length is taken for, in bytes: most are small.
const UNKNOWN: usize = 8 * 1024;

/// What is compressed at once.
const BLOCK: usize = 128 * 1024;

/// What a small body that doesn't compress becomes, at most: nine bits for a byte, and
/// what gzip puts around them.
fn most(small: usize) -> usize {
    small + small / 8 + 32
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::http::Headers;
    use crate::wire::from_agent::{ResponseBody, proxy_response};
    use crate::wire::{Envelope, FromAgent};

    /// The body as the peer gets it, or `None` if it isn't gzipped.
    fn through(
        compressors: &Compressors,
        body: &[u8],
        piece: usize,
        known: Option<usize>,
    ) -> Option<Vec<u8>> {
        let budget = Budget::new(8 << 20);
        let mut room = budget.reserve(0).expect("room");
        let mut buf = Vec::new();
        proxy_response(&mut buf, "r", 200, &Headers::new(), |text| {
            let mut message = BodyWriter::new(text, &mut room, 256);
            let mut packer = Packer::new(compressors, &budget, true, known)?;
            for piece in body.chunks(piece) {
                packer.push(piece, &mut message)?;
            }
            let encoding = packer.finish(&mut message)?;
            message.finish()?;
            Ok::<_, PackError>(encoding)
        })
        .expect("packed");
        // Only the message is left, and all of it is paid for.
        assert!(
            buf.capacity() <= room.bytes() + 256,
            "{} of {}",
            room.bytes(),
            buf.capacity()
        );
        assert_eq!(budget.used(), room.bytes());
        let message = String::from_utf8(buf).expect("text");
        let envelope = Envelope::parse(&message).expect("JSON");
        let decode = |text: &str| base64_simd::STANDARD.decode_to_vec(text).expect("base64");
        match FromAgent::parse(&envelope) {
            FromAgent::ProxyResponse {
                body: ResponseBody::Gzip(text),
                ..
            } => {
                let packed = decode(&text);
                let mut unpacked = Vec::new();
                let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
                decoder.read_to_end(&mut unpacked).expect("gzip");
                assert!(decoder.into_inner().is_empty(), "something behind it");
                Some(unpacked)
            }
            FromAgent::ProxyResponse {
                body: ResponseBody::Base64(text),
                ..
            } => {
                assert_eq!(decode(&text), body);
                None
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Across the edges of blocks, with what compresses and what doesn't.
        #[test]
        fn what_was_packed_can_be_unpacked(
            seed in any::<u64>(),
            variety in 1_u8..=255,
            length in prop_oneof![
                1..5000_usize,
                BLOCK - 2..BLOCK + 2,
                BLOCK..4 * BLOCK,
                2 * BLOCK - 2..2 * BLOCK + 2,
            ],
            piece in 1_usize..100_000,
            is_known in any::<bool>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let body: Vec<u8> = (0..length).map(|_| random.u8(..variety)).collect();
            let known = is_known.then_some(length);
            let compressors = Compressors::default();
            for _ in 0..2 {
                let piece = piece.max(length / 1000);
                let unpacked = through(&compressors, &body, piece, known);
                prop_assert_eq!(unpacked.is_some(), length >= GZIP_FROM);
                prop_assert!(unpacked.is_none_or(|unpacked| unpacked == body));
            }
        }
    }

    /// Each request took 32 KiB for what didn't fit into its message.
    #[test]
    fn the_message_of_a_small_body_is_large_enough() {
        let mut random = fastrand::Rng::with_seed(1);
        let compressors = Compressors::default();
        let budget = Budget::new(8 << 20);
        for length in [GZIP_FROM, SMALL] {
            let packer = Packer::new(&compressors, &budget, true, Some(length)).expect("room");
            for lowest in [0, 144] {
                let body: Vec<u8> = (0..length).map(|_| random.u8(lowest..)).collect();
                let mut lent = compressors.borrow(Level::Quick);
                let packed = lent.pack(&body, FlushCompress::Finish).expect("packed");
                let whole = HEADER.len() + packed.len() + 8;
                assert!(whole > length, "it doesn't compress");
                assert!(
                    whole.div_ceil(3) * 4 <= packer.expected(),
                    "{length}: {whole}"
                );
            }
        }
    }

    /// An error keeps none.
    #[test]
    fn a_compressor_comes_back_from_who_has_no_room_for_it() {
        let compressors = Compressors::default();
        let budget = Budget::new(COMPRESSOR);
        let mut room = budget.reserve(0).expect("room");
        let mut buf = Vec::new();
        let failed = proxy_response(&mut buf, "r", 200, &Headers::new(), |text| {
            let mut message = BodyWriter::new(text, &mut room, 256);
            let mut packer = Packer::new(&compressors, &budget, true, None)?;
            packer.push(&[b'x'; GZIP_FROM], &mut message)?;
            packer.finish(&mut message)
        });
        assert!(matches!(failed, Err(PackError::OverBudget(_))));
        assert_eq!(compressors.on_loan(), 0);
        assert_eq!(room.bytes(), budget.used());
    }
}
