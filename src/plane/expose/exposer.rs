//! What opens exposures and closes them.

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::entrance::{Crew, Entrance};
use super::exposure::{Entry, Exposure};
use super::http::Hosts;
use super::{ExposureView, Settings, State, taken, tcp, udp};
use crate::net::{Cancel, Reason};
use crate::plane::hub::Hub;
use crate::threads::{self, Stack};

/// All exposures of a running plane. Dropping it closes them.
pub(in crate::plane) struct Exposer {
    hub: Arc<Hub>,
    crew: Arc<Crew>,
    settings: Settings,
    hosts: Arc<Hosts>,
    /// Held by who opens or closes something, over what that waits for: the disk,
    /// and threads that end.
    doors: Mutex<Doors>,
    /// Held for moments.
    exposures: Mutex<BTreeMap<Entry, Live>>,
    me: Weak<Self>,
}

#[derive(Default)]
struct Doors {
    stopped: bool,
    /// The listener that all hosts share, while there are any.
    http: Option<Listener>,
    /// Tries again what couldn't be opened; ends when this is dropped.
    retrier: Option<Sender<()>>,
}

struct Live {
    entrance: Arc<Entrance>,
    door: Door,
}

enum Door {
    /// A listener of its own; hosts have none.
    Open(Option<Listener>),
    Shut {
        why: String,
        /// When it is tried again, and how long that was waited for.
        next: Instant,
        pause: Duration,
    },
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
    /// Opens what the registry has. What can't be opened is said, and tried again.
    pub(in crate::plane) fn start(hub: Arc<Hub>, settings: Settings) -> Arc<Self> {
        let crew = Arc::new(Crew::new());
        let exposer = Arc::new_cyclic(|me| Self {
            hosts: Hosts::new(crew.clone()),
            crew,
            settings,
            doors: Mutex::default(),
            exposures: Mutex::default(),
            me: me.clone(),
            hub,
        });
        for exposure in exposer.hub.registry.exposures() {
            let opened = exposer.open(&mut exposer.doors.lock(), exposure.clone());
            let live = opened.unwrap_or_else(|why| {
                log::warn!("{} is exposed, but not open: {why}", exposure.entry);
                exposer.shut(exposure, why, settings.retry)
            });
            exposer.insert(live);
        }
        exposer.retry_later();
        exposer
    }

    /// Opens it and writes it down; port 0 takes any. What is exposed now; an error
    /// says what to do.
    pub(in crate::plane) fn expose(&self, exposure: &Exposure) -> Result<Exposure, String> {
        let mut doors = self.doors.lock();
        if doors.stopped {
            return Err("the plane stops".to_owned());
        }
        if let Some(live) = self.exposures.lock().get(&exposure.entry) {
            return Err(taken(&live.entrance.exposure));
        }
        let live = self.open(&mut doors, exposure.clone())?;
        let exposed = live.entrance.exposure.clone();
        if let Err(error) = self.hub.registry.expose(&exposed) {
            self.close(&mut doors, live);
            return Err(error.to_string());
        }
        self.insert(live);
        Ok(exposed)
    }

    /// Closes it, clients included, and forgets it; `None`: there is none. Its address
    /// is free when this returns.
    pub(in crate::plane) fn unexpose(&self, entry: &Entry) -> Result<Option<Exposure>, String> {
        let mut doors = self.doors.lock();
        let gone = self.hub.registry.unexpose(entry);
        let gone = gone.map_err(|error| error.to_string())?;
        let live = self.exposures.lock().remove(entry);
        if let Some(live) = live {
            self.close(&mut doors, live);
        }
        Ok(gone)
    }

    pub(in crate::plane) fn views(&self) -> Vec<ExposureView> {
        let now = Instant::now();
        let view = |live: &Live| {
            let state = match &live.door {
                Door::Shut { why, next, .. } => {
                    let left = next.saturating_duration_since(now).as_secs() + 1;
                    State::Failed(format!("{why}; it is tried again in {left} s"))
                }
                Door::Open(_) => live.entrance.reach(),
            };
            let counts = live.entrance.counts();
            ExposureView::new(live.entrance.exposure.clone(), state, counts)
        };
        self.exposures.lock().values().map(view).collect()
    }

    /// Closes all listeners, and resets their clients.
    pub(in crate::plane) fn stop(&self) {
        let mut doors = self.doors.lock();
        doors.stopped = true;
        doors.retrier = None;
        let exposures = std::mem::take(&mut *self.exposures.lock());
        for live in exposures.into_values() {
            self.close(&mut doors, live);
        }
    }

    // Opening and closing, with the doors in one hand.

    fn open(&self, doors: &mut Doors, exposure: Exposure) -> Result<Live, String> {
        let address = match exposure.entry {
            Entry::Tcp(address) | Entry::Udp(address) => address,
            Entry::Http(_) => self.settings.http,
        };
        self.listen(doors, exposure)
            .map_err(|error| format!("cannot listen on {address}: {error}"))
    }

    fn listen(&self, doors: &mut Doors, mut exposure: Exposure) -> io::Result<Live> {
        let (entrance, listener) = match &mut exposure.entry {
            Entry::Tcp(address) => {
                let socket = TcpListener::bind(*address)?;
                *address = socket.local_addr()?;
                let name = format!("tcp-{}", address.port());
                let entrance = self.entrance(exposure);
                let served = entrance.clone();
                let take = move |arrived| tcp::serve(&served, arrived);
                let thread = tcp::listen(socket, name, entrance.cancel.clone(), take)?;
                (entrance, Some(thread))
            }
            Entry::Udp(address) => {
                let socket = UdpSocket::bind(*address)?;
                *address = socket.local_addr()?;
                let name = format!("udp-{}", address.port());
                let entrance = self.entrance(exposure);
                let thread = udp::listen(&entrance, socket, name, self.settings)?;
                (entrance, Some(thread))
            }
            Entry::Http(_) => {
                self.listen_for_hosts(doors)?;
                (self.entrance(exposure), None)
            }
        };
        let cancel = entrance.cancel.clone();
        let listener = listener.map(|thread| Listener { cancel, thread });
        Ok(Live {
            entrance,
            door: Door::Open(listener),
        })
    }

    fn listen_for_hosts(&self, doors: &mut Doors) -> io::Result<()> {
        if doors.http.is_some() {
            return Ok(());
        }
        let socket = TcpListener::bind(self.settings.http)?;
        let cancel = Cancel::new();
        let (hosts, ends) = (self.hosts.clone(), cancel.clone());
        let take = move |arrived| hosts.take(arrived, &ends);
        let thread = tcp::listen(socket, "http".to_owned(), cancel.clone(), take)?;
        doors.http = Some(Listener { cancel, thread });
        Ok(())
    }

    fn shut(&self, exposure: Exposure, why: String, pause: Duration) -> Live {
        Live {
            entrance: self.entrance(exposure),
            door: Door::Shut {
                why,
                next: Instant::now() + pause,
                pause,
            },
        }
    }

    fn entrance(&self, exposure: Exposure) -> Arc<Entrance> {
        Entrance::new(exposure, self.hub.clone(), self.crew.clone())
    }

    fn insert(&self, live: Live) {
        if let (Entry::Http(host), Door::Open(_)) = (&live.entrance.exposure.entry, &live.door) {
            self.hosts.insert(host, live.entrance.clone());
        }
        let entry = live.entrance.exposure.entry.clone();
        self.exposures.lock().insert(entry, live);
    }

    fn close(&self, doors: &mut Doors, live: Live) {
        if let Entry::Http(host) = &live.entrance.exposure.entry
            && self.hosts.remove(host)
            && let Some(listener) = doors.http.take()
        {
            listener.stop();
        }
        live.entrance.cancel.cancel(Reason::Shutdown);
        if let Door::Open(Some(listener)) = live.door {
            listener.stop();
        }
    }

    // What couldn't be opened at the start.

    fn retry_later(&self) {
        let Some(mut next) = self.next_retry() else {
            return;
        };
        let (stop, stopped) = bounded::<()>(0);
        let me = self.me.clone();
        let started = threads::spawn("expose-retry", Stack::Work, move || {
            while stopped.recv_deadline(next) == Err(RecvTimeoutError::Timeout) {
                let Some(exposer) = me.upgrade() else { return };
                match exposer.retry(Instant::now()) {
                    Some(later) => next = later,
                    None => return,
                }
            }
        });
        match started {
            Ok(_) => self.doors.lock().retrier = Some(stop),
            Err(error) => log::warn!("what isn't open stays so: {error}"),
        }
    }

    /// Tries what it is time for; when to come back, if anything is still shut.
    fn retry(&self, now: Instant) -> Option<Instant> {
        let mut doors = self.doors.lock();
        if doors.stopped {
            return None;
        }
        let due: Vec<(Exposure, Duration)> = {
            let exposures = self.exposures.lock();
            let due = |live: &Live| match live.door {
                Door::Shut { next, pause, .. } if next <= now => {
                    Some((live.entrance.exposure.clone(), pause))
                }
                _ => None,
            };
            exposures.values().filter_map(due).collect()
        };
        for (exposure, pause) in due {
            let live = match self.open(&mut doors, exposure.clone()) {
                Ok(live) => {
                    log::info!("{} is open now", exposure.entry);
                    live
                }
                Err(why) => self.shut(exposure, why, (pause * 2).min(LAST_RETRY)),
            };
            self.insert(live);
        }
        drop(doors);
        self.next_retry()
    }

    fn next_retry(&self) -> Option<Instant> {
        let exposures = self.exposures.lock();
        let next = exposures.values().filter_map(|live| match live.door {
            Door::Shut { next, .. } => Some(next),
            Door::Open(_) => None,
        });
        next.min()
    }
}

#[cfg(test)]
impl Exposer {
    pub(super) fn entrance_of(&self, entry: &Entry) -> Arc<Entrance> {
        self.exposures.lock()[entry].entrance.clone()
    }

    /// Connections whose request isn't read yet.
    pub(super) fn silent_clients(&self) -> usize {
        self.hosts.silent()
    }
}

impl Drop for Exposer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The longest pause between two tries to listen.
pub(super) const LAST_RETRY: Duration = Duration::from_secs(30);
