//! One direction between two sessions, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::link::{Message, Speaker};
use crate::tunnel::session::{Inbox, Line};
use crate::yamux::{Decoder, Event, Fatal, Header as Frame};

/// Who is in line in one direction, and what went over it.
#[derive(Default)]
pub(super) struct Wire {
    state: Mutex<WireState>,
    changed: Condvar,
}

#[derive(Default)]
struct WireState {
    control: VecDeque<Arc<dyn Speaker>>,
    turns: VecDeque<Arc<dyn Speaker>>,
    /// Bytes that nobody said.
    injected: Vec<u8>,
    held: bool,
    /// Nothing at all is carried.
    stalled: bool,
    closed: bool,
    dead: Option<Fatal>,
    frames: Vec<Frame>,
}

impl Line for Wire {
    fn enter(&self, speaker: Arc<dyn Speaker>) {
        self.state.lock().turns.push_back(speaker);
        self.changed.notify_all();
    }

    fn enter_control(&self, speaker: Arc<dyn Speaker>) {
        self.state.lock().control.push_back(speaker);
        self.changed.notify_all();
    }

    fn dead(&self, why: Fatal) {
        self.state.lock().dead = Some(why);
    }
}

impl Wire {
    /// Has the next one speak. `None`: closed.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                let rest = (
                    std::mem::take(&mut state.control),
                    std::mem::take(&mut state.turns),
                );
                drop(state);
                drop(rest);
                return None;
            }
            if state.stalled {
                self.changed.wait(&mut state);
                continue;
            }
            if !state.injected.is_empty() {
                return Some(std::mem::take(&mut state.injected));
            }
            let control = state.control.pop_front();
            if let Some(speaker) = control {
                drop(state);
                let mut bytes = Vec::new();
                speaker.control(&mut bytes);
                return Some(bytes);
            }
            if !state.held
                && let Some(speaker) = state.turns.pop_front()
            {
                drop(state);
                let mut messages: Vec<Message> = Vec::new();
                let again = speaker.turn(&mut messages);
                let bytes = messages.iter().flat_map(|m| m.payload().to_vec()).collect();
                if again {
                    self.state.lock().turns.push_back(speaker);
                }
                return Some(bytes);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Carries all that is said until it is closed.
    pub(super) fn carry(&self, mut inbox: Inbox) {
        let mut decoder = Decoder::default();
        while let Some(bytes) = self.next() {
            let mut rest = &bytes[..];
            while let Ok(Some(event)) = decoder.next(&mut rest) {
                if let Event::Frame(header) = event {
                    self.state.lock().frames.push(header);
                }
            }
            inbox.receive(&bytes);
        }
    }

    /// Puts bytes between the frames.
    pub(super) fn inject(&self, bytes: &[u8]) {
        self.state.lock().injected.extend_from_slice(bytes);
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// What is sent waits, but for what controls.
    pub(super) fn hold(&self, held: bool) {
        self.state.lock().held = held;
        self.changed.notify_all();
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.state.lock().stalled = stalled;
        self.changed.notify_all();
    }

    /// Frames that went over it.
    pub(super) fn frames(&self) -> Vec<Frame> {
        self.state.lock().frames.clone()
    }

    pub(super) fn dead(&self) -> Option<Fatal> {
        self.state.lock().dead
    }
}
