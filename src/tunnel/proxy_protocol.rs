//! The PROXY protocol (versions 1 and 2): the first bytes to a target that wants to
//! know who the client is, which a tunnel otherwise hides.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::Protocol;
use crate::config::ProxyProtocol;

/// The version that `tunnels.proxy_protocol` asks for a target: by
/// `service.namespace:port`, `service.namespace`, or, where the name is that of a route
/// or forward, by the service alone.
pub fn configured(
    targets: &BTreeMap<String, ProxyProtocol>,
    (namespace, service, port): (&str, &str, u16),
    is_route: bool,
) -> Option<ProxyProtocol> {
    if targets.is_empty() {
        return None;
    }
    let full = format!("{service}.{namespace}").to_ascii_lowercase();
    targets
        .get(&format!("{full}:{port}"))
        .or_else(|| targets.get(&full))
        .or_else(|| {
            // A Service of the cluster has the same name in each namespace.
            let alone = is_route.then(|| service.to_ascii_lowercase())?;
            targets.get(&alone)
        })
        .copied()
}

/// The header. Without a client it says that nothing is known (version 2: LOCAL);
/// a target without an address is given as the unspecified one. Version 1 knows no
/// UDP: there is no header then.
pub fn header(
    version: ProxyProtocol,
    protocol: Protocol,
    client: Option<SocketAddr>,
    target: Option<SocketAddr>,
) -> Vec<u8> {
    let pair = client.map(|client| one_family(client, target));
    match version {
        ProxyProtocol::V1 if protocol == Protocol::Udp => Vec::new(),
        ProxyProtocol::V1 => version_1(pair),
        ProxyProtocol::V2 => version_2(protocol, pair),
    }
}

fn version_1(pair: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((client, target)) = pair else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if client.is_ipv4() { 4 } else { 6 };
    format!(
        "PROXY TCP{family} {} {} {} {}\r\n",
        client.ip(),
        target.ip(),
        client.port(),
        target.port()
    )
    .into_bytes()
}

fn version_2(protocol: Protocol, pair: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let Some((client, target)) = pair else {
        // LOCAL, no family, no addresses.
        out.extend([0x20, 0x00, 0, 0]);
        return out;
    };
    let family = if client.is_ipv4() { 0x10 } else { 0x20 };
    out.extend([0x21, family | protocol.number()]);
    let mut addresses = Vec::with_capacity(36);
    for address in [client, target] {
        match address.ip() {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    for address in [client, target] {
        addresses.extend(address.port().to_be_bytes());
    }
    out.extend((addresses.len() as u16).to_be_bytes());
    out.extend(addresses);
    out
}

/// Both addresses in IPv4 if both are, else both in IPv6.
fn one_family(client: SocketAddr, target: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let client = plain(client);
    let target = target.map_or_else(
        || match client {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        },
        plain,
    );
    if client.is_ipv4() == target.is_ipv4() {
        return (client, target);
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (wide(client), wide(target))
}

/// With it begins each header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }

    #[test]
    fn version_1_golden_bytes() {
        let tcp = |client, target| {
            String::from_utf8(header(ProxyProtocol::V1, Protocol::Tcp, client, target))
                .expect("text")
        };
        assert_eq!(
            tcp(address("192.0.2.7:4040"), address("10.0.0.9:5432")),
            "PROXY TCP4 192.0.2.7 10.0.0.9 4040 5432\r\n"
        );
        assert_eq!(
            tcp(address("[2001:db8::7]:4040"), address("[fd00::9]:5432")),
            "PROXY TCP6 2001:db8::7 fd00::9 4040 5432\r\n"
        );
        assert_eq!(
            tcp(address("192.0.2.7:1"), address("[fd00::9]:2")),
            "PROXY TCP6 ::ffff:192.0.2.7 fd00::9 1 2\r\n"
        );
        assert_eq!(
            tcp(address("[::ffff:192.0.2.7]:1"), None),
            "PROXY TCP4 192.0.2.7 0.0.0.0 1 0\r\n"
        );
        assert_eq!(tcp(None, address("10.0.0.9:1")), "PROXY UNKNOWN\r\n");
        assert!(header(ProxyProtocol::V1, Protocol::Udp, address("1.2.3.4:5"), None).is_empty());
        // The longest one that the protocol allows has 107 bytes.
        let long = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert!(tcp(address(long), address(long)).len() <= 107);
    }

    #[test]
    fn version_2_golden_bytes() {
        let v2 = |protocol, client, target| header(ProxyProtocol::V2, protocol, client, target);
        let signature = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a";
        let with = |rest: &[u8]| [&signature[..], rest].concat();
        assert_eq!(
            v2(
                Protocol::Tcp,
                address("192.0.2.7:4040"),
                address("10.0.0.9:5432")
            ),
            with(b"\x21\x11\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x09\x0f\xc8\x15\x38")
        );
        assert_eq!(
            v2(
                Protocol::Udp,
                address("192.0.2.7:4040"),
                address("10.0.0.9:53")
            ),
            with(b"\x21\x12\x00\x0c\xc0\x00\x02\x07\x0a\x00\x00\x09\x0f\xc8\x00\x35")
        );
        assert_eq!(
            v2(Protocol::Tcp, address("[2001:db8::7]:1"), address("10.0.0.9:2")),
            with(
                b"\x21\x21\x00\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x00\x00\x09\x00\x01\x00\x02"
            )
        );
        // Nobody knows the client: LOCAL.
        assert_eq!(
            v2(Protocol::Tcp, None, address("10.0.0.9:2")),
            with(b"\x20\x00\x00\x00")
        );
    }

    #[test]
    fn the_most_exact_setting_counts() {
        let targets = BTreeMap::from([
            ("web.shop:80".to_owned(), ProxyProtocol::V1),
            ("web.shop".to_owned(), ProxyProtocol::V2),
            ("route".to_owned(), ProxyProtocol::V2),
        ]);
        let found = |namespace, service, port| {
            [false, true].map(|is_route| configured(&targets, (namespace, service, port), is_route))
        };
        assert_eq!(found("shop", "web", 80), [Some(ProxyProtocol::V1); 2]);
        assert_eq!(found("Shop", "Web", 81), [Some(ProxyProtocol::V2); 2]);
        for namespace in ["", "any"] {
            assert_eq!(
                found(namespace, "route", 0),
                [None, Some(ProxyProtocol::V2)]
            );
        }
        assert_eq!(found("other", "web", 80), [None; 2]);
    }
}
