//! What messages say about the cluster, gathered where nobody waits for it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::config::Secret;
use crate::net::{Cancel, Deadline, Reason};
use crate::threads::{self, SpawnError, Stack};
use crate::tunnel::target::ExternalNames;

/// Reads facts from the cluster; implemented over `kube`, and by stand-ins, which know
/// nothing unless they say so.
pub trait ClusterFacts: Send + Sync {
    /// Whether there is a cluster at all.
    fn exists(&self) -> bool {
        true
    }

    /// Whether the agent is a pod of it: names of Services lead somewhere.
    fn in_pod(&self) -> bool {
        false
    }

    /// Blocks until there is an answer, `deadline` passes or `cancel` fires. What
    /// can't be read is zero or empty (control-channel.md §7.3).
    fn read(&self, _deadline: Deadline, _cancel: &Cancel) -> Facts {
        Facts::default()
    }

    /// The token that `register` hands over, if any (config-and-state.md §9.3).
    fn service_token(&self, _deadline: Deadline, _cancel: &Cancel) -> Option<Secret> {
        self.service_tokens().into_iter().next()
    }

    /// Reads Services, for tunnels; `None` where there is no cluster to ask.
    fn external_names(&self) -> Option<Arc<dyn ExternalNames>> {
        None
    }

    /// The certificates (PEM) that the cluster's API server is trusted by; `None`
    /// where it isn't the cluster's own authority. Reads a file at most.
    fn ca_certificates(&self) -> Option<Vec<u8>> {
        None
    }

    /// The tokens among which [`service_token`](Self::service_token) chooses now;
    /// reads files at most.
    fn service_tokens(&self) -> Vec<Secret> {
        Vec::new()
    }
}

/// No cluster: a plain VM.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCluster;

impl ClusterFacts for NoCluster {
    fn exists(&self) -> bool {
        false
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub nodes: u64,
    pub pods: u64,
    /// The API server's git version; empty when it can't be read.
    pub k8s_version: String,
}

/// One thread that reads facts when asked, and the latest answer.
pub struct Gatherer {
    shared: Arc<Shared>,
    /// `None` once stopped.
    ask: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<()>>>,
}

struct Shared {
    source: Arc<dyn ClusterFacts>,
    cancel: Cancel,
    latest: Mutex<Latest>,
    changed: Condvar,
}

#[derive(Default)]
struct Latest {
    facts: Facts,
    tokens: Vec<Secret>,
    /// Answers so far.
    count: u64,
}

impl Gatherer {
    /// Starts the thread and asks at once. `on_answer` is called after each answer,
    /// on that thread; it must not block.
    pub fn start(
        source: Arc<dyn ClusterFacts>,
        on_answer: impl Fn() + Send + 'static,
    ) -> Result<Self, SpawnError> {
        let shared = Arc::new(Shared {
            source,
            cancel: Cancel::new(),
            latest: Mutex::default(),
            changed: Condvar::new(),
        });
        // One place: asking twice while it works is asking once.
        let (ask, asked) = bounded(1);
        let thread = threads::spawn("cluster-facts", Stack::Work, {
            let shared = shared.clone();
            move || run(&shared, &asked, &on_answer)
        })?;
        let gatherer = Self {
            shared,
            ask: Some(ask),
            thread: Some(thread),
        };
        gatherer.refresh();
        Ok(gatherer)
    }

    /// Asks for new facts; they come with `on_answer`.
    pub fn refresh(&self) {
        if let Some(ask) = &self.ask {
            // Full: it has been asked. Disconnected: it panicked, and the last answer
            // stands.
            let _ = ask.try_send(());
        }
    }

    pub fn latest(&self) -> Facts {
        self.shared.latest.lock().facts.clone()
    }

    /// The cluster tokens that there were at the latest answer.
    pub fn tokens(&self) -> Vec<Secret> {
        self.shared.latest.lock().tokens.clone()
    }

    /// A handle for threads that need facts.
    pub fn handle(&self) -> FactsHandle {
        FactsHandle(self.shared.clone())
    }

    /// Cuts a read that is under way and joins the thread.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.cancel.cancel(Reason::Shutdown);
        self.ask = None;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The root has caught and logged a panic.
            let _ = thread.join();
        }
    }
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads the latest facts, waiting for the first ones.
#[derive(Clone)]
pub struct FactsHandle(Arc<Shared>);

impl FactsHandle {
    /// The latest facts; waits for the first answer until `deadline`.
    pub fn first(&self, deadline: Deadline) -> Facts {
        let mut latest = self.0.latest.lock();
        while latest.count == 0 && self.0.cancel.reason().is_none() {
            let wait = self.0.changed.wait_until(&mut latest, deadline.instant());
            if wait.timed_out() {
                break;
            }
        }
        latest.facts.clone()
    }

    pub fn service_token(&self, deadline: Deadline) -> Option<Secret> {
        self.0.source.service_token(deadline, &self.0.cancel)
    }

    pub fn ca_certificates(&self) -> Option<Vec<u8>> {
        self.0.source.ca_certificates()
    }
}

fn run(shared: &Shared, asked: &Receiver<()>, on_answer: &dyn Fn()) {
    while asked.recv().is_ok() {
        let deadline = Deadline::after(GATHER_LIMIT);
        let facts = shared.source.read(deadline, &shared.cancel);
        if shared.cancel.reason().is_some() {
            return;
        }
        let tokens = shared.source.service_tokens();
        {
            let mut latest = shared.latest.lock();
            latest.facts = facts;
            latest.tokens = tokens;
            latest.count += 1;
        }
        shared.changed.notify_all();
        on_answer();
    }
}

/// control-channel.md §7.3.
const GATHER_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicU64);

    impl ClusterFacts for Counting {
        fn read(&self, _deadline: Deadline, _cancel: &Cancel) -> Facts {
            Facts {
                nodes: self.0.fetch_add(1, Ordering::SeqCst) + 1,
                ..Facts::default()
            }
        }
    }

    /// Answers only when it is cancelled.
    struct Hanging;

    impl ClusterFacts for Hanging {
        fn read(&self, _deadline: Deadline, cancel: &Cancel) -> Facts {
            let (send, receive) = bounded(1);
            let waker = Arc::new(move || {
                let _ = send.try_send(());
            });
            if let Ok(_guard) = cancel.on_wake(waker) {
                let _ = receive.recv();
            }
            Facts::default()
        }
    }

    #[test]
    fn the_first_answer_is_waited_for_and_later_ones_replace_it() {
        let (send, answers) = bounded(8);
        let gatherer = Gatherer::start(Arc::new(Counting::default()), move || {
            send.try_send(()).expect("room");
        })
        .expect("thread");
        let first = gatherer
            .handle()
            .first(Deadline::after(Duration::from_mins(1)));
        assert_eq!(first.nodes, 1);
        answers.recv().expect("told");
        gatherer.refresh();
        answers.recv().expect("told");
        assert_eq!(gatherer.latest().nodes, 2);
        gatherer.stop();
    }

    #[test]
    fn a_cluster_that_hangs_delays_neither_a_message_nor_the_end() {
        let gatherer = Gatherer::start(Arc::new(Hanging), || {}).expect("thread");
        let facts = gatherer
            .handle()
            .first(Deadline::after(Duration::from_millis(1)));
        assert_eq!(facts, Facts::default());
        gatherer.stop();
    }
}
