//! Services of clusters, exposed by the plane: listeners whose clients are led over
//! the tunnel of an agent (decisions.md §6.6).
//!
//! ```text
//!  client ─► tcp, udp, http: a listener's thread         entrance: counts, limits
//!               └► [expose-N] Entrance::open ─► Session::open, header
//!                     └► [expose-copy-N] tunnel::streams::join, as at the agent
//! ```
//!
//! What is exposed is in the registry, and open again after a restart. A client that
//! comes while the agent is away is reset at once (HTTP: 503); one whose agent goes
//! is reset then.

mod entrance;
mod exposure;
mod http;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use exposure::{Entry, Exposure, ServiceError, ServiceName};

use super::hub::Hub;
use crate::net::{Cancel, Reason};
use entrance::{Counts, Crew, Entrance, MAX_CLIENTS, turn_away};
use http::Refused;
use tcp::Arrived;

/// What is shown of an exposure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposureView {
    pub exposure: Exposure,
    pub state: State,
    /// Now, and since the plane has started.
    pub clients: usize,
    pub total: u64,
    /// Clients that were turned away.
    pub refused: u64,
    /// Bytes to clients, and from them.
    pub down: u64,
    pub up: u64,
}

/// How it is with an exposure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The plane doesn't run.
    Resting,
    Open,
    /// It listens, but the agent is away, or has no tunnels.
    Away,
    /// It can't listen.
    Failed(String),
}

impl ExposureView {
    /// Of a plane that doesn't run.
    pub(crate) fn resting(exposure: Exposure) -> Self {
        Self::new(exposure, State::Resting, Counts::default())
    }

    fn new(exposure: Exposure, state: State, counts: Counts) -> Self {
        Self {
            exposure,
            state,
            clients: counts.clients,
            total: counts.total,
            refused: counts.refused,
            down: counts.down,
            up: counts.up,
        }
    }
}

/// All exposures of a running plane.
pub(crate) struct Exposer {
    hub: Arc<Hub>,
    crew: Arc<Crew>,
    settings: Settings,
    running: Mutex<Running>,
    me: Weak<Self>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Where the HTTP listener is opened when it is needed.
    pub(crate) http: SocketAddr,
    /// A UDP client without a datagram for this long is forgotten.
    pub(crate) udp_idle: Duration,
}

#[derive(Default)]
struct Running {
    stopped: bool,
    exposures: BTreeMap<Entry, Live>,
    /// The listener that all hosts share.
    http: Option<Listener>,
}

struct Live {
    entrance: Arc<Entrance>,
    listener: Option<Listener>,
    failed: Option<String>,
}

/// Its thread ends when `cancel` fires.
struct Listener {
    cancel: Cancel,
    thread: JoinHandle<Option<()>>,
}

impl Listener {
    fn stop(self) {
        self.cancel.cancel(Reason::Shutdown);
        // Its panics have been logged.
        drop(self.thread.join());
    }
}

impl Exposer {
    /// Opens what the registry has. What can't be opened is said, and stays.
    pub(crate) fn start(hub: Arc<Hub>, settings: Settings) -> Arc<Self> {
        let exposer = Arc::new_cyclic(|me| Self {
            crew: Arc::new(Crew::new()),
            settings,
            running: Mutex::default(),
            me: me.clone(),
            hub,
        });
        for exposure in exposer.hub.registry.exposures() {
            let mut running = exposer.running.lock();
            let entry = exposure.entry.clone();
            let live = exposer.open(&mut running, exposure);
            if let Some(why) = &live.failed {
                log::warn!("{entry} is exposed, but not open: {why}");
            }
            running.exposures.insert(entry, live);
        }
        exposer
    }

    /// Opens it and writes it down; an error says what to do.
    pub(crate) fn expose(&self, exposure: &Exposure) -> Result<(), String> {
        let entry = exposure.entry.clone();
        let mut running = self.running.lock();
        if running.stopped {
            return Err("the plane stops".to_owned());
        }
        if let Some(live) = running.exposures.get(&entry) {
            return Err(taken(&live.entrance.exposure));
        }
        let live = self.open(&mut running, exposure.clone());
        if let Some(why) = live.failed {
            return Err(why);
        }
        if let Err(error) = self.hub.registry.expose(exposure) {
            live.end();
            return Err(error.to_string());
        }
        running.exposures.insert(entry, live);
        Ok(())
    }

    /// Closes it, clients included, and forgets it; `None`: there is none.
    pub(crate) fn unexpose(&self, entry: &Entry) -> Result<Option<Exposure>, String> {
        let mut running = self.running.lock();
        let gone = self.hub.registry.unexpose(entry);
        let gone = gone.map_err(|error| error.to_string())?;
        let live = running.exposures.remove(entry);
        drop(running);
        if let Some(live) = live {
            live.end();
        }
        Ok(gone)
    }

    pub(crate) fn views(&self) -> Vec<ExposureView> {
        let running = self.running.lock();
        let view = |live: &Live| {
            let state = match &live.failed {
                Some(why) => State::Failed(why.clone()),
                None if live.entrance.is_reachable() => State::Open,
                None => State::Away,
            };
            ExposureView::new(
                live.entrance.exposure.clone(),
                state,
                live.entrance.counts(),
            )
        };
        running.exposures.values().map(view).collect()
    }

    /// Closes all listeners, and resets their clients.
    pub(crate) fn stop(&self) {
        let (exposures, http) = {
            let mut running = self.running.lock();
            running.stopped = true;
            (std::mem::take(&mut running.exposures), running.http.take())
        };
        if let Some(http) = http {
            http.stop();
        }
        for live in exposures.into_values() {
            live.end();
        }
    }

    fn open(&self, running: &mut Running, exposure: Exposure) -> Live {
        let entrance = Entrance::new(exposure, self.hub.clone(), self.crew.clone());
        let cancel = entrance.cancel.clone();
        let opened = match &entrance.exposure.entry {
            Entry::Tcp(address) => {
                let served = entrance.clone();
                let take = move |arrived: Arrived| tcp::serve(&served, arrived);
                let name = format!("tcp-{}", address.port());
                let thread = tcp::listen(*address, name, cancel.clone(), take);
                thread.map(|thread| Some(Listener { cancel, thread }))
            }
            Entry::Udp(address) => {
                let thread = udp::listen(&entrance, *address, self.settings.udp_idle);
                thread.map(|thread| Some(Listener { cancel, thread }))
            }
            Entry::Http(_) => self.open_http(running).map(|()| None),
        };
        let address = match &entrance.exposure.entry {
            Entry::Tcp(address) | Entry::Udp(address) => *address,
            Entry::Http(_) => self.settings.http,
        };
        let (listener, failed) = match opened {
            Ok(listener) => (listener, None),
            Err(error) => (None, Some(format!("cannot listen on {address}: {error}"))),
        };
        Live {
            entrance,
            listener,
            failed,
        }
    }

    fn open_http(&self, running: &mut Running) -> std::io::Result<()> {
        if running.http.is_some() {
            return Ok(());
        }
        let cancel = Cancel::new();
        let (me, waiting) = (self.me.clone(), Arc::new(AtomicUsize::new(0)));
        let take = move |arrived: Arrived| {
            if let Some(exposer) = me.upgrade() {
                exposer.take_request(arrived, &waiting);
            }
        };
        let address = self.settings.http;
        let thread = tcp::listen(address, "http".to_owned(), cancel.clone(), take)?;
        running.http = Some(Listener { cancel, thread });
        Ok(())
    }

    /// A client of the HTTP listener. Which exposure it is for isn't known yet, so
    /// those that `waiting` counts have a limit of their own.
    fn take_request(self: &Arc<Self>, (socket, address): Arrived, waiting: &Arc<AtomicUsize>) {
        if waiting.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return turn_away(&socket);
        }
        let place = Waiting(waiting.clone());
        let (exposer, given) = (self.clone(), socket.clone());
        let task = Box::new(move || {
            let place = place;
            exposer.lead_request((given, address));
            drop(place);
        });
        if self.crew.openers.run(task).is_err() {
            turn_away(&socket);
        }
    }

    fn lead_request(&self, (socket, address): Arrived) {
        let refused = match http::read(&socket, address) {
            None => return,
            Some(Err(refused)) => refused,
            Some(Ok(first)) => match self.entrance(first.host.clone()) {
                None => Refused::unknown(&first.host),
                Some(entrance) => match entrance.enter() {
                    None => Refused::busy(),
                    Some(client) => match client.connect(&socket, address, &first.bytes) {
                        Ok(()) => return,
                        Err(why) => Refused::no_stream(why),
                    },
                },
            },
        };
        refused.say(&socket);
    }

    fn entrance(&self, host: String) -> Option<Arc<Entrance>> {
        let running = self.running.lock();
        let live = running.exposures.get(&Entry::Http(host))?;
        Some(live.entrance.clone())
    }
}

impl Live {
    fn end(self) {
        self.entrance.cancel.cancel(Reason::Shutdown);
        if let Some(listener) = self.listener {
            listener.stop();
        }
    }
}

/// A connection whose request isn't read yet.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an entry can't be exposed a second time.
pub(crate) fn taken(by: &Exposure) -> String {
    let Exposure {
        entry,
        cluster,
        service,
        ..
    } = by;
    format!(
        "{entry} leads to {service} of {cluster:?} already; \
         `plane unexpose {entry}` takes it back",
        cluster = cluster.as_str(),
    )
}
