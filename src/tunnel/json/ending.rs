//! How a connection ends, and what the gateway, the target and the audit are told.

use std::time::Duration;

use super::queue::PushError;
use crate::net::Reason;
use crate::telemetry::metrics::{
    TCP_CONNECTION_FAILED, TCP_DENIED, TCP_READ_ERRORS, TCP_WRITE_ERRORS,
};
use crate::tunnel::target::{Refusal, RefusalKind};
use crate::wire::tunnel::CloseReason;

/// Why a connection ends: the first reason counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There was no connection.
    NotConnected(Refusal),
    /// The target's end.
    Target,
    /// The target failed while it was read.
    ReadError(String),
    /// The target takes no more, and had nothing more to say.
    WriteError(String),
    /// Something that the gateway sent can't be kept.
    Refused(PushError),
    /// The gateway closed; everything before that was written.
    Gateway,
    /// The gateway says that the client was cut off.
    GatewayAborted,
    Idle(Duration),
    /// The connection to the control plane is gone.
    Lost,
    /// A bug of ours.
    Panicked,
}

impl End {
    /// What its work is cancelled with.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Lost => Reason::ConnectionLost,
            Self::Gateway | Self::GatewayAborted => Reason::Cancelled,
            Self::Idle(_) => Reason::Deadline,
            _ => Reason::Failed,
        }
    }

    /// Whether the target must see that this is no good end.
    pub(super) fn aborts(&self) -> bool {
        !matches!(self, Self::Target | Self::Gateway)
    }

    /// What the gateway is told; nothing, when nobody is there to be told.
    pub(super) fn close(&self) -> Option<(CloseReason, Option<String>)> {
        let reason = match self {
            Self::Lost => return None,
            Self::NotConnected(_) => CloseReason::ConnectionFailed,
            Self::WriteError(_) | Self::Refused(_) | Self::Panicked => CloseReason::WriteError,
            Self::Target
            | Self::ReadError(_)
            | Self::Gateway
            | Self::GatewayAborted
            | Self::Idle(_) => CloseReason::ServiceClosed,
        };
        let error = match self {
            Self::Target | Self::Gateway | Self::GatewayAborted => None,
            _ => Some(self.text()),
        };
        Some((reason, error))
    }

    /// For the audit.
    pub(super) fn text(&self) -> String {
        match self {
            Self::NotConnected(refusal) => refusal.to_string(),
            Self::Target => "closed by the target".to_owned(),
            Self::ReadError(error) => format!("read from the target: {error}"),
            Self::WriteError(error) => format!("write to the target: {error}"),
            Self::Refused(error) => error.to_string(),
            Self::Gateway => "closed by the gateway".to_owned(),
            Self::GatewayAborted => "cut off by the gateway".to_owned(),
            Self::Idle(limit) => format!("idle for {} s", limit.as_secs()),
            Self::Lost => "connection to the control plane lost".to_owned(),
            Self::Panicked => "internal error".to_owned(),
        }
    }

    pub(super) fn count(&self) {
        match self {
            Self::NotConnected(refusal) => match refusal.kind {
                RefusalKind::Denied => TCP_DENIED.increment(),
                RefusalKind::Header | RefusalKind::Dial => TCP_CONNECTION_FAILED.increment(),
                RefusalKind::Cancelled(_) => {}
            },
            Self::ReadError(_) => TCP_READ_ERRORS.increment(),
            Self::WriteError(_) | Self::Refused(_) | Self::Panicked => TCP_WRITE_ERRORS.increment(),
            Self::Target | Self::Gateway | Self::GatewayAborted | Self::Idle(_) | Self::Lost => {}
        }
    }
}
