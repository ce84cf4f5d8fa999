//! TLS as a server: the plane's side.

use std::sync::Arc;

use rustls::server::{UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::pem::pair_error;
use super::{PemSource, TlsError, explain, provider};

/// What a [`ServerTls`] is made from.
#[derive(Clone, Debug)]
pub struct ServerTlsSettings {
    /// Certificate chain, our own first.
    pub certificate: PemSource,
    pub key: PemSource,
    /// When given, clients must show a certificate of one of these authorities.
    pub client_ca: Option<PemSource>,
}

/// TLS as a server.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    pub fn new(settings: &ServerTlsSettings) -> Result<Self, TlsError> {
        let provider = provider();
        let chain = settings.certificate.certificates("server certificate")?;
        let key = settings.key.key("server key")?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Rustls(error.to_string()))?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(source) => {
                let mut roots = RootCertStore::empty();
                for certificate in source.certificates("client CA certificates")? {
                    roots.add(certificate).map_err(|error| {
                        source.content("client CA certificates", explain(&error))
                    })?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| TlsError::Rustls(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            pair_error("server key", &settings.key, &settings.certificate, &error)
        })?;
        // The halves of a connection have keys of their own (`net/stream/tls/`).
        config.enable_secret_extraction = true;
        Ok(Self(Arc::new(config)))
    }

    /// A handshake with a client that has just connected.
    pub fn session(&self) -> Result<UnbufferedServerConnection, TlsError> {
        UnbufferedServerConnection::new(self.0.clone())
            .map_err(|error| TlsError::Rustls(error.to_string()))
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}
