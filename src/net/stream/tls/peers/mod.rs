//! Connections with rustls itself at the other end, in both roles.

mod handshake;

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion,
    ServerConfig, ServerConnection, SupportedCipherSuite,
};

use super::record::MAX_CONTENT;
use super::*;
use crate::net::Deadline;
use crate::net::stream::{Halves, Read as ReadLayer, Write as WriteLayer};
use crate::net::testing::{Ca, far_deadline, tcp_pair};

/// The other end: rustls's own connection, for both directions at once.
struct Peer {
    session: Connection,
    socket: TcpStream,
}

impl Peer {
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.session.writer().write(bytes)?;
            bytes = &bytes[count..];
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Nothing at the end, which must be a clean one.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; 20_000];
        loop {
            match self.session.reader().read(&mut buf) {
                Ok(count) => {
                    buf.truncate(count);
                    return Ok(buf);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.session.read_tls(&mut self.socket)?;
            let state = self.session.process_new_packets();
            // Key updates are answered with the next write.
            let _ = self.session.writer().write(&[]);
            self.flush()?;
            state.map_err(io::Error::other)?;
        }
    }

    fn receive_all(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let bytes = self.receive()?;
            if bytes.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&bytes);
        }
    }

    fn close(&mut self) {
        self.session.send_close_notify();
        self.flush().expect("flush");
    }
}

/// Both ends' configurations, for one suite.
struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Configs {
    fn new(suite: SupportedCipherSuite) -> Self {
        let ca = Ca::new();
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        // The client offers the one suite; the server has all.
        let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[suite.version()])
            .expect("versions")
            .with_root_certificates(ca.roots())
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        let mut server = (*ca.server_config(&["127.0.0.1"])).clone();
        server.send_half_rtt_data = true;
        Self {
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }

    /// A connection on which we are the client, or the server. `finishing` is what
    /// the peer sends along with the end of its handshake, in one piece.
    fn connect(&self, we_are_client: bool, finishing: &[u8]) -> (Halves, Peer) {
        let (near, far) = tcp_pair();
        let socket = TcpStream::from(far);
        // Only a broken build gets there: a test that fails shall end.
        socket.set_read_timeout(Some(LIMIT)).expect("set");
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
        let session: Connection = if we_are_client {
            let session = ServerConnection::new(self.server.clone());
            session.expect("server").into()
        } else {
            let session = ClientConnection::new(self.client.clone(), name.clone());
            session.expect("client").into()
        };
        thread::scope(|scope| {
            let peer = scope.spawn(|| shake(session, socket, finishing));
            let mut halves = Halves::plain(near);
            halves.set_deadline(Some(far_deadline()));
            let ours = if we_are_client {
                let session = UnbufferedClientConnection::new(self.client.clone(), name);
                halves.tls_client(session.expect("client"))
            } else {
                let session = UnbufferedServerConnection::new(self.server.clone());
                halves.tls_server(session.expect("server"))
            };
            (ours.expect("handshake"), peer.join().expect("peer"))
        })
    }
}

fn shake(mut session: Connection, mut socket: TcpStream, finishing: &[u8]) -> Peer {
    // Goes out as soon as the protocol allows.
    session.writer().write_all(finishing).expect("buffered");
    let mut out = Vec::new();
    loop {
        while session.wants_write() {
            session.write_tls(&mut out).expect("a Vec");
        }
        socket.write_all(&out).expect("sent");
        out.clear();
        if !session.is_handshaking() {
            return Peer { session, socket };
        }
        session.read_tls(&mut socket).expect("read");
        session.process_new_packets().expect("handshake");
    }
}

/// All suites that the tests' certificates (ECDSA) go with; the others differ in
/// the handshake alone.
fn suites() -> Vec<SupportedCipherSuite> {
    let mut suites = aws_lc_rs::ALL_CIPHER_SUITES.to_vec();
    suites.retain(|suite| !format!("{:?}", suite.suite()).contains("RSA"));
    assert_eq!(suites.len(), 6, "three ciphers, two versions");
    suites
}

fn suite(version: ProtocolVersion) -> SupportedCipherSuite {
    let mut suites = suites().into_iter();
    suites
        .find(|suite| suite.version().version == version)
        .expect("one of each")
}

fn v12() -> SupportedCipherSuite {
    suite(ProtocolVersion::TLSv1_2)
}

fn v13() -> SupportedCipherSuite {
    suite(ProtocolVersion::TLSv1_3)
}

fn parts(halves: &mut Halves) -> (&mut Reader, &mut Writer) {
    match (&mut halves.read.0, &mut halves.write.0) {
        (ReadLayer::Tls(reader), WriteLayer::Tls(writer)) => (reader, writer),
        _ => panic!("no TLS"),
    }
}

fn read_exact(halves: &mut Halves, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let bytes = halves.read.fill().expect("fill");
        assert!(!bytes.is_empty(), "{} of {count} bytes", all.len());
        let taken = bytes.len().min(count - all.len());
        all.extend_from_slice(&bytes[..taken]);
        halves.read.consume(taken);
    }
    all
}

fn text(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn data_goes_both_ways_with_every_suite_in_both_roles() {
    const PIECES: [usize; 7] = [1, 100, 16_383, 16_384, 16_385, 40_000, 200_000];
    for suite in suites() {
        let configs = Configs::new(suite);
        for we_are_client in [true, false] {
            let (mut ours, mut peer) = configs.connect(we_are_client, b"");
            assert_eq!(ours.tls_version(), Some(suite.version().version));
            assert_eq!(peer.session.negotiated_cipher_suite(), Some(suite));
            let all = text(PIECES.iter().sum());
            thread::scope(|scope| {
                scope.spawn(|| {
                    let received = peer.receive_all().expect("a clean end");
                    assert!(received == all, "{suite:?}");
                    for piece in all.chunks(70_000) {
                        peer.send(piece).expect("send");
                    }
                    peer.close();
                });
                let mut rest = &all[..];
                for piece in PIECES {
                    let (one, behind) = rest.split_at(piece);
                    let (a, b) = one.split_at(piece / 3);
                    let slices = [IoSlice::new(a), IoSlice::new(&[]), IoSlice::new(b)];
                    ours.write.write_all(&slices).expect("write");
                    rest = behind;
                }
                // The peer goes on after our close_notify.
                let (_, writer) = parts(&mut ours);
                writer.notify_close();
                assert!(read_exact(&mut ours, all.len()) == all, "{suite:?}");
                assert!(ours.read.fill().expect("end").is_empty());
            });
        }
    }
}

#[test]
fn new_keys_from_either_end_in_both_roles() {
    for suite in suites() {
        if suite.version().version != ProtocolVersion::TLSv1_3 {
            continue;
        }
        let configs = Configs::new(suite);
        for we_are_client in [true, false] {
            let (mut ours, mut peer) = configs.connect(we_are_client, b"");
            for round in 0..5 {
                // They change theirs and ask for ours.
                peer.session.refresh_traffic_keys().expect("new keys");
                peer.send(b"theirs").expect("send");
                assert_eq!(read_exact(&mut ours, 6), b"theirs");
                assert!(ours.read.wants_flush(), "round {round}");
                ours.write
                    .write_all(&[IoSlice::new(b"ours")])
                    .expect("write");
                assert!(!ours.read.wants_flush());
                assert_eq!(peer.receive().expect("answered"), b"ours");
                // We change ours, with and without asking.
                ours.write.change_keys(round % 2 == 0).expect("new keys");
                ours.write
                    .write_all(&[IoSlice::new(b"more")])
                    .expect("write");
                assert_eq!(peer.receive().expect("changed"), b"more");
                peer.send(b"yes").expect("send");
                assert_eq!(read_exact(&mut ours, 3), b"yes");
            }
        }
    }
}

#[test]
fn a_key_update_alone_is_answered_by_a_flush() {
    let (mut ours, mut peer) = Configs::new(v13()).connect(true, b"");
    peer.session.refresh_traffic_keys().expect("new keys");
    peer.flush().expect("flush");
    let end = Deadline::after(LIMIT);
    while !ours.read.wants_flush() {
        assert!(ours.read.is_idle_alive());
        assert!(end.remaining().is_some(), "nothing to answer");
    }
    ours.write.flush().expect("flush");
    ours.write.write_all(&[IoSlice::new(b"x")]).expect("write");
    assert_eq!(peer.receive().expect("receive"), b"x");
}

#[test]
fn keys_of_tls_1_3_are_changed_before_they_are_used_up() {
    for we_are_client in [true, false] {
        let (mut ours, mut peer) = Configs::new(v13()).connect(we_are_client, b"");
        let all = text(500_000);
        thread::scope(|scope| {
            scope.spawn(|| assert!(peer.receive_all().expect("receive") == all));
            let (_, writer) = parts(&mut ours);
            writer.limit_records(3);
            for piece in all.chunks(50_000) {
                // Four records, or a few more.
                writer.write_all(&[IoSlice::new(piece)]).expect("write");
                assert!(writer.sealer.seq() <= 3);
            }
            writer.notify_close();
        });
    }
}

#[test]
fn a_connection_of_tls_1_2_ends_in_order_when_its_keys_are_used_up() {
    for we_are_client in [true, false] {
        let (mut ours, mut peer) = Configs::new(v12()).connect(we_are_client, b"");
        let (_, writer) = parts(&mut ours);
        // One was the Finished, the last is the close_notify.
        writer.limit_records(5);
        let all = text(5 * MAX_CONTENT);
        thread::scope(|scope| {
            let received = scope.spawn(|| peer.receive_all().expect("a clean end"));
            let error = writer.write_all(&[IoSlice::new(&all)]).expect_err("limit");
            assert!(error.to_string().contains("used up"), "{error}");
            let received = received.join().expect("received");
            assert!(received == all[..3 * MAX_CONTENT]);
        });
        let error = writer.write_all(&[IoSlice::new(b"x")]).expect_err("over");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_record_that_was_changed_is_answered_by_an_alert() {
    let ways = [(true, true), (true, false), (false, true), (false, false)];
    for suite in suites() {
        for (we_are_client, flushed) in ways {
            let (mut ours, mut peer) = Configs::new(suite).connect(we_are_client, b"");
            peer.session.writer().write_all(b"data").expect("buffered");
            let mut wire = Vec::new();
            while peer.session.wants_write() {
                peer.session.write_tls(&mut wire).expect("a Vec");
            }
            *wire.last_mut().expect("a record") ^= 1;
            peer.socket.write_all(&wire).expect("sent");
            let error = ours.read.fill().expect_err("changed");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            // Whoever gives up after an error drops it without another word.
            if flushed {
                ours.write.flush().expect("flush");
            } else {
                drop(ours);
            }
            let error = peer.receive().expect_err("an alert");
            let told = error.get_ref().and_then(|error| error.downcast_ref());
            let expected = rustls::Error::AlertReceived(AlertDescription::BadRecordMac);
            assert_eq!(told, Some(&expected));
        }
    }
}

#[test]
fn a_fatal_alert_of_the_peer_ends_both_directions() {
    let (mut ours, mut peer) = Configs::new(v13()).connect(true, b"");
    // What isn't encrypted makes rustls send one.
    parts(&mut ours)
        .1
        .lower()
        .write_all(&[IoSlice::new(&[23, 3, 3, 0, 20]), IoSlice::new(&[0; 20])])
        .expect("write");
    peer.receive().expect_err("not encrypted");
    let error = ours.read.fill().expect_err("an alert");
    assert!(error.to_string().contains("alert"), "{error}");
    let error = ours
        .write
        .write_all(&[IoSlice::new(b"x")])
        .expect_err("over");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

const LIMIT: Duration = Duration::from_secs(30);
