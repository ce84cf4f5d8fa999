use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;
use crate::net::testing::{Ca, Issued, far_deadline, listen};
use crate::net::{ClientTlsSettings, DialCause, PemSource, Reason, ServerTlsSettings, Trust};

mod failing;
mod proxied;

/// A name that only a proxy or the tests' own resolver knows.
const NAME: &str = "gateway.test";

fn pem(text: &str) -> PemSource {
    PemSource::Given {
        name: "test".into(),
        pem: text.as_bytes().to_vec(),
    }
}

fn trusting(ca: &Ca) -> ClientTlsSettings {
    ClientTlsSettings {
        trust: Trust::OnlyGiven,
        ca: vec![pem(&ca.pem())],
        ..ClientTlsSettings::default()
    }
}

fn dialer(settings: ClientTlsSettings) -> Dialer {
    Dialer::new(Arc::new(ClientTls::new(settings).expect("settings")))
}

/// Knows every name, as the given addresses.
fn resolving_to(dialer: Dialer, addresses: Vec<SocketAddr>) -> Dialer {
    dialer.with_resolver(Resolver::new(move |_| Ok(addresses.clone())))
}

fn endpoint(host: &str, port: u16, tls: bool) -> Endpoint {
    Endpoint {
        host: host.into(),
        port,
        tls,
    }
}

fn server_tls(issued: &Issued, client_ca: Option<&Ca>) -> ServerTls {
    ServerTls::new(&ServerTlsSettings {
        certificate: pem(&issued.certificate_pem),
        key: pem(&issued.key_pem),
        client_ca: client_ca.map(|ca| pem(&ca.pem())),
    })
    .expect("server settings")
}

/// Accepts one connection and sends back what it reads until the end.
fn echo_once(listener: TcpListener, tls: Option<ServerTls>) -> JoinHandle<Result<(), DialError>> {
    thread::spawn(move || {
        let (socket, _) = listener.accept().expect("accept");
        let options = ConnectOptions::default();
        let cancel = Cancel::new();
        let mut halves = accept(
            socket.into(),
            tls.as_ref(),
            &options,
            far_deadline(),
            &cancel,
        )?;
        echo(&mut halves);
        Ok(())
    })
}

fn echo(halves: &mut Halves) {
    while let Ok(bytes) = halves.read.fill() {
        if bytes.is_empty() {
            break;
        }
        let bytes = bytes.to_vec();
        halves.read.consume(bytes.len());
        let slices = [std::io::IoSlice::new(&bytes)];
        if halves.write.write_all(&slices).is_err() {
            break;
        }
    }
}

fn check_echo(halves: &mut Halves) {
    let slices = [std::io::IoSlice::new(b"hello")];
    halves.write.write_all(&slices).expect("write");
    let mut got = Vec::new();
    while got.len() < 5 {
        let bytes = halves.read.fill().expect("read");
        assert!(!bytes.is_empty(), "ended early");
        got.extend_from_slice(bytes);
        let count = bytes.len();
        halves.read.consume(count);
    }
    assert_eq!(got, b"hello");
}

fn dial(dialer: &Dialer, to: &Endpoint) -> Result<Halves, DialError> {
    dialer.dial(to, far_deadline(), &Cancel::new())
}

#[test]
fn plain_tcp() {
    let (listener, address) = listen();
    let server = echo_once(listener, None);
    let to = endpoint("127.0.0.1", address.port(), false);
    let mut halves = dial(&dialer(ClientTlsSettings::default()), &to).expect("dial");
    check_echo(&mut halves);
    assert_eq!(halves.tls_version(), None);
    assert!(halves.socket.tcp_nodelay().expect("option"));
    assert_eq!(
        halves.socket.tcp_user_timeout().expect("option"),
        Some(Duration::from_secs(20))
    );
    drop(halves);
    server.join().expect("server").expect("accepted");
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    let ca = Ca::new();
    for names in [["127.0.0.1"], [NAME]] {
        let (listener, address) = listen();
        let server = echo_once(listener, Some(server_tls(&ca.issue(&names), None)));
        let dialer = resolving_to(dialer(trusting(&ca)), vec![address]);
        let to = endpoint(names[0], address.port(), true);
        let mut halves = dial(&dialer, &to).expect("dial");
        check_echo(&mut halves);
        assert!(halves.tls_version().is_some());
        drop(halves);
        server.join().expect("server").expect("accepted");
    }
}

#[test]
fn an_absolute_name_is_verified_without_its_dot() {
    let ca = Ca::new();
    let (listener, address) = listen();
    let _server = echo_once(listener, Some(server_tls(&ca.issue(&[NAME]), None)));
    let dialer = resolving_to(dialer(trusting(&ca)), vec![address]);
    let to = endpoint("gateway.test.", address.port(), true);
    check_echo(&mut dial(&dialer, &to).expect("dial"));
}

#[test]
fn ipv6_literals_with_tls() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        return; // No IPv6 on this machine.
    };
    let port = listener.local_addr().expect("address").port();
    let ca = Ca::new();
    let _server = echo_once(listener, Some(server_tls(&ca.issue(&["::1"]), None)));
    let to = endpoint("::1", port, true);
    check_echo(&mut dial(&dialer(trusting(&ca)), &to).expect("dial"));
}

#[test]
fn a_wrong_authority_is_explained() {
    let (listener, address) = listen();
    let issued = Ca::new().issue(&["127.0.0.1"]);
    let server = echo_once(listener, Some(server_tls(&issued, None)));
    let to = endpoint("127.0.0.1", address.port(), true);
    let error = dial(&dialer(trusting(&Ca::new())), &to).expect_err("not trusted");
    assert_eq!(error.phase, Phase::Tls);
    assert!(error.tls().is_some());
    let text = error.to_string();
    assert!(text.contains("authority that is not trusted"), "{text}");
    // The server is told why.
    let told = server.join().expect("server").expect_err("no handshake");
    assert_eq!(told.phase, Phase::Tls);
    assert!(told.to_string().contains("UnknownCA"), "{told}");
}

#[test]
fn an_authority_that_was_made_anew_is_explained() {
    let [old, new] = Ca::namesakes();
    let (listener, address) = listen();
    let issued = new.issue(&["127.0.0.1"]);
    let _server = echo_once(listener, Some(server_tls(&issued, None)));
    let to = endpoint("127.0.0.1", address.port(), true);
    let error = dial(&dialer(trusting(&old)), &to).expect_err("not trusted");
    assert!(error.to_string().contains("outdated CA file"), "{error}");
}

#[test]
fn a_wrong_name_is_explained_with_the_names_there_are() {
    let ca = Ca::new();
    let (listener, address) = listen();
    let issued = ca.issue(&["a.test", "b.test"]);
    let _server = echo_once(listener, Some(server_tls(&issued, None)));
    let dialer = resolving_to(dialer(trusting(&ca)), vec![address]);
    let error = dial(&dialer, &endpoint(NAME, address.port(), true)).expect_err("wrong name");
    let text = error.to_string();
    assert!(
        text.contains("not valid for name gateway.test; presented names: a.test, b.test"),
        "{text}"
    );
}

#[test]
fn an_overridden_server_name_is_what_is_verified() {
    let ca = Ca::new();
    let (listener, address) = listen();
    let _server = echo_once(listener, Some(server_tls(&ca.issue(&["a.test"]), None)));
    let dialer = dialer(ClientTlsSettings {
        server_name: Some("a.test".into()),
        ..trusting(&ca)
    });
    let to = endpoint("127.0.0.1", address.port(), true);
    check_echo(&mut dial(&dialer, &to).expect("dial"));
}

#[test]
fn skipping_verification_accepts_anybody() {
    let (listener, address) = listen();
    let issued = Ca::new().issue(&["other.test"]);
    let _server = echo_once(listener, Some(server_tls(&issued, None)));
    let dialer = dialer(ClientTlsSettings {
        insecure_skip_verify: true,
        ..trusting(&Ca::new())
    });
    let to = endpoint("127.0.0.1", address.port(), true);
    check_echo(&mut dial(&dialer, &to).expect("dial"));
}

/// `openssl req -x509` makes such certificates; Go's agent accepted them.
#[test]
fn a_self_signed_authority_that_the_server_shows_itself_is_accepted_by_name() {
    let ca = Ca::named(&["127.0.0.1"]);
    let serve = |listener| echo_once(listener, Some(server_tls(&ca.own(), None)));
    let (listener, address) = listen();
    let _server = serve(listener);
    let to = endpoint("127.0.0.1", address.port(), true);
    check_echo(&mut dial(&dialer(trusting(&ca)), &to).expect("dial"));

    // Not for another name, and not when another authority was given.
    let (listener, address) = listen();
    let _server = serve(listener);
    let named = resolving_to(dialer(trusting(&ca)), vec![address]);
    let error = dial(&named, &endpoint(NAME, address.port(), true)).expect_err("wrong name");
    assert!(
        error.to_string().contains("presented names: 127.0.0.1"),
        "{error}"
    );
    let (listener, address) = listen();
    let _server = serve(listener);
    let to = endpoint("127.0.0.1", address.port(), true);
    let error = dial(&dialer(trusting(&Ca::new())), &to).expect_err("not trusted");
    assert_eq!(error.phase, Phase::Tls);
}

#[test]
fn mutual_tls() {
    let ca = Ca::new();
    let issued = ca.issue(&["127.0.0.1"]);
    let (listener, address) = listen();
    let server = echo_once(listener, Some(server_tls(&issued, Some(&ca))));
    let client = ca.issue(&["client"]);
    let with = dialer(ClientTlsSettings {
        certificate: Some(pem(&client.certificate_pem)),
        key: Some(pem(&client.key_pem)),
        ..trusting(&ca)
    });
    let to = endpoint("127.0.0.1", address.port(), true);
    check_echo(&mut dial(&with, &to).expect("dial"));
    server.join().expect("server").expect("accepted");

    // Without one. TLS 1.3 clients learn it only with the first read.
    let (listener, address) = listen();
    let server = echo_once(listener, Some(server_tls(&issued, Some(&ca))));
    let to = endpoint("127.0.0.1", address.port(), true);
    let mut halves = dial(&dialer(trusting(&ca)), &to).expect("our side is done");
    let error: DialCause = halves.read.fill().expect_err("refused").into();
    let text = error.to_string();
    assert!(text.contains("asks for a client certificate"), "{text}");
    let told = server.join().expect("server").expect_err("no certificate");
    assert!(told.to_string().contains("no certificate"), "{told}");
}

#[test]
fn the_next_address_is_tried_when_one_refuses() {
    let (listener, address) = listen();
    let _server = echo_once(listener, None);
    let (closed, refusing) = listen();
    drop(closed);
    // The port is the dial's: tell them apart by address.
    let refusing = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9)), refusing.port());
    let dialer = resolving_to(
        dialer(ClientTlsSettings::default()),
        vec![
            refusing,
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0),
            address,
        ],
    );
    let to = endpoint(NAME, address.port(), false);
    check_echo(&mut dial(&dialer, &to).expect("dial"));
}

#[test]
fn an_address_that_does_not_answer_costs_a_moment() {
    let (listener, address) = listen();
    let _server = echo_once(listener, None);
    let silent = failing::SilentPort::at(Ipv4Addr::new(127, 8, 8, 8), address.port());
    let dialer = resolving_to(
        dialer(ClientTlsSettings::default()),
        vec![silent.address, address],
    );
    check_echo(&mut dial(&dialer, &endpoint(NAME, address.port(), false)).expect("dial"));
}

#[test]
fn an_absurd_host_is_refused_before_anything_is_sent() {
    for host in [
        "",
        "a b",
        "a\r\nX: y",
        "a/b",
        "user@a",
        "ä",
        &"a".repeat(300),
    ] {
        let error = dial(
            &dialer(ClientTlsSettings::default()),
            &endpoint(host, 1, false),
        )
        .expect_err(host);
        assert!(matches!(error.cause, DialCause::Invalid(_)), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[test]
fn endpoints_are_shown_as_they_are_dialled() {
    assert_eq!(endpoint("a", 1, true).to_string(), "a:1");
    assert_eq!(endpoint("::1", 1, true).to_string(), "[::1]:1");
}
