//! One request being executed, on a worker thread: the call, then the answer in the
//! form that was asked for.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, failure_text};
use super::audit::{self, Moved};
use super::connection::Form;
use super::gzip::{PackError, Packer};
use super::memory::{OverBudget, Reservation, mib};
use super::places::{Applicant, Kind};
use super::plan::{Identity, Plan, answer_headers};
use super::services::Beside;
use super::target::{ServiceUpstream, Upstream};
use super::ticket::Ticket;
use super::{Executor, NoIdentity, Upstreams};
use crate::http::client::{Body, Call, CallError, Response, ResponseBody};
use crate::http::{Client, Headers};
use crate::link::SendError;
use crate::net::Cancel;
use crate::wire::{BodyText, MAX_CHUNK};

/// A request that can be executed.
pub(super) struct Job {
    pub(super) ticket: Arc<Ticket>,
    pub(super) to: Upstream,
    /// What it shares its places with.
    pub(super) crowd: Option<Arc<str>>,
    pub(super) plan: Plan,
    pub(super) body: Body,
    pub(super) answer: Answer,
    /// For a Service's answer of which nothing comes.
    pub(super) stall: Option<Duration>,
    pub(super) moved: Moved,
    /// Room for the id and the plan.
    pub(super) _head: Reservation,
}

/// Why a job did not come to its good end.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Identity(#[from] NoIdentity),
    #[error(
        "the response is larger than {}, the limit of buffered responses; a streamed one has none",
        mib(*.0)
    )]
    TooLarge(usize),
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("{0}")]
    Pack(#[from] PackError),
    #[error("{0}")]
    Send(#[from] SendError),
}

impl JobError {
    /// There was no connection yet: nothing of the body was sent.
    fn is_early(&self) -> bool {
        use CallError::{Denied, Dial, Unreachable};
        let call = matches!(self, Self::Call(Denied(_) | Dial(_) | Unreachable(_)));
        call || matches!(self, Self::Identity(_))
    }
}

impl Job {
    pub(super) fn execute(mut self, executor: &Executor) {
        let ticket = self.ticket.clone();
        let result = match ticket.cancel.reason() {
            Some(reason) => Err(JobError::Send(SendError::Cancelled(reason))),
            None => self.call(executor),
        };
        let took = ticket.received.elapsed();
        let text = result
            .as_ref()
            .err()
            .map(|error| failure_text(&ticket, error));
        if let Some(text) = &text {
            self.answer.fail(text);
        }
        let denied = matches!(result, Err(JobError::Call(CallError::Denied(_))));
        self.audit(executor, denied, text.as_deref().unwrap_or(""));
        if took > SLOW && ticket.kind == Kind::Short && ticket.form == Form::Buffered {
            let Plan { method, target, .. } = &self.plan;
            let path = target.split('?').next().unwrap_or_default();
            log::info!("slow request: {method} {path} took {took:.1?}");
        }
    }

    /// As [`execute`](Self::execute), but it won't be; never waits.
    pub(super) fn refuse(self, executor: &Executor, text: &str) {
        self.audit(executor, false, text);
        self.answer.refuse(text);
    }

    fn audit(&self, executor: &Executor, denied: bool, error: &str) {
        let ticket = &self.ticket;
        let line = audit::Line {
            id: &ticket.id,
            asked: (&self.plan).into(),
            moved: &self.moved,
            streamed_in: ticket.inbound.as_ref().map(|inbound| inbound.taken()),
            denied,
            duration: ticket.received.elapsed(),
            error,
        };
        line.record(executor.services().map(|beside| &*beside.services));
    }

    fn call(&mut self, executor: &Executor) -> Result<(), JobError> {
        let ticket = self.ticket.clone();
        // An upload may take as long as it makes progress.
        let may_take_long = ticket.form == Form::Streamed || ticket.inbound.is_some();
        if may_take_long
            && ticket.kind == Kind::Short
            && let Err(error) = ticket.moves_over(executor.settings.long_after)
        {
            log::warn!("{error}");
        }
        let whole = match &self.body {
            Body::Full(bytes) => (**bytes).as_ref().len() as u64,
            Body::Empty | Body::Stream { .. } => 0,
        };
        let exchanged = self.exchange(executor);
        if !exchanged.as_ref().is_err_and(JobError::is_early) {
            self.moved.bytes_in = whole;
        }
        let mut response = exchanged?;
        self.moved.status = Some(response.status);
        if let Some(limit) = self.stall
            && !is_event_stream(&response.headers)
        {
            response.body.limit_idle(limit);
        }
        let live = ticket.form == Form::Streamed || self.plan.live;
        ticket.head_arrived(live);
        let headers = answer_headers(&response.headers);
        match ticket.form {
            Form::Streamed => self.stream(response, &headers),
            Form::Buffered => self.buffer(executor, response, &headers),
        }
    }

    fn exchange(&mut self, executor: &Executor) -> Result<Response, JobError> {
        // Gone when the answer begins, but for what is still being sent.
        let body = std::mem::replace(&mut self.body, Body::Empty);
        match (self.to.clone(), &executor.upstreams, executor.services()) {
            (Upstream::Api, Some(upstreams), _) => self.ask_api(upstreams, body),
            (Upstream::Service(upstream), _, Some(beside)) => {
                let asked = self.ask_service(beside, &upstream, body);
                self.moved.verdict = Some(upstream.service.verdict());
                asked
            }
            // Made only where there is one.
            _ => Err(JobError::Call(CallError::Closed)),
        }
    }

    fn ask_api(&mut self, upstreams: &Upstreams, body: Body) -> Result<Response, JobError> {
        let cancel = self.ticket.cancel.clone();
        match (self.plan.identity, &upstreams.agent) {
            (Identity::Agent, Some(agent)) => {
                agent.authorize(&mut self.plan.headers, &cancel)?;
                let response = self.send(&agent.client, body, &cancel)?;
                if response.status == 401 {
                    agent.identity.refused();
                }
                Ok(response)
            }
            _ => Ok(self.send(&upstreams.callers, body, &cancel)?),
        }
    }

    /// A Service or an origin: where the policy lets it, and never with a credential
    /// of the agent's own, whoever put it there.
    fn ask_service(
        &mut self,
        beside: &Beside,
        upstream: &ServiceUpstream,
        body: Body,
    ) -> Result<Response, JobError> {
        beside.take_own_credential(&mut self.plan.headers);
        let client = beside.pools.client(&upstream.service, upstream.https)?;
        let cancel = self.ticket.cancel.clone();
        Ok(self.send(&client, body, &cancel)?)
    }

    fn send(&self, client: &Client, body: Body, cancel: &Cancel) -> Result<Response, CallError> {
        let call = Call {
            method: &self.plan.method,
            target: &self.plan.target,
            host: self.plan.host.as_deref(),
            headers: &self.plan.headers,
            body,
            deadline: None, // the timer ends it by `cancel`
        };
        client.call(&call, cancel)
    }

    /// Form S: as it arrives; what has arrived together goes together, so that many
    /// small TLS records or chunks don't become as many messages. While the lane has
    /// no room, or the peer gives no credit, nothing is read from upstream: TCP makes
    /// it wait.
    fn stream(&mut self, mut response: Response, headers: &Headers) -> Result<(), JobError> {
        let ticket = self.ticket.clone();
        self.answer.header(response.status, headers)?;
        let body = &mut response.body;
        loop {
            let length = body.chunk(MAX_CHUNK)?.len();
            if length == 0 {
                return Ok(self.answer.end()?);
            }
            let mut sent = 0;
            while sent < length {
                let room = match &ticket.credit {
                    Some(credit) => credit
                        .take(MAX_CHUNK, &ticket.cancel)
                        .map_err(SendError::Cancelled)?,
                    None => MAX_CHUNK,
                };
                let expected = room.min(body.at_hand());
                let mut used = 0;
                let mut failed = None;
                self.answer.chunk(expected, |data| {
                    // Straight from the connection's buffer into the message.
                    let first = &body.lent()[sent..];
                    let first = &first[..first.len().min(room)];
                    data.push(first);
                    sent += first.len();
                    if sent == length {
                        failed = add_received(data, body, room).err();
                    }
                    used = data.length();
                })?;
                self.moved.bytes_out += used as u64;
                if let Some(credit) = &ticket.credit {
                    credit.put_back(room - used);
                }
                if let Some(error) = failed {
                    return Err(error.into());
                }
            }
        }
    }

    /// Form B: as a whole, within limits. What has come of the body is in the message
    /// already, gzipped if that is due.
    fn buffer(
        &mut self,
        executor: &Executor,
        response: Response,
        headers: &Headers,
    ) -> Result<(), JobError> {
        let (status, mut incoming) = (response.status, response.body);
        let limit = executor.settings.body_limit;
        if incoming.length().is_some_and(|said| said > limit as u64) {
            return Err(JobError::TooLarge(limit));
        }
        let said = incoming.length().map(|said| said as usize);
        let (budget, compressors) = (&executor.budget, &executor.compressors);
        let mut body = Packer::new(compressors, budget, is_worth_gzip(headers), said)?;
        let moved = &mut self.moved;
        self.answer
            .buffered(status, headers, budget, body.expected(), |message| {
                let mut length = 0;
                loop {
                    let chunk = incoming.chunk(usize::MAX)?;
                    if chunk.is_empty() {
                        return Ok(body.finish(message)?);
                    }
                    if chunk.len() > limit - length {
                        return Err(JobError::TooLarge(limit));
                    }
                    length += chunk.len();
                    moved.bytes_out = length as u64;
                    body.push(chunk, message)?;
                }
            })
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

    fn crowd(&self) -> Option<&Arc<str>> {
        self.crowd.as_ref()
    }
}

/// Adds what of the body has been received already, up to `room` bytes in all.
fn add_received(
    data: &mut BodyText<'_>,
    body: &mut ResponseBody,
    room: usize,
) -> Result<(), CallError> {
    while data.length() < room {
        let more = body.received(room - data.length())?;
        if more.is_empty() {
            break;
        }
        data.push(more);
    }
    Ok(())
}

/// An answer that may say nothing for as long as it likes (decisions.md §6.7).
fn is_event_stream(headers: &Headers) -> bool {
    let kind = headers.get("Content-Type").unwrap_or_default();
    let kind = kind.trim_start().to_ascii_lowercase();
    EVENT_STREAMS.iter().any(|stream| kind.starts_with(stream))
}

/// The rule of control-channel.md §8.6 by type (by size: `gzip`); what the target has
/// encoded already is left alone.
fn is_worth_gzip(headers: &Headers) -> bool {
    let kind = headers.get("Content-Type").unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| kind.contains(part));
    !has(&["gzip", "compress", "zip", "image/", "video/", "audio/"])
        && has(&["text/", "json", "javascript", "xml", "html", "yaml"])
        && headers
            .list("Content-Encoding")
            .all(|coding| coding.eq_ignore_ascii_case("identity"))
}

/// Server-sent events, calls of gRPC-web that answer with a stream, pictures of a
/// camera.
const EVENT_STREAMS: &[&str] = &[
    "text/event-stream",
    "application/grpc-web",
    "multipart/x-mixed-replace",
];

/// A request that took longer is logged.
const SLOW: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c7_what_is_gzipped_and_what_is_not() {
        let worth = |kind: &str| {
            let headers: Headers = [("content-type", kind)].into_iter().collect();
            is_worth_gzip(&headers)
        };
        assert!(worth("application/json"));
        assert!(worth("text/html; charset=utf-8"));
        assert!(worth("application/vnd.api+JSON"));
        assert!(!worth("image/svg+xml"));
        assert!(!worth("application/vnd.kubernetes.protobuf"));
        assert!(!worth("text/x-gzip"));
        assert!(!is_worth_gzip(&Headers::new()));
        let encoded: Headers = [("Content-Type", "text/plain"), ("Content-Encoding", "br")]
            .into_iter()
            .collect();
        assert!(!is_worth_gzip(&encoded));
    }
}
