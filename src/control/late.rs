//! Answers that outlive their connection (decisions.md §6.2 "Lost connection").
//!
//! A form B request whose body is complete may finish although its connection is
//! gone. Its answer goes to the next connection to the same endpoint URL if that
//! comes within 30 s; else it is dropped and counted. So does an answer that was
//! ready in time but not given to the system when its connection went: while it
//! waited for room in the lane, in its queue, or half written (a peer drops half a
//! message together with its connection).
//!
//! Ids live per connection: one that is used again on the new connection cancels
//! the waiting answer, silently.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::channel::Channel;
use super::outlet::ConnectionOutlet;
use super::session::Generation;
use crate::link::{Lane, Message, SendError, Slot};
use crate::net::{Cancel, Reason};

/// The waiting answers of the process, and the connection that is live now. Its
/// lock is taken with locks of a link held, when one gives its messages back: under
/// it nothing is sent, and no channel is dropped.
#[derive(Default)]
pub struct LateAnswers {
    state: Mutex<State>,
    /// There is something to send, or nobody to send it to.
    changed: Condvar,
    dropped: AtomicU64,
    hasher: RandomState,
    /// Connections from which an answer may still come, lost ones too.
    origins: AtomicUsize,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    waiting: VecDeque<Waiting>,
}

struct Live {
    generation: Generation,
    endpoint: Arc<str>,
    channel: Arc<dyn Channel>,
    /// Ids of its own requests, hashed, kept while answers of older ones may still
    /// come. Two ids that are alike by accident cost a late answer.
    used: HashSet<u64>,
    /// `used` became too large: no older answer can be trusted any more.
    overflowed: bool,
    /// The answer that waits for room.
    sending: Option<(Arc<str>, Cancel)>,
}

/// An answer that waits for a connection. The room it takes of
/// `proxy.memory_limit` is held by its message.
struct Waiting {
    id: Arc<str>,
    origin: Arc<Origin>,
    message: Message,
    since: Instant,
}

/// A connection as the source of answers: there until nothing comes from it any
/// more.
pub(super) struct Origin {
    late: Weak<LateAnswers>,
    generation: Generation,
    endpoint: Arc<str>,
}

impl LateAnswers {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A connection came up: called before its first message is read.
    pub fn connected(
        self: &Arc<Self>,
        generation: Generation,
        endpoint: &str,
        channel: Arc<dyn Channel>,
    ) -> Arc<ConnectionOutlet> {
        let endpoint: Arc<str> = endpoint.into();
        self.origins.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        let before = state.live.replace(Live {
            generation,
            endpoint: endpoint.clone(),
            channel: channel.clone(),
            used: HashSet::new(),
            overflowed: false,
            sending: None,
        });
        drop(state);
        drop(before);
        self.changed.notify_all();
        let origin = Arc::new(Origin {
            late: Arc::downgrade(self),
            generation,
            endpoint,
        });
        Arc::new(ConnectionOutlet::new(origin, channel))
    }

    /// The connection is gone; answers wait from now on.
    pub fn lost(&self, generation: Generation) {
        let mut state = self.state.lock();
        let gone = state.live.take_if(|live| live.generation == generation);
        drop(state);
        if gone.is_some() {
            self.changed.notify_all();
        }
    }

    /// A request came in on this connection under `id`.
    pub fn used(&self, generation: Generation, id: &str) {
        let mut state = self.state.lock();
        state.forget(|waiting| *waiting.id == *id);
        let others = self.origins.load(Ordering::Relaxed) > 1;
        let live = state.live.as_mut();
        let Some(live) = live.filter(|live| live.generation == generation) else {
            return;
        };
        if !others {
            live.used.clear();
            live.overflowed = false;
        } else if live.used.len() < MAX_USED {
            live.used.insert(self.hasher.hash_one(id));
        } else {
            live.overflowed = true;
        }
        let sending = live.sending.take_if(|(other, _)| **other == *id);
        drop(state);
        if let Some((_, cancel)) = sending {
            cancel.cancel(Reason::Cancelled);
        }
    }

    /// Sends what waits for this connection and what comes to wait for it, until it
    /// is lost. For a thread of its own.
    pub fn serve(&self, generation: Generation) {
        while let Some((waiting, channel, cancel)) = self.next(generation) {
            let Waiting {
                id,
                origin,
                message,
                since,
            } = waiting;
            let lane = Lane::Bulk(Slot::of(&id));
            let message = origin.keep(id, message, Some(since));
            let sent = channel.send(lane, message, &cancel);
            if sent == Err(SendError::Closed) {
                // It waits again.
                return;
            }
        }
    }

    /// The next answer for this connection; waits for one. `None` when it is lost.
    fn next(&self, generation: Generation) -> Option<(Waiting, Arc<dyn Channel>, Cancel)> {
        let mut state = self.state.lock();
        loop {
            self.expire(&mut state, Instant::now());
            let State { live, waiting, .. } = &mut *state;
            let live = live.as_mut().filter(|live| live.generation == generation)?;
            live.sending = None;
            let at = waiting
                .iter()
                .position(|waiting| waiting.origin.endpoint == live.endpoint);
            if let Some(waiting) = at.and_then(|at| waiting.remove(at)) {
                let cancel = Cancel::new();
                live.sending = Some((waiting.id.clone(), cancel.clone()));
                return Some((waiting, live.channel.clone(), cancel));
            }
            self.changed.wait(&mut state);
        }
    }

    /// Drops what has waited too long.
    pub fn tick(&self, now: Instant) {
        self.expire(&mut self.state.lock(), now);
    }

    /// Answers that reached nobody, since the process started.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Keeps an answer of a lost connection for the next one. Never waits.
    fn put(&self, waiting: Waiting) {
        let mut state = self.state.lock();
        self.expire(&mut state, Instant::now());
        if let Some(live) = &state.live
            && live.generation != waiting.origin.generation
            && live.endpoint == waiting.origin.endpoint
        {
            if live.used.contains(&self.hasher.hash_one(&*waiting.id)) {
                return;
            }
            if live.overflowed {
                return self.count(1);
            }
        }
        if state.waiting.len() >= MAX_WAITING {
            return self.count(1);
        }
        state.waiting.push_back(waiting);
        self.changed.notify_all();
    }

    fn expire(&self, state: &mut State, now: Instant) {
        let gone = state.forget(|w| now.saturating_duration_since(w.since) >= PATIENCE);
        self.count(gone);
    }

    fn count(&self, answers: usize) {
        if answers > 0 {
            self.dropped.fetch_add(answers as u64, Ordering::Relaxed);
            log::warn!("{answers} answers to requests of a lost connection were dropped");
        }
    }
}

impl State {
    fn forget(&mut self, mut which: impl FnMut(&Waiting) -> bool) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !which(waiting));
        before - self.waiting.len()
    }
}

impl Origin {
    /// Has an answer wait for the next connection if it isn't sent on this one.
    /// `since`: it has waited already.
    pub(super) fn keep(
        self: Arc<Self>,
        id: Arc<str>,
        message: Message,
        since: Option<Instant>,
    ) -> Message {
        message.or_back_to(move |message| {
            if let Some(late) = self.late.upgrade() {
                late.put(Waiting {
                    id,
                    origin: self,
                    message,
                    since: since.unwrap_or_else(Instant::now),
                });
            }
        })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(late) = self.late.upgrade() {
            late.origins.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How long an answer waits for a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// As many requests as run at once at most (decisions.md §6.2 "At once"). Their
/// bytes are limited by `proxy.memory_limit`.
const MAX_WAITING: usize = 1280;

/// Ids that are remembered while answers of an older connection may come.
const MAX_USED: usize = 65_536;

#[cfg(test)]
mod tests;
