//! TLS settings: what is trusted, who we are (`control-channel.md §2.3`).
//!
//! TLS 1.2 and 1.3, no ALPN. The crypto provider (aws-lc-rs) is passed explicitly
//! everywhere; a process default is never installed.

mod explain;
mod pem;
mod server;
mod verify;

use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::UnbufferedClientConnection;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore};

pub use explain::explain;
pub use pem::PemSource;
use pem::Stamp;
pub use server::{ServerTls, ServerTlsSettings};

/// Why a TLS configuration could not be made. Says which file and what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from {source_name}: {cause}")]
    Read {
        what: &'static str,
        source_name: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{source_name} is not usable as {what}: {problem}")]
    Content {
        what: &'static str,
        source_name: String,
        problem: String,
    },
    #[error("a client certificate needs both a certificate and a key; the {0} is missing")]
    HalfIdentity(&'static str),
    #[error("{0:?} is not a valid server name")]
    ServerName(String),
    /// rustls refuses the combination.
    #[error("TLS configuration: {0}")]
    Rustls(String),
}

/// Which authorities a server's certificate may come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the system and the given ones. Where the system has none at all
    /// (scratch images), Mozilla's list that is built in takes their place.
    #[default]
    SystemAndGiven,
    /// The given ones alone: the API server of a cluster.
    OnlyGiven,
}

/// What a [`ClientTls`] is made from.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsSettings {
    pub trust: Trust,
    /// Further authorities, PEM, any number in each.
    pub ca: Vec<PemSource>,
    /// Client certificate chain and key: both or neither.
    pub certificate: Option<PemSource>,
    pub key: Option<PemSource>,
    /// Accepts any certificate. A warning is logged once.
    pub insecure_skip_verify: bool,
    /// Asked for and verified instead of the host that is dialled (kubeconfig's
    /// `tls-server-name`).
    pub server_name: Option<String>,
    /// Protocols to offer (ALPN), the best first; mostly none.
    pub alpn: Vec<Vec<u8>>,
}

/// TLS as a client. Files are read again when they have changed on disk
/// (`lessons.md`: rotation without a restart): each dial looks at their stamps.
pub struct ClientTls {
    server_name: Option<ServerName<'static>>,
    built: Mutex<Built>,
}

struct Built {
    settings: ClientTlsSettings,
    configs: Configs,
    stamps: Vec<Stamp>,
}

#[derive(Clone)]
struct Configs {
    target: Arc<ClientConfig>,
    /// The same trust without our certificate: a proxy must not learn it.
    proxy: Arc<ClientConfig>,
}

impl ClientTls {
    /// Reads all files; the first thing that is wrong with them is the error.
    pub fn new(settings: ClientTlsSettings) -> Result<Self, TlsError> {
        let server_name = match &settings.server_name {
            Some(name) => Some(server_name(name)?),
            None => None,
        };
        if settings.insecure_skip_verify {
            log::warn!(
                "TLS certificates are not verified (insecure_skip_verify): \
                 anyone on the way can read and change the traffic"
            );
        }
        let built = Mutex::new(build(settings)?);
        Ok(Self { server_name, built })
    }

    /// Takes any certificate and shows none: for Services, whose names no authority
    /// vouches for (control-channel.md §8.5).
    pub fn unverified() -> Result<Self, TlsError> {
        let built = Mutex::new(build(ClientTlsSettings {
            insecure_skip_verify: true,
            alpn: vec![b"http/1.1".to_vec(), GREASE.to_vec()],
            ..ClientTlsSettings::default()
        })?);
        let server_name = None;
        Ok(Self { server_name, built })
    }

    /// Another client certificate from now on; false when it is the same.
    pub fn show(&self, certificate: &PemSource, key: &PemSource) -> Result<bool, TlsError> {
        let mut built = self.built.lock();
        let settings = &built.settings;
        if settings.certificate.as_ref() == Some(certificate) && settings.key.as_ref() == Some(key)
        {
            return Ok(false);
        }
        *built = build(ClientTlsSettings {
            certificate: Some(certificate.clone()),
            key: Some(key.clone()),
            ..settings.clone()
        })?;
        Ok(true)
    }

    /// A handshake with the target `host` (a name or an address, without brackets).
    pub fn session(&self, host: &str) -> Result<UnbufferedClientConnection, TlsError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host)?,
        };
        session(self.configs().target, name)
    }

    /// A handshake with an `https://` proxy: neither our certificate nor the
    /// overridden name are meant for it.
    pub fn proxy_session(&self, host: &str) -> Result<UnbufferedClientConnection, TlsError> {
        session(self.configs().proxy, server_name(host)?)
    }

    /// The configuration of now. A changed file that can't be used leaves the
    /// old one in place: a half-written certificate must not cut us off.
    fn configs(&self) -> Configs {
        let mut built = self.built.lock();
        let now = stamps(&built.settings);
        if built.stamps != now {
            match build(built.settings.clone()) {
                Ok(new) => {
                    log::info!("TLS files have changed and were read again");
                    *built = new;
                }
                Err(error) => {
                    log::warn!("TLS files have changed, the old ones stay in use: {error}");
                    // Not again until they change once more.
                    built.stamps = now;
                }
            }
        }
        built.configs.clone()
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let settings = &self.built.lock().settings;
        f.debug_tuple("ClientTls").field(settings).finish()
    }
}

/// AES-128-GCM goes first, as in Go, so in the real peers: as strong for what it
/// protects, and cheaper per byte than AES-256, which is rustls's first.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    // Stable: the order of the others, TLS 1.3 before 1.2 among them, stays.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn session(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<UnbufferedClientConnection, TlsError> {
    UnbufferedClientConnection::new(config, name)
        .map_err(|error| TlsError::Rustls(error.to_string()))
}

/// A name or an address as it is verified; an absolute name loses its dot.
fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host))
        .map(|name| name.to_owned())
        .map_err(|_| TlsError::ServerName(host.to_owned()))
}

fn sources(settings: &ClientTlsSettings) -> impl Iterator<Item = &PemSource> {
    settings
        .ca
        .iter()
        .chain(&settings.certificate)
        .chain(&settings.key)
}

fn stamps(settings: &ClientTlsSettings) -> Vec<Stamp> {
    sources(settings).map(PemSource::stamp).collect()
}

fn build(settings: ClientTlsSettings) -> Result<Built, TlsError> {
    // Before the contents: a change in between is then seen next time.
    let stamps = stamps(&settings);
    let provider = provider();
    let mut given = Vec::new();
    for source in &settings.ca {
        given.extend(authorities(source)?);
    }
    let builder = || {
        ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Rustls(error.to_string()))
    };
    let verifier: Arc<dyn rustls::client::danger::ServerCertVerifier> = if settings
        .insecure_skip_verify
    {
        Arc::new(verify::AcceptAny::new(&provider))
    } else {
        let mut roots = match settings.trust {
            Trust::SystemAndGiven => system_roots(),
            Trust::OnlyGiven => RootCertStore::empty(),
        };
        roots.add_parsable_certificates(given.iter().cloned());
        if roots.is_empty() {
            return Err(TlsError::Rustls(
                "no certificate authority is trusted: a CA file is needed".into(),
            ));
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| TlsError::Rustls(error.to_string()))?;
        Arc::new(verify::WebPkiOrPinned::new(webpki, given))
    };
    let mut proxy = builder()?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    // The halves of a connection have keys of their own (`net/stream/tls/`).
    proxy.enable_secret_extraction = true;
    let target = match (&settings.certificate, &settings.key) {
        (None, None) if settings.alpn.is_empty() => None,
        (None, None) => Some(proxy.clone()),
        (Some(_), None) => return Err(TlsError::HalfIdentity("key")),
        (None, Some(_)) => return Err(TlsError::HalfIdentity("certificate")),
        (Some(certificate), Some(key)) => {
            let chain = certificate.certificates("client certificate")?;
            let mut config = builder()?
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_client_auth_cert(chain, key.key("client key")?)
                .map_err(|error| pem::pair_error("client key", key, certificate, &error))?;
            config.enable_secret_extraction = true;
            Some(config)
        }
    };
    let target = target.map(|mut config| {
        config.alpn_protocols.clone_from(&settings.alpn);
        Arc::new(config)
    });
    let proxy = Arc::new(proxy);
    Ok(Built {
        settings,
        configs: Configs {
            target: target.unwrap_or_else(|| proxy.clone()),
            proxy,
        },
        stamps,
    })
}

/// A protocol that nobody speaks (RFC 8701: servers must not mind). Its bytes are those of
/// two line feeds: a server of plain HTTP that gets a ClientHello ends its line there and
/// says what it thinks of it, instead of waiting for more (control-channel.md T13).
const GREASE: &[u8] = b"\n\n";

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        log::debug!("system certificates: {error}");
    }
    // Systems carry certificates that webpki can't read; the others count.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        log::info!("no system certificates found: the built-in list of authorities is used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// The certificates of a CA file. One that can't be read is left out, as the
/// original does; a file without any readable one is an error.
fn authorities(source: &PemSource) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WHAT: &str = "CA certificates";
    let mut unreadable = None;
    let mut certificates = source.certificates(WHAT)?;
    certificates.retain(
        |certificate| match RootCertStore::empty().add(certificate.clone()) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("a certificate in {source} is left out: {}", explain(&error));
                unreadable = Some(error);
                false
            }
        },
    );
    match unreadable {
        Some(error) if certificates.is_empty() => Err(source.content(WHAT, explain(&error))),
        _ => Ok(certificates),
    }
}

#[cfg(test)]
mod tests;
