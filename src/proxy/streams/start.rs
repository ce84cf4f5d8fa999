//! What the reader does with messages of streams. It never waits.

use std::sync::Arc;
use std::time::Duration;

use super::api::ApiStream;
use super::channels::Dialect;
use super::kind::Kind;
use super::opening::Opening;
use super::plan::{Asked, ServicePlan, StreamPlan, StreamPlanError};
use super::service::ServiceStream;
use super::stream::Stream;
use crate::net::Reason;
use crate::proxy::connection::Form;
use crate::proxy::memory::OverBudget;
use crate::proxy::plan::{PlanError, check, is_https};
use crate::proxy::refusal::Refusal;
use crate::proxy::target::{ServiceUpstream, Target, TargetError};
use crate::proxy::times::{Timeout, Times};
use crate::proxy::{Requests, audit};
use crate::wire::ProxyRequest;
use crate::wire::stream::{CloseText, StreamData, StreamIds, StreamStart};

/// Why a start is refused.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("kubernetes client not initialized")]
    NoCluster,
    #[error("{0}")]
    Plan(#[from] StreamPlanError),
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
}

impl Requests {
    /// `proxy_websocket_start`, `ws_start`.
    pub fn start_stream(&mut self, start: &StreamStart<'_>) {
        let short = |id: &&str| id.len() <= MAX_ID;
        let envelope = start.request_id.as_deref().filter(short);
        let Some(id) = start.stream_id.as_deref().filter(short) else {
            if let Some(envelope) = envelope {
                let id = Arc::from(envelope);
                self.connection
                    .refuse_stream(&id, "missing stream_id", false);
            }
            return;
        };
        let id: Arc<str> = id.into();
        // Ids live per connection (decisions.md §6.2 "Lost connection").
        self.executor.disown(&id);
        let raw = start.raw && self.raw_streams;
        if let Err(error) = self.start(&id, start, raw) {
            let error = error.to_string();
            record_refused(&id, start, &error);
            // Without a close: there may be another stream under the stream's id. Who
            // knows raw streams waits for one.
            let told = if raw {
                &id
            } else {
                &envelope.map_or(id, Arc::from)
            };
            self.connection.refuse_stream(told, &error, raw);
        }
    }

    fn start(
        &mut self,
        id: &Arc<str>,
        start: &StreamStart<'_>,
        raw: bool,
    ) -> Result<(), StartError> {
        let unusable = start.unreadable.map(PlanError::Unreadable);
        let unusable = unusable.or(start.oversized.then_some(PlanError::TooLarge));
        if let Some(error) = unusable {
            return Err(StartError::Plan(error.into()));
        }
        let asked = Asked {
            path: &start.path,
            query: &start.query,
            headers: &start.headers,
            protocol: &start.protocol,
            raw,
        };
        self.start_api_stream(id, &asked, None, None, None)
    }

    /// A `proxy_request` that asks for an upgrade.
    pub(in crate::proxy) fn upgrade(
        &mut self,
        id: &Arc<str>,
        form: Form,
        request: &ProxyRequest<'_>,
    ) {
        let Err(refusal) = self.try_upgrade(id, form, request) else {
            return;
        };
        let text = refusal.to_string();
        refusal.record(id, request, &text, self.executor.services());
        match refusal {
            Refusal::StreamUnreached(_) => self.connection.refuse_upgrade(id, form, &text),
            Refusal::Stream(_) => self.connection.refuse_exec(id, form, &text),
            _ => self.connection.refuse(id, form, &text),
        }
    }

    fn try_upgrade(
        &mut self,
        id: &Arc<str>,
        form: Form,
        request: &ProxyRequest<'_>,
    ) -> Result<(), Refusal> {
        check(request).map_err(Refusal::Kubernetes)?;
        let now = jiff::Timestamp::now();
        let times = Times::of(request, true, now, LONGEST);
        let timeout = match times.timeout {
            Some(Timeout::ToHeader(limit) | Timeout::ToEnd(limit)) => Some(limit),
            None => None,
        };
        let total = times.total.unwrap_or(LONGEST);
        let mut target = self.target(request)?;
        if target.is_none() && !is_api_path(&request.path) {
            let beside = self.executor.services();
            let controller = beside.and_then(|beside| beside.routes().controller());
            let controller = controller.ok_or(Refusal::Target(TargetError::Nowhere))?;
            target = Some(Target::Service(controller));
        }
        if let Some(target) = target {
            return self.start_service_stream(id, form, request, &target, timeout, total);
        }
        let asked = Asked {
            path: &request.path,
            query: &request.query,
            headers: &request.headers,
            protocol: "",
            raw: false,
        };
        self.start_api_stream(id, &asked, Some(form), timeout, Some(total))
            .map_err(|error| Refusal::Stream(error.to_string()))
    }

    fn start_service_stream(
        &mut self,
        id: &Arc<str>,
        form: Form,
        request: &ProxyRequest<'_>,
        target: &Target,
        timeout: Option<Duration>,
        total: Duration,
    ) -> Result<(), Refusal> {
        let executor = self.executor.clone();
        let beside = executor.services().ok_or(Refusal::NoServices)?;
        let plan = ServicePlan::of(request).map_err(|error| match error {
            StreamPlanError::Plan(error @ (PlanError::Path | PlanError::Query)) => {
                Refusal::ServicePlace(error)
            }
            StreamPlanError::Plan(error) => Refusal::Service(error),
            _ => Refusal::Subprotocol,
        })?;
        let service = beside.services.admit(target);
        let service = service.map_err(Refusal::StreamUnreached)?;
        let https = service.https().unwrap_or_else(|| is_https(request));
        let settings = &executor.settings;
        let limit = settings.service_handshake;
        let size = plan.size();
        let upstream = ServiceUpstream { service, https };
        let kind = ServiceStream {
            plan,
            crowd: upstream.crowd(),
            upstream,
            form,
            begun: false,
            handshake: timeout.map_or(limit, |given| given.min(limit)),
            keepalive: settings.keepalive,
        };
        self.run_stream(id, Box::new(kind), size, Some(total))?;
        Ok(())
    }

    /// `request`: it was started by one, which wants its answer in that form.
    fn start_api_stream(
        &mut self,
        id: &Arc<str>,
        asked: &Asked<'_>,
        request: Option<Form>,
        timeout: Option<Duration>,
        total: Option<Duration>,
    ) -> Result<(), StartError> {
        let upstreams = self.executor.upstreams.as_ref();
        let upstreams = upstreams.ok_or(StartError::NoCluster)?;
        let plan = StreamPlan::of(asked, &upstreams.base, upstreams.agent.is_some())?;
        let size = plan.size();
        let limit = self.executor.settings.handshake;
        let kind = ApiStream {
            plan,
            raw: asked.raw,
            request,
            handshake: timeout.map_or(limit, |timeout| timeout.min(limit)),
            dialect: Dialect::Plain,
        };
        self.run_stream(id, Box::new(kind), size, total)?;
        Ok(())
    }

    /// Enters a stream in the place of one that has its id, and has it opened. `size`:
    /// what `kind` takes in memory; `total`: how long it may live.
    fn run_stream(
        &mut self,
        id: &Arc<str>,
        kind: Box<dyn Kind>,
        size: usize,
        total: Option<Duration>,
    ) -> Result<(), OverBudget> {
        let executor = self.executor.clone();
        let room = executor.budget.reserve(id.len() + size)?;
        let stream = Stream::new(id.clone(), &executor, &self.connection, self.flow, &*kind)?;
        // Silently: a close would be taken for the new one's (decisions.md §6.7).
        if let Some(before) = self.connection.streams.enter(&stream) {
            before.replace();
        }
        if let Some(total) = total {
            stream.limit(total, Reason::Deadline);
        }
        executor.admit(Opening::new(stream, kind, room));
        Ok(())
    }

    /// `proxy_websocket_data`, `ws_data`, `proxy_stream_data`.
    pub fn stream_data(&mut self, data: &StreamData<'_>) {
        match self.find_stream(&data.ids) {
            Some(stream) => stream.push(data),
            None => log::debug!("a message for no stream was dropped"),
        }
    }

    /// `proxy_websocket_close`, `ws_close`.
    pub fn close_stream(&mut self, ids: &StreamIds<'_>, said: Option<CloseText<'_>>) {
        if let Some(stream) = self.find_stream(ids) {
            stream.close(said.map(CloseText::into_owned));
        }
    }

    /// Feature `raw-streams`: from now on a start may ask for one.
    pub fn use_raw_streams(&mut self) {
        self.raw_streams = true;
    }

    /// Peers differ in where they put the id (T35). A stream to the Kubernetes API goes
    /// first, by the field that it was started by (control-channel.md §9.1).
    fn find_stream(&self, ids: &StreamIds<'_>) -> Option<Arc<Stream>> {
        let find = |id: &str| self.connection.streams.find(id);
        let named = ids.stream_id.as_deref().and_then(find);
        named
            .filter(|stream| stream.to_api)
            .or_else(|| ids.candidates().find_map(find))
    }
}

/// Its line in the audit.
fn record_refused(id: &str, start: &StreamStart<'_>, error: &str) {
    let line = audit::Line {
        id,
        asked: audit::Asked::start(&start.path, &start.headers),
        moved: &audit::Moved::default(),
        streamed_in: None,
        denied: false,
        duration: Duration::ZERO,
        error,
    };
    line.record(None);
}

/// What becomes a stream to the API server without more ado (control-channel.md §9.1).
fn is_api_path(path: &str) -> bool {
    path.starts_with("/api/") || path.starts_with("/apis/")
}

/// How long an upgrade by a request lives that says nothing itself
/// (decisions.md §6.2 "Time").
const LONGEST: Duration = Duration::from_hours(24);

/// As of requests: a longer id is nobody's.
const MAX_ID: usize = 4096;
