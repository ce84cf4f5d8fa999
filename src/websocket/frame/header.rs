//! The frame header (RFC 6455 §5.2).

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame header. No extension is ever negotiated, so a reserved bit that is set
/// is an error and not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The last frame of its message.
    pub(crate) fin: bool,
    pub(crate) opcode: Opcode,
    pub(crate) mask: Option<[u8; 4]>,
    /// Payload length in bytes.
    pub(crate) len: u64,
}

/// What makes the first two bytes no header at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    ReservedBits,
    Opcode(u8),
}

impl Header {
    /// The header at the beginning of `bytes` and its size; `None` when there are
    /// too few bytes to tell. A length that isn't encoded in the fewest bytes is
    /// accepted, as everybody does.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(Malformed::ReservedBits);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Malformed::Opcode(first & 0x0f))?;
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        let (len, at) = match second & 0x7f {
            126 => match bytes.get(2..4) {
                Some(len) => (
                    len.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
                    4,
                ),
                None => return Ok(None),
            },
            127 => match bytes.get(2..10) {
                Some(len) => (
                    len.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
                    10,
                ),
                None => return Ok(None),
            },
            len => (u64::from(len), 2),
        };
        let fin = first & 0x80 != 0;
        let mut header = Self {
            fin,
            opcode,
            mask: None,
            len,
        };
        if second & 0x80 == 0 {
            return Ok(Some((header, at)));
        }
        let Some(key) = bytes.get(at..at + 4) else {
            return Ok(None);
        };
        header.mask = Some([key[0], key[1], key[2], key[3]]);
        Ok(Some((header, at + 4)))
    }

    /// The header's bytes and how many of them count.
    pub(crate) fn encode(&self) -> ([u8; MAX_HEADER], usize) {
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = u8::from(self.fin) << 7 | self.opcode.bits();
        let mut at = match self.len {
            len @ 0..=125 => {
                bytes[1] = len as u8;
                2
            }
            len @ 126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.mask {
            bytes[1] |= 0x80;
            bytes[at..at + 4].copy_from_slice(&key);
            at += 4;
        }
        (bytes, at)
    }
}

/// The largest header: 2 bytes, 8 of length, 4 of masking key.
pub(crate) const MAX_HEADER: usize = 14;

/// The largest payload of a control frame (RFC 6455 §5.5).
pub(crate) const MAX_CONTROL: usize = 125;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn opcode() -> impl Strategy<Value = Opcode> {
        prop_oneof![
            Just(Opcode::Continuation),
            Just(Opcode::Text),
            Just(Opcode::Binary),
            Just(Opcode::Close),
            Just(Opcode::Ping),
            Just(Opcode::Pong),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_and_a_part_of_it_is_not(
            fin: bool,
            opcode in opcode(),
            mask: Option<[u8; 4]>,
            len in prop_oneof![0u64..200, 65_000u64..66_000, any::<u64>()],
        ) {
            let header = Header { fin, opcode, mask, len };
            let (bytes, size) = header.encode();
            prop_assert_eq!(Header::parse(&bytes[..size]), Ok(Some((header, size))));
            for part in 0..size {
                prop_assert_eq!(Header::parse(&bytes[..part]), Ok(None));
            }
        }

        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = Header::parse(&bytes);
        }
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 6455 §5.7: "Hello" unmasked, masked; 256 and 65,536 bytes of binary.
        let head = |fin, opcode, mask, len| Header {
            fin,
            opcode,
            mask,
            len,
        };
        let parse = |bytes| Header::parse(bytes).expect("valid").expect("complete").0;
        assert_eq!(parse(&[0x81, 0x05]), head(true, Opcode::Text, None, 5));
        assert_eq!(
            parse(&[0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]),
            head(true, Opcode::Text, Some([0x37, 0xfa, 0x21, 0x3d]), 5)
        );
        assert_eq!(
            parse(&[0x82, 0x7e, 1, 0]),
            head(true, Opcode::Binary, None, 256)
        );
        assert_eq!(
            parse(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]),
            head(true, Opcode::Binary, None, 65_536)
        );
    }

    #[test]
    fn reserved_bits_and_opcodes_are_refused_at_the_first_byte() {
        assert_eq!(Header::parse(&[0xc1]), Err(Malformed::ReservedBits));
        assert_eq!(Header::parse(&[0x83]), Err(Malformed::Opcode(3)));
        assert_eq!(Header::parse(&[0x8b]), Err(Malformed::Opcode(11)));
    }
}
