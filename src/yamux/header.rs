//! The frame header (tunnels.md §2.2, §2.3).

use std::ops::BitOr;

use super::Fatal;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `len` bytes of payload follow.
    Data,
    /// `len` more bytes may be sent to who wrote this.
    WindowUpdate,
    /// `len` is what comes back.
    Ping,
    /// `len` says why.
    GoAway,
}

/// A set of flags; unknown ones are kept and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    pub const NONE: Self = Self(0);
    /// A stream begins; on a ping: this is the question.
    pub const SYN: Self = Self(1);
    /// The stream is accepted; on a ping: this is the answer.
    pub const ACK: Self = Self(2);
    /// The sender sends no more data.
    pub const FIN: Self = Self(4);
    /// The stream is aborted, both ways.
    pub const RST: Self = Self(8);

    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header of a frame; only Data has something behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub flags: Flags,
    /// 0 for pings and Go Away.
    pub id: u32,
    /// See [`Kind`].
    pub len: u32,
}

impl Header {
    pub fn data(id: u32, len: u32) -> Self {
        Self::new(Kind::Data, Flags::NONE, id, len)
    }

    /// A window update. It also carries every flag that we send: on a Data frame
    /// with payload, FIN would overtake the payload at some peers (§2.14, 3).
    pub fn window(id: u32, flags: Flags, delta: u32) -> Self {
        Self::new(Kind::WindowUpdate, flags, id, delta)
    }

    /// A ping's question ([`Flags::SYN`]) or answer ([`Flags::ACK`]).
    pub fn ping(flags: Flags, value: u32) -> Self {
        Self::new(Kind::Ping, flags, 0, value)
    }

    pub fn go_away(code: u32) -> Self {
        Self::new(Kind::GoAway, Flags::NONE, 0, code)
    }

    fn new(kind: Kind, flags: Flags, id: u32, len: u32) -> Self {
        Self {
            kind,
            flags,
            id,
            len,
        }
    }

    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, Fatal> {
        let [version, kind, f0, f1, i0, i1, i2, i3, l0, l1, l2, l3] = *bytes;
        if version != 0 {
            return Err(Fatal::Version(version));
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::WindowUpdate,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            other => return Err(Fatal::Type(other)),
        };
        Ok(Self {
            kind,
            flags: Flags(u16::from_be_bytes([f0, f1])),
            id: u32::from_be_bytes([i0, i1, i2, i3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[1] = match self.kind {
            Kind::Data => 0,
            Kind::WindowUpdate => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        bytes[2..4].copy_from_slice(&self.flags.0.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[8..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// Bytes of payload behind this header.
    pub fn payload(&self) -> u32 {
        match self.kind {
            Kind::Data => self.len,
            Kind::WindowUpdate | Kind::Ping | Kind::GoAway => 0,
        }
    }
}

/// Bytes of a header.
pub const HEADER: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    /// tunnels.md §10.1.
    #[test]
    fn golden_bytes() {
        let golden = [
            ("000100010000000200000000", Header::window(2, Flags::SYN, 0)),
            (
                "0001000100000002000c0000",
                Header::window(2, Flags::SYN, 0xc_0000),
            ),
            ("000100020000000200000000", Header::window(2, Flags::ACK, 0)),
            (
                "0001000200000002000c0000",
                Header::window(2, Flags::ACK, 0xc_0000),
            ),
            ("00000000000000020000001e", Header::data(2, 30)),
            (
                "000100000000000200020000",
                Header::window(2, Flags::NONE, 131_072),
            ),
            ("000100040000000200000000", Header::window(2, Flags::FIN, 0)),
            ("000100080000000200000000", Header::window(2, Flags::RST, 0)),
            ("000200010000000000000007", Header::ping(Flags::SYN, 7)),
            ("000200020000000000000007", Header::ping(Flags::ACK, 7)),
            ("000300000000000000000000", Header::go_away(0)),
            ("000300000000000000000001", Header::go_away(1)),
        ];
        for (hex, header) in golden {
            let bytes = header.encode();
            let value = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | u128::from(*byte));
            assert_eq!(format!("{value:024x}"), hex);
            assert_eq!(Header::decode(&bytes), Ok(header));
        }
    }

    #[test]
    fn unknown_versions_and_types_end_the_session() {
        let mut bytes = Header::data(2, 0).encode();
        bytes[1] = 9;
        assert_eq!(Header::decode(&bytes), Err(Fatal::Type(9)));
        bytes[0] = 1;
        assert_eq!(Header::decode(&bytes), Err(Fatal::Version(1)));
    }

    #[test]
    fn unknown_flags_are_tolerated() {
        let mut bytes = Header::window(2, Flags::FIN, 5).encode();
        bytes[2] = 0xff;
        let header = Header::decode(&bytes).expect("decodes");
        assert!(header.flags.has(Flags::FIN));
        assert!(!header.flags.has(Flags::SYN | Flags::ACK | Flags::RST));
        assert_eq!(header.len, 5);
    }
}
