//! What is known of one stream, counted while it lives and written down at its end.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::account::Account;
use super::{Place, Streams};
use crate::telemetry::metrics::{self, Entered};
use crate::tunnel::Protocol;
use crate::tunnel::audit::{Judged, Line};
use crate::tunnel::header::Header;
use crate::tunnel::policy::Verdict;
use crate::tunnel::target::{Connected, Refusal, RefusalKind};
use crate::yamux::Cut;

/// Owns the stream's place; when it is dropped the stream is over, for us, and its
/// line is in the audit.
pub(super) struct Record {
    /// `None` once it was handed over.
    line: Option<Line>,
    started: Instant,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    end: Mutex<End>,
    /// Where it is counted as open.
    active: Vec<Entered>,
    place: Place,
}

/// The first of each counts; what failed says more than what ended well.
#[derive(Default)]
struct End {
    well: Option<Cow<'static, str>>,
    failed: Option<Cow<'static, str>>,
}

impl Record {
    pub(super) fn new(place: Place, connection: u64, stream: u32) -> Self {
        Self {
            line: Some(Line {
                is_request: false,
                id: format!("{connection}/{stream}"),
                tunnel: String::new(),
                client: None,
                protocol: Protocol::Tcp,
                target: String::new(),
                address: None,
                judged: Judged::Invalid,
                reason: String::new(),
                dry_run: None,
                bytes_in: 0,
                bytes_out: 0,
                duration: std::time::Duration::ZERO,
                end: Cow::Borrowed(""),
            }),
            started: Instant::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            end: Mutex::default(),
            active: vec![metrics::YAMUX_ACTIVE.enter()],
            place,
        }
    }

    pub(super) fn streams(&self) -> &Arc<Streams> {
        &self.place.0
    }

    /// Where it wants to go.
    pub(super) fn asked(&mut self, header: &Header) {
        self.note(|line| {
            line.tunnel.clone_from(&header.tunnel_id);
            line.client = header.client;
            line.protocol = header.protocol;
            line.target = format!("{}.{}:{}", header.service, header.namespace, header.port);
        });
    }

    /// It may, as far as can be said yet, and this is what it is called.
    pub(super) fn admitted(&mut self, target: String, verdict: &Verdict) {
        self.note(|line| line.target = target);
        self.allowed(verdict);
    }

    pub(super) fn connected(&mut self, connected: &Connected) {
        self.active.push(metrics::TUNNEL_FORWARDS.enter());
        if self.is_udp() {
            metrics::UDP_SESSIONS.increment();
            self.active.push(metrics::UDP_ACTIVE.enter());
        }
        self.note(|line| line.address = connected.address);
        self.allowed(&connected.verdict);
    }

    fn allowed(&mut self, verdict: &Verdict) {
        self.note(|line| {
            line.judged = Judged::Allowed;
            line.reason.clone_from(&verdict.reason);
            line.dry_run.clone_from(&verdict.dry_run);
        });
    }

    /// It gets no target.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let (counter, judged) = match refusal.kind {
            RefusalKind::Header => (Some(&metrics::YAMUX_HEADER_ERRORS), Some(Judged::Invalid)),
            RefusalKind::Denied => (Some(&metrics::YAMUX_DENIED), Some(Judged::Denied)),
            RefusalKind::Dial => (Some(&metrics::YAMUX_DIAL_ERRORS), None),
            RefusalKind::Cancelled(_) => (None, None),
        };
        if let Some(counter) = counter {
            counter.increment();
        }
        if self.is_udp() {
            match refusal.kind {
                RefusalKind::Denied => metrics::UDP_DENIED.increment(),
                RefusalKind::Dial => metrics::UDP_CONNECTION_FAILED.increment(),
                RefusalKind::Header | RefusalKind::Cancelled(_) => {}
            }
        }
        match judged {
            Some(judged) => {
                self.note(|line| {
                    line.judged = judged;
                    line.reason.clone_from(&refusal.reason);
                    line.dry_run.clone_from(&refusal.dry_run);
                });
                self.failed("refused".into());
            }
            None => {
                self.failed(refusal.reason.clone().into());
            }
        }
    }

    fn is_udp(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.protocol == Protocol::Udp)
    }

    fn note(&mut self, note: impl FnOnce(&mut Line)) {
        if let Some(line) = &mut self.line {
            note(line);
        }
    }

    /// It ended otherwise. True: nobody has said why before.
    fn fail(&self, why: Cow<'static, str>) -> bool {
        let mut end = self.end.lock();
        let first = end.failed.is_none();
        if first {
            end.failed = Some(why);
        }
        first
    }
}

impl Account for Record {
    /// So many more bytes went from the stream to the target.
    fn moved_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::YAMUX_BYTES_IN.add(bytes as u64);
    }

    /// So many more bytes went from the target to the stream.
    fn moved_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        metrics::YAMUX_BYTES_OUT.add(bytes as u64);
    }

    /// A direction has come to its end as it should.
    fn ended(&self, how: &'static str) {
        let mut end = self.end.lock();
        end.well.get_or_insert(Cow::Borrowed(how));
    }

    fn failed(&self, why: Cow<'static, str>) {
        self.fail(why);
    }

    fn copy_failed(&self, why: String) {
        if self.fail(why.into()) {
            metrics::YAMUX_COPY_ERRORS.increment();
        }
    }

    /// It was cut. By us, that was said before, unless the session did it: the
    /// drain, memory, the half-close limit.
    fn cut(&self, cut: Cut) {
        self.failed(Cow::Borrowed(match cut {
            Cut::ByPeer => "reset by the gateway",
            Cut::ByUs => "reset by the session",
            Cut::SessionLost => "the connection to the gateway is lost",
        }));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        metrics::YAMUX_DURATION.observe(duration);
        let Some(mut line) = self.line.take() else {
            return;
        };
        line.bytes_in = *self.bytes_in.get_mut();
        line.bytes_out = *self.bytes_out.get_mut();
        line.duration = duration;
        let end = self.end.get_mut();
        line.end = if std::thread::panicking() {
            Cow::Borrowed("a fault of the agent's own")
        } else {
            end.failed.take().or(end.well.take()).unwrap_or_default()
        };
        self.place.0.audit.record(line);
    }
}
