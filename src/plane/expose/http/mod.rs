//! The HTTP listener: the first request's host says which Service a connection is
//! led to, as bytes over a stream of its own.
//!
//! A connection carries one request. Were it kept open, its next request could be
//! for another host (whatever stands in front of the plane may mix clients and
//! hosts on one connection), and answers would have to be parsed to find where one
//! ends. So the request is passed on with `Connection: close`, unless it asks for an
//! upgrade: then the connection is the client's until its end, if the Service agrees
//! ([`upgrade`]).

mod request;
mod upgrade;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use socket2::Socket;

use super::entrance::{Crew, Entrance, MAX_CLIENTS, turn_away};
use super::tcp::Arrived;
use crate::net::Cancel;
use request::Refused;

/// Which host leads where.
pub(super) struct Hosts {
    crew: Arc<Crew>,
    routes: Mutex<BTreeMap<String, Arc<Entrance>>>,
    /// Connections that have no Service yet.
    waiting: AtomicUsize,
    /// Those of them whose request isn't read: which exposure they are for isn't
    /// known, so they have a limit of their own. The oldest comes first.
    silent: Mutex<BTreeMap<u64, Arc<Socket>>>,
    next: AtomicU64,
}

impl Hosts {
    pub(super) fn new(crew: Arc<Crew>) -> Arc<Self> {
        Arc::new(Self {
            crew,
            routes: Mutex::default(),
            waiting: AtomicUsize::new(0),
            silent: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    pub(super) fn insert(&self, host: &str, entrance: Arc<Entrance>) {
        self.routes.lock().insert(host.to_owned(), entrance);
    }

    /// True: no host is left.
    pub(super) fn remove(&self, host: &str) -> bool {
        let mut routes = self.routes.lock();
        routes.remove(host);
        routes.is_empty()
    }

    /// A client of the listener, which `ends` ends. While [`MAX_SILENT`] ask nothing,
    /// the one that has done so for longest makes room: it costs nothing to connect, so
    /// whoever asks at once must not have to wait for them.
    pub(super) fn take(self: &Arc<Self>, (socket, address): Arrived, ends: &Cancel) {
        let place = Waiting(self.clone());
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= 2 * MAX_CLIENTS {
            return turn_away(&socket);
        }
        let silent = self.enter(&socket);
        let (given, ends) = (socket.clone(), ends.clone());
        let task = Box::new(move || place.lead((given, address), silent, &ends));
        if self.crew.openers.run(task).is_err() {
            turn_away(&socket);
        }
    }

    fn enter(self: &Arc<Self>, socket: &Arc<Socket>) -> Silent {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut silent = self.silent.lock();
        let oldest = (silent.len() >= MAX_SILENT).then(|| silent.pop_first());
        silent.insert(number, socket.clone());
        drop(silent);
        if let Some((_, oldest)) = oldest.flatten() {
            // Its reader sees it.
            turn_away(&oldest);
        }
        Silent(self.clone(), number)
    }

    /// Clients whose request isn't read.
    #[cfg(test)]
    pub(super) fn silent(&self) -> usize {
        self.silent.lock().len()
    }

    fn entrance(&self, host: &str) -> Option<Arc<Entrance>> {
        self.routes.lock().get(host).cloned()
    }
}

/// A connection among those that ask nothing.
struct Silent(Arc<Hosts>, u64);

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.silent.lock().remove(&self.1);
    }
}

/// A connection that is counted among those that wait.
struct Waiting(Arc<Hosts>);

impl Waiting {
    fn lead(self, (socket, address): Arrived, silent: Silent, ends: &Cancel) {
        let read = {
            let Ok(_guard) = ends.on_aborted(socket.clone()) else {
                return turn_away(&socket);
            };
            request::read(&socket, address)
        };
        drop(silent);
        let refused = match read {
            None => return,
            Some(Err(refused)) => refused,
            Some(Ok(first)) => match self.0.entrance(&first.host) {
                None => Refused::unknown(&first.host),
                Some(entrance) => {
                    let client = entrance.enter();
                    let led = client.and_then(|client| match &first.held {
                        None => client.connect(&socket, address, &first.bytes),
                        Some(held) => {
                            // The exposure counts it, and its answer may take its time.
                            drop(self);
                            upgrade::lead(client, &socket, address, &first, held)
                        }
                    });
                    match led {
                        Ok(()) => return,
                        Err(why) => Refused::no_stream(why),
                    }
                }
            },
        };
        refused.say(&socket);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Clients that ask nothing, at a time. Each is a thread: fewer do for tests.
pub(super) const MAX_SILENT: usize = if cfg!(test) { 64 } else { MAX_CLIENTS };
