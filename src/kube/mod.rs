//! A small blocking Kubernetes client.
//!
//! Two ways to one API server (decisions.md §6.2 "Identity"): connections without
//! any client credential carry what callers ask for, under the callers' own
//! `Authorization`; the agent's own calls, and those it lends its identity to,
//! travel on connections of their own.

mod api_server;
mod authorizer;
mod credentials;
mod domain;
mod exec;
mod kubeconfig;

use std::io;
use std::path::PathBuf;

pub use api_server::{ApiError, ApiServer};
pub use credentials::{Auth, Credentials, Material, ServerUrl, in_cluster, read_token};
pub use domain::cluster_domain;
pub use exec::{ClusterInfo, ExecPlugin};
pub use kubeconfig::Search;

use crate::config::Secret;
use crate::net::{ProxyError, TlsError};

/// Why the cluster can't be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error("cannot read {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}: {cause}", path.display())]
    Parse { path: PathBuf, cause: String },
    #[error("the kubeconfig has no current-context; name one with kubernetes.context")]
    NoContext,
    #[error("the kubeconfig has no {what} {name:?}{}", if known.is_empty() { String::new() } else { format!("; it has {known}") })]
    Missing {
        what: &'static str,
        name: String,
        known: String,
    },
    #[error("client-certificate and client-key must be given together")]
    HalfACertificate,
    #[error("{field} is not valid base64")]
    Base64 { field: &'static str },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Proxy(ProxyError),
    #[error("{url}: {why}")]
    Server { url: String, why: String },
    #[error("auth-provider {name:?} was removed from Kubernetes; use an exec plug-in or a token")]
    AuthProvider { name: String },
    #[error(
        "exec plug-in of version {version:?}; client.authentication.k8s.io/v1 and /v1beta1 are supported"
    )]
    ExecVersion { version: String },
    #[error("an exec plug-in without a command")]
    ExecCommand,
    #[error(
        "exec plug-in with interactiveMode {mode}; there is nobody to talk to: Never and IfAvailable are supported"
    )]
    ExecInteractive { mode: String },
    #[error(
        "cluster {cluster:?} has insecure-skip-tls-verify and a certificate authority; only one of them makes sense"
    )]
    InsecureWithCa { cluster: String },
    #[error("exec plug-in {command}: {why}")]
    Exec { command: String, why: String },
    #[error("{}: not a token (one line of visible characters)", path.display())]
    Token { path: PathBuf },
}
