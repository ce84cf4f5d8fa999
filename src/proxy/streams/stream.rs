//! One stream, as the reader and its two threads see it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::QUEUE;
use super::kind::Kind;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline, Guard, Reason};
use crate::proxy::Executor;
use crate::proxy::connection::Connection;
use crate::proxy::memory::{OverBudget, Reservation};
use crate::proxy::timer::Alarm;
use crate::wire::stream::{CloseText, Frame, StreamData};
use crate::wire::{Overrun, StreamReceiving, StreamSending};

/// One stream, from its start to its last message.
pub(in crate::proxy) struct Stream {
    pub(in crate::proxy) id: Arc<str>,
    /// To the Kubernetes API.
    pub(super) to_api: bool,
    /// Of all requests and streams of the process.
    pub(in crate::proxy) serial: u64,
    pub(in crate::proxy) connection: Arc<Connection>,
    /// Ends it, at whatever it is.
    pub(in crate::proxy) cancel: Cancel,
    /// Fires when nothing more may be said for it: another has its id, or the
    /// connection is lost.
    pub(in crate::proxy) silence: Cancel,
    pub(in crate::proxy) received: Instant,
    executor: Weak<Executor>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// From the peer, for the leg.
    queue: VecDeque<Frame>,
    held: usize,
    room: Reservation,
    /// With feature `flow`.
    receiving: Option<StreamReceiving>,
    sending: StreamSending,
    phase: Phase,
    /// It is still the request that has started it, which waits for its answer.
    unanswered: bool,
    /// The peer has closed it.
    closed: Option<Farewell>,
    full: bool,
    failure: Option<String>,
    alarms: Vec<Alarm>,
    moved: Moved,
}

/// What the other leg's close frame said, if there was one.
struct Farewell(Option<CloseText<'static>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It waits for its place, or the leg is being dialled.
    Opening,
    Open,
    /// The leg has ended.
    Over,
}

/// Bytes of payload that a stream has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// To the target.
    pub(super) bytes_in: u64,
    /// To the peer.
    pub(super) bytes_out: u64,
}

/// What a stream's queue has for its leg.
pub(super) enum Next {
    Frame(Frame),
    /// The peer has closed the stream, behind all that it said.
    Close(Option<CloseText<'static>>),
    Over,
}

/// What a message of a peer ends its stream by.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("the target takes too little: {} MiB wait, which is the limit", QUEUE >> 20)]
    Full,
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
    #[error("{0}")]
    Overrun(#[from] Overrun),
    #[error("invalid base64 in a message")]
    Base64,
}

impl Stream {
    pub(super) fn new(
        id: Arc<str>,
        executor: &Arc<Executor>,
        connection: &Arc<Connection>,
        flow: bool,
        kind: &dyn Kind,
    ) -> Result<Arc<Self>, OverBudget> {
        Ok(Arc::new(Self {
            id,
            to_api: kind.is_to_api(),
            serial: executor.next_serial(),
            connection: connection.clone(),
            cancel: Cancel::new(),
            silence: Cancel::new(),
            received: Instant::now(),
            executor: Arc::downgrade(executor),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                held: 0,
                room: executor.budget.reserve(0)?,
                receiving: flow.then(StreamReceiving::default),
                sending: StreamSending::new(flow),
                phase: Phase::Opening,
                unanswered: kind.is_request(),
                closed: None,
                full: false,
                failure: None,
                alarms: Vec::new(),
                moved: Moved::default(),
            }),
            changed: Condvar::new(),
        }))
    }

    /// Whatever waits in here looks again when the stream is cancelled, while the guard
    /// lives.
    pub(super) fn wake_on_cancel(self: &Arc<Self>) -> Result<Guard, Reason> {
        let weak = Arc::downgrade(self);
        self.cancel.on_wake(Arc::new(move || {
            if let Some(stream) = weak.upgrade() {
                // Under the lock: who looked before can't be on his way to sleep.
                let _state = stream.state.lock();
                stream.changed.notify_all();
            }
        }))
    }

    /// A message of the peer, which never waits: a message too many ends the stream.
    pub(super) fn push(&self, data: &StreamData<'_>) {
        if let Err(error) = self.try_push(data) {
            self.state.lock().full = matches!(error, PushError::Full | PushError::OverBudget(_));
            self.fail(&error.to_string());
        }
    }

    fn try_push(&self, data: &StreamData<'_>) -> Result<(), PushError> {
        let mut state = self.state.lock();
        let ends = state.closed.is_some() || state.phase == Phase::Over;
        if ends || data.data.is_none() || self.cancel.reason().is_some() {
            return Ok(());
        }
        if state.held + data.size() + OVERHEAD > QUEUE {
            return Err(PushError::Full);
        }
        state.room.grow(data.size() + OVERHEAD)?;
        let frame = data.frame().ok_or(PushError::Base64)?;
        if let Some(receiving) = &mut state.receiving {
            receiving.receive(frame.payload().len())?;
        }
        let surplus = data.size().saturating_sub(frame.memory());
        state.room.shrink(surplus);
        state.held += frame.memory() + OVERHEAD;
        state.queue.push_back(frame);
        self.changed.notify_all();
        Ok(())
    }

    /// `proxy_websocket_close`: what the peer said before is still delivered, if that
    /// doesn't take long; a leg that isn't there yet won't be (T26).
    pub(super) fn close(&self, said: Option<CloseText<'static>>) {
        let mut state = self.state.lock();
        if state.closed.is_some() || state.phase == Phase::Over {
            return;
        }
        state.closed = Some(Farewell(said));
        let opening = state.phase == Phase::Opening;
        drop(state);
        self.changed.notify_all();
        if opening {
            self.end(Reason::Cancelled, "");
        } else {
            self.limit(CLOSE_LIMIT, Reason::Cancelled);
        }
    }

    /// `proxy_cancel` of the request that has started it: nothing more is said of it. Once
    /// that is answered it means nothing here, the stream has its own close (T18).
    pub(in crate::proxy) fn cancel_request(&self) {
        let mut state = self.state.lock();
        if !state.unanswered || state.closed.is_some() {
            return;
        }
        state.closed = Some(Farewell(None));
        // Under the lock: who finds it closed must find it silent, too.
        self.silence.cancel(Reason::Cancelled);
        drop(state);
        self.end(Reason::Cancelled, "");
    }

    /// Ends it with an error that isn't its target's.
    pub(super) fn fail(&self, why: &str) {
        self.state
            .lock()
            .failure
            .get_or_insert_with(|| why.to_owned());
        self.end(Reason::Failed, why);
    }

    /// Another stream has its id. One that the peer has closed before comes to its end in
    /// good order, but nothing more is said of it.
    pub(super) fn replace(&self) {
        if self.is_live() {
            self.silence(Reason::Cancelled);
        } else {
            self.silence.cancel(Reason::Cancelled);
        }
    }

    /// Its connection is gone, or another stream has its id: it ends, and nothing is said
    /// of it.
    pub(in crate::proxy) fn silence(&self, reason: Reason) {
        self.silence.cancel(reason);
        self.end(reason, "");
    }

    /// Ends it, wherever it is; `text` is for the peer if it waits for its place.
    fn end(&self, reason: Reason, text: &str) {
        if self.cancel.cancel(reason)
            && let Some(executor) = self.executor.upgrade()
        {
            executor.refuse_waiting(self.serial, text);
        }
    }

    /// Ends it after `limit`, unless it is over by then.
    pub(super) fn limit(&self, limit: Duration, reason: Reason) {
        let Some(executor) = self.executor.upgrade() else {
            return;
        };
        let (cancel, weak) = (self.cancel.clone(), Arc::downgrade(&executor));
        let serial = self.serial;
        let when = Deadline::after(limit).instant();
        let alarm = executor.timer.at(when, move || {
            if cancel.cancel(reason)
                && let Some(executor) = weak.upgrade()
            {
                executor.refuse_waiting(serial, TOO_LATE);
            }
        });
        match alarm {
            Ok(alarm) => {
                let mut state = self.state.lock();
                if state.phase == Phase::Over {
                    drop(state);
                    drop(alarm);
                } else {
                    state.alarms.push(alarm);
                }
            }
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// The request that has started it is about to be answered, unless the peer has closed
    /// it before.
    pub(super) fn set_answered(&self) -> Result<(), Reason> {
        self.advance(Phase::Opening)
    }

    /// The leg is there, likewise.
    pub(super) fn set_open(&self) -> Result<(), Reason> {
        self.advance(Phase::Open)
    }

    fn advance(&self, phase: Phase) -> Result<(), Reason> {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            drop(state);
            // Whoever closes it is about to do so, too.
            self.cancel.cancel(Reason::Cancelled);
            return Err(Reason::Cancelled);
        }
        state.unanswered = false;
        state.phase = phase;
        Ok(())
    }

    /// There is no leg any more: what waits for it is dropped.
    pub(super) fn set_over(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Over;
        state.queue = VecDeque::new();
        state.held = 0;
        state.room.shrink_to(0);
        let alarms = std::mem::take(&mut state.alarms);
        drop(state);
        drop(alarms);
        self.changed.notify_all();
    }

    /// Its last message is sent.
    pub(super) fn retire(&self) {
        self.set_over();
        self.connection.streams.leave(self);
    }

    /// Waits for something for the leg.
    pub(super) fn next(&self) -> Next {
        let mut state = self.state.lock();
        loop {
            if state.phase == Phase::Over || self.cancel.reason().is_some() {
                return Next::Over;
            }
            if let Some(frame) = state.queue.pop_front() {
                return Next::Frame(frame);
            }
            if let Some(Farewell(said)) = &state.closed {
                return Next::Close(said.clone());
            }
            self.changed.wait(&mut state);
        }
    }

    /// A message has reached the leg. Returns credit that is due.
    pub(super) fn delivered(&self, payload: usize, memory: usize) -> Option<u64> {
        let mut state = self.state.lock();
        state.moved.bytes_in += payload as u64;
        let memory = memory + OVERHEAD;
        state.held = state.held.saturating_sub(memory);
        if state.phase != Phase::Over {
            state.room.shrink(memory);
        }
        state.receiving.as_mut()?.pass_on(payload)
    }

    /// Waits for credit for a message of that size. False: the peer doesn't want it.
    pub(super) fn take_credit(&self, payload: usize) -> Result<bool, Reason> {
        let mut state = self.state.lock();
        loop {
            if let Some(reason) = self.cancel.reason() {
                return Err(reason);
            }
            if state.closed.is_some() {
                return Ok(false);
            }
            if state.sending.take(payload) {
                state.moved.bytes_out += payload as u64;
                return Ok(true);
            }
            self.changed.wait(&mut state);
        }
    }

    /// `proxy_flow`.
    pub(in crate::proxy) fn grant(&self, credit: u64) {
        self.state.lock().sending.grant(credit);
        self.changed.notify_all();
    }

    /// Sends a message of this stream; waits for room.
    pub(super) fn send(&self, message: Message) -> Result<(), SendError> {
        let outlet = &self.connection.outlet;
        outlet.send(&self.id, message, &self.cancel)
    }

    /// Sends one of the last messages, which goes out whatever has ended the stream,
    /// but not for one that must be silent.
    pub(super) fn send_last(&self, message: Message) {
        // An error says only that the connection is gone.
        let outlet = &self.connection.outlet;
        let _ = outlet.send(&self.id, message, &self.silence);
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silence.reason().is_some()
    }

    /// False when its id may be used again: the peer has closed it, or only its last
    /// messages are left to be sent.
    pub(in crate::proxy) fn is_live(&self) -> bool {
        let state = self.state.lock();
        state.closed.is_none() && state.phase != Phase::Over
    }

    /// A message by which the peer closes it has been reached: what it says counts also
    /// where the close itself came meanwhile.
    pub(super) fn close_as(&self, said: CloseText<'static>) {
        // First: the close itself may come at any moment.
        self.close(Some(said.clone()));
        if let Some(farewell) = &mut self.state.lock().closed {
            farewell.0.get_or_insert(said);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }

    /// The peer hasn't heard of a leg.
    pub(super) fn is_opening(&self) -> bool {
        self.state.lock().phase == Phase::Opening
    }

    /// Its queue was full.
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().full
    }

    pub(super) fn moved(&self) -> Moved {
        self.state.lock().moved
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }
}

/// What a queued message takes beside its bytes.
const OVERHEAD: usize = 64;

/// How long what the peer said before it closed may take to reach the target, and then
/// the target's own close.
pub(super) const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// What a stream says whose time is over before it began.
pub(super) const TOO_LATE: &str = "context deadline exceeded";
