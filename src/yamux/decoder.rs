//! From received bytes to frames, where they lie (tunnels.md §2.1).

use super::Fatal;
use super::header::{HEADER, Header};

/// What stands in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    Frame(Header),
    /// Bytes of the payload of the frame before; never empty.
    Payload {
        bytes: &'a [u8],
        /// The payload ends here.
        last: bool,
    },
}

/// Reads the frames of one direction of one connection. Its slices may be cut
/// anywhere: a frame may span many of them, and one may hold many frames. Only a
/// header that was cut is copied.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a header whose rest hasn't arrived.
    head: [u8; HEADER],
    have: usize,
    /// Payload of the current frame that hasn't arrived.
    left: u32,
}

impl Decoder {
    /// The next event; `bytes` loses what it was made of. None when they are used up.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>, Fatal> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if self.left > 0 {
            let here = bytes.len().min(self.left as usize);
            let (piece, rest) = bytes.split_at(here);
            *bytes = rest;
            self.left -= here as u32;
            return Ok(Some(Event::Payload {
                bytes: piece,
                last: self.left == 0,
            }));
        }
        let header = match bytes.split_first_chunk() {
            Some((head, rest)) if self.have == 0 => {
                *bytes = rest;
                Header::decode(head)?
            }
            _ => {
                let here = bytes.len().min(HEADER - self.have);
                let (piece, rest) = bytes.split_at(here);
                *bytes = rest;
                self.head[self.have..self.have + here].copy_from_slice(piece);
                self.have += here;
                if self.have < HEADER {
                    return Ok(None);
                }
                self.have = 0;
                Header::decode(&self.head)?
            }
        };
        self.left = header.payload();
        Ok(Some(Event::Frame(header)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yamux::Flags;

    /// Frames and payloads, pieces joined.
    fn decode(slices: &[&[u8]]) -> Vec<(Header, Vec<u8>)> {
        let mut decoder = Decoder::default();
        let mut frames: Vec<(Header, Vec<u8>)> = Vec::new();
        for mut slice in slices.iter().copied() {
            while let Some(event) = decoder.next(&mut slice).expect("valid") {
                match event {
                    Event::Frame(header) => frames.push((header, Vec::new())),
                    Event::Payload { bytes, last } => {
                        let (header, payload) = frames.last_mut().expect("behind a header");
                        payload.extend_from_slice(bytes);
                        assert_eq!(last, payload.len() == header.len as usize);
                    }
                }
            }
            assert!(slice.is_empty());
        }
        frames
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let mut stream = Vec::new();
        let frames = [
            (Header::window(2, Flags::SYN, 0), &b""[..]),
            (Header::data(2, 5), b"hello"),
            (Header::data(2, 0), b""),
            (Header::ping(Flags::SYN, 9), b""),
            (Header::data(4, 1), b"!"),
        ];
        for (header, payload) in &frames {
            stream.extend_from_slice(&header.encode());
            stream.extend_from_slice(payload);
        }
        let expected: Vec<_> = frames.iter().map(|(h, p)| (*h, p.to_vec())).collect();
        assert_eq!(decode(&[&stream]), expected);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decode(&bytes), expected);
        for cut in 0..=stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(decode(&[a, &[], b]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_refused_header_is_refused_however_it_is_cut() {
        let mut bytes = Header::data(2, 0).encode();
        bytes[0] = 1;
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next(&mut &bytes[..7]), Ok(None));
        assert_eq!(decoder.next(&mut &bytes[7..]), Err(Fatal::Version(1)));
    }
}
