//! Streams to Services and origins (control-channel.md §9.2): a `proxy_request` that asks
//! for an upgrade is answered, 101 first, and then its id is that of a stream.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::kind::{self, CLOSED, Deliver, Failure, Kind, send};
use super::opening::MAX_MESSAGE;
use super::plan::ServicePlan;
use super::stream::Stream;
use crate::http::Headers;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline};
use crate::proxy::Executor;
use crate::proxy::audit::{Asked, Moved, who};
use crate::proxy::connection::{Form, send_failure};
use crate::proxy::plan::{Identity, answer_headers};
use crate::proxy::refusal::SERVICE_STREAM_FAILED;
use crate::proxy::services::Unreached;
use crate::proxy::target::ServiceUpstream;
use crate::websocket::upgrade::{self, Answer, Upgraded};
use crate::websocket::{Data, Keepalive, Kind as DataKind, Limits, Writer};
use crate::wire::from_agent;
use crate::wire::stream::{
    CloseText, Frame, FrameKind, MAX_REASON, app_stream_close, app_stream_data, backpressure,
    data_size,
};

/// A stream to a Service.
pub(super) struct ServiceStream {
    pub(super) plan: ServicePlan,
    pub(super) upstream: ServiceUpstream,
    pub(super) crowd: Arc<str>,
    /// How the request wants its answer.
    pub(super) form: Form,
    /// The head of a form S answer is on its way.
    pub(super) begun: bool,
    /// For the dial and the upgrade together.
    pub(super) handshake: Duration,
    /// Whether the Service is asked for signs of life.
    pub(super) keepalive: Keepalive,
}

impl Kind for ServiceStream {
    fn account(&self) -> (Asked<'_>, Moved) {
        let ServicePlan {
            target, headers, ..
        } = &self.plan;
        let service = &self.upstream.service;
        let moved = Moved {
            target: service.name(),
            verdict: Some(service.verdict()),
            ..Moved::default()
        };
        let who = who(Identity::Caller, headers);
        (Asked::stream(target, who, headers), moved)
    }

    fn crowd(&self) -> Option<&Arc<str>> {
        Some(&self.crowd)
    }

    fn is_to_api(&self) -> bool {
        false
    }

    fn is_request(&self) -> bool {
        true
    }

    fn handshake(&self) -> Duration {
        self.handshake
    }

    fn limits(&self) -> Limits {
        Limits {
            max_message: MAX_MESSAGE,
            // One that takes nothing answers no ping.
            write_limit: None,
            keepalive: Some(self.keepalive),
        }
    }

    fn open(
        &mut self,
        executor: &Executor,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Upgraded, Failure> {
        let Some(beside) = executor.services() else {
            // Made only where there is one.
            let why = "this agent reaches no Services".to_owned();
            return Err(Unreached::Failed(why).into());
        };
        beside.take_own_credential(&mut self.plan.headers);
        let ServiceUpstream { service, https } = &self.upstream;
        let client = beside.pools.client(service, *https)?;
        let halves = client.connect(deadline, cancel)?;
        let request = upgrade::Request {
            authority: self.plan.host.as_deref().unwrap_or(client.host()),
            target: &self.plan.target,
            headers: &self.plan.headers,
            subprotocols: &self.plan.subprotocols,
        };
        Ok(upgrade::upgrade(halves, &request, deadline, cancel)?)
    }

    /// 101, with what the Service says of its own; nothing overtakes it.
    fn opened(&mut self, stream: &Stream, upgraded: &Upgraded) -> Result<(), SendError> {
        let mut headers = answer_headers(&upgraded.headers);
        headers.push("Connection", "Upgrade");
        headers.push("Upgrade", "websocket");
        if self.form == Form::Streamed {
            stream.send(head(&stream.id, 101, &headers))?;
            self.begun = true;
        }
        kind::answer(stream, self.form, 101, &headers)
    }

    fn failed(&mut self, stream: &Stream, text: &str, answer: Option<&Answer>) {
        // The request that it was is owed an outcome all the same (decisions.md §6.2).
        let text = if text.is_empty() { CLOSED } else { text };
        let text = format!("{SERVICE_STREAM_FAILED}: {text}");
        if self.form == Form::Streamed && !self.begun {
            let status = answer.map_or(502, |answer| answer.status);
            let headers = answer.map(|answer| answer_headers(&answer.headers));
            stream.send_last(head(&stream.id, status, &headers.unwrap_or_default()));
        }
        let outlet = &*stream.connection.outlet;
        send_failure(outlet, &stream.id, self.form, &text, &stream.silence);
    }

    fn refuse(&mut self, stream: &Stream, text: &str) {
        let text = if text.is_empty() { CLOSED } else { text };
        let text = format!("{SERVICE_STREAM_FAILED}: {text}");
        let connection = &stream.connection;
        connection.refuse_upgrade(&stream.id, self.form, &text);
    }

    fn to_peer<'a>(&self, data: Data<'a>) -> (FrameKind, &'a [u8]) {
        let kind = match data.kind {
            DataKind::Text => FrameKind::Text,
            DataKind::Binary => FrameKind::Binary,
        };
        (kind, data.payload)
    }

    fn message(&self, id: &str, kind: FrameKind, payload: &[u8]) -> Message {
        framed(id, kind, payload)
    }

    fn deliver(&self) -> Box<dyn Deliver> {
        Box::new(ToService)
    }

    /// What the Service's close says, and the close. A peer that has closed the stream
    /// itself hears no echo (decisions.md §6.7).
    fn closed(&self, stream: &Stream, said: Option<&CloseText<'_>>) -> Vec<Message> {
        let id = &*stream.id;
        let mut messages = Vec::new();
        if stream.is_closed() {
            return messages;
        }
        if stream.is_full() {
            messages.push(Message::text(192 + 2 * id.len(), |buf| {
                backpressure(buf, id);
            }));
        }
        if let Some(said) = said {
            messages.push(framed(id, FrameKind::Close, &payload_of(said)));
        }
        messages.push(Message::text(160 + 3 * id.len(), |buf| {
            app_stream_close(buf, id);
        }));
        messages
    }
}

struct ToService;

impl Deliver for ToService {
    fn deliver(&self, mut frame: Frame, to: &Writer) -> io::Result<()> {
        match frame.kind {
            FrameKind::Text => send(to, DataKind::Text, frame),
            FrameKind::Binary => send(to, DataKind::Binary, frame),
            FrameKind::Ping => to.ping(frame.payload_mut()),
            FrameKind::Pong => to.pong(frame.payload_mut()),
            // Taken before: see `close_of`.
            FrameKind::Close => Ok(()),
        }
    }

    fn close_of(&self, frame: &Frame) -> Option<CloseText<'static>> {
        (frame.kind == FrameKind::Close).then(|| text_of(frame.payload()))
    }

    fn close_code(&self) -> (u16, &'static str) {
        (1000, "")
    }
}

/// The payload of a close frame (RFC 6455 §5.5.1).
fn payload_of(said: &CloseText<'_>) -> Vec<u8> {
    let mut payload = said.code.to_be_bytes().to_vec();
    payload.extend_from_slice(said.reason.as_bytes());
    payload
}

/// The other way round, for whatever a peer takes for one.
fn text_of(payload: &[u8]) -> CloseText<'static> {
    let (code, reason) = match payload.split_first_chunk() {
        Some((code, reason)) => (u16::from_be_bytes(*code), reason),
        None => (1000, &[][..]),
    };
    // No more fits in a close frame.
    let reason = &reason[..reason.len().min(MAX_REASON)];
    CloseText {
        code,
        reason: String::from_utf8_lossy(reason).into_owned().into(),
    }
}

fn framed(id: &str, kind: FrameKind, payload: &[u8]) -> Message {
    let expected = data_size(payload.len()) + 3 * id.len();
    Message::text(expected, |buf| app_stream_data(buf, id, kind, payload))
}

fn head(id: &str, status: u16, headers: &Headers) -> Message {
    let fields = headers.iter().map(|(n, v)| n.len() + v.len() + 8);
    Message::text(256 + id.len() + fields.sum::<usize>(), |buf| {
        from_agent::proxy_response_header(buf, id, status, headers);
    })
}
