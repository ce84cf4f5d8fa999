//! Why a request is not executed, and the line in the audit that it leaves all the same.

use std::borrow::Cow;
use std::time::Duration;

use super::audit::{self, Moved};
use super::memory::{OverBudget, mib};
use super::plan::PlanError;
use super::services::{Beside, Unreached};
use super::target::TargetError;
use crate::threads::SpawnError;
use crate::wire::ProxyRequest;

/// Why a request is not executed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("kubernetes client not initialized")]
    NoCluster,
    #[error("service request failed: this agent reaches no Services")]
    NoServices,
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("service request failed: {0}")]
    Unreached(#[source] Unreached),
    #[error("{SERVICE_STREAM_FAILED}: {0}")]
    StreamUnreached(#[source] Unreached),
    #[error("failed to create Kubernetes request: {0}")]
    Kubernetes(#[source] PlanError),
    #[error("{0}")]
    ServicePlace(#[source] PlanError),
    #[error("failed to create service request: {0}")]
    Service(#[source] PlanError),
    #[error("binary request bodies are not possible beside tunnels")]
    BinaryBody,
    #[error("invalid base64 in the request body")]
    Base64,
    #[error("the request body is larger than {}, the limit of buffered bodies", mib(*.0))]
    TooLarge(usize),
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("{0}")]
    Thread(#[from] SpawnError),
    /// Of an upgrade for a Service.
    #[error("invalid subprotocol")]
    Subprotocol,
    /// Of one for the Kubernetes API.
    #[error("{0}")]
    Stream(String),
}

impl Refusal {
    /// `text`: what the peer is told.
    pub(super) fn record(
        &self,
        id: &str,
        request: &ProxyRequest<'_>,
        text: &str,
        beside: Option<&Beside>,
    ) {
        let verdict = match self {
            Self::Unreached(Unreached::Denied(verdict))
            | Self::StreamUnreached(Unreached::Denied(verdict)) => Some(verdict.clone()),
            _ => None,
        };
        let line = audit::Line {
            id,
            asked: request.into(),
            denied: verdict.is_some(),
            moved: &Moved {
                target: said(request),
                verdict,
                ..Moved::default()
            },
            streamed_in: None,
            duration: Duration::ZERO,
            error: text,
        };
        line.record(beside.map(|beside| &*beside.services));
    }
}

/// The target by its fields, which nobody has checked; empty where there are none.
fn said(request: &ProxyRequest<'_>) -> String {
    let given = &request.service;
    let part = |text: &Option<Cow<'_, str>>| {
        let text = text.as_deref().unwrap_or_default();
        text.chars().take(MAX_SAID).collect::<String>()
    };
    match (&given.name, &given.namespace, given.port) {
        (None, None, None) => String::new(),
        (name, namespace, port) => {
            format!("{}.{}:{}", part(name), part(namespace), port.unwrap_or(0))
        }
    }
}

const MAX_SAID: usize = 63;

/// What the text of a stream to a Service that can't be opened begins with
/// (control-channel.md §8.7).
pub(super) const SERVICE_STREAM_FAILED: &str = "failed to connect to service WebSocket";
