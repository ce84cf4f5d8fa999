//! The handshake, and what comes along with it.

use super::*;

#[test]
fn what_the_peer_sends_with_the_end_of_the_handshake_is_read() {
    for suite in suites() {
        let configs = Configs::new(suite);
        for we_are_client in [true, false] {
            let early = text(50_000);
            let (mut ours, mut peer) = configs.connect(we_are_client, &early);
            peer.send(b"later").expect("send");
            assert!(read_exact(&mut ours, early.len()) == early, "{suite:?}");
            assert_eq!(read_exact(&mut ours, 5), b"later");
        }
    }
}

#[test]
fn tickets_are_kept_and_used() {
    for suite in [v12(), v13()] {
        let configs = Configs::new(suite);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (mut ours, mut peer) = configs.connect(true, b"");
            assert_eq!(peer.session.handshake_kind(), Some(expected), "{suite:?}");
            // What comes behind the tickets.
            peer.send(b"x").expect("send");
            assert_eq!(read_exact(&mut ours, 1), b"x");
        }
    }
}

#[test]
fn a_peer_that_speaks_no_tls_is_told_apart() {
    for we_are_client in [true, false] {
        for (bytes, closes) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], false),
            (b"HTTP", true),
            (&[22, 3, 3, 0xff, 0xff], false),
            (&[22, 3, 1, 0, 50, 2], true),
            (&[21, 3, 3, 0, 2, 2, 40], false),
            (&[23, 3, 3, 0, 3, 1, 2, 3], false),
            (&[22, 3, 3, 0, 0], false),
            (
                &[20, 3, 3, 0, 1, 1, 20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 0],
                false,
            ),
        ] {
            let configs = Configs::new(v13());
            let (near, far) = tcp_pair();
            let mut peer = TcpStream::from(far);
            peer.write_all(bytes).expect("sent");
            if closes {
                peer.shutdown(std::net::Shutdown::Write).expect("shutdown");
            }
            let mut halves = Halves::plain(near);
            halves.set_deadline(Some(far_deadline()));
            let result = if we_are_client {
                let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
                let session = UnbufferedClientConnection::new(configs.client.clone(), name);
                halves.tls_client(session.expect("client"))
            } else {
                let session = UnbufferedServerConnection::new(configs.server.clone());
                halves.tls_server(session.expect("server"))
            };
            match result.expect_err("no TLS") {
                HandshakeError::Closed => assert!(closes, "{bytes:?}"),
                HandshakeError::Tls(_) => assert!(!closes, "{bytes:?}"),
                HandshakeError::Io(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn the_handshake_may_come_byte_by_byte() {
    for suite in [v12(), v13()] {
        let configs = Configs::new(suite);
        for we_are_client in [true, false] {
            let (near, relay) = tcp_pair();
            let (onward, far) = tcp_pair();
            let (mut relay, mut onward) = (TcpStream::from(relay), TcpStream::from(onward));
            let (mut back, mut forth) = (
                relay.try_clone().expect("clone"),
                onward.try_clone().expect("clone"),
            );
            thread::scope(|scope| {
                scope.spawn(move || io::copy(&mut relay, &mut forth));
                scope.spawn(move || {
                    let mut byte = [0];
                    while onward.read(&mut byte).is_ok_and(|count| count > 0)
                        && back.write_all(&byte).is_ok()
                    {}
                    // Ends the other direction too.
                    let _ = back.shutdown(std::net::Shutdown::Both);
                });
                let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
                let session: Connection = if we_are_client {
                    let session = ServerConnection::new(configs.server.clone());
                    session.expect("server").into()
                } else {
                    let session = ClientConnection::new(configs.client.clone(), name.clone());
                    session.expect("client").into()
                };
                let peer = scope.spawn(|| shake(session, TcpStream::from(far), b"with it"));
                let mut halves = Halves::plain(near);
                halves.set_deadline(Some(far_deadline()));
                let halves = if we_are_client {
                    let session = UnbufferedClientConnection::new(configs.client.clone(), name);
                    halves.tls_client(session.expect("client"))
                } else {
                    let session = UnbufferedServerConnection::new(configs.server.clone());
                    halves.tls_server(session.expect("server"))
                };
                let mut halves = halves.expect("handshake");
                let mut peer = peer.join().expect("peer");
                assert_eq!(read_exact(&mut halves, 7), b"with it");
                halves
                    .write
                    .write_all(&[IoSlice::new(b"x")])
                    .expect("write");
                assert_eq!(peer.receive().expect("receive"), b"x");
            });
        }
    }
}
