//! Where certificates and keys come from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{TlsError, explain};

/// PEM in a file, or given in place (a kubeconfig's `…-data` fields).
#[derive(Clone, PartialEq, Eq)]
pub enum PemSource {
    File(PathBuf),
    Given {
        /// What to call it in errors (`certificate-authority-data of cluster x`).
        name: String,
        pem: Vec<u8>,
    },
}

/// What tells one version of a file from the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Option<(SystemTime, u64, u64)>);

impl PemSource {
    pub(super) fn stamp(&self) -> Stamp {
        let Self::File(path) = self else {
            return Stamp::default();
        };
        // Kubernetes swaps a symbolic link: metadata follows it, the inode tells.
        Stamp(std::fs::metadata(path).ok().and_then(|data| {
            use std::os::unix::fs::MetadataExt;
            Some((data.modified().ok()?, data.len(), data.ino()))
        }))
    }

    /// All certificates in it, at least one.
    pub(super) fn certificates(
        &self,
        what: &'static str,
    ) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let pem = self.read(what)?;
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.content(what, describe(&error, &pem)))?;
        if certificates.is_empty() {
            return Err(self.content(what, "there is no PEM certificate in it".into()));
        }
        Ok(certificates)
    }

    /// The first private key in it.
    pub(super) fn key(&self, what: &'static str) -> Result<PrivateKeyDer<'static>, TlsError> {
        let pem = self.read(what)?;
        PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| self.content(what, describe(&error, &pem)))
    }

    pub(super) fn content(&self, what: &'static str, problem: String) -> TlsError {
        TlsError::Content {
            what,
            source_name: self.to_string(),
            problem,
        }
    }

    fn read(&self, what: &'static str) -> Result<Vec<u8>, TlsError> {
        let path = match self {
            Self::Given { pem, .. } => return Ok(pem.clone()),
            Self::File(path) => path,
        };
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut pem))
            .and_then(|count| {
                if count as u64 > MAX_SIZE {
                    return Err(io::Error::other("it is larger than 4 MiB"));
                }
                Ok(())
            })
            .map_err(|cause| TlsError::Read {
                what,
                source_name: self.to_string(),
                cause,
            })?;
        Ok(pem)
    }
}

impl fmt::Display for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Given { name, .. } => f.write_str(name),
        }
    }
}

/// Names it; never shows what is in it.
impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemSource({self})")
    }
}

/// What rustls says about a chain and a key, in words.
pub(super) fn pair_error(
    what: &'static str,
    key: &PemSource,
    certificate: &PemSource,
    error: &rustls::Error,
) -> TlsError {
    let problem = match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("it does not belong to the certificate in {certificate}")
        }
        other => explain(other),
    };
    key.content(what, problem)
}

fn describe(error: &pem::Error, pem: &[u8]) -> String {
    match error {
        pem::Error::NoItemsFound if contains(pem, b"ENCRYPTED PRIVATE KEY") => {
            "the key is encrypted; one without a pass phrase is needed".into()
        }
        pem::Error::NoItemsFound => "there is no PEM private key in it".into(),
        pem::Error::MissingSectionEnd { .. } => "the PEM is cut off".into(),
        // The bytes themselves might be those of a key.
        pem::Error::IllegalSectionStart { .. } => "a PEM BEGIN line is malformed".into(),
        pem::Error::Base64Decode(_) => "the PEM is not valid base64".into(),
        other => other.to_string(),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Bundles of all public authorities have a tenth of this.
const MAX_SIZE: u64 = 4 * 1024 * 1024;
