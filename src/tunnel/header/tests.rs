//! Golden bytes, every split, and what is refused.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn parse(bytes: &[u8], newest: Version) -> Result<Option<(Header, usize)>, HeaderError> {
    let mut rest = bytes;
    let header = HeaderParser::new(newest).feed(&mut rest)?;
    Ok(header.map(|header| (header, rest.len())))
}

fn postgres() -> Header {
    Header {
        protocol: Protocol::Tcp,
        port: 5432,
        service: "postgres".into(),
        namespace: "databases".into(),
        tunnel_id: "t-1".into(),
        client: None,
    }
}

/// tunnels.md §10.1.
const POSTGRES: &[u8] = b"\x01\x01\x15\x38\0\x08postgres\0\x09databases\0\x03t-1";

#[test]
fn golden_bytes_are_read_and_written() {
    assert_eq!(parse(POSTGRES, Version::One), Ok(Some((postgres(), 0))));
    assert_eq!(postgres().encode(Version::One).as_deref(), Ok(POSTGRES));
    let empty = b"\x01\x02\x00\x35\0\0\0\0\0\0";
    let header = Header {
        protocol: Protocol::Udp,
        port: 53,
        service: String::new(),
        namespace: String::new(),
        tunnel_id: String::new(),
        client: None,
    };
    assert_eq!(parse(empty, Version::One), Ok(Some((header.clone(), 0))));
    assert_eq!(header.encode(Version::One).as_deref(), Ok(&empty[..]));
}

#[test]
fn version_two_names_the_client() {
    let bytes = [b"\x02", &POSTGRES[1..], b"\0\x0e192.0.2.7:4040"].concat();
    let header = Header {
        client: Some("192.0.2.7:4040".parse().expect("address")),
        ..postgres()
    };
    assert_eq!(header.encode(Version::Two), Ok(bytes.clone()));
    let payload = [&bytes[..], b"payload"].concat();
    assert_eq!(parse(&payload, Version::Two), Ok(Some((header, 7))));
    // Not agreed on.
    assert_eq!(parse(&bytes, Version::One), Err(HeaderError::Version(2)));
    let unknown = postgres().encode(Version::Two).expect("encoded");
    assert_eq!(parse(&unknown, Version::Two), Ok(Some((postgres(), 0))));
    let rubbish = [b"\x02", &POSTGRES[1..], b"\0\x01x"].concat();
    assert_eq!(parse(&rubbish, Version::Two), Err(HeaderError::Client));
    let v6 = Header {
        client: Some("[2001:db8::1]:9".parse().expect("address")),
        ..postgres()
    };
    let bytes = v6.encode(Version::Two).expect("encoded");
    assert_eq!(parse(&bytes, Version::Two), Ok(Some((v6, 0))));
}

/// The original took any version, and any protocol but 2 for TCP.
#[test]
fn tt14_version_and_protocol_are_checked_at_their_first_byte() {
    for version in [0, 2, 3, 255] {
        assert_eq!(
            parse(&[version], Version::One),
            Err(HeaderError::Version(version))
        );
    }
    for protocol in [0, 3, 255] {
        assert_eq!(
            parse(&[1, protocol], Version::One),
            Err(HeaderError::Protocol(protocol))
        );
    }
}

#[test]
fn tt12_a_long_string_is_refused_by_its_length() {
    let header = Header {
        namespace: "n".repeat(255),
        ..postgres()
    };
    let bytes = header.encode(Version::One).expect("encoded");
    assert_eq!(parse(&bytes, Version::One), Ok(Some((header, 0))));
    let refused = Err(HeaderError::TooLong {
        field: "namespace",
        length: 256,
    });
    let before = &POSTGRES[..14];
    assert_eq!(
        parse(&[before, b"\x01\x00"].concat(), Version::One),
        refused
    );
    let long = Header {
        namespace: "n".repeat(256),
        ..postgres()
    };
    assert_eq!(long.encode(Version::One).map(|_| None), refused);
}

fn named(service: &str, namespace: &str, port: u16) -> Header {
    Header {
        service: service.into(),
        namespace: namespace.into(),
        port,
        ..postgres()
    }
}

/// The original joined whatever came into a host name.
#[test]
fn tt14_a_service_is_named_by_labels() {
    for (service, namespace) in [("a", "b"), ("web-1", "team-a"), (&*"x".repeat(63), "0")] {
        assert!(named(service, namespace, 1).names().of_service().is_ok());
    }
    let long = "x".repeat(64);
    for bad in [
        "",
        "a.b",
        ".",
        "-a",
        "a-",
        "A",
        "a_b",
        "a b",
        "a/b",
        "ü",
        "a\0",
        "127.0.0.1",
        "a:1",
        "*",
        "a\n",
        &long,
        "evil.com.",
        "\u{fffd}",
    ] {
        assert!(named(bad, "b", 1).names().of_service().is_err(), "{bad:?}");
        assert!(named("a", bad, 1).names().of_service().is_err(), "{bad:?}");
    }
    assert_eq!(
        named("a", "b", 0).names().of_service(),
        Err(HeaderError::Port)
    );
}

#[test]
fn a_route_may_have_dots_or_no_name_at_all() {
    for good in ["", "shop.example.test", "Shop_1", "a.b-c.d"] {
        assert!(named(good, "", 0).names().of_route().is_ok(), "{good:?}");
    }
    for bad in [
        "..",
        "a..b",
        "a.",
        "-a",
        "a b",
        "a/b",
        "ü",
        "a:1",
        &"a.".repeat(130),
    ] {
        assert!(named(bad, "", 0).names().of_route().is_err(), "{bad:?}");
    }
}

#[test]
fn an_end_inside_the_header_says_how_far_it_came() {
    let mut parser = HeaderParser::new(Version::One);
    assert_eq!(parser.feed(&mut &POSTGRES[..9]), Ok(None));
    assert_eq!(parser.ended(), HeaderError::Ended(9));
}

/// What the fuzzer begins with, and what it found worth keeping.
#[test]
fn the_corpus_is_played() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tunnel_header");
    let mut played = 0;
    for file in fs::read_dir(corpus).expect("a corpus") {
        fuzz(&fs::read(file.expect("an entry").path()).expect("a file"));
        played += 1;
    }
    assert!(played > 0, "there is no corpus");
}

fn headers() -> impl Strategy<Value = Header> {
    let text = || {
        prop_oneof![
            Just(String::new()),
            "[a-z0-9.-]{1,20}",
            "\\PC{0,60}",
            "x{250,255}"
        ]
    };
    let client = prop::option::of(any::<SocketAddr>());
    (any::<bool>(), any::<u16>(), text(), text(), text(), client).prop_map(
        |(udp, port, service, namespace, tunnel_id, client)| Header {
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
            port,
            service,
            namespace,
            tunnel_id,
            // Flow and scope have no place in the text.
            client: client.map(|client| SocketAddr::new(client.ip(), client.port())),
        },
    )
}

proptest! {
    #[test]
    fn any_split_gives_the_same_header_and_leaves_the_payload(
        header in headers(),
        payload in prop::collection::vec(any::<u8>(), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        two in any::<bool>(),
    ) {
        let version = if two { Version::Two } else { Version::One };
        let expected = Header { client: header.client.filter(|_| two), ..header.clone() };
        let mut bytes = header.encode(version).expect("short enough");
        prop_assert!(bytes.len() <= MAX_HEADER);
        let length = bytes.len();
        bytes.extend(&payload);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let mut parser = HeaderParser::new(Version::Two);
        for pair in places.windows(2) {
            let mut piece = &bytes[pair[0]..pair[1]];
            let found = parser.feed(&mut piece).expect("a good header");
            if let Some(found) = found {
                prop_assert_eq!(found, expected);
                prop_assert_eq!(pair[1] - piece.len(), length);
                return Ok(());
            }
            prop_assert!(piece.is_empty());
        }
        prop_assert!(false, "never complete");
    }

    #[test]
    fn any_bytes_are_a_header_or_an_error(data in prop::collection::vec(any::<u8>(), 0..1200)) {
        fuzz(&data);
    }

    #[test]
    fn anything_like_a_header_is_one_or_an_error(
        header in headers(),
        seed in any::<u8>(),
        change in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut bytes = vec![seed];
        bytes.extend(header.encode(Version::Two).expect("short enough"));
        let at = change.0.index(bytes.len());
        bytes[at] = change.1;
        fuzz(&bytes);
    }
}
