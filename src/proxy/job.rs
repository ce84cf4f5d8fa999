//! One request being executed, on a thread of its own: the call, then the answer
//! in the form that was asked for.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::answer::{Answer, failure_text};
use super::connection::Form;
use super::memory::{Budget, OverBudget, Paid, Reservation, mib};
use super::places::{Applicant, Kind};
use super::plan::{Identity, Plan, answer_headers};
use super::ticket::Ticket;
use super::{Executor, Upstreams};
use crate::http::client::{Body, Call, CallError, Response};
use crate::http::{Client, Headers};
use crate::link::SendError;
use crate::net::Cancel;
use crate::telemetry::RateLimit;
use crate::wire::MAX_CHUNK;
use crate::wire::from_agent::Encoding;

/// A request that can be executed.
pub(super) struct Job {
    pub(super) ticket: Arc<Ticket>,
    pub(super) plan: Plan,
    pub(super) body: Body,
    pub(super) answer: Answer,
    /// Room for the id and the plan.
    pub(super) _head: Reservation,
}

/// Why a job did not come to its good end.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("the agent has no usable credential of its own")]
    Identity,
    #[error(
        "the response is larger than {}, the limit of buffered responses; a streamed one has none",
        mib(*.0)
    )]
    TooLarge(usize),
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("{0}")]
    Send(#[from] SendError),
}

impl Job {
    pub(super) fn execute(mut self, executor: &Executor) {
        let ticket = self.ticket.clone();
        let result = match (ticket.cancel.reason(), &executor.upstreams) {
            (Some(reason), _) => Err(JobError::Send(SendError::Cancelled(reason))),
            (None, Some(upstreams)) => self.call(executor, upstreams),
            (None, None) => return self.answer.fail("kubernetes client not initialized"),
        };
        match result {
            Ok(()) => {}
            Err(error) => self.answer.fail(&failure_text(&ticket, &error)),
        }
        let took = ticket.received.elapsed();
        if took > SLOW && ticket.kind == Kind::Short && ticket.form == Form::Buffered {
            let Plan { method, target, .. } = &self.plan;
            let path = target.split('?').next().unwrap_or_default();
            log::info!("slow request: {method} {path} took {took:.1?}");
        }
    }

    /// As [`execute`](Self::execute), but it won't be; never waits.
    pub(super) fn refuse(self, text: &str) {
        self.answer.refuse(text);
    }

    fn call(&mut self, executor: &Executor, upstreams: &Upstreams) -> Result<(), JobError> {
        let ticket = self.ticket.clone();
        // An upload may take as long as it makes progress.
        let may_take_long = ticket.form == Form::Streamed || ticket.inbound.is_some();
        if may_take_long
            && ticket.kind == Kind::Short
            && let Err(error) = ticket.moves_over(executor.settings.long_after)
        {
            log::warn!("{error}");
        }
        let response = self.exchange(upstreams)?;
        let live = ticket.form == Form::Streamed || self.plan.live;
        ticket.head_arrived(live);
        let headers = answer_headers(&response.headers);
        match ticket.form {
            Form::Streamed => self.stream(response, &headers),
            Form::Buffered => self.buffer(executor, response, &headers),
        }
    }

    fn exchange(&mut self, upstreams: &Upstreams) -> Result<Response, JobError> {
        // Gone when the answer begins, but for what is still being sent.
        let body = std::mem::replace(&mut self.body, Body::Empty);
        let cancel = self.ticket.cancel.clone();
        match (self.plan.identity, &upstreams.agent) {
            (Identity::Agent, Some(agent)) => {
                let value = agent.identity.authorization(&cancel).map_err(|error| {
                    // Names files: for the log, not for the peer (T38).
                    if let Some(skipped) = NO_IDENTITY.pass() {
                        log::warn!(skipped; "no credential for the Kubernetes API: {error}");
                    }
                    JobError::Identity
                })?;
                if let Some(value) = value {
                    self.plan.headers.set("Authorization", value.expose());
                }
                let response = self.send(&agent.client, body, &cancel)?;
                if response.status == 401 {
                    agent.identity.refused();
                }
                Ok(response)
            }
            _ => Ok(self.send(&upstreams.callers, body, &cancel)?),
        }
    }

    fn send(&self, client: &Client, body: Body, cancel: &Cancel) -> Result<Response, CallError> {
        let call = Call {
            method: &self.plan.method,
            target: &self.plan.target,
            headers: &self.plan.headers,
            body,
            deadline: None, // the timer ends it by `cancel`
        };
        client.call(&call, cancel)
    }

    /// Form S: as it arrives. While the lane has no room, or the peer gives no
    /// credit, nothing is read from upstream: TCP makes it wait.
    fn stream(&mut self, mut response: Response, headers: &Headers) -> Result<(), JobError> {
        let ticket = self.ticket.clone();
        self.answer.header(response.status, headers)?;
        loop {
            let mut rest = response.body.chunk(MAX_CHUNK)?;
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                let count = match &ticket.credit {
                    Some(credit) => credit
                        .take(rest.len(), &ticket.cancel)
                        .map_err(SendError::Cancelled)?,
                    None => rest.len(),
                };
                let (now, later) = rest.split_at(count);
                self.answer.chunk(now)?;
                rest = later;
            }
        }
        Ok(self.answer.end()?)
    }

    /// Form B: as a whole, within limits.
    fn buffer(
        &mut self,
        executor: &Executor,
        mut response: Response,
        headers: &Headers,
    ) -> Result<(), JobError> {
        let limit = executor.settings.body_limit;
        let said = response.body.length().unwrap_or(0);
        if said > limit as u64 {
            return Err(JobError::TooLarge(limit));
        }
        let mut body = Paid::new(&executor.budget)?;
        body.make_room(said as usize)?;
        loop {
            let chunk = response.body.chunk(usize::MAX)?;
            if chunk.is_empty() {
                break;
            }
            if chunk.len() > limit - body.len() {
                return Err(JobError::TooLarge(limit));
            }
            body.extend(chunk)?;
        }
        let mut encoding = Encoding::Base64;
        if is_worth_gzip(headers, body.len()) {
            body = gzip(&body, &executor.budget)?;
            encoding = Encoding::Gzip;
        }
        let status = response.status;
        drop(response);
        let room =
            executor
                .budget
                .reserve(Answer::size_of_buffered(&self.ticket.id, headers, &body))?;
        Ok(self
            .answer
            .buffered(status, headers, body, encoding, room)?)
    }
}

impl Applicant for Job {
    fn serial(&self) -> u64 {
        self.ticket.serial
    }

    fn kind(&self) -> Kind {
        self.ticket.kind
    }

    fn cancel(&self) -> &Cancel {
        &self.ticket.cancel
    }
}

/// The rule of control-channel.md §8.6, by size and type; what the target has
/// encoded already is left alone.
fn is_worth_gzip(headers: &Headers, length: usize) -> bool {
    let kind = headers.get("Content-Type").unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| kind.contains(part));
    length >= GZIP_FROM
        && !has(&["gzip", "compress", "zip", "image/", "video/", "audio/"])
        && has(&["text/", "json", "javascript", "xml", "html", "yaml"])
        && headers
            .list("Content-Encoding")
            .all(|coding| coding.eq_ignore_ascii_case("identity"))
}

fn gzip(body: &[u8], budget: &Arc<Budget>) -> Result<Paid, JobError> {
    let _room = budget.reserve(COMPRESSOR)?;
    let mut packed = Paid::new(budget)?;
    packed.make_room(body.len() / 4)?;
    let mut encoder = GzEncoder::new(packed, Compression::fast());
    // What it packs into has no other way to fail.
    let packing = encoder.write_all(body).and_then(|()| encoder.finish());
    packing.map_err(|_| JobError::OverBudget(budget.exceeded()))
}

static NO_IDENTITY: RateLimit = RateLimit::new(1, Duration::from_mins(1));

/// What compressing takes beside what it yields, in bytes.
const COMPRESSOR: usize = 384 * 1024;

/// Smaller bodies are not gzipped.
const GZIP_FROM: usize = 1024;

/// A request that took longer is logged.
const SLOW: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn c7_what_is_gzipped_and_what_is_not() {
        let worth = |kind: &str, length| {
            let headers: Headers = [("content-type", kind)].into_iter().collect();
            is_worth_gzip(&headers, length)
        };
        assert!(worth("application/json", 1024));
        assert!(worth("text/html; charset=utf-8", 5000));
        assert!(worth("application/vnd.api+JSON", 5000));
        assert!(!worth("application/json", 1023));
        assert!(!worth("image/svg+xml", 5000));
        assert!(!worth("application/vnd.kubernetes.protobuf", 5000));
        assert!(!worth("text/x-gzip", 5000));
        assert!(!is_worth_gzip(&Headers::new(), 5000));
        let encoded: Headers = [("Content-Type", "text/plain"), ("Content-Encoding", "br")]
            .into_iter()
            .collect();
        assert!(!is_worth_gzip(&encoded, 5000));
    }

    #[test]
    fn gzip_can_be_undone() {
        let body = b"hello ".repeat(1000);
        let packed = gzip(&body, &Budget::new(1 << 20)).expect("packed");
        assert!(packed.len() < 200);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .expect("gzip");
        assert_eq!(unpacked, body);
    }
}
