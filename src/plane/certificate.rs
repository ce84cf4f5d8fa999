//! The plane's certificate: a given one, or one of its own making that agents
//! trust by its file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256};

use super::registry::create_private_dir;
use crate::net::{PemSource, ServerTls, ServerTlsSettings, TlsError};

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// PEM files of somebody else's making: the chain, our own first, and its key.
    Files { chain: PathBuf, key: PathBuf },
    /// Made at the first start and kept in the data directory. It is valid for
    /// `localhost`, the loopback addresses and these names and addresses.
    Generated { names: Vec<String> },
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    #[error("{0:?} is no DNS name or IP address")]
    Name(String),
    #[error("the certificate can't be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// It isn't replaced in silence: agents trust it by its file.
    #[error(
        "the certificate in {path} is not valid for {name:?}; remove it to have a new one made \
         (agents then need the new file as pipeops.tls.ca_file)"
    )]
    NotCovered { path: PathBuf, name: String },
}

/// A certificate, ready for use.
pub(crate) struct Certificate {
    pub(crate) tls: ServerTls,
    /// The chain in PEM, for clients that are to trust it.
    pub(crate) pem: String,
    pub(crate) path: PathBuf,
    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` prints it.
    pub(crate) fingerprint: String,
}

impl Certificate {
    pub(crate) fn load(
        source: &CertificateSource,
        directory: &Path,
    ) -> Result<Self, CertificateError> {
        match source {
            CertificateSource::Files { chain, key } => Self::read(chain, key),
            CertificateSource::Generated { names } => Self::generated(names, directory),
        }
    }

    fn generated(names: &[String], directory: &Path) -> Result<Self, CertificateError> {
        for name in names {
            ServerName::try_from(name.as_str())
                .map_err(|_| CertificateError::Name(name.clone()))?;
        }
        let (chain, key) = (directory.join(CHAIN), directory.join(KEY));
        // The chain is written last: where it is, the pair is complete.
        if !chain.exists() {
            generate(names, directory, &chain, &key)?;
        }
        let certificate = Self::read(&chain, &key)?;
        certificate.covers(names)?;
        Ok(certificate)
    }

    fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let tls = ServerTls::new(&ServerTlsSettings {
            certificate: PemSource::File(chain.to_owned()),
            key: PemSource::File(key.to_owned()),
            client_ca: None,
        })?;
        let pem = fs::read_to_string(chain).map_err(|cause| file_error(chain, cause))?;
        let own = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| CertificateError::NoCertificate(chain.to_owned()))?;
        let digest = Sha256::digest(&own);
        let pairs: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(Self {
            tls,
            pem,
            path: chain.to_owned(),
            fingerprint: pairs.join(":"),
        })
    }

    fn covers(&self, names: &[String]) -> Result<(), CertificateError> {
        let own = CertificateDer::from_pem_slice(self.pem.as_bytes())
            .map_err(|_| CertificateError::NoCertificate(self.path.clone()))?;
        for name in names {
            let covered = ServerName::try_from(name.as_str()).is_ok_and(|server| {
                ParsedCertificate::try_from(&own)
                    .and_then(|parsed| verify_server_name(&parsed, &server))
                    .is_ok()
            });
            if !covered {
                return Err(CertificateError::NotCovered {
                    path: self.path.clone(),
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Makes a self-signed certificate (EC P-256). It is no authority: whoever trusts
/// it trusts this one server.
fn generate(
    names: &[String],
    directory: &Path,
    chain: &Path,
    key_path: &Path,
) -> Result<(), CertificateError> {
    let mut all: Vec<String> = LOOPBACK.map(str::to_owned).into();
    all.extend(
        names
            .iter()
            .filter(|name| !LOOPBACK.contains(&name.as_str()))
            .cloned(),
    );
    let mut params = CertificateParams::new(all)?;
    // A name of its own: a client that trusts several planes looks them up by it.
    let number = fastrand::u32(..);
    params
        .distinguished_name
        .push(DnType::CommonName, format!("pipeops plane {number:08x}"));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Yesterday: clocks differ.
    let from = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24);
    let from = jiff::tz::TimeZone::UTC.to_datetime(from);
    let (year, month, day) = (
        i32::from(from.year()),
        from.month().unsigned_abs(),
        from.day().unsigned_abs(),
    );
    params.not_before = date_time_ymd(year, month, day);
    // 28 is a day of every month.
    params.not_after = date_time_ymd(year + YEARS, month, day.min(28));
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    create_private_dir(directory).map_err(|cause| file_error(directory, cause))?;
    write(key_path, key.serialize_pem().as_bytes(), 0o600)?;
    write(chain, certificate.pem().as_bytes(), 0o644)
}

/// Writes a file whole or not at all, and for good: what is written after it is on
/// the disk after it, also after a power cut.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), CertificateError> {
    let new = path.with_extension("new");
    let written = (|| {
        // Left over from a crash.
        drop(fs::remove_file(&new));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The folder.
        File::open(path.with_file_name("."))?.sync_all()
    })();
    written.map_err(|cause| file_error(path, cause))
}

fn file_error(path: &Path, cause: io::Error) -> CertificateError {
    let path = path.to_owned();
    CertificateError::File { path, cause }
}

const CHAIN: &str = "tls-cert.pem";
const KEY: &str = "tls-key.pem";
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Long, because everybody who trusts it does so by its file.
const YEARS: i32 = 10;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::net::testing::{far_deadline, tcp_pair};
    use crate::net::{ClientTls, ClientTlsSettings, Halves, Trust};

    fn source(names: &[&str]) -> CertificateSource {
        let names = names.iter().map(ToString::to_string).collect();
        CertificateSource::Generated { names }
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn it_is_made_once_and_its_key_is_the_owners_alone() {
        let dir = directory();
        let inner = dir.path().join("plane");
        let first = Certificate::load(&source(&[]), &inner).expect("made");
        let again = Certificate::load(&source(&[]), &inner).expect("read");
        assert_eq!(first.fingerprint, again.fingerprint);
        assert_eq!(first.fingerprint.len(), 32 * 3 - 1);
        let mode = inner
            .join(KEY)
            .metadata()
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_crash_between_the_two_files_leaves_no_dead_end() {
        let dir = directory();
        fs::write(dir.path().join(KEY), "half").expect("written");
        fs::write(dir.path().join("tls-key.new"), "half").expect("written");
        assert!(Certificate::load(&source(&[]), dir.path()).is_ok());
    }

    #[test]
    fn a_name_that_it_lacks_is_an_error_and_no_new_certificate() {
        let dir = directory();
        let first = Certificate::load(&source(&["plane.test"]), dir.path()).expect("made");
        for names in [&["plane.test"][..], &["localhost", "127.0.0.1", "::1"]] {
            assert!(Certificate::load(&source(names), dir.path()).is_ok());
        }
        let error = Certificate::load(&source(&["other.test"]), dir.path()).err();
        assert!(matches!(error, Some(CertificateError::NotCovered { .. })));
        let same = Certificate::load(&source(&[]), dir.path()).expect("read");
        assert_eq!(same.fingerprint, first.fingerprint);
        let error = Certificate::load(&source(&["a b"]), directory().path()).err();
        assert!(matches!(error, Some(CertificateError::Name(_))));
    }

    #[test]
    fn an_agent_with_its_file_trusts_it_and_one_without_does_not() {
        let dir = directory();
        let certificate = Certificate::load(&source(&["plane.test"]), dir.path()).expect("made");
        let shake = |ca: Vec<PemSource>, host: &str| {
            let (near, far) = tcp_pair();
            let server = certificate.tls.session().expect("session");
            let serving = std::thread::spawn(move || {
                let mut halves = Halves::plain(far);
                halves.set_deadline(Some(far_deadline()));
                drop(halves.tls_server(server));
            });
            let tls = ClientTls::new(ClientTlsSettings {
                trust: Trust::OnlyGiven,
                ca,
                ..ClientTlsSettings::default()
            });
            let result = tls.and_then(|tls| tls.session(host)).map(|session| {
                let mut halves = Halves::plain(near);
                halves.set_deadline(Some(far_deadline()));
                halves.tls_client(session).is_ok()
            });
            serving.join().expect("joined");
            result.unwrap_or(false)
        };
        let ours = || vec![PemSource::File(dir.path().join(CHAIN))];
        for host in ["localhost", "127.0.0.1", "::1", "plane.test"] {
            assert!(shake(ours(), host), "{host}");
        }
        assert!(!shake(ours(), "other.test"));
        let other = directory();
        Certificate::load(&source(&[]), other.path()).expect("made");
        assert!(!shake(
            vec![PemSource::File(other.path().join(CHAIN))],
            "localhost"
        ));
    }
}
