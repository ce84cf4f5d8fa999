//! What can go wrong with a plane, or with a command for one.

use std::io;
use std::net::SocketAddr;

use super::admin::AdminError;
use super::certificate::CertificateError;
use super::expose::{Entry, ServiceError};
use super::name::NameError;
use super::registry::RegistryError;

/// Why a plane could not be started, or a command not be done.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    #[error("{0}; does a plane run there already?")]
    AlreadyRunning(RegistryError),
    #[error(transparent)]
    Registry(RegistryError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("{0}")]
    Start(io::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// What was typed, and what to type.
    #[error("{0}")]
    Entry(String),
    #[error("{0} is not exposed (`plane tunnels` shows what is)")]
    NotExposed(Entry),
    #[error("there is no token of that id (`plane token list` shows them)")]
    NoSuchToken,
}

impl From<RegistryError> for PlaneError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::InUse { .. } => Self::AlreadyRunning(error),
            error => Self::Registry(error),
        }
    }
}
