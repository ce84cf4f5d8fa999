//! Why an agent could not begin, or ended.

use crate::identity::StoreError;
use crate::kube::KubeError;
use crate::net::{ProxyError, TlsError};
use crate::server::ServerError;
use crate::threads::SpawnError;
use crate::tunnel::audit::AuditError;
use crate::tunnel::policy::PolicyError;

/// Each is fatal and one clear line (config-and-state.md §10.2).
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// decisions.md §6.1 "Refused".
    #[error("the control plane refused the registration: {0}")]
    Refused(String),
    #[error("not registered within registration.give_up_after")]
    GaveUp,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("the cluster: {0}")]
    Kube(#[from] KubeError),
    #[error(transparent)]
    State(#[from] StoreError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Thread(#[from] SpawnError),
    /// Threads were left when the time for shutdown was over.
    #[error("shutdown took longer than its limit")]
    ShutdownTimedOut,
    /// A bug of ours; the log has the details.
    #[error("the conductor panicked")]
    Panicked,
}
