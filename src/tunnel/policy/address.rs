//! Addresses: blocks of them, and those that are nobody's business unless a rule
//! or an origin names them (decisions.md §6.6 "Policy").

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;

/// What makes an address special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Loopback,
    LinkLocal,
    Metadata,
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a metadata service of a cloud",
        })
    }
}

/// The same place in its plainest form, for checking *and* dialling: IPv4 inside
/// IPv6 is IPv4, and the unspecified address, which the kernel takes for loopback,
/// is loopback.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match plain(address.ip()) {
        // Keeps the scope of a link-local address.
        IpAddr::V6(ip) if address.ip() == IpAddr::V6(ip) => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

fn plain(ip: IpAddr) -> IpAddr {
    let ip = ip.to_canonical();
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => ip,
    }
}

/// Whether a canonical address is special.
pub(super) fn special(ip: IpAddr) -> Option<Special> {
    block_of(ip).map(|(_, special)| special)
}

/// The special block that an address lies in.
fn block_of(ip: IpAddr) -> Option<(Block, Special)> {
    // A translator makes IPv4 of it again (RFC 6052).
    let ip = match ip {
        IpAddr::V6(ip) => translated(ip).map_or(IpAddr::V6(ip), |inner| plain(inner.into())),
        IpAddr::V4(_) => ip,
    };
    SPECIAL
        .iter()
        .find(|(block, _)| block.contains(ip))
        .copied()
}

fn translated(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = ip.segments() else {
        return None;
    };
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Some(Ipv4Addr::new(a, b, c, d))
}

/// A block of addresses (`10.0.0.0/8`), or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    base: IpAddr,
    /// Leading bits that count.
    bits: u8,
}

impl Block {
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.base.is_ipv4() == ip.is_ipv4() && (bits_of(self.base) ^ bits_of(ip)) & self.mask() == 0
    }

    /// The leading bits, of 128: an IPv4 address stands at the left, too.
    fn mask(&self) -> u128 {
        u128::MAX
            .checked_shl(128 - u32::from(self.bits))
            .unwrap_or(0)
    }

    /// Whether the block names what is special about `ip`: it lies within the same
    /// special block. `0.0.0.0/0` contains 127.0.0.1, but nobody who writes it
    /// thinks of that.
    pub(super) fn names(&self, ip: IpAddr) -> bool {
        self.contains(ip)
            && block_of(self.base).is_some_and(|(special, _)| self.bits >= special.bits)
    }
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no block of addresses: {why}");
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text.trim(), None),
        };
        let base: IpAddr = address
            .parse()
            .map_err(|_| wrong("write 10.0.0.0/8 or fd00::/8"))?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let mut bits = match bits {
            None => width,
            Some(bits) => bits
                .parse::<u8>()
                .ok()
                .filter(|n| *n <= width && bits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| wrong("the number after the slash is out of range"))?,
        };
        let block = Self { base, bits };
        if bits_of(base) & !block.mask() != 0 {
            // 10.1.2.3/8 was meant for something else than what it says.
            return Err(wrong("bits are set behind the block's own"));
        }
        let base = match base {
            IpAddr::V6(ip) if bits >= 96 => match ip.to_ipv4_mapped() {
                Some(inner) => {
                    bits -= 96;
                    inner.into()
                }
                None => base,
            },
            base => base,
        };
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// An address at the left of 128 bits.
fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// Whether an address is one of this machine's, by asking the kernel whether a
/// socket could be bound to it. In doubt it is.
pub(super) fn is_local(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Block {
    Block {
        base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        bits,
    }
}

const fn v6(ip: u128, bits: u8) -> Block {
    Block {
        base: IpAddr::V6(Ipv6Addr::from_bits(ip)),
        bits,
    }
}

/// decisions.md §6.6. Of 169.254.0.0/16 the metadata service is what matters.
const SPECIAL: &[(Block, Special)] = &[
    (v4(127, 0, 0, 0, 8), Special::Loopback),
    (v4(0, 0, 0, 0, 8), Special::Loopback),
    (v6(1, 128), Special::Loopback),
    (v6(0, 128), Special::Loopback),
    (v4(169, 254, 0, 0, 16), Special::Metadata),
    (v4(168, 63, 129, 16, 32), Special::Metadata),
    (v4(100, 100, 100, 200, 32), Special::Metadata),
    (
        v6(0xfd00_0ec2_0000_0000_0000_0000_0000_0254, 128),
        Special::Metadata,
    ),
    (v6(0xfe80 << 112, 10), Special::LinkLocal),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn block(text: &str) -> Block {
        text.parse().expect(text)
    }

    fn special_of(text: &str) -> Option<Special> {
        special(canonical(SocketAddr::new(ip(text), 1)).ip())
    }

    #[test]
    fn tt14_every_spelling_of_a_special_address_is_one() {
        for text in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "64:ff9b::127.0.0.1",
            "64:ff9b::",
        ] {
            assert_eq!(special_of(text), Some(Special::Loopback), "{text}");
        }
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "168.63.129.16",
            "100.100.100.200",
            "64:ff9b::a9fe:a9fe",
            "::ffff:a83f:8110",
        ] {
            assert_eq!(special_of(text), Some(Special::Metadata), "{text}");
        }
        assert_eq!(special_of("fe80::1"), Some(Special::LinkLocal));
        assert_eq!(special_of("febf::1"), Some(Special::LinkLocal));
        for text in [
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "fd00:ec2::253",
            "2001:db8::1",
            "168.63.129.17",
            "100.100.100.201",
            "64:ff9b::a00:1",
            "1.0.0.0",
            "fec0::1",
        ] {
            assert_eq!(special_of(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_checked_is_what_is_dialled() {
        for (from, to) in [
            ("0.0.0.0:5", "127.0.0.1:5"),
            ("[::]:5", "[::1]:5"),
            ("[::ffff:10.0.0.1]:5", "10.0.0.1:5"),
            ("[::ffff:0.0.0.0]:5", "127.0.0.1:5"),
            ("10.0.0.1:5", "10.0.0.1:5"),
            ("[fe80::1%7]:5", "[fe80::1%7]:5"),
        ] {
            let from: SocketAddr = from.parse().expect(from);
            assert_eq!(canonical(from).to_string(), to);
        }
    }

    #[test]
    fn a_wide_block_contains_but_does_not_name() {
        for (text, address, names) in [
            ("0.0.0.0/0", "127.0.0.1", false),
            ("127.0.0.0/8", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("126.0.0.0/7", "127.0.0.1", false),
            ("169.254.169.254/32", "169.254.169.254", true),
            ("168.63.129.0/24", "168.63.129.16", false),
            ("fd00::/8", "fd00:ec2::254", false),
            ("fd00:ec2::254/128", "fd00:ec2::254", true),
            ("fe80::/10", "fe80::1", true),
            ("::/0", "::1", false),
            ("::ffff:127.0.0.0/104", "127.0.0.1", true),
        ] {
            let block = block(text);
            assert!(block.contains(ip(address)), "{text}");
            assert_eq!(block.names(ip(address)), names, "{text}");
        }
        assert!(!block("127.0.0.1").names(ip("127.0.0.2")));
    }

    #[test]
    fn blocks_that_are_none() {
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.1.2.3/8",
            "fd00::/129",
            "fd00::1/64",
            "localhost",
            "10.0.0/8",
            "10.0.0.0/",
            "1.2.3.4/0",
        ] {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
        assert_eq!(block("0.0.0.0/0").to_string(), "0.0.0.0/0");
    }

    #[test]
    fn this_machine_knows_its_own_addresses() {
        assert!(is_local(ip("127.0.0.1")));
        assert!(is_local(ip("127.3.2.1")));
        assert!(!is_local(ip("192.0.2.1")));
        assert!(!is_local(ip("2001:db8::1")));
    }

    proptest! {
        #[test]
        fn a_block_contains_what_shares_its_first_bits(
            base in any::<u32>(), bits in 0_u8..=32, other in any::<u32>(),
        ) {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            let base = Ipv4Addr::from(base & mask);
            let block: Block = format!("{base}/{bits}").parse().expect("a block");
            let shared = (u32::from(base) ^ other).leading_zeros() >= u32::from(bits);
            prop_assert_eq!(block.contains(IpAddr::V4(other.into())), shared);
        }
    }
}
