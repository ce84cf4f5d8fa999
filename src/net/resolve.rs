//! Names to addresses, with a time limit.
//!
//! `getaddrinfo` can't be cancelled, so it runs on a thread of its own and
//! whoever waits for it stops waiting when the deadline passes. Look-ups of one
//! name share one thread, also when the earlier one seems to hang: retries
//! against a dead name server don't pile up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};

use parking_lot::{Condvar, Mutex};

use super::{Cancel, Deadline, Reason};
use crate::threads::{self, Stack};

/// Why a name has no address (yet).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The system's resolver says no; its own words.
    #[error("{0}")]
    Failed(String),
    #[error("the name servers did not answer in time")]
    TimedOut,
    #[error("{0} look-ups of other names are hanging already")]
    TooMany(usize),
    #[error("{0}")]
    Cancelled(Reason),
}

type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Answer = Result<Arc<[SocketAddr]>, ResolveError>;

/// Resolves names by the system's rules.
pub struct Resolver {
    lookup: Arc<Lookup>,
    /// Look-ups under way at once, each a name and a thread of its own.
    limit: usize,
    flights: Arc<Mutex<HashMap<String, Arc<Flight>>>>,
}

/// A look-up under way.
#[derive(Default)]
struct Flight {
    answer: Mutex<Option<Answer>>,
    changed: Condvar,
}

impl Resolver {
    /// The one resolver of this process: its bound on threads counts for all.
    pub(super) fn system() -> Arc<Self> {
        static SYSTEM: LazyLock<Arc<Resolver>> = LazyLock::new(|| Arc::new(Resolver::new(look_up)));
        SYSTEM.clone()
    }

    /// One with a bound of its own, for names that a peer chooses: when they hang,
    /// the way to the control plane is still found.
    pub fn apart(limit: usize) -> Self {
        Self {
            limit,
            ..Self::new(look_up)
        }
    }

    pub(crate) fn new(
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            lookup: Arc::new(lookup),
            limit: MAX_THREADS,
            flights: Arc::default(),
        }
    }

    /// The addresses of `host` with `port`, in the system's order; never empty.
    /// An address (brackets or not) stands for itself and asks nobody.
    pub fn resolve(
        &self,
        host: &str,
        port: u16,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(address) = literal(host) {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let flight = self.join_flight(host)?;
        let waking = flight.clone();
        let _guard = cancel
            .on_wake(Arc::new(move || {
                // The lock orders this after a waiter's look at the reason.
                drop(waking.answer.lock());
                waking.changed.notify_all();
            }))
            .map_err(ResolveError::Cancelled)?;
        let mut answer = flight.answer.lock();
        loop {
            if let Some(answer) = &*answer {
                let mut addresses = answer.clone()?.to_vec();
                for address in &mut addresses {
                    address.set_port(port);
                }
                return Ok(addresses);
            }
            if let Some(reason) = cancel.reason() {
                return Err(ResolveError::Cancelled(reason));
            }
            let timed_out = deadline.remaining().is_none();
            if timed_out {
                return Err(ResolveError::TimedOut);
            }
            flight.changed.wait_until(&mut answer, deadline.instant());
        }
    }

    fn join_flight(&self, host: &str) -> Result<Arc<Flight>, ResolveError> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(host) {
            return Ok(flight.clone());
        }
        if flights.len() >= self.limit {
            return Err(ResolveError::TooMany(self.limit));
        }
        let landing = Landing {
            host: host.to_owned(),
            flight: Arc::default(),
            flights: self.flights.clone(),
        };
        let flight = landing.flight.clone();
        let lookup = self.lookup.clone();
        flights.insert(host.to_owned(), flight.clone());
        // Before the thread: when it can't be had, the dropped landing takes the lock.
        drop(flights);
        threads::spawn("resolve", Stack::Work, move || {
            let answer = match lookup(&landing.host) {
                Ok(found) if found.is_empty() => {
                    Err(ResolveError::Failed("the name has no address".into()))
                }
                Ok(found) => Ok(found.into()),
                Err(error) => Err(ResolveError::Failed(error.to_string())),
            };
            *landing.flight.answer.lock() = Some(answer);
        })
        .map_err(|error| ResolveError::Failed(error.to_string()))?;
        Ok(flight)
    }
}

fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

/// Ends a flight however its thread ended.
struct Landing {
    host: String,
    flight: Arc<Flight>,
    flights: Arc<Mutex<HashMap<String, Arc<Flight>>>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.host);
        self.flight
            .answer
            .lock()
            .get_or_insert_with(|| Err(ResolveError::Failed("the look-up broke off".into())));
        self.flight.changed.notify_all();
    }
}

/// The address that `host` is, if it is one.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
        .parse()
        .ok()
}

/// Look-ups under way at once, each a name of its own. A process that dials one
/// control plane, one API server and some Services needs a handful.
const MAX_THREADS: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;
    use crate::net::testing::far_deadline;

    /// A resolver whose look-ups end when the sender is dropped.
    fn hanging() -> (Arc<Resolver>, Sender<()>, Arc<AtomicUsize>) {
        let (release, hang): (_, Receiver<()>) = unbounded();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let resolver = Resolver::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = hang.recv();
            Ok(vec!["192.0.2.1:0".parse().expect("address")])
        });
        (Arc::new(resolver), release, calls)
    }

    fn short_deadline() -> Deadline {
        Deadline::after(Duration::from_millis(5))
    }

    #[test]
    fn an_address_is_never_looked_up() {
        let resolver = Resolver::new(|_| panic!("looked up"));
        for host in ["127.0.0.1", "::1", "[::1]"] {
            let found = resolver.resolve(host, 7, far_deadline(), &Cancel::new());
            assert_eq!(found.expect("literal").len(), 1);
        }
    }

    #[test]
    fn localhost_resolves_by_the_systems_rules() {
        let found = Resolver::system().resolve("localhost", 7, far_deadline(), &Cancel::new());
        let found = found.expect("every system knows it");
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 7));
    }

    #[test]
    fn a_hanging_name_server_costs_the_deadline_and_one_thread() {
        let (resolver, release, calls) = hanging();
        for _ in 0..3 {
            let found = resolver.resolve("a", 1, short_deadline(), &Cancel::new());
            assert_eq!(found, Err(ResolveError::TimedOut));
        }
        drop(release);
        let found = resolver.resolve("a", 9, far_deadline(), &Cancel::new());
        assert_eq!(found, Ok(vec!["192.0.2.1:9".parse().expect("address")]));
        assert!(calls.load(Ordering::SeqCst) <= 2, "retries shared a thread");
    }

    #[test]
    fn hanging_threads_are_bounded() {
        let (resolver, _release, _) = hanging();
        for host in 0..MAX_THREADS {
            let found = resolver.resolve(&host.to_string(), 1, short_deadline(), &Cancel::new());
            assert_eq!(found, Err(ResolveError::TimedOut));
        }
        let found = resolver.resolve("one more", 1, far_deadline(), &Cancel::new());
        assert_eq!(found, Err(ResolveError::TooMany(MAX_THREADS)));
    }

    #[test]
    fn cancelling_ends_the_wait() {
        let (resolver, _release, calls) = hanging();
        let cancel = Cancel::new();
        let (waiting, waiter) = (resolver.clone(), cancel.clone());
        let thread = std::thread::spawn(move || waiting.resolve("a", 1, far_deadline(), &waiter));
        while calls.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        cancel.cancel(Reason::Cancelled);
        let found = thread.join().expect("thread");
        assert_eq!(found, Err(ResolveError::Cancelled(Reason::Cancelled)));
    }

    #[test]
    fn a_name_that_does_not_exist_keeps_the_systems_words() {
        let resolver = Resolver::new(|_| Err(io::Error::other("Name or service not known")));
        let found = resolver.resolve("a", 1, far_deadline(), &Cancel::new());
        assert_eq!(
            found.expect_err("none").to_string(),
            "Name or service not known"
        );
    }

    #[test]
    fn a_look_up_that_panics_frees_its_place() {
        let resolver = Resolver::new(|_| panic!("on purpose"));
        for _ in 0..2 {
            let found = resolver.resolve("a", 1, far_deadline(), &Cancel::new());
            assert!(matches!(found, Err(ResolveError::Failed(_))));
        }
    }
}
