//! What kinds of streams differ in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::stream::Stream;
use crate::http::Headers;
use crate::http::client::CallError;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline};
use crate::proxy::audit::{Asked, Moved};
use crate::proxy::connection::Form;
use crate::proxy::memory::OverBudget;
use crate::proxy::services::Unreached;
use crate::proxy::{Executor, NoIdentity};
use crate::websocket::upgrade::{Answer, UpgradeError, Upgraded};
use crate::websocket::{Data, Kind as DataKind, Limits, Writer};
use crate::wire::BodyText;
use crate::wire::from_agent::{self, Encoding};
use crate::wire::stream::{CloseText, Frame, FrameKind};

/// One kind of stream. What can wait is called on the stream's own thread;
/// [`refuse`](Self::refuse) on any.
pub(in crate::proxy) trait Kind: Send {
    /// For the audit: who asked for what, where, and what the policy said.
    fn account(&self) -> (Asked<'_>, Moved);

    /// With whom it shares the limits of a crowd.
    fn crowd(&self) -> Option<&Arc<str>> {
        None
    }

    /// Whether it is one to the Kubernetes API.
    fn is_to_api(&self) -> bool;

    /// Whether a request has started it, which is still to be answered.
    fn is_request(&self) -> bool;

    /// How long the dial and the upgrade may take together.
    fn handshake(&self) -> Duration;

    /// Limits of the leg.
    fn limits(&self) -> Limits;

    /// Said before the dial.
    fn begin(&mut self, _stream: &Stream) -> Result<(), SendError> {
        Ok(())
    }

    /// Dials, and asks for the upgrade.
    fn open(
        &mut self,
        executor: &Executor,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Upgraded, Failure>;

    /// The leg is there: tells the peer, and remembers what it needs of the answer.
    /// What the leg says comes behind it.
    fn opened(&mut self, stream: &Stream, upgraded: &Upgraded) -> Result<(), SendError>;

    /// There is no leg: tells the peer, with a close or what takes its place.
    fn failed(&mut self, stream: &Stream, text: &str, answer: Option<&Answer>);

    /// It isn't even tried. Must not wait. An empty text: the peer has closed it itself.
    fn refuse(&mut self, stream: &Stream, text: &str);

    /// What of a message of the leg the peer is told.
    fn to_peer<'a>(&self, data: Data<'a>) -> (FrameKind, &'a [u8]);

    /// As which message.
    fn message(&self, id: &str, kind: FrameKind, payload: &[u8]) -> Message;

    /// A message of the peer, for the leg.
    fn deliver(&self) -> Box<dyn Deliver>;

    /// The stream's end, once it was open. `said`: what the leg's close frame said. The
    /// last message comes last.
    fn closed(&self, stream: &Stream, said: Option<&CloseText<'_>>) -> Vec<Message>;
}

/// How messages of the peer reach the leg; for the other thread.
pub(in crate::proxy) trait Deliver: Send {
    fn deliver(&self, frame: Frame, to: &Writer) -> std::io::Result<()>;

    /// A message by which the peer closes the stream: what it says.
    fn close_of(&self, _frame: &Frame) -> Option<CloseText<'static>> {
        None
    }

    /// What the leg is closed with, where the peer's close says nothing; [`CUT`].
    fn close_code(&self) -> (u16, &'static str);
}

/// What a request reads whose peer closes the stream before it is there.
pub(super) const CLOSED: &str = "closed by the peer";

/// The code that stands for no close frame at all (RFC 6455 §7.4.1).
pub(in crate::proxy) const CUT: u16 = 1006;

/// Messages of one data kind: what all kinds do in the end.
pub(super) fn send(to: &Writer, kind: DataKind, mut frame: Frame) -> std::io::Result<()> {
    to.send(kind, frame.payload_mut())
}

/// The whole answer to the request that has started a stream: it has no body.
pub(super) fn answer(
    stream: &Stream,
    form: Form,
    status: u16,
    headers: &Headers,
) -> Result<(), SendError> {
    let id = &*stream.id;
    let fields = headers.iter().map(|(n, v)| n.len() + v.len() + 8);
    let expected = 256 + id.len() + fields.sum::<usize>();
    stream.send(Message::text(expected, |buf| match form {
        Form::Streamed => from_agent::proxy_response_end(buf, id),
        Form::Buffered => {
            let nothing = |_: &mut BodyText<'_>| Ok(Encoding::Base64);
            let written: Result<(), Infallible> =
                from_agent::proxy_response(buf, id, status, headers, nothing);
            let Ok(()) = written;
        }
    }))
}

/// Why there is no leg.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum Failure {
    #[error("{0}")]
    Identity(#[from] NoIdentity),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Unreached(#[from] Unreached),
    #[error("{0}")]
    Upgrade(#[from] UpgradeError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Send(#[from] SendError),
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("agent busy: no thread can be started")]
    NoThread,
}
