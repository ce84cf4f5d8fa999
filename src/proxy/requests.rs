//! The requests of one connection, as messages of the peer make them.

use std::sync::Arc;

use super::answer::Answer;
use super::audit::Moved;
use super::connection::{Connection, Form};
use super::credit::Credit;
use super::executor::Task;
use super::inbound::Inbound;
use super::job::Job;
use super::memory::Held;
use super::places::Kind;
use super::plan::{Plan, PlanError, is_https};
use super::refusal::Refusal;
use super::target::{ServiceUpstream, StaticRoutes, Target, TargetError, Upstream};
use super::ticket::{NO_BINARY_BODY, Ticket};
use super::times::Times;
use super::{Executor, Outlet};
use crate::http::client::Body;
use crate::link::Message;
use crate::net::{Cancel, Reason};
use crate::wire::{ProxyRequest, RequestBody, from_agent, parse_binary_body};

/// The requests of one connection. Its methods are called on the `link-reader`
/// thread and never block. Dropping it is the loss of the connection: everything
/// ends but the form B requests whose body is complete.
pub struct Requests {
    pub(super) executor: Arc<Executor>,
    pub(super) connection: Arc<Connection>,
    /// The peer knows `proxy_flow`.
    pub(super) flow: bool,
    /// The peer knows raw streams.
    pub(super) raw_streams: bool,
    /// Binary messages are bodies: no longer where yamux is.
    binary_bodies: bool,
    /// The next message is the body of a `body_binary` request.
    awaited: Awaited,
}

/// Whose binary body comes next (control-channel.md §5.3).
enum Awaited {
    Nobodys,
    /// A request that was refused: it is thrown away.
    Refused,
    /// The parked job of this serial, unless it has ended meanwhile.
    Jobs(u64),
}

impl Requests {
    pub(super) fn new(executor: Arc<Executor>, outlet: Arc<dyn Outlet>) -> Self {
        Self {
            executor,
            connection: Connection::new(outlet),
            flow: false,
            raw_streams: false,
            binary_bodies: true,
            awaited: Awaited::Nobodys,
        }
    }

    /// `proxy_request`.
    #[allow(clippy::needless_pass_by_value)] // it is used up
    pub fn request(&mut self, id: &str, request: ProxyRequest<'_>) {
        let id: Arc<str> = id.into();
        let form = if request.stream_response {
            Form::Streamed
        } else {
            Form::Buffered
        };
        let wants_body = request.wants_binary_body();
        let awaits_body = wants_body && self.binary_bodies;
        if self.connection.is_taken(&id) {
            self.connection.refuse_duplicate(&id);
        } else if request.upgrade {
            self.executor.disown(&id);
            self.upgrade(&id, form, &request);
        } else {
            // Ids live per connection (decisions.md §6.2 "Lost connection").
            self.executor.disown(&id);
            let prepared = if wants_body && !awaits_body {
                Err(Refusal::BinaryBody)
            } else {
                self.prepare(&id, form, &request)
            };
            match prepared {
                Ok(job) if awaits_body => {
                    self.awaited = Awaited::Jobs(job.ticket.serial);
                    self.executor.park(job);
                    return;
                }
                Ok(job) => self.executor.admit(job),
                Err(refusal) => {
                    let text = refusal.to_string();
                    refusal.record(&id, &request, &text, self.executor.services());
                    self.connection.refuse(&id, form, &text);
                }
            }
        }
        if awaits_body {
            self.awaited = Awaited::Refused;
        }
    }

    /// A binary message while a `body_binary` request waits for its body; false
    /// when none does (the message then means something else).
    pub fn binary(&mut self, message: &[u8]) -> bool {
        let parked = match std::mem::replace(&mut self.awaited, Awaited::Nobodys) {
            Awaited::Nobodys => return false,
            Awaited::Refused => None,
            Awaited::Jobs(serial) => self.executor.places.give_up(serial),
        };
        let Some(Task::Request(mut job)) = parked else {
            return true;
        };
        let text = match parse_binary_body(message) {
            Err(error) => format!("invalid binary request body: {error}"),
            Ok(body) if *body.request_id != *job.ticket.id => {
                "invalid binary request body: it is another request's".to_owned()
            }
            Ok(body) => match self.hold(body.body) {
                Err(refusal) => refusal.to_string(),
                Ok(body) => {
                    job.body = body;
                    match job.ticket.body_complete() {
                        Ok(()) => {
                            self.executor.admit(*job);
                            return true;
                        }
                        Err(error) => error.to_string(),
                    }
                }
            },
        };
        job.refuse(&self.executor, &text);
        true
    }

    /// Called for every text message before it is handled: a `body_binary` request
    /// that still waits for its body fails (decisions.md §6.2 "Outcomes").
    pub fn text_arrived(&mut self) {
        if let Awaited::Jobs(serial) = std::mem::replace(&mut self.awaited, Awaited::Nobodys) {
            self.executor.refuse_waiting(serial, NO_BINARY_BODY);
        }
    }

    /// `proxy_request_chunk`; base64.
    pub fn chunk(&mut self, id: &str, data: Option<&str>) {
        let Some(ticket) = self.connection.live(id) else {
            log::debug!("a chunk for no request was dropped");
            return;
        };
        let (Some(inbound), Some(data)) = (&ticket.inbound, data) else {
            return;
        };
        if let Err(error) = inbound.push(data) {
            ticket.fail(&error.to_string());
        }
    }

    /// `proxy_request_stream_end`.
    pub fn end(&mut self, id: &str) {
        let Some(ticket) = self.connection.live(id) else {
            return;
        };
        if let Some(inbound) = &ticket.inbound {
            inbound.end();
            if let Err(error) = ticket.body_complete() {
                ticket.fail(&error.to_string());
            }
        }
    }

    /// `proxy_cancel`.
    pub fn cancel(&mut self, id: &str) {
        let Some(ticket) = self.connection.find(id) else {
            if let Some(stream) = self.connection.streams.find(id) {
                stream.cancel_request();
            }
            return;
        };
        ticket.cancel.cancel(Reason::Cancelled);
        // One that waits has nothing to close: it just goes.
        self.executor.refuse_waiting(ticket.serial, "cancelled");
    }

    /// Feature `flow`: from now on answers wait for credit (1 MiB to begin with),
    /// and the peer is given credit for streamed bodies.
    pub fn use_flow_control(&mut self) {
        self.flow = true;
    }

    /// yamux begins: a request whose body would follow in a binary message is refused
    /// from now on (tunnels.md §1.5).
    pub fn refuse_binary_bodies(&mut self) {
        self.binary_bodies = false;
    }

    /// `proxy_flow`.
    pub fn credit(&mut self, id: &str, bytes: u64) {
        if let Some(ticket) = self.connection.find(id)
            && let Some(credit) = &ticket.credit
        {
            credit.add(bytes);
        } else if let Some(stream) = self.connection.streams.find(id) {
            stream.grant(bytes);
        }
    }

    fn prepare(
        &self,
        id: &Arc<str>,
        form: Form,
        request: &ProxyRequest<'_>,
    ) -> Result<Job, Refusal> {
        let executor = self.executor.clone();
        let (to, plan) = self.plan(request)?;
        let live = form == Form::Streamed || plan.live;
        let now = jiff::Timestamp::now();
        let settings = &executor.settings;
        let mut times = Times::of(request, live, now, settings.default_timeout);
        if matches!(to, Upstream::Service(_)) {
            // No idle limit ends a watch (decisions.md §6.7).
            let stall = (!plan.live).then_some(settings.stall);
            times = times.by_phases(settings.first_byte, stall);
        }
        let head = executor.budget.reserve(id.len() + plan.size())?;
        let kind = if plan.live { Kind::Long } else { Kind::Short };
        let cancel = Cancel::new();
        let mut inbound = None;
        let body = match &request.body {
            RequestBody::None | RequestBody::BinaryFollows => Body::Empty,
            RequestBody::Text(text) => self.hold(text.as_bytes())?,
            RequestBody::Json(raw) => self.hold(raw.get().as_bytes())?,
            RequestBody::Base64(text) => self.hold_base64(text)?,
            RequestBody::Streamed => {
                let source = self.inbound(id, &cancel)?;
                inbound = Some(source.clone());
                let length = plan.length;
                Body::Stream { length, source }
            }
        };
        let ticket = Ticket::new(
            id.clone(),
            executor.next_serial(),
            form,
            kind,
            self.connection.clone(),
            cancel,
            inbound,
            (self.flow && form == Form::Streamed).then(Credit::new),
            times.timeout,
            to.failure(),
            &executor,
        );
        if let Some(limit) = times.total {
            ticket.limit_total(limit)?;
        }
        let whole = !matches!(
            request.body,
            RequestBody::Streamed | RequestBody::BinaryFollows
        );
        if whole {
            ticket.body_complete()?;
        } else if request.deadline.is_none() {
            ticket.limit_body(settings.body_idle)?;
        }
        self.connection.enter(&ticket);
        Ok(Job {
            answer: Answer::new(ticket.clone()),
            ticket,
            crowd: to.crowd(),
            moved: moved(&to),
            to,
            plan,
            body,
            stall: times.stall,
            _head: head,
        })
    }

    /// `None`: the Kubernetes API.
    pub(super) fn target(&self, request: &ProxyRequest<'_>) -> Result<Option<Target>, TargetError> {
        match self.executor.services() {
            Some(beside) => {
                let cluster = self.executor.upstreams.is_some();
                Target::of(request, cluster, beside.routes())
            }
            None => Target::of(request, true, &StaticRoutes::default()),
        }
    }

    /// Where it goes, and as what.
    fn plan(&self, request: &ProxyRequest<'_>) -> Result<(Upstream, Plan), Refusal> {
        let executor = &self.executor;
        let (cluster, beside) = (&executor.upstreams, executor.services());
        let Some(target) = self.target(request)? else {
            let upstreams = cluster.as_ref().ok_or(Refusal::NoCluster)?;
            let plan = Plan::for_api(request, &upstreams.base, upstreams.agent.is_some());
            return Ok((Upstream::Api, plan.map_err(Refusal::Kubernetes)?));
        };
        let beside = beside.ok_or(Refusal::NoServices)?;
        let plan = Plan::for_service(request).map_err(|error| match error {
            PlanError::Path | PlanError::Query => Refusal::ServicePlace(error),
            error => Refusal::Service(error),
        })?;
        let service = beside.services.admit(&target).map_err(Refusal::Unreached)?;
        let https = service.https().unwrap_or_else(|| is_https(request));
        Ok((Upstream::Service(ServiceUpstream { service, https }), plan))
    }

    /// Keeps a whole body, within limits.
    fn hold(&self, bytes: &[u8]) -> Result<Body, Refusal> {
        if bytes.is_empty() {
            return Ok(Body::Empty);
        }
        let limit = self.executor.settings.body_limit;
        if bytes.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        let room = self.executor.budget.reserve(bytes.len())?;
        Ok(Body::Full(Arc::new(Held::new(bytes.to_vec(), room))))
    }

    fn hold_base64(&self, text: &str) -> Result<Body, Refusal> {
        let limit = self.executor.settings.body_limit;
        let decoded = text.len() / 4 * 3; // up to two bytes fewer
        if decoded > limit.saturating_add(2) {
            return Err(Refusal::TooLarge(limit));
        }
        let room = self.executor.budget.reserve(decoded)?;
        let bytes = base64_simd::STANDARD
            .decode_to_vec(text)
            .map_err(|_| Refusal::Base64)?;
        if bytes.len() > limit {
            return Err(Refusal::TooLarge(limit));
        }
        Ok(Body::Full(Arc::new(Held::new(bytes, room))))
    }

    fn inbound(&self, id: &Arc<str>, cancel: &Cancel) -> Result<Arc<Inbound>, Refusal> {
        let grant = self.flow.then(|| {
            let (id, cancel) = (id.clone(), cancel.clone());
            let outlet = self.connection.outlet.clone();
            let grant = move |bytes: u64| {
                let message = Message::text(160 + id.len(), |buf| {
                    from_agent::proxy_flow(buf, &id, bytes);
                });
                // When it can't be sent, the request is over anyway.
                let _ = outlet.send(&id, message, &cancel);
            };
            Box::new(grant) as Box<dyn Fn(u64) + Send + Sync>
        });
        let settings = &self.executor.settings;
        Ok(Inbound::new(
            &self.executor.budget,
            settings.body_limit,
            grant,
        )?)
    }
}

/// What is known of a call before it begins.
fn moved(to: &Upstream) -> Moved {
    match to {
        Upstream::Api => Moved {
            target: "kubernetes".to_owned(),
            ..Moved::default()
        },
        Upstream::Service(upstream) => Moved {
            target: upstream.service.name(),
            verdict: Some(upstream.service.verdict()),
            ..Moved::default()
        },
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.connection.lost.cancel(Reason::ConnectionLost);
        for stream in self.connection.streams.take_all() {
            stream.silence(Reason::ConnectionLost);
        }
        for ticket in self.connection.take_all() {
            let ends = ticket.form == Form::Buffered && ticket.kind == Kind::Short;
            if ends && ticket.is_complete() {
                // It may finish; its answer finds its own way. (What lives for as long as
                // its peer likes would outlive everybody who could end it.)
                self.executor.adopt(&ticket);
                continue;
            }
            ticket.silence.cancel(Reason::ConnectionLost);
            ticket.cancel.cancel(Reason::ConnectionLost);
            // After its end is decided: it must not be taken for the cause.
            if let Some(inbound) = &ticket.inbound {
                inbound.fail("the connection to the control plane was lost");
            }
            self.executor.refuse_waiting(ticket.serial, "lost");
        }
    }
}
