//! A body as base64, written into the message piece by piece.

/// The text of a body that grows at the end of a message. What comes is encoded in
/// place; only one or two bytes that don't make a group yet are kept.
pub struct BodyText<'a> {
    buf: &'a mut Vec<u8>,
    rest: [u8; 3],
    /// Bytes in `rest`, 2 at most.
    kept: usize,
    /// Bytes of the body so far.
    length: usize,
}

impl<'a> BodyText<'a> {
    /// Appends to `buf`.
    pub(super) fn new(buf: &'a mut Vec<u8>) -> Self {
        Self {
            buf,
            rest: [0; 3],
            kept: 0,
            length: 0,
        }
    }

    /// True when so many bytes of a body and `behind` bytes of other text fit into the
    /// buffer as it is.
    pub fn has_room(&self, bytes: usize, behind: usize) -> bool {
        let text = (self.kept + bytes).div_ceil(3) * 4;
        text + behind <= self.buf.capacity() - self.buf.len()
    }

    /// Has `make` see to it that so many bytes of a body find room: it gets the buffer,
    /// of which it may change the capacity, and how many bytes of text they are.
    pub fn make_room<E>(
        &mut self,
        bytes: usize,
        make: impl FnOnce(&mut Vec<u8>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        make(self.buf, (self.kept + bytes).div_ceil(3) * 4)
    }

    /// Bytes of the body so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// More of the body.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        if self.kept > 0 {
            let count = bytes.len().min(3 - self.kept);
            let (now, later) = bytes.split_at(count);
            self.rest[self.kept..self.kept + count].copy_from_slice(now);
            self.kept += count;
            if self.kept < 3 {
                return;
            }
            base64_simd::STANDARD.encode_append(self.rest, self.buf);
            bytes = later;
        }
        let (whole, rest) = bytes.split_at(bytes.len() / 3 * 3);
        base64_simd::STANDARD.encode_append(whole, self.buf);
        self.rest[..rest.len()].copy_from_slice(rest);
        self.kept = rest.len();
    }

    /// No more of it.
    pub(super) fn end(self) {
        base64_simd::STANDARD.encode_append(&self.rest[..self.kept], self.buf);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_make_the_text_of_the_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
        ) {
            let mut buf = b"x".to_vec();
            let mut text = BodyText::new(&mut buf);
            for piece in &pieces {
                text.push(piece);
            }
            prop_assert_eq!(text.length(), pieces.concat().len());
            text.end();
            let want = base64_simd::STANDARD.encode_to_string(pieces.concat());
            prop_assert_eq!(String::from_utf8(buf), Ok(format!("x{want}")));
        }
    }
}
