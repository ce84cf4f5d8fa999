//! Why a stream ends before it began.

use std::fmt;

use super::super::header::HeaderError;
use super::super::policy::Verdict;
use crate::net::Reason;

/// Why a stream doesn't get its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// One clause, for the log and the audit.
    pub reason: String,
    /// What rules that run dry would have said instead.
    pub dry_run: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The header can't be meant.
    Header,
    /// The policy says no.
    Denied,
    /// Nothing answers there.
    Dial,
    /// The stream ended first.
    Cancelled(Reason),
}

impl Refusal {
    pub(super) fn header(reason: impl fmt::Display) -> Self {
        Self {
            kind: RefusalKind::Header,
            reason: reason.to_string(),
            dry_run: None,
        }
    }

    pub(in crate::tunnel) fn dial(reason: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Dial,
            reason: reason.into(),
            dry_run: None,
        }
    }

    pub(super) fn denied(verdict: &Verdict) -> Self {
        Self {
            kind: RefusalKind::Denied,
            reason: verdict.reason.clone(),
            dry_run: verdict.dry_run.clone(),
        }
    }

    pub(super) fn cancelled(reason: Reason) -> Self {
        Self {
            kind: RefusalKind::Cancelled(reason),
            reason: reason.to_string(),
            dry_run: None,
        }
    }
}

impl RefusalKind {
    /// The label of `pipeops_agent_yamux_stream_errors_total`; a stream that ended
    /// by itself is no error.
    pub fn label(self) -> Option<&'static str> {
        match self {
            Self::Header => Some("header_error"),
            Self::Denied => Some("policy_denied"),
            Self::Dial => Some("dial_error"),
            Self::Cancelled(_) => None,
        }
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::header(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
