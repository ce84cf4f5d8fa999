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
        let (moved, level) = (self.moved, self.level());
        if !log::log_enabled!(level) {
            return;
        }
        log::log!(
            level,
            request = self.id,
            method = method.as_str(),
            path = target.split('?').next().unwrap_or_default(),
            target = moved.target.as_str(),
            who = who(self.plan.identity, &self.plan.headers),
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

    fn level(&self) -> log::Level {
        match self.plan.method.as_str() {
            _ if self.denied => log::Level::Warn,
            "GET" | "HEAD" | "OPTIONS" => log::Level::Debug,
            _ => log::Level::Info,
        }
    }
}

/// What is left of a stream (a proxied WebSocket).
pub(super) struct StreamLine<'a> {
    pub(super) id: &'a str,
    /// Without query.
    pub(super) path: &'a str,
    pub(super) target: &'a str,
    pub(super) who: &'static str,
    pub(super) headers: &'a Headers,
    /// Why it was allowed.
    pub(super) reason: &'a str,
    /// 101, or that of the refusal; 0 without an answer.
    pub(super) status: u16,
    /// To the target.
    pub(super) bytes_in: u64,
    /// To the peer.
    pub(super) bytes_out: u64,
    pub(super) duration: Duration,
    /// Empty where it came to its good end.
    pub(super) error: &'a str,
}

impl StreamLine<'_> {
    /// At info: who may exec may do anything.
    pub(super) fn log(&self) {
        log::info!(
            request = self.id,
            method = "GET",
            path = self.path,
            target = self.target,
            who = self.who,
            client = client(self.headers).as_str(),
            verdict = "allowed",
            reason = self.reason,
            status = self.status,
            bytes_in = self.bytes_in,
            bytes_out = self.bytes_out,
            duration_ms = self.duration.as_millis() as u64,
            error = self.error;
            "proxied stream"
        );
    }
}

/// Whose credential it travels under.
pub(super) fn who(identity: Identity, headers: &Headers) -> &'static str {
    match identity {
        Identity::Agent => "agent",
        Identity::Caller if headers.contains("Authorization") => "caller",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Envelope, ProxyRequest};

    fn plan(method: &str, headers: &str, lend: bool) -> Plan {
        let text = format!(
            r#"{{"type":"proxy_request","request_id":"r","payload":{{"path":"/x","method":"{method}","headers":{headers}}}}}"#
        );
        let envelope = Envelope::parse(&text).expect("valid");
        let request = ProxyRequest::parse(&envelope.payload, None);
        Plan::for_api(&request, "", lend).expect("a plan")
    }

    #[test]
    fn writes_are_seen_at_info_and_what_is_denied_at_warn() {
        let moved = Moved::default();
        for (method, denied, level) in [
            ("GET", false, log::Level::Debug),
            ("HEAD", false, log::Level::Debug),
            ("OPTIONS", false, log::Level::Debug),
            ("POST", false, log::Level::Info),
            ("DELETE", false, log::Level::Info),
            ("PROPFIND", false, log::Level::Info),
            ("GET", true, log::Level::Warn),
            ("POST", true, log::Level::Warn),
        ] {
            let line = Line {
                id: "r",
                plan: &plan(method, "{}", false),
                moved: &moved,
                streamed_in: None,
                denied,
                duration: Duration::ZERO,
                error: "",
            };
            assert_eq!(line.level(), level, "{method}");
        }
    }

    #[test]
    fn who_it_was_is_said_without_what_he_showed() {
        let who = |headers, lend| {
            let plan = plan("GET", headers, lend);
            who(plan.identity, &plan.headers)
        };
        assert_eq!(who(r#"{"Authorization":"Bearer secret"}"#, true), "caller");
        assert_eq!(who("{}", true), "agent");
        assert_eq!(who("{}", false), "nobody");
        let from = |said: &str| client(&[("X-Forwarded-For", said)].into_iter().collect());
        assert_eq!(from("192.0.2.7, 10.0.0.1"), "192.0.2.7");
        assert_eq!(from("[2001:db8::7]:443"), "[2001:db8::7]:443");
        assert_eq!(from("secret"), "");
        assert_eq!(from(&"1".repeat(100)).len(), MAX_CLIENT);
        assert_eq!(client(&Headers::new()), "");
    }
}
