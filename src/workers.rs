//! Threads for work that waits (requests, streams): as many as there is work, parked
//! and used again, because starting one takes ten times as long as waking one; gone
//! after a while without any.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::resident;
use crate::telemetry::RateLimit;
use crate::threads::{self, Stack};

pub(crate) type Task = Box<dyn FnOnce() + Send>;

/// A pool of threads. How many there are at once is for the caller to bound, by
/// not handing in more.
pub(crate) struct Workers(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    name: &'static str,
    stack: Stack,
    idle_limit: Duration,
}

#[derive(Default)]
struct State {
    /// The one that worked last is used first, so that the others get old.
    parked: Vec<Arc<Parked>>,
    /// Tasks whose threads are being started, by number.
    backlog: VecDeque<(u64, Task)>,
    threads: usize,
    next: u64,
    stopped: bool,
}

struct Parked {
    task: Mutex<Given>,
    changed: Condvar,
}

enum Given {
    Nothing,
    Task(Task),
    /// There will be none.
    End,
}

impl Workers {
    /// Its threads are called `name` and a number; after `idle_limit` without work
    /// they end.
    pub(crate) fn new(name: &'static str, stack: Stack, idle_limit: Duration) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::default(),
            name,
            stack,
            idle_limit,
        }))
    }

    /// Has `task` run on a thread of its own. It comes back when there is none and
    /// none can be started.
    pub(crate) fn run(&self, task: Task) -> Result<(), Task> {
        static FAILED: RateLimit = RateLimit::new(1, Duration::from_mins(1));
        let mut state = self.0.state.lock();
        if let Some(parked) = state.parked.pop() {
            drop(state);
            *parked.task.lock() = Given::Task(task);
            parked.changed.notify_one();
            return Ok(());
        }
        let number = state.expect_thread(task);
        drop(state);
        let name = format!("{}-{number}", self.0.name);
        let shared = self.0.clone();
        // Made here: a thread that allocates nothing takes a third of the memory.
        let me = Arc::new(Parked {
            task: Mutex::new(Given::Nothing),
            changed: Condvar::new(),
        });
        let spawned = threads::spawn(name, self.0.stack, move || {
            let _counted = Counted(shared.clone());
            shared.work(&me);
        });
        let Err(error) = spawned else {
            return Ok(());
        };
        if let Some(skipped) = FAILED.pass() {
            log::warn!(skipped; "{error}");
        }
        self.take_back(number)
    }

    /// There is no thread for a task. It doesn't wait for one of the others, which
    /// may be busy with a watch for days: nothing could end it meanwhile.
    fn take_back(&self, number: u64) -> Result<(), Task> {
        let mut state = self.0.state.lock();
        state.threads -= 1;
        let at = state.backlog.iter().position(|(other, _)| *other == number);
        match at.and_then(|at| state.backlog.remove(at)) {
            Some((_, task)) => Err(task),
            None => Ok(()), // one of the others has just found it
        }
    }

    /// Threads now.
    pub(crate) fn count(&self) -> usize {
        self.0.state.lock().threads
    }
}

impl State {
    /// Keeps a task for the thread of that number, which is counted before it runs
    /// and before anybody can ask.
    fn expect_thread(&mut self, task: Task) -> u64 {
        let number = self.next;
        self.next += 1;
        self.threads += 1;
        self.backlog.push_back((number, task));
        number
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.stopped = true;
        let parked = std::mem::take(&mut state.parked);
        drop(state);
        for parked in parked {
            *parked.task.lock() = Given::End;
            parked.changed.notify_one();
        }
    }
}

/// A thread that is counted until it ends, by a panic too.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
        // Of what it did in its time much may lie with the allocator.
        resident::left_behind(THREAD);
    }
}

/// What a thread's work has allocated and freed, by a rough guess.
const THREAD: usize = 16 * 1024;

impl Shared {
    fn work(&self, me: &Arc<Parked>) {
        while let Some(task) = self.next(me) {
            task();
        }
    }

    fn next(&self, me: &Arc<Parked>) -> Option<Task> {
        let mut state = self.state.lock();
        if let Some((_, task)) = state.backlog.pop_front() {
            return Some(task);
        }
        if state.stopped {
            return None;
        }
        state.parked.push(me.clone());
        drop(state);
        let mut given = me.task.lock();
        loop {
            match std::mem::replace(&mut *given, Given::Nothing) {
                Given::Task(task) => return Some(task),
                Given::End => return None,
                Given::Nothing => {}
            }
            if me.changed.wait_for(&mut given, self.idle_limit).timed_out() {
                drop(given);
                let mut state = self.state.lock();
                let before = state.parked.len();
                state.parked.retain(|parked| !Arc::ptr_eq(parked, me));
                if state.parked.len() < before {
                    return None;
                }
                // Somebody is just giving something.
                drop(state);
                given = me.task.lock();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const FAR: Duration = Duration::from_mins(1);

    fn workers(idle_limit: Duration) -> Workers {
        Workers::new("test", Stack::Work, idle_limit)
    }

    fn run(workers: &Workers, task: impl FnOnce() + Send + 'static) {
        assert!(workers.run(Box::new(task)).is_ok());
    }

    fn wait_until(done: impl Fn() -> bool) {
        let until = Instant::now() + FAR;
        while !done() {
            assert!(Instant::now() < until, "never");
            std::thread::yield_now();
        }
    }

    #[test]
    fn threads_are_used_again() {
        let workers = workers(FAR);
        let (send, receive) = mpsc::channel();
        for _ in 0..100 {
            let send = send.clone();
            run(&workers, move || {
                let _ = send.send(());
            });
            receive.recv_timeout(FAR).expect("done");
            wait_until(|| {
                let state = workers.0.state.lock();
                state.parked.len() == state.threads
            });
        }
        assert_eq!(workers.count(), 1);
    }

    #[test]
    fn work_at_the_same_time_has_threads_at_the_same_time_which_end_later() {
        let workers = workers(Duration::from_millis(10));
        let (send, receive) = mpsc::channel();
        let gate = Arc::new(std::sync::Barrier::new(9));
        for _ in 0..8 {
            let (gate, send) = (gate.clone(), send.clone());
            run(&workers, move || {
                gate.wait();
                let _ = send.send(());
            });
        }
        gate.wait();
        for _ in 0..8 {
            receive.recv_timeout(FAR).expect("done");
        }
        wait_until(|| workers.count() == 0);
    }

    #[test]
    fn a_task_without_a_thread_comes_back_whatever_the_others_do() {
        let workers = workers(FAR);
        let (release, hangs) = mpsc::channel::<()>();
        run(&workers, move || {
            let _ = hangs.recv();
        });
        wait_until(|| workers.0.state.lock().backlog.is_empty());
        let (send, receive) = mpsc::channel();
        let expect = |what: &'static str| {
            let send = send.clone();
            let task = Box::new(move || send.send(what).expect("heard"));
            workers.0.state.lock().expect_thread(task)
        };
        let (first, second) = (expect("first"), expect("second"));
        for (number, want) in [(first, "first"), (second, "second")] {
            workers.take_back(number).expect_err("it comes back")();
            assert_eq!(receive.recv_timeout(FAR), Ok(want));
        }
        assert_eq!(workers.count(), 1);
        drop(release);
    }

    #[test]
    fn a_panic_costs_one_thread_and_dropping_ends_all() {
        let workers = workers(FAR);
        run(&workers, || panic!("on purpose"));
        wait_until(|| workers.count() == 0);
        let (send, receive) = mpsc::channel();
        run(&workers, move || {
            let _ = send.send(());
        });
        receive.recv_timeout(FAR).expect("done");
        let shared = workers.0.clone();
        drop(workers);
        wait_until(|| shared.state.lock().threads == 0);
    }
}
