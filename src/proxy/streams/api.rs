//! Streams to the API server (control-channel.md §9.1): exec, attach, port-forward.

use std::io;
use std::time::Duration;

use super::channels::Dialect;
use super::kind::{self, CLOSED, CUT, Deliver, Failure, Kind, send};
use super::opening::MAX_MESSAGE;
use super::plan::StreamPlan;
use super::stream::Stream;
use crate::http::Headers;
use crate::http::client::CallError;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline};
use crate::proxy::Executor;
use crate::proxy::audit::{Asked, Moved};
use crate::proxy::connection::{Form, send_failure};
use crate::proxy::plan::{Identity, answer_headers};
use crate::websocket::upgrade::{self, Answer, UpgradeError, Upgraded};
use crate::websocket::{Data, Limits, Writer};
use crate::wire::from_agent;
use crate::wire::stream::{
    CloseText, Frame, FrameKind, Refused, data_size, proxy_websocket_close, proxy_websocket_data,
    proxy_websocket_refused, proxy_websocket_started, raw_stream_close,
};

/// A stream to the API server.
pub(super) struct ApiStream {
    pub(super) plan: StreamPlan,
    /// Every message passes untouched, and success and refusal are told
    /// (decisions.md §6.7).
    pub(super) raw: bool,
    /// It was started by a request, which is answered before the dial: without a 101
    /// (control-channel.md §9.1, T19).
    pub(super) request: Option<Form>,
    /// For the dial and the upgrade together.
    pub(super) handshake: Duration,
    /// As it turns out.
    pub(super) dialect: Dialect,
}

impl Kind for ApiStream {
    fn account(&self) -> (Asked<'_>, Moved) {
        let moved = Moved {
            target: "kubernetes".to_owned(),
            ..Moved::default()
        };
        let plan = &self.plan;
        (
            Asked::stream(&plan.target, plan.who(), &plan.headers),
            moved,
        )
    }

    fn is_to_api(&self) -> bool {
        true
    }

    fn is_request(&self) -> bool {
        self.request.is_some()
    }

    fn handshake(&self) -> Duration {
        self.handshake
    }

    fn limits(&self) -> Limits {
        Limits {
            max_message: MAX_MESSAGE,
            // A program may sleep in front of its standard input.
            write_limit: None,
            // The kernel finds a dead server: by probes within a minute, or, where it has
            // not acknowledged something, after a quarter of an hour. One that answers no
            // ping while it waits for such a program isn't dead.
            keepalive: None,
        }
    }

    fn begin(&mut self, stream: &Stream) -> Result<(), SendError> {
        let Some(form) = self.request else {
            return Ok(());
        };
        stream.set_answered().map_err(SendError::Cancelled)?;
        kind::answer(stream, form, 200, &Headers::new())?;
        self.request = None;
        Ok(())
    }

    fn open(
        &mut self,
        executor: &Executor,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Upgraded, Failure> {
        let Some(upstreams) = &executor.upstreams else {
            // Made only where there are some.
            return Err(CallError::Closed.into());
        };
        let lent = upstreams.agent.as_ref();
        let lent = lent.filter(|_| self.plan.identity == Identity::Agent);
        if let Some(agent) = lent {
            agent.authorize(&mut self.plan.headers, cancel)?;
        }
        let client = lent.map_or(&upstreams.callers, |agent| &agent.client);
        let halves = client.connect(deadline, cancel)?;
        let request = upgrade::Request {
            authority: client.host(),
            target: &self.plan.target,
            headers: &self.plan.headers,
            subprotocols: &self.plan.subprotocols,
        };
        let upgraded = upgrade::upgrade(halves, &request, deadline, cancel);
        if let (Err(UpgradeError::Refused(answer)), Some(agent)) = (&upgraded, lent)
            && answer.status == 401
        {
            agent.identity.refused();
        }
        let upgraded = upgraded?;
        // It counts the time in which the target takes nothing, too, which a program that
        // sleeps in front of its standard input does for as long as it likes.
        #[cfg(target_os = "linux")]
        upgraded.halves.socket.set_tcp_user_timeout(None)?;
        Ok(upgraded)
    }

    fn opened(&mut self, stream: &Stream, upgraded: &Upgraded) -> Result<(), SendError> {
        let subprotocol = upgraded.subprotocol();
        if !self.raw {
            self.dialect = Dialect::of(&self.plan.subresource, subprotocol);
            return Ok(());
        }
        let id = &*stream.id;
        stream.send(Message::text(256 + 2 * id.len(), |buf| {
            proxy_websocket_started(buf, id, subprotocol);
        }))
    }

    fn failed(&mut self, stream: &Stream, text: &str, answer: Option<&Answer>) {
        let id = &*stream.id;
        if let Some(form) = self.request.take() {
            // It is owed an outcome all the same (decisions.md §6.2).
            let text = if text.is_empty() { CLOSED } else { text };
            let text = format!("{PREFIX}: {text}");
            let expected = 256 + 2 * id.len() + text.len();
            return match form {
                Form::Streamed => {
                    send_failure(&*stream.connection.outlet, id, form, &text, &stream.silence);
                }
                Form::Buffered => stream.send_last(Message::text(expected, |buf| {
                    from_agent::proxy_stream_error(buf, id, &text);
                })),
            };
        }
        if !text.is_empty() {
            let text = format!("{PREFIX}: {text}");
            let refused = answer.filter(|_| self.raw).map(refused);
            let expected = 256 + 2 * id.len() + text.len();
            stream.send_last(Message::text(expected, |buf| match &refused {
                Some(refused) => proxy_websocket_refused(buf, id, &text, refused),
                None => from_agent::proxy_stream_error(buf, id, &text),
            }));
        }
        stream.send_last(Message::text(128 + 2 * id.len(), |buf| {
            proxy_websocket_close(buf, id);
        }));
    }

    fn refuse(&mut self, stream: &Stream, text: &str) {
        let (connection, id) = (&stream.connection, &stream.id);
        match self.request {
            Some(form) => {
                let text = if text.is_empty() { CLOSED } else { text };
                connection.refuse_exec(id, form, text);
            }
            None => connection.refuse_stream(id, text, true),
        }
    }

    fn to_peer<'a>(&self, data: Data<'a>) -> (FrameKind, &'a [u8]) {
        self.dialect.to_peer(data)
    }

    fn message(&self, id: &str, kind: FrameKind, payload: &[u8]) -> Message {
        Message::text(data_size(payload.len()) + 2 * id.len(), |buf| {
            proxy_websocket_data(buf, id, kind, payload);
        })
    }

    fn deliver(&self) -> Box<dyn Deliver> {
        Box::new(ToApi(self.dialect))
    }

    fn closed(&self, stream: &Stream, said: Option<&CloseText<'_>>) -> Vec<Message> {
        let id = &*stream.id;
        vec![Message::text(320 + 2 * id.len(), |buf| {
            if self.raw {
                raw_stream_close(buf, id, said);
            } else {
                proxy_websocket_close(buf, id);
            }
        })]
    }
}

struct ToApi(Dialect);

impl Deliver for ToApi {
    fn deliver(&self, frame: Frame, to: &Writer) -> io::Result<()> {
        match self.0.to_target(frame) {
            Some((kind, frame)) => send(to, kind, frame),
            None => Ok(()),
        }
    }

    /// A close without a code, as all but those of raw streams are, says that the client
    /// is gone. The leg is cut then: behind a close frame the API server doesn't notice the
    /// connection's end, and a command that says nothing would run on.
    fn close_code(&self) -> (u16, &'static str) {
        (CUT, "")
    }
}

/// The API server's own refusal, so that kubectl can print it. How long its body is,
/// the next one says.
fn refused(answer: &Answer) -> Refused {
    let mut headers = answer_headers(&answer.headers);
    headers.remove("Content-Length");
    Refused {
        status: answer.status,
        headers,
        body: answer.body.clone(),
    }
}

/// What the text of a failed start begins with (control-channel.md §8.7).
const PREFIX: &str = "failed to connect to K8s API";
