//! A text message that is put together from pieces.

use super::reader::Refusal;

/// Collects pieces of UTF-8 that may be cut anywhere. Every byte is looked at
/// once, when it arrives, so that invalid text is refused at once.
#[derive(Debug, Default)]
pub(super) struct TextBuffer {
    text: String,
    /// The beginning of a character whose rest hasn't arrived.
    cut: [u8; 4],
    cut_len: usize,
}

impl TextBuffer {
    /// An empty text in the memory of `spare`.
    pub(super) fn reusing(mut spare: Vec<u8>) -> Self {
        spare.clear();
        Self {
            text: String::from_utf8(spare).expect("no bytes are valid UTF-8"),
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), Refusal> {
        while self.cut_len > 0 {
            let Some((&byte, rest)) = piece.split_first() else {
                return Ok(());
            };
            piece = rest;
            self.cut[self.cut_len] = byte;
            self.cut_len += 1;
            match str::from_utf8(&self.cut[..self.cut_len]) {
                Ok(character) => {
                    self.text.push_str(character);
                    self.cut_len = 0;
                }
                // Four bytes are a character or an error, so `cut` never overflows.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(Refusal::Utf8),
            }
        }
        match str::from_utf8(piece) {
            Ok(text) => self.text.push_str(text),
            Err(error) if error.error_len().is_none() => {
                let (whole, cut) = piece.split_at(error.valid_up_to());
                let whole = str::from_utf8(whole).expect("it was found valid up to here");
                self.text.push_str(whole);
                self.cut[..cut.len()].copy_from_slice(cut);
                self.cut_len = cut.len();
            }
            Err(_) => return Err(Refusal::Utf8),
        }
        Ok(())
    }

    /// The whole message.
    pub(super) fn finish(&self) -> Result<&str, Refusal> {
        if self.cut_len > 0 {
            return Err(Refusal::Utf8);
        }
        Ok(&self.text)
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.text.len() + self.cut_len
    }

    pub(super) fn reserve_exact(&mut self, additional: usize) {
        self.text.reserve_exact(additional);
    }

    pub(super) fn capacity(&self) -> usize {
        self.text.capacity()
    }

    pub(super) fn into_memory(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_pieces(bytes: &[u8], piece: usize) -> Result<String, Refusal> {
        let mut text = TextBuffer::default();
        for piece in bytes.chunks(piece) {
            text.push(piece)?;
        }
        text.finish().map(str::to_owned)
    }

    proptest! {
        #[test]
        fn pieces_are_what_the_whole_is(
            bytes in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..12),
                prop::collection::vec(
                    prop::sample::select(vec![b'a', 0x80, 0xbf, 0xc2, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0x90]), 0..9),
            ],
            piece in 1usize..9,
        ) {
            let whole = str::from_utf8(&bytes).map(str::to_owned).map_err(|_| Refusal::Utf8);
            prop_assert_eq!(in_pieces(&bytes, piece), whole);
        }
    }

    #[test]
    fn invalid_text_is_refused_before_its_end() {
        let mut text = TextBuffer::default();
        text.push(&[0xed]).expect("may become a character");
        assert_eq!(text.push(&[0xa0]), Err(Refusal::Utf8), "a surrogate");
    }
}
