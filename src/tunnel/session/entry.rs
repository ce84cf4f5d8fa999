//! A stream and its lock: what the table holds, and what speaks for it.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::line::Voice;
use super::payload::Payload;
use super::shared::Shared;
use super::stream::SendError;
use crate::link::{Message, Speaker};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::yamux::{self, Cut, HEADER, Header, Input, QueueError, Reset, Unread};

/// The stream inside.
type Inner = yamux::Stream<Payload>;

type OnCut = Box<dyn FnOnce(Cut) + Send>;

/// One stream. It lives as long as the wire knows it or a handle is left.
pub(super) struct Entry {
    me: Weak<Entry>,
    id: u32,
    voice: Arc<Voice>,
    /// Not the other way round: the session's table owns entries.
    shared: Weak<Shared>,
    state: Mutex<State>,
    reader: Condvar,
    sender: Condvar,
}

struct State {
    stream: Inner,
    on_cut: Option<OnCut>,
    /// Threads that wait for room.
    paused: usize,
}

/// What can be seen of a stream from the session.
pub(super) struct Sight {
    pub(super) unread: Option<Unread>,
    pub(super) window: usize,
    pub(super) charged: usize,
    pub(super) queued: usize,
    pub(super) paused: usize,
}

impl Entry {
    /// Its wakes come with the first [`with`](Self::with).
    pub(super) fn new(stream: Inner, shared: &Shared) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            id: stream.id(),
            voice: shared.voice().clone(),
            shared: shared.me(),
            state: Mutex::new(State {
                stream,
                on_cut: None,
                paused: 0,
            }),
            reader: Condvar::new(),
            sender: Condvar::new(),
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Calls `f` with the stream, then does what that means for others.
    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        let mut state = self.state.lock();
        let result = f(&mut state.stream);
        self.settle(state);
        result
    }

    /// Waits until `read` has something to give.
    pub(super) fn wait_to_read<R>(
        &self,
        until: Option<Instant>,
        mut read: impl FnMut(&mut Inner, Instant) -> Result<Input<R>, Cut>,
    ) -> Result<Input<R>, Cut> {
        let mut state = self.state.lock();
        loop {
            let result = read(&mut state.stream, Instant::now());
            if !matches!(result, Ok(Input::Wait)) {
                self.settle(state);
                return result;
            }
            if is_over(until) {
                return result;
            }
            wait(&self.reader, &mut state, until);
        }
    }

    /// Waits until `send` says that it is done.
    pub(super) fn wait_to_send<R>(
        &self,
        until: Option<Instant>,
        mut send: impl FnMut(&mut Inner) -> Option<Result<R, QueueError>>,
    ) -> Result<R, SendError> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = send(&mut state.stream) {
                self.settle(state);
                return result.map_err(|error| match error {
                    QueueError::NoRoom => SendError::TimedOut,
                    QueueError::Finished => SendError::Finished,
                    QueueError::Cut(cut) => SendError::Cut(cut),
                });
            }
            if is_over(until) {
                return Err(SendError::TimedOut);
            }
            state.paused += 1;
            wait(&self.sender, &mut state, until);
            state.paused -= 1;
        }
    }

    /// Waits, where senders do, until `done`; `until` at most. For what wakes senders: a
    /// cut, the peer's end.
    pub(super) fn wait(&self, until: Instant, done: impl Fn(&Inner) -> bool) {
        let mut state = self.state.lock();
        while !done(&state.stream) && Instant::now() < until {
            self.sender.wait_until(&mut state, until);
        }
    }

    pub(super) fn on_cut(&self, tell: OnCut) {
        let mut state = self.state.lock();
        let before = state.on_cut.replace(tell);
        self.settle(state);
        drop(before);
    }

    /// No handle is left.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        let on_cut = state.on_cut.take();
        let stream = &mut state.stream;
        match stream.room() {
            Ok(_) => stream.reset(Reset::AtOnce),
            Err(QueueError::Finished) => stream.discard(Instant::now()),
            // Over already; what is queued before its RST is still written.
            Err(_) => {}
        }
        self.settle(state);
        drop(on_cut);
    }

    pub(super) fn look(&self) -> Sight {
        let state = self.state.lock();
        Sight {
            unread: state.stream.unread(),
            window: state.stream.window() as usize,
            charged: state.stream.charged(),
            queued: state.stream.queued(),
            paused: state.paused,
        }
    }

    /// Lets go of the lock and tells whoever has to know of what has changed. The
    /// flags of a stream see to it that it enters each line once; between the lock
    /// and the line nobody else does it for us, so it must not be left out.
    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let wakes = state.stream.wakes();
        let told = state
            .stream
            .cut()
            .and_then(|cut| Some((cut, state.on_cut.take()?)));
        drop(state);
        if wakes.reader {
            self.reader.notify_all();
        }
        if wakes.sender {
            self.sender.notify_all();
        }
        // Before `turn` returns, and its frames are written.
        if wakes.concern_session()
            && let Some(shared) = self.shared.upgrade()
        {
            shared.note(self.id, wakes);
        }
        if (wakes.control || wakes.turn)
            && let Some(me) = self.me.upgrade()
        {
            if wakes.control {
                self.voice.line().enter_control(me.clone());
            }
            if wakes.turn {
                self.voice.line().enter(me);
            }
        }
        if let Some((cut, tell)) = told {
            tell(cut);
        }
    }
}

impl Speaker for Entry {
    fn control(&self, out: &mut Vec<u8>) {
        if self.voice.is_silent() {
            return;
        }
        let now = Instant::now();
        self.with(|stream| {
            while let Some(header) = stream.next_control(now) {
                out.extend_from_slice(&header.encode());
            }
        });
    }

    fn turn(&self, out: &mut Vec<Message>) -> bool {
        if self.voice.is_silent() {
            return false;
        }
        let now = Instant::now();
        self.with(|stream| {
            stream.turn(now, |header, payload| match payload {
                Some(payload) => payload.into_messages(&header, out),
                None => out.push(alone(&header)),
            })
        })
    }
}

/// A frame without payload.
fn alone(header: &Header) -> Message {
    Message::binary(HEADER, |out| out.extend_from_slice(&header.encode()))
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until <= Instant::now())
}

fn wait(condvar: &Condvar, state: &mut MutexGuard<'_, State>, until: Option<Instant>) {
    match until {
        None => condvar.wait(state),
        Some(until) => {
            condvar.wait_until(state, until);
        }
    }
}
