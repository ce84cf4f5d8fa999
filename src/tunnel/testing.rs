//! A line in memory, for tests: a thread has the speakers of a session speak, as a
//! link's writer does, and gives what they say to the other end.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::session::Line;
use crate::link::{Message, Speaker};
use crate::turns::Turns;
use crate::yamux::{Decoder, Event, Fatal, Header};

/// Who is in line in one direction, and what went over it.
#[derive(Default)]
pub(crate) struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    control: VecDeque<Arc<dyn Speaker>>,
    turns: Turns<Arc<dyn Speaker>>,
    /// Bytes that nobody said.
    injected: Vec<u8>,
    held: bool,
    /// Nothing at all is said.
    stalled: bool,
    closed: bool,
    dead: Option<Fatal>,
    frames: Vec<Header>,
}

impl Line for Wire {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.change(|state| state.turns.enter(speaker));
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.change(|state| state.control.push_back(speaker));
    }

    fn dead(&self, why: Fatal) {
        self.change(|state| assert_eq!(state.dead.replace(why), None, "told twice"));
    }
}

impl Wire {
    /// What the next speaker says; none: nobody is in line.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        State::speak(&mut self.state.lock())
    }

    /// All that there is to be said now.
    pub(crate) fn all(&self) -> Vec<u8> {
        std::iter::from_fn(|| self.next()).flatten().collect()
    }

    /// What the next speaker says; it waits for one. None: closed, or dead and all is
    /// said.
    pub(crate) fn wait(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        while !state.closed {
            if let Some(bytes) = State::speak(&mut state) {
                return Some(bytes);
            }
            if state.dead.is_some() {
                break;
            }
            self.changed.wait(&mut state);
        }
        // As a link does: what is in line is dropped with it.
        let rest = (mem::take(&mut state.control), mem::take(&mut state.turns));
        drop(state);
        drop(rest);
        None
    }

    /// Gives all that is said to `receive`, until it is closed.
    pub(crate) fn carry(&self, mut receive: impl FnMut(&[u8])) {
        let mut decoder = Decoder::default();
        while let Some(bytes) = self.wait() {
            let mut rest = &bytes[..];
            while let Ok(Some(event)) = decoder.next(&mut rest) {
                if let Event::Frame(header) = event {
                    self.state.lock().frames.push(header);
                }
            }
            receive(&bytes);
        }
    }

    /// Frames that were carried.
    pub(crate) fn frames(&self) -> Vec<Header> {
        self.state.lock().frames.clone()
    }

    /// Why the session is over, if it has told.
    pub(crate) fn dead_because(&self) -> Option<Fatal> {
        self.state.lock().dead
    }

    /// The connection is gone, at once.
    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// What is sent waits, but for what controls.
    pub(crate) fn hold(&self, held: bool) {
        self.change(|state| state.held = held);
    }

    pub(crate) fn stall(&self, stalled: bool) {
        self.change(|state| state.stalled = stalled);
    }

    /// Puts bytes between the frames.
    pub(crate) fn inject(&self, bytes: &[u8]) {
        self.change(|state| state.injected.extend_from_slice(bytes));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

impl State {
    fn speak(state: &mut MutexGuard<'_, Self>) -> Option<Vec<u8>> {
        if state.stalled {
            return None;
        }
        let mut bytes = mem::take(&mut state.injected);
        if !bytes.is_empty() {
            return Some(bytes);
        }
        if let Some(speaker) = state.control.pop_front() {
            MutexGuard::unlocked(state, || speaker.control(&mut bytes));
            return Some(bytes);
        }
        if state.held {
            return None;
        }
        let speaker = state.turns.next_turn()?;
        let mut messages: Vec<Message> = Vec::new();
        let spoke = MutexGuard::unlocked(state, || speaker.turn(&mut messages));
        assert_eq!(spoke, !messages.is_empty());
        for message in &messages {
            bytes.extend_from_slice(message.payload());
        }
        state.turns.spent(bytes.len());
        if spoke {
            state.turns.again(speaker, bytes.len());
        }
        Some(bytes)
    }
}
