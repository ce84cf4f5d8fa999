//! One thread that ends what takes too long.

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::threads::{self, SpawnError, Stack};

/// Runs what is due; the thread starts with the first of it.
pub(super) struct Timer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    due: BTreeMap<(Instant, u64), Box<dyn FnOnce() + Send>>,
    next: u64,
    /// When the thread looks again by itself; `None` while it is at work or waits
    /// for the first alarm. Most alarms are later than some that was taken back:
    /// those needn't wake it.
    looks_at: Option<Instant>,
    running: bool,
    stopped: bool,
}

/// Dropping it takes back what was to be done, unless it is being done.
#[must_use = "what is due is taken back when this is dropped"]
pub(super) struct Alarm {
    timer: Arc<Shared>,
    key: (Instant, u64),
}

impl Timer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Has `what` done at `when`, on the timer's thread: it must not wait for
    /// anything.
    pub(super) fn at(
        &self,
        when: Instant,
        what: impl FnOnce() + Send + 'static,
    ) -> Result<Alarm, SpawnError> {
        let mut state = self.0.state.lock();
        if !state.running && !state.stopped {
            let shared = self.0.clone();
            threads::spawn("proxy-timer", Stack::Work, move || shared.run())?;
            state.running = true;
        }
        let key = (when, state.next);
        state.next += 1;
        let wakes = state.looks_at.is_none_or(|at| when < at);
        state.due.insert(key, Box::new(what));
        drop(state);
        if wakes {
            self.0.changed.notify_one();
        }
        Ok(Alarm {
            timer: self.0.clone(),
            key,
        })
    }

    /// As if the time of all alarms had come.
    #[cfg(test)]
    pub(super) fn ring_all(&self) {
        let due = std::mem::take(&mut self.0.state.lock().due);
        for what in due.into_values() {
            what();
        }
    }

    /// Alarms that are set.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.0.state.lock().due.len()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.stopped = true;
        let rest = std::mem::take(&mut state.due);
        drop(state);
        self.0.changed.notify_one();
        drop(rest);
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopped {
            let Some((&(when, _), _)) = state.due.first_key_value() else {
                self.changed.wait(&mut state);
                continue;
            };
            if when > Instant::now() {
                state.looks_at = Some(when);
                self.changed.wait_until(&mut state, when);
                state.looks_at = None;
                continue;
            }
            let due = state.due.pop_first();
            drop(state);
            if let Some((_, what)) = due
                && panic::catch_unwind(AssertUnwindSafe(what)).is_err()
            {
                // The hook has logged it. Everybody else's limits must hold all the same.
                log::error!("an alarm of the proxy has failed");
            }
            state = self.state.lock();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let taken_back = self.timer.state.lock().due.remove(&self.key);
        // What it holds may be dropped only without the lock.
        drop(taken_back);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_alarm_that_panics_stops_no_other() {
        let timer = Timer::new();
        let (tell, told) = mpsc::channel();
        let now = Instant::now();
        let _bad = timer.at(now, || panic!("for the test")).expect("set");
        let good = move || tell.send(()).expect("heard");
        let _good = timer.at(now + Duration::from_millis(1), good).expect("set");
        told.recv().expect("it rang");
    }

    #[test]
    fn what_is_due_is_done_in_order_and_what_is_taken_back_is_not() {
        let timer = Timer::new();
        let (send, receive) = mpsc::channel();
        let soon = Instant::now() + Duration::from_millis(20);
        let at = |when: Instant, what: &'static str| {
            let send = send.clone();
            timer
                .at(when, move || {
                    let _ = send.send(what);
                })
                .expect("thread")
        };
        let far = at(soon + Duration::from_hours(1), "far");
        let _second = at(soon + Duration::from_millis(5), "second");
        drop(at(soon, "never"));
        let _first = at(soon, "first");
        let _past = at(Instant::now(), "past");
        let limit = Duration::from_mins(1);
        for want in ["past", "first", "second"] {
            assert_eq!(receive.recv_timeout(limit), Ok(want));
        }
        drop(timer);
        drop(send);
        drop(far);
        assert_eq!(receive.recv(), Err(mpsc::RecvError));
    }
}
