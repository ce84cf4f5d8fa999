//! Answers that outlive their connection (decisions.md §6.2 "Lost connection").
//!
//! A form B request whose body is complete may finish although its connection is
//! gone. Its answer goes to the next connection to the same endpoint URL if that
//! comes within 30 s; else it is dropped and counted. Ids live per connection: one
//! that is used again on the new connection cancels the waiting answer, silently.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::channel::Channel;
use super::session::Generation;
use crate::link::{Lane, Message, SendError};
use crate::net::Cancel;
use crate::proxy::Outlet;

/// The waiting answers of the process, and the connection that is live now.
#[derive(Default)]
pub struct LateAnswers {
    state: Mutex<State>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Outlets that somebody still holds, of lost connections too.
    outlets: usize,
}

struct Live {
    generation: Generation,
    endpoint: Arc<str>,
    channel: Arc<dyn Channel>,
    /// Ids of its own requests, kept while answers of older ones may still come.
    used: HashSet<Box<str>>,
    /// `used` became too large: no older answer can be trusted any more.
    overflowed: bool,
}

struct Waiting {
    id: Box<str>,
    endpoint: Arc<str>,
    message: Message,
    since: Instant,
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
        let mut state = self.state.lock();
        state.outlets += 1;
        state.live = Some(Live {
            generation,
            endpoint: endpoint.clone(),
            channel: channel.clone(),
            used: HashSet::new(),
            overflowed: false,
        });
        Arc::new(ConnectionOutlet {
            late: self.clone(),
            generation,
            endpoint,
            channel,
        })
    }

    /// The connection is gone; answers wait from now on.
    pub fn lost(&self, generation: Generation) {
        let mut state = self.state.lock();
        if state
            .live
            .as_ref()
            .is_some_and(|live| live.generation == generation)
        {
            state.live = None;
        }
    }

    /// A request came in on this connection under `id`.
    pub fn used(&self, generation: Generation, id: &str) {
        let mut state = self.state.lock();
        if !state.waiting.is_empty() {
            state.forget(|waiting| *waiting.id == *id);
        }
        let others = state.outlets > 1;
        if let Some(live) = state
            .live
            .as_mut()
            .filter(|live| live.generation == generation)
        {
            if !others {
                live.used.clear();
                live.overflowed = false;
            } else if live.used.len() < MAX_USED {
                live.used.insert(id.into());
            } else {
                live.overflowed = true;
            }
        }
    }

    /// Sends what waits for this connection. Blocks; not for the reader thread.
    pub fn flush(&self, generation: Generation) {
        loop {
            let (message, channel) = {
                let mut state = self.state.lock();
                self.expire(&mut state, Instant::now());
                let State { live, waiting, .. } = &mut *state;
                let Some(live) = live.as_ref().filter(|live| live.generation == generation) else {
                    return;
                };
                let Some(at) = waiting.iter().position(|w| w.endpoint == live.endpoint) else {
                    return;
                };
                let channel = live.channel.clone();
                let Some(waiting) = waiting.remove(at) else {
                    return;
                };
                state.waiting_bytes -= waiting.message.len();
                (waiting.message, channel)
            };
            if channel.send(Lane::Bulk, message, &Cancel::new()).is_err() {
                self.count(1);
                return;
            }
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

    /// An answer of a lost connection.
    fn deliver(&self, generation: Generation, endpoint: &Arc<str>, id: &str, message: Message) {
        let channel = {
            let mut state = self.state.lock();
            let now = Instant::now();
            self.expire(&mut state, now);
            match &state.live {
                Some(live) if live.generation != generation && live.endpoint == *endpoint => {
                    if live.overflowed || live.used.contains(id) {
                        self.count(1);
                        return;
                    }
                    live.channel.clone()
                }
                _ => {
                    let bytes = state.waiting_bytes + message.len();
                    if state.waiting.len() >= MAX_WAITING || bytes > MAX_WAITING_BYTES {
                        self.count(1);
                        return;
                    }
                    state.waiting_bytes = bytes;
                    state.waiting.push_back(Waiting {
                        id: id.into(),
                        endpoint: endpoint.clone(),
                        message,
                        since: now,
                    });
                    return;
                }
            }
        };
        if channel.send(Lane::Bulk, message, &Cancel::new()).is_err() {
            self.count(1);
        }
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
        let mut bytes = self.waiting_bytes;
        self.waiting.retain(|waiting| {
            let gone = which(waiting);
            if gone {
                bytes -= waiting.message.len();
            }
            !gone
        });
        self.waiting_bytes = bytes;
        before - self.waiting.len()
    }
}

/// The way back for the requests of one connection.
pub struct ConnectionOutlet {
    late: Arc<LateAnswers>,
    generation: Generation,
    endpoint: Arc<str>,
    channel: Arc<dyn Channel>,
}

impl Outlet for ConnectionOutlet {
    fn send(&self, message: Message, cancel: &Cancel) -> Result<(), SendError> {
        self.channel.send(Lane::Bulk, message, cancel)
    }

    fn send_late(
        &self,
        request_id: &str,
        message: Message,
        cancel: &Cancel,
    ) -> Result<(), SendError> {
        if !self.channel.is_open() {
            let Self {
                late,
                generation,
                endpoint,
                ..
            } = self;
            late.deliver(*generation, endpoint, request_id, message);
            return Ok(());
        }
        match self.channel.send(Lane::Bulk, message, cancel) {
            Err(SendError::Closed) => {
                // The connection went while the message waited for room in its lane.
                self.late.count(1);
                Ok(())
            }
            done => done,
        }
    }

    fn abort(&self, why: &str) {
        self.channel.abort(why);
    }
}

impl Drop for ConnectionOutlet {
    fn drop(&mut self) {
        // Nothing comes from this connection any more.
        self.late.state.lock().outlets -= 1;
    }
}

/// How long an answer waits for a connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// As many requests as run at once at most (decisions.md §6.2 "At once").
const MAX_WAITING: usize = 1280;

/// Beside `proxy.memory_limit`, whose budget ends when an answer is handed over.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Ids that are remembered while answers of an older connection may come.
const MAX_USED: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::super::channel::tests::Recorder;
    use super::*;

    const URL: &str = "wss://g/ws?cluster_uuid=1";

    fn answer(text: &str) -> Message {
        Message::text(text.len(), |buf| buf.extend_from_slice(text.as_bytes()))
    }

    fn texts(sent: Vec<(Lane, String)>) -> Vec<String> {
        assert!(sent.iter().all(|(lane, _)| *lane == Lane::Bulk));
        sent.into_iter().map(|(_, text)| text).collect()
    }

    struct Two {
        late: Arc<LateAnswers>,
        old: Arc<ConnectionOutlet>,
        first: Arc<Recorder>,
        second: Arc<Recorder>,
    }

    /// A connection that is gone, with a request that still runs.
    fn lost() -> Two {
        let (late, first) = (LateAnswers::new(), Recorder::new());
        let old = late.connected(1, URL, first.clone());
        first.go();
        late.lost(1);
        Two {
            late,
            old,
            first,
            second: Recorder::new(),
        }
    }

    #[test]
    fn while_the_connection_lives_answers_go_there() {
        let (late, channel) = (LateAnswers::new(), Recorder::new());
        let outlet = late.connected(1, URL, channel.clone());
        let _ = outlet.send_late("r", answer("a"), &Cancel::new());
        outlet.send(answer("b"), &Cancel::new()).expect("sent");
        assert_eq!(texts(channel.take(2)), ["a", "b"]);
    }

    #[test]
    fn an_answer_waits_for_the_next_connection_to_the_same_endpoint() {
        let two = lost();
        let _ = two.old.send_late("r", answer("a"), &Cancel::new());
        let elsewhere = Recorder::new();
        let _other = two.late.connected(2, "wss://elsewhere", elsewhere.clone());
        two.late.flush(2);
        assert!(elsewhere.types().is_empty());
        two.late.lost(2);
        let _new = two.late.connected(3, URL, two.second.clone());
        two.late.flush(3);
        assert_eq!(texts(two.second.take(1)), ["a"]);
        assert!(two.first.types().is_empty());
        assert_eq!(two.late.dropped(), 0);
    }

    #[test]
    fn an_answer_that_comes_later_goes_straight_to_the_new_connection() {
        let two = lost();
        let _new = two.late.connected(2, URL, two.second.clone());
        let _ = two.old.send_late("r", answer("a"), &Cancel::new());
        assert_eq!(texts(two.second.take(1)), ["a"]);
    }

    #[test]
    fn an_id_that_is_used_again_cancels_the_answer_before_and_after_it_is_ready() {
        let two = lost();
        let _ = two.old.send_late("r", answer("waiting"), &Cancel::new());
        let _new = two.late.connected(2, URL, two.second.clone());
        two.late.used(2, "r");
        two.late.used(2, "s");
        two.late.flush(2);
        let _ = two.old.send_late("s", answer("too late"), &Cancel::new());
        let _ = two.old.send_late("t", answer("good"), &Cancel::new());
        assert_eq!(texts(two.second.take(1)), ["good"]);
    }

    #[test]
    fn answers_that_waited_too_long_are_dropped_and_counted() {
        let two = lost();
        let _ = two.old.send_late("r", answer("a"), &Cancel::new());
        two.late.tick(Instant::now());
        assert_eq!(two.late.dropped(), 0);
        two.late.tick(Instant::now() + PATIENCE);
        assert_eq!(two.late.dropped(), 1);
        let _new = two.late.connected(2, URL, two.second.clone());
        two.late.flush(2);
        assert!(two.second.types().is_empty());
        assert_eq!(two.late.state.lock().waiting_bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let two = lost();
        for n in 0..=MAX_WAITING {
            let _ = two
                .old
                .send_late(&n.to_string(), answer("a"), &Cancel::new());
        }
        assert_eq!(two.late.dropped(), 1);
        let two = lost();
        let large = answer(&"a".repeat(MAX_WAITING_BYTES));
        let _ = two.old.send_late("r", large, &Cancel::new());
        let _ = two.old.send_late("s", answer("b"), &Cancel::new());
        assert_eq!(two.late.dropped(), 1);
    }

    #[test]
    fn ids_are_remembered_only_while_older_answers_may_come() {
        let two = lost();
        let _new = two.late.connected(2, URL, two.second.clone());
        two.late.used(2, "r");
        drop(two.old);
        two.late.used(2, "s");
        let state = two.late.state.lock();
        assert!(state.live.as_ref().expect("live").used.is_empty());
    }

    #[test]
    fn t05_the_end_of_an_old_connection_does_not_touch_the_new_one() {
        let two = lost();
        let _new = two.late.connected(2, URL, two.second.clone());
        two.late.lost(1);
        let _ = two.old.send_late("r", answer("a"), &Cancel::new());
        assert_eq!(texts(two.second.take(1)), ["a"]);
    }
}
