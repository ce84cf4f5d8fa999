//! One line for each call, of who asked for what, where, and how it ended; also for
//! those that were refused before they began. Never a query, a header's value or
//! anything of a body.

use std::time::Duration;

use super::plan::{Identity, Plan};
use super::services::{JudgedCall, Services, Verdict};
use crate::http::{Headers, encode_path, is_token};
use crate::telemetry::RateLimit;
use crate::telemetry::metrics;
use crate::wire::ProxyRequest;

/// What came of a call, as it goes on.
#[derive(Default)]
pub(super) struct Moved {
    /// `kubernetes`, a Service, or an origin; empty where it came to neither.
    pub(super) target: String,
    /// What the policy said, where it was asked.
    pub(super) verdict: Option<Verdict>,
    pub(super) status: Option<u16>,
    /// Of the request's body, where it came as a whole and somebody was there to take it.
    pub(super) bytes_in: u64,
    /// Of the answer's, decoded.
    pub(super) bytes_out: u64,
}

/// What is left of a call.
pub(super) struct Line<'a> {
    pub(super) id: &'a str,
    pub(super) asked: Asked<'a>,
    pub(super) moved: &'a Moved,
    /// Of the request's body, where it came piece by piece.
    pub(super) streamed_in: Option<u64>,
    pub(super) denied: bool,
    pub(super) duration: Duration,
    /// Empty where it came to its good end.
    pub(super) error: &'a str,
}

/// Who asked for what.
pub(super) struct Asked<'a> {
    method: &'a str,
    /// A WebSocket.
    upgrade: bool,
    /// Encoded, without query; cut where it is too long for a line.
    path: String,
    /// Whose credential it travels under.
    who: &'static str,
    client: String,
}

impl<'a> From<&'a Plan> for Asked<'a> {
    fn from(plan: &'a Plan) -> Self {
        let path = plan.target.split('?').next().unwrap_or_default();
        Self {
            method: &plan.method,
            upgrade: false,
            path: cut(path, MAX_PATH).to_owned(),
            who: who(plan.identity, &plan.headers),
            client: client(&plan.headers),
        }
    }
}

impl Asked<'static> {
    /// Of a proxied WebSocket; `path` is encoded.
    pub(super) fn stream(path: &str, who: &'static str, headers: &Headers) -> Self {
        let path = path.split('?').next().unwrap_or_default();
        Self {
            method: "GET",
            upgrade: true,
            path: cut(path, MAX_PATH).to_owned(),
            who,
            client: client(headers),
        }
    }

    /// Of one that came to no plan: nothing of it is checked.
    pub(super) fn start(path: &str, headers: &Headers) -> Self {
        let mut encoded = String::new();
        encode_path(&mut encoded, cut(path, MAX_PATH));
        encoded.truncate(MAX_PATH); // it is ASCII
        Self::stream(&encoded, who(Identity::Caller, headers), headers)
    }
}

impl<'a> From<&'a ProxyRequest<'_>> for Asked<'a> {
    /// Of one that came to no plan: nothing of it is checked.
    fn from(request: &'a ProxyRequest<'_>) -> Self {
        let mut path = String::new();
        encode_path(&mut path, cut(&request.path, MAX_PATH));
        path.truncate(MAX_PATH); // it is ASCII
        let is_method = request.method.len() <= MAX_METHOD && is_token(&request.method);
        Self {
            method: if is_method { &request.method } else { "?" },
            upgrade: request.upgrade,
            path,
            who: who(Identity::Caller, &request.headers),
            client: client(&request.headers),
        }
    }
}

impl Line<'_> {
    /// Counts and logs it, and tells who keeps the policy's audit: `beside`.
    pub(super) fn record(&self, beside: Option<&dyn Services>) {
        if let Some(verdict) = &self.moved.verdict {
            self.count(verdict);
            if let Some(services) = beside
                && (self.denied || verdict.dry_run.is_some())
            {
                services.note(JudgedCall {
                    id: cut(self.id, MAX_ID),
                    client: self.asked.client.parse().ok(),
                    target: &self.moved.target,
                    verdict,
                    denied: self.denied,
                    bytes_in: self.bytes_in(),
                    bytes_out: self.moved.bytes_out,
                    duration: self.duration,
                    end: if self.denied { "refused" } else { self.error },
                });
            }
        }
        self.log();
    }

    fn count(&self, verdict: &Verdict) {
        if self.denied {
            metrics::SERVICE_DENIED.increment();
        } else {
            metrics::SERVICE_ALLOWED.increment();
        }
        if verdict.dry_run.is_some() {
            metrics::SERVICE_DRY_RUN.increment();
        }
    }

    fn bytes_in(&self) -> u64 {
        self.streamed_in.unwrap_or(self.moved.bytes_in)
    }

    /// At debug for reads, at info for writes and WebSockets, at warn for what is denied, if
    /// that isn't too much.
    fn log(&self) {
        let mut level = self.level();
        let mut skipped = 0;
        if level == log::Level::Warn {
            match DENIED.pass() {
                Some(before) => skipped = before,
                None => level = log::Level::Debug,
            }
        }
        if !log::log_enabled!(level) {
            return;
        }
        let Self { asked, moved, .. } = self;
        let verdict = moved.verdict.as_ref();
        let text = |text: Option<&String>| text.map_or("", String::as_str).to_owned();
        let address = verdict.and_then(|verdict| verdict.address);
        log::log!(
            level,
            request = cut(self.id, MAX_ID),
            method = asked.method,
            path = asked.path.as_str(),
            target = moved.target.as_str(),
            address = address.map_or(String::new(), |address| address.to_string()).as_str(),
            who = asked.who,
            client = asked.client.as_str(),
            verdict = self.verdict(),
            reason = text(verdict.map(|verdict| &verdict.reason)).as_str(),
            dry_run = text(verdict.and_then(|verdict| verdict.dry_run.as_ref())).as_str(),
            status = moved.status.unwrap_or(0),
            bytes_in = self.bytes_in(),
            bytes_out = moved.bytes_out,
            duration_ms = self.duration.as_millis() as u64,
            error = self.error,
            skipped = skipped;
            "proxied call"
        );
    }

    fn verdict(&self) -> &'static str {
        match &self.moved.verdict {
            None => "unasked",
            Some(_) if self.denied => "denied",
            Some(_) => "allowed",
        }
    }

    fn level(&self) -> log::Level {
        match self.asked.method {
            _ if self.denied => log::Level::Warn,
            // Who may exec may do anything, and who has tried is worth a line, too.
            _ if self.asked.upgrade => log::Level::Info,
            "GET" | "HEAD" | "OPTIONS" => log::Level::Debug,
            _ => log::Level::Info,
        }
    }
}

/// Whose credential a call travels under that has these headers.
pub(super) fn who(identity: Identity, headers: &Headers) -> &'static str {
    match identity {
        Identity::Agent => "agent",
        Identity::Caller if headers.contains("Authorization") => "caller",
        Identity::Caller => "nobody",
    }
}

/// Its first `most` bytes, or a few fewer.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
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

/// Of a path, in bytes.
const MAX_PATH: usize = 512;

/// Of an id, in bytes.
const MAX_ID: usize = 128;

const MAX_METHOD: usize = 32;

/// Denials that are said aloud; there may be any number of them.
static DENIED: RateLimit = RateLimit::new(60, Duration::from_mins(1));

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
            let plan = plan(method, "{}", false);
            let line = Line {
                id: "r",
                asked: (&plan).into(),
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
        let who = |headers, lend| Asked::from(&plan("GET", headers, lend)).who;
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

    #[test]
    fn what_a_peer_makes_long_is_cut() {
        let long = "ü".repeat(5000);
        let text = format!(
            r#"{{"type":"proxy_request","request_id":"r","payload":{{"path":"/{long}","method":"{long}"}}}}"#
        );
        let envelope = Envelope::parse(&text).expect("valid");
        let request = ProxyRequest::parse(&envelope.payload, None);
        let asked = Asked::from(&request);
        assert_eq!(asked.path.len(), MAX_PATH);
        assert_eq!(asked.method, "?");
        let plan = Plan {
            target: format!("/{}?secret", "a".repeat(5000)),
            ..plan("GET", "{}", false)
        };
        assert_eq!(Asked::from(&plan).path.len(), MAX_PATH);
        assert_eq!(cut("aü", 2), "a");
    }
}
