//! Who this agent is: its id, and what it was told at registration.
//!
//! The [`Identity`] survives restarts in a [`Store`]: a YAML file
//! (config-and-state.md §7.4) or memory. The control plane's bearer token is
//! never part of it (§7.1): there is no field that could take it.

mod agent_id;
mod file;
mod import;
mod memory;
mod record;

use std::path::PathBuf;

use sha2::{Digest, Sha256};

pub(crate) use agent_id::hostname;
pub use agent_id::{Machine, agent_id};
pub use file::FileStore;
pub use memory::MemoryStore;

use crate::config::Secret;

/// What is kept between two runs (config-and-state.md §7.1, decisions.md §6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub agent_id: Option<String>,
    /// From `register_success`; kept until a new one is given.
    pub cluster_id: Option<String>,
    /// The `cluster_uuid` query parameter of the gateway URL, where it differs.
    pub cluster_uuid: Option<String>,
    pub gateway_ws_url: Option<String>,
    /// [`credentials_hash`] of the registration that gave the ids above. Resuming
    /// is allowed only while it is the same.
    pub credentials_hash: Option<String>,
    /// [`token_hash`] of the cluster token that was handed over with it.
    pub service_token_hash: Option<String>,
    /// A ServiceAccount token that the control plane or the operator gave for this
    /// cluster.
    pub cluster_token: Option<Secret>,
    /// Base64 of the cluster's CA certificate.
    pub cluster_cert_data: Option<String>,
}

/// Where an [`Identity`] is kept. The copy in memory is authoritative while the
/// process lives: a failed write loses nothing but the next start's convenience.
pub trait Store: Send + Sync {
    fn identity(&self) -> Identity;

    /// Replaces the identity, in memory always, and where it is kept.
    fn save(&self, identity: &Identity) -> Result<(), StoreError>;

    /// For logs: `file:PATH` or `memory`.
    fn location(&self) -> String;
}

/// Why the state can't be used or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path}: another agent is running on this state file")]
    Locked { path: PathBuf },
    #[error("{path}: the state file belongs to another user")]
    ForeignOwner { path: PathBuf },
    #[error("{path}: the state file is a link to a place outside its folder")]
    ForeignLink { path: PathBuf },
    #[error("{path}: not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path}: cannot {what}: {cause}")]
    Io {
        path: PathBuf,
        what: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("the state cannot be written as YAML: {0}")]
    Encode(#[source] serde_yaml::Error),
}

/// Tells a later start whether it talks to the same control plane with the same
/// token, without keeping the token (decisions.md §6.1).
pub fn credentials_hash(controller_url: &str, token: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"pipeops-agent credentials v1\0");
    hash.update(controller_url.as_bytes());
    hash.update(b"\0");
    hash.update(token.as_bytes());
    hex(&hash.finalize())
}

/// Tells a later start whether the control plane holds this cluster token, without
/// keeping it (control-channel.md T14).
pub fn token_hash(token: &Secret) -> String {
    let mut hash = Sha256::new();
    hash.update(b"pipeops-agent cluster token v1\0");
    hash.update(token.expose().as_bytes());
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_changes_with_url_and_token() {
        let hash = credentials_hash("https://a", "t");
        assert_eq!(hash.len(), 64);
        assert_eq!(hash, credentials_hash("https://a", "t"));
        assert_ne!(hash, credentials_hash("https://b", "t"));
        assert_ne!(hash, credentials_hash("https://a", "u"));
    }

    #[test]
    fn debug_does_not_show_the_cluster_token() {
        let identity = Identity {
            cluster_token: Some(Secret::new("geheim")),
            ..Identity::default()
        };
        assert!(!format!("{identity:?}").contains("geheim"));
    }
}
