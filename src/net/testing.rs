//! What tests need: connected sockets, a certificate authority, a time limit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use socket2::Socket;

use super::{Deadline, Halves};

/// Two ends of one TCP connection over loopback.
pub(crate) fn tcp_pair() -> (Socket, Socket) {
    let (listener, address) = listen();
    let near = TcpStream::connect(address).expect("connect");
    let (far, _) = listener.accept().expect("accept");
    near.set_nodelay(true).expect("nodelay");
    far.set_nodelay(true).expect("nodelay");
    (near.into(), far.into())
}

pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    // The 128 of the standard library overflow when a test connects hundreds at once;
    // some of those are then connections for one end only.
    rustix::net::listen(&listener, 1024).expect("listens");
    let address = listener.local_addr().expect("address");
    (listener, address)
}

/// A deadline that only a hung test reaches.
pub(crate) fn far_deadline() -> Deadline {
    Deadline::after(Duration::from_mins(1))
}

/// A certificate authority made for one test.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, and both as PEM.
pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        Self::named(&[])
    }

    /// Another of the same name, as after an installation anew.
    pub(crate) fn namesakes() -> [Self; 2] {
        [Self::make("kubernetes", &[]), Self::make("kubernetes", &[])]
    }

    /// One whose own certificate bears names, as a careless server's does.
    pub(crate) fn named(names: &[&str]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::make(&format!("test authority {number}"), names)
    }

    fn make(common_name: &str, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("key");
        Self(CertifiedIssuer::self_signed(params, key).expect("certificate"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate and key.
    pub(crate) fn own(&self) -> Issued {
        let key = self.0.key();
        Issued {
            certificate: self.0.der().clone(),
            certificate_pem: self.0.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    /// A certificate for servers and clients with these names or addresses.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.0).expect("certificate");
        Issued {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }

    pub(crate) fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let issued = self.issue(names);
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(rustls::ALL_VERSIONS)
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![issued.certificate], issued.key)
                .expect("certificate");
        config.enable_secret_extraction = true;
        Arc::new(config)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("root");
        roots
    }

    pub(crate) fn client_config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(versions)
                .expect("versions")
                .with_root_certificates(self.roots())
                .with_no_client_auth();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }
}

/// Both ends of one TLS connection (client, server) over loopback.
pub(crate) fn tls_pair(version: &'static SupportedProtocolVersion) -> (Halves, Halves) {
    let ca = Ca::new();
    let server = ca.server_config(&["127.0.0.1"]);
    let client = ca.client_config(&[version]);
    let (near, far) = tcp_pair();
    tls_over(Halves::plain(near), Halves::plain(far), client, server)
}

/// Puts TLS on two connected ends, under a deadline that is lifted afterwards.
pub(crate) fn tls_over(
    mut near: Halves,
    mut far: Halves,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Halves, Halves) {
    near.set_deadline(Some(far_deadline()));
    far.set_deadline(Some(far_deadline()));
    let accepting = std::thread::spawn(move || {
        far.tls_server(UnbufferedServerConnection::new(server).expect("server"))
            .expect("server handshake")
    });
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
    let mut near = near
        .tls_client(UnbufferedClientConnection::new(client, name).expect("client"))
        .expect("client handshake");
    let mut far = accepting.join().expect("server thread");
    near.set_deadline(None);
    far.set_deadline(None);
    (near, far)
}
