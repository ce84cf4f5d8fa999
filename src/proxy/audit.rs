//! One line for each call, of who asked for what, where, and how it ended. Never a
//! query, a header's value or anything of a body.

use std::time::Duration;

use super::plan::{Identity, Plan};
use crate::http::Headers;

/// What came of a call, as it goes on.
#[derive(Default)]
pub(super) struct Moved {
    /// `kubernetes`, a Service, or an origin.
    pub(super) target: String,
    /// Why it was allowed.
    pub(super) reason: String,
    pub(super) status: Option<u16>,
    /// Of the request's body, where it came as a whole.
    pub(super) bytes_in: u64,
    /// Of the answer's, decoded.
    pub(super) bytes_out: u64,
}

/// What is left of a call.
pub(super) struct Line<'a> {
    pub(super) id: &'a str,
    pub(super) plan: &'a Plan,
    pub(super) moved: &'a Moved,
    /// Of the request's body, where it came piece by piece.
    pub(super) streamed_in: Option<u64>,
    pub(super) denied: bool,
    pub(super) duration: Duration,
    /// Empty where it came to its good end.
    pub(super) error: &'a str,
}

impl Line<'_> {
    /// At debug for reads, at info for writes, at warn for what is denied.
    pub(super) fn log(&self) {
        let Plan { method, target, .. } = self.plan;
        let moved = self.moved;
        let level = if self.denied {
            log::Level::Warn
        } else if matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS") {
            log::Level::Debug
        } else {
            log::Level::Info
        };
        if !log::log_enabled!(level) {
            return;
        }
        log::log!(
            level,
            request = self.id,
            method = method.as_str(),
            path = target.split('?').next().unwrap_or_default(),
            target = moved.target.as_str(),
            who = who(self.plan),
            client = client(&self.plan.headers).as_str(),
            verdict = if self.denied { "denied" } else { "allowed" },
            reason = if self.denied { self.error } else { moved.reason.as_str() },
            status = moved.status.unwrap_or(0),
            bytes_in = self.streamed_in.unwrap_or(moved.bytes_in),
            bytes_out = moved.bytes_out,
            duration_ms = self.duration.as_millis() as u64,
            error = self.error;
            "proxied call"
        );
    }
}

/// Whose credential it travels under.
fn who(plan: &Plan) -> &'static str {
    match plan.identity {
        Identity::Agent => "agent",
        Identity::Caller if plan.headers.contains("Authorization") => "caller",
        Identity::Caller => "nobody",
    }
}

/// The client's address as the peer says it; the peer's word is all there is.
fn client(headers: &Headers) -> String {
    let said = headers.get("X-Forwarded-For").unwrap_or_default();
    let first = said.split(',').next().unwrap_or_default().trim();
    let plausible = |c: &char| c.is_ascii_hexdigit() || ".:[]".contains(*c);
    first
        .chars()
        .take_while(plausible)
        .take(MAX_CLIENT)
        .collect()
}

/// An IPv6 address in brackets, with a port.
const MAX_CLIENT: usize = 53;
