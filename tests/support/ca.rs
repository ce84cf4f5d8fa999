//! A certificate authority made for one test.

use pipeops_agent::net::{PemSource, ServerTls, ServerTlsSettings};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For servers on loopback, and for clients.
    pub(crate) fn issue(&self, common_name: &str) -> Issued {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// TLS for a server; with `clients` it asks for a certificate of theirs.
    pub(crate) fn server(&self, clients: Option<&Ca>) -> ServerTls {
        let issued = self.issue("server");
        ServerTls::new(&ServerTlsSettings {
            certificate: given("server certificate", &issued.certificate),
            key: given("server key", &issued.key),
            client_ca: clients.map(|ca| given("client CA", &ca.pem())),
        })
        .expect("usable")
    }
}

pub(crate) fn given(name: &str, pem: &str) -> PemSource {
    PemSource::Given {
        name: name.to_owned(),
        pem: pem.as_bytes().to_vec(),
    }
}
