//! Which Services are only another name (decisions.md §6.6 "Policy"): asked of the API
//! server, and remembered for a while.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::kube::{ApiError, ApiServer};
use crate::net::{Cancel, Deadline};
use crate::telemetry::RateLimit;
use crate::tunnel::target::ExternalNames;

/// Namespace and name.
type Key = (String, String);

/// Where a Service points to, if it is of type ExternalName. The error is one clause.
type Read = dyn Fn(&str, &str, Deadline, &Cancel) -> Result<Option<String>, String> + Send + Sync;

/// Reads Services, each at most every ten seconds, and eight at a time: a gateway that
/// opens thousands of streams at once must not flood the API server. Where that
/// doesn't answer, an old answer counts: it will hardly have changed.
pub(super) struct ServiceNames {
    read: Box<Read>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something is known, or nobody asks for it any more.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    known: HashMap<Key, Known>,
    asking: HashSet<Key>,
}

struct Known {
    name: Option<String>,
    /// Until then nobody asks again.
    fresh: Instant,
}

impl ServiceNames {
    pub(super) fn new(api: Arc<ApiServer>) -> Self {
        Self::reading(move |namespace, service, deadline, cancel| {
            static FORBIDDEN: RateLimit = RateLimit::new(1, Duration::from_hours(1));
            match api.external_name(namespace, service, deadline, cancel) {
                Ok(name) => Ok(name),
                // There is none: the look-up of its name will say so.
                Err(ApiError::Status { status: 404, .. }) => Ok(None),
                Err(ApiError::Status { status: 403, .. }) => {
                    if FORBIDDEN.pass().is_some() {
                        log::warn!(
                            "the agent may not read Services (RBAC: get services): tunnels and \
                             requests to those of type ExternalName are judged by their addresses alone"
                        );
                    }
                    Ok(None)
                }
                Err(error) => Err(error.to_string()),
            }
        })
    }

    fn reading(
        read: impl Fn(&str, &str, Deadline, &Cancel) -> Result<Option<String>, String>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            read: Box::new(read),
            shared: Arc::default(),
        }
    }
}

impl ExternalNames for ServiceNames {
    fn external_name(
        &self,
        namespace: &str,
        service: &str,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Option<String>, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !namespace.bytes().chain(service.bytes()).all(plain) {
            // It would be another path of the API.
            return Err("that is no name of a Service".to_owned());
        }
        let key = (namespace.to_owned(), service.to_owned());
        let deadline = deadline.earlier(Deadline::after(LIMIT));
        let waking = self.shared.clone();
        let _guard = cancel
            .on_wake(Arc::new(move || {
                // The lock orders this after a waiter's look at the reason.
                drop(waking.state.lock());
                waking.changed.notify_all();
            }))
            .map_err(|reason| reason.to_string())?;
        let mut state = self.shared.state.lock();
        loop {
            if let Some(known) = state.known.get(&key)
                && known.fresh > Instant::now()
            {
                return Ok(known.name.clone());
            }
            if let Some(reason) = cancel.reason() {
                return Err(reason.to_string());
            }
            if deadline.remaining().is_none() {
                return state.after_failure(&key, "no answer in time".to_owned());
            }
            if state.asking.len() < MAX_AT_ONCE && state.asking.insert(key.clone()) {
                break;
            }
            self.shared
                .changed
                .wait_until(&mut state, deadline.instant());
        }
        drop(state);
        let _asking = Asking(&self.shared, &key);
        let answer = (self.read)(namespace, service, deadline, cancel);
        let mut state = self.shared.state.lock();
        match answer {
            Ok(name) => {
                state.learn(key.clone(), name.clone());
                Ok(name)
            }
            // Its own end says nothing about the server.
            Err(why) if cancel.reason().is_some() => Err(why),
            Err(why) => state.after_failure(&key, why),
        }
    }
}

impl State {
    fn learn(&mut self, key: Key, name: Option<String>) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.fresh);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&oldest);
            }
        }
        let fresh = Instant::now() + FRESH;
        self.known.insert(key, Known { name, fresh });
    }

    /// What was known before, if anything, for a while without asking again: each
    /// stream would wait for as long.
    fn after_failure(&mut self, key: &Key, why: String) -> Result<Option<String>, String> {
        let known = self.known.get_mut(key).ok_or(why)?;
        known.fresh = Instant::now() + FRESH;
        Ok(known.name.clone())
    }
}

/// Somebody asks for it; nobody does when this is dropped.
struct Asking<'a>(&'a Shared, &'a Key);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.state.lock().asking.remove(self.1);
        self.0.changed.notify_all();
    }
}

/// How long an answer counts without being asked for again.
const FRESH: Duration = Duration::from_secs(10);

/// For one answer, waiting for its turn included: a stream's dial has 30 s.
const LIMIT: Duration = Duration::from_secs(5);

/// Questions at once.
const MAX_AT_ONCE: usize = 8;

/// Services that are remembered.
const MAX_KNOWN: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::net::Reason;
    use crate::net::testing::far_deadline;

    fn ask(names: &ServiceNames, service: &str) -> Result<Option<String>, String> {
        names.external_name("shop", service, far_deadline(), &Cancel::new())
    }

    impl ServiceNames {
        /// Ten seconds later.
        fn age(&self) {
            for known in self.shared.state.lock().known.values_mut() {
                known.fresh = Instant::now();
            }
        }
    }

    #[test]
    fn an_answer_is_kept_for_a_while_and_an_old_one_while_there_is_no_other() {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let given = answers.clone();
        let names = ServiceNames::reading(move |namespace, _, _, _| {
            assert_eq!(namespace, "shop");
            given.lock().pop().expect("not asked in vain")
        });
        let outside = |name: &str| Ok(Some(name.to_owned()));
        // The first one can't be known without an answer.
        answers.lock().push(Err("it is away".to_owned()));
        assert_eq!(ask(&names, "db"), Err("it is away".to_owned()));
        answers.lock().push(outside("a.example.test"));
        assert_eq!(ask(&names, "db"), outside("a.example.test"));
        assert_eq!(ask(&names, "db"), outside("a.example.test"), "kept");
        names.age();
        answers.lock().push(Err("it is away".to_owned()));
        assert_eq!(ask(&names, "db"), outside("a.example.test"), "an old one");
        assert_eq!(ask(&names, "db"), outside("a.example.test"), "not at once");
        names.age();
        answers.lock().push(Ok(None));
        assert_eq!(ask(&names, "db"), Ok(None));
    }

    #[test]
    fn one_question_for_each_service_and_few_at_once() {
        let (release, hang) = unbounded::<()>();
        let (asked, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, most) = (asked.clone(), at_once.clone());
        let running = AtomicUsize::new(0);
        let names = Arc::new(ServiceNames::reading(move |_, _, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = hang.recv();
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(None)
        }));
        std::thread::scope(|scope| {
            for number in 0..60 {
                let names = names.clone();
                // Twenty Services, three streams for each.
                let service = format!("s{}", number % 20);
                scope.spawn(move || assert_eq!(ask(&names, &service), Ok(None)));
            }
            while asked.load(Ordering::SeqCst) < MAX_AT_ONCE {
                std::thread::yield_now();
            }
            drop(release);
        });
        assert_eq!(asked.load(Ordering::SeqCst), 20);
        assert!(at_once.load(Ordering::SeqCst) <= MAX_AT_ONCE);
    }

    #[test]
    fn who_waits_for_another_ones_question_can_be_cancelled_or_late() {
        let (release, hang) = unbounded::<()>();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let names = ServiceNames::reading(move |_, _, _, _| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = hang.recv();
            Ok(None)
        });
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            scope.spawn(|| ask(&names, "db"));
            while asked.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let soon = Deadline::after(Duration::from_millis(5));
            let late = names.external_name("shop", "db", soon, &Cancel::new());
            assert_eq!(late, Err("no answer in time".to_owned()));
            let waiter = scope.spawn(|| names.external_name("shop", "db", far_deadline(), &cancel));
            cancel.cancel(Reason::ConnectionLost);
            let ended = waiter.join().expect("thread");
            assert_eq!(ended, Err(Reason::ConnectionLost.to_string()));
            drop(release);
        });
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_a_name_is_no_path() {
        let names = ServiceNames::reading(|_, _, _, _| Ok(None));
        for number in 0..=MAX_KNOWN {
            assert_eq!(ask(&names, &format!("s{number}")), Ok(None));
        }
        assert_eq!(names.shared.state.lock().known.len(), MAX_KNOWN);
        let names = ServiceNames::reading(|_, _, _, _| panic!("asked"));
        for service in ["../secrets", "a/b", "a?b", "a%2f", "a.b"] {
            ask(&names, service).expect_err(service);
        }
    }
}
