//! A stream on its own threads: it is opened, it runs, it ends.

use std::ops::ControlFlow;
use std::sync::Arc;

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::QUEUE;
use super::kind::{CUT, Deliver, Failure, Kind};
use super::stream::{CLOSE_LIMIT, Next, Stream, TOO_LATE};
use crate::http::client::CallError;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline, Reason};
use crate::proxy::Executor;
use crate::proxy::audit;
use crate::proxy::memory::{Budget, Reservation};
use crate::proxy::places::{self, Applicant};
use crate::proxy::services::Unreached;
use crate::websocket::upgrade::UpgradeError;
use crate::websocket::{self, Data, End, Role, Take, Writer};
use crate::wire::stream::{CloseText, data_size};
use crate::wire::{MAX_CHUNK, from_agent};

/// A stream that can be opened. Whatever happens to it, the peer hears of its end, where
/// it is owed one.
pub(in crate::proxy) struct Opening {
    pub(in crate::proxy) stream: Arc<Stream>,
    kind: Box<dyn Kind>,
    /// Room for the id and the plan.
    _room: Reservation,
    ended: bool,
    /// By the policy.
    denied: bool,
}

/// How a leg that was there came to its end.
struct Ran {
    said: Option<CloseText<'static>>,
    /// Empty for a good end.
    error: String,
}

impl Opening {
    pub(super) fn new(stream: Arc<Stream>, kind: Box<dyn Kind>, room: Reservation) -> Self {
        Self {
            stream,
            kind,
            _room: room,
            ended: false,
            denied: false,
        }
    }

    /// From the dial to the last message.
    pub(in crate::proxy) fn execute(mut self, executor: &Executor) {
        let stream = self.stream.clone();
        let woken = stream.wake_on_cancel();
        let (status, error) = match self.run(executor) {
            Ok(ran) => {
                self.close(ran.said.as_ref());
                (101, ran.error)
            }
            Err(failure) => self.fail(&failure),
        };
        drop(woken);
        self.record(executor, status, &error);
    }

    /// Its line in the audit.
    fn record(&self, executor: &Executor, status: u16, error: &str) {
        let carried = self.stream.moved();
        let (asked, mut moved) = self.kind.account();
        moved.status = (status > 0).then_some(status);
        moved.bytes_in = carried.bytes_in;
        moved.bytes_out = carried.bytes_out;
        let line = audit::Line {
            id: &self.stream.id,
            asked,
            moved: &moved,
            streamed_in: None,
            denied: self.denied,
            duration: self.stream.received.elapsed(),
            error,
        };
        line.record(executor.services().map(|beside| &*beside.services));
    }

    /// As [`execute`](Self::execute), but it won't be; never waits.
    pub(in crate::proxy) fn refuse(mut self, executor: &Executor, text: &str) {
        self.ended = true;
        self.record(executor, 0, text);
        if !self.stream.is_silent() {
            self.kind.refuse(&self.stream, text);
        }
        self.stream.retire();
    }

    /// What it says when its end comes before its turn.
    pub(in crate::proxy) fn too_late(&self) -> String {
        match self.stream.cancel.reason() {
            // Closed by the peer itself.
            Some(Reason::Cancelled) => String::new(),
            _ => TOO_LATE.to_owned(),
        }
    }

    fn run(&mut self, executor: &Executor) -> Result<Ran, Failure> {
        let stream = self.stream.clone();
        let cancel = &stream.cancel;
        if let Some(reason) = cancel.reason() {
            return Err(SendError::Cancelled(reason).into());
        }
        self.kind.begin(&stream)?;
        let deadline = Deadline::after(self.kind.handshake());
        let mut upgraded = self.kind.open(executor, deadline, cancel)?;
        let cancelled = |reason| Failure::Upgrade(UpgradeError::Cancelled(reason));
        // Registered before anybody is told: a close that comes now finds it (T26).
        let socket = upgraded.halves.socket.clone();
        let _guard = cancel.on_socket(socket).map_err(cancelled)?;
        // Before the peer hears of it: what he says then and his close belong to the leg.
        stream.set_open().map_err(cancelled)?;
        self.kind.opened(&stream, &upgraded)?;
        upgraded.halves.set_deadline(None);
        let limits = self.kind.limits();
        let (reader, writer) = websocket::open(upgraded.halves, Role::Client, limits)?;
        let (done, ended) = bounded::<()>(0);
        let deliver = self.kind.deliver();
        let to = stream.clone();
        let started = executor.run_beside(move || {
            let _done = done;
            write(&to, &writer, &*deliver);
        });
        if !started {
            stream.fail(&Failure::NoThread.to_string());
            return Ok(Ran::failed(&stream, "no thread can be started"));
        }
        let end = reader.run_for(&mut ToPeer {
            stream: &stream,
            kind: &*self.kind,
            budget: &executor.budget,
            kept: executor.budget.reserve(0)?,
        });
        stream.set_over();
        if ended.recv_timeout(CLOSE_LIMIT) == Err(RecvTimeoutError::Timeout) {
            // It is in a write that nobody takes.
            cancel.cancel(Reason::Failed);
            let _ = ended.recv();
        }
        Ok(Ran::of(end, &stream))
    }

    /// The end of a stream that was open.
    fn close(&mut self, said: Option<&CloseText<'_>>) {
        self.ended = true;
        self.stream.set_over();
        if !self.stream.is_silent() {
            for message in self.kind.closed(&self.stream, said) {
                self.stream.send_last(message);
            }
        }
        self.stream.retire();
    }

    /// The end of one that never was. Returns status and text for the audit, which has
    /// nothing of the target's own words.
    fn fail(&mut self, failure: &Failure) -> (u16, String) {
        self.ended = true;
        self.denied = matches!(
            failure,
            Failure::Unreached(Unreached::Denied(_)) | Failure::Call(CallError::Denied(_))
        );
        let stream = self.stream.clone();
        let text = match stream.cancel.reason() {
            Some(Reason::Deadline) => TOO_LATE.to_owned(),
            Some(Reason::Failed) => stream.failure().unwrap_or_else(|| failure.to_string()),
            // Closed by the peer itself.
            Some(Reason::Cancelled) => String::new(),
            Some(reason) => reason.to_string(),
            None => match failure {
                Failure::Upgrade(UpgradeError::Refused(answer)) => {
                    let excerpt = &answer.excerpt;
                    let space = if excerpt.is_empty() { "" } else { " " };
                    format!("{excerpt}{space}(status: {})", answer.status)
                }
                Failure::Upgrade(UpgradeError::Io(error))
                    if error.kind() == std::io::ErrorKind::TimedOut =>
                {
                    TOO_LATE.to_owned()
                }
                failure => failure.to_string(),
            },
        };
        let answer = match failure {
            Failure::Upgrade(UpgradeError::Refused(answer)) => Some(&**answer),
            _ => None,
        };
        stream.set_over();
        if !stream.is_silent() {
            self.kind.failed(&stream, &text, answer);
        }
        stream.retire();
        match answer {
            Some(answer) => (answer.status, "the target refused the upgrade".to_owned()),
            None => (0, text),
        }
    }
}

/// The way from the leg to the peer.
struct ToPeer<'a> {
    stream: &'a Stream,
    kind: &'a dyn Kind,
    budget: &'a Arc<Budget>,
    /// Room for a message of the leg that isn't complete.
    kept: Reservation,
}

impl ToPeer<'_> {
    /// Whether the peer takes more.
    fn send(&self, data: Data<'_>) -> Result<(), Failure> {
        let stream = self.stream;
        let (kind, payload) = self.kind.to_peer(data);
        if !stream
            .take_credit(payload.len())
            .map_err(SendError::Cancelled)?
        {
            // Until the leg's own close comes, which doesn't take long now.
            return Ok(());
        }
        let message = match payload.len() {
            // Not counted, as the chunk of an answer.
            0..=MAX_CHUNK => self.kind.message(&stream.id, kind, payload),
            large => {
                let room = self.budget.reserve(data_size(large))?;
                self.kind.message(&stream.id, kind, payload).holding(room)
            }
        };
        Ok(stream.send(message)?)
    }
}

impl Take for ToPeer<'_> {
    /// While the peer gives no credit, or the lane has no room, nothing is read: TCP makes
    /// the target wait.
    fn take(&mut self, data: Data<'_>) -> ControlFlow<()> {
        match self.send(data) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                if let Failure::OverBudget(error) = failure {
                    self.stream.fail(&error.to_string());
                }
                ControlFlow::Break(())
            }
        }
    }

    fn keeps(&mut self, bytes: usize) -> bool {
        self.kept.shrink_to(bytes);
        self.kept.grow(bytes - self.kept.bytes()).is_ok()
    }
}

impl Applicant for Opening {
    fn serial(&self) -> u64 {
        self.stream.serial
    }

    fn kind(&self) -> places::Kind {
        places::Kind::Long
    }

    fn cancel(&self) -> &Cancel {
        &self.stream.cancel
    }

    fn crowd(&self) -> Option<&Arc<str>> {
        self.kind.crowd()
    }
}

impl Drop for Opening {
    /// After a panic.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let text = "internal error of the agent";
        self.stream.fail(text);
        if self.stream.is_opening() {
            self.fail(&Failure::Io(std::io::Error::other(text)));
        } else {
            self.close(None);
        }
    }
}

impl Ran {
    fn of(end: End, stream: &Stream) -> Self {
        match end {
            End::Closed { code, reason } => Self {
                said: Some(CloseText {
                    code: code.unwrap_or(1000),
                    reason: reason.into(),
                }),
                error: String::new(),
            },
            // The target's answer to a close of ours may be missing.
            End::Lost(_) if stream.is_closed() => Self {
                said: None,
                error: String::new(),
            },
            End::Lost(None) => Self::failed(stream, "the target cut the connection"),
            End::Lost(Some(error)) => Self::failed(stream, &error.to_string()),
            End::Refused(text) => Self::failed(stream, &text),
            End::Silent => Self::failed(stream, "the target answers no pings"),
            End::Stopped => Self::failed(stream, "the peer takes nothing more"),
        }
    }

    fn failed(stream: &Stream, text: &str) -> Self {
        let error = match stream.cancel.reason() {
            Some(Reason::Failed) => stream.failure(),
            Some(reason) => Some(reason.to_string()),
            None => None,
        };
        Self {
            said: None,
            error: error.unwrap_or_else(|| text.to_owned()),
        }
    }
}

/// From the queue to the leg, until one of them ends.
fn write(stream: &Arc<Stream>, to: &Writer, how: &dyn Deliver) {
    loop {
        match stream.next() {
            Next::Frame(frame) => {
                if let Some(said) = how.close_of(&frame) {
                    stream.close_as(said);
                    continue;
                }
                let (payload, memory) = (frame.payload().len(), frame.memory());
                if how.deliver(frame, to).is_err() {
                    // The reader finds out what happened, and what came before it.
                    stream.limit(CLOSE_LIMIT, Reason::Failed);
                    return;
                }
                if let Some(credit) = stream.delivered(payload, memory) {
                    let message = Message::text(160 + stream.id.len(), |buf| {
                        from_agent::proxy_flow(buf, &stream.id, credit);
                    });
                    // When it can't be sent, the stream is over anyway.
                    let _ = stream.send(message);
                }
            }
            Next::Close(said) => {
                let (code, reason) = match &said {
                    Some(said) => (said.code, &*said.reason),
                    None => how.close_code(),
                };
                if code == CUT {
                    to.cut();
                } else {
                    to.close(code, reason, CLOSE_LIMIT);
                }
                return;
            }
            Next::Over => return,
        }
    }
}

/// The largest message either way.
pub(super) const MAX_MESSAGE: usize = QUEUE;
