//! A bounded HTTP/1.1 server: the plane's front door, the sample cluster.
//!
//! One thread accepts and does nothing else; each connection has a thread of its
//! own, TLS handshake included, up to a limit. Heads are bounded in size and
//! time, connections in number and idleness; bodies are the handler's to bound.

mod client_watch;
mod connection;
mod exchange;
mod request_body;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::Socket;

pub use client_watch::ClientWatch;
pub use exchange::{Request, Responder, ResponseWriter};
pub use request_body::{ReadAllError, RequestBody};

use crate::net::{Cancel, ConnectOptions, Reason, ServerTls};
use crate::threads::{self, Stack};

/// Answers requests. Called on the connection's own thread, many at a time; it
/// may take as long as it likes.
pub trait Handler: Send + Sync + 'static {
    /// The body may go to another thread than the answer. The connection serves
    /// another request only if body and answer have come to their ends when this
    /// returns; otherwise it is closed, after a moment for the body's reader.
    fn handle(&self, request: Request, body: RequestBody, responder: Responder);
}

/// Limits and options of a server.
#[derive(Clone)]
pub struct Settings {
    /// What its threads are called: `<name>-accept`, `<name>-7`.
    pub name: &'static str,
    pub tls: Option<ServerTls>,
    pub options: ConnectOptions,
    /// Connections at a time, idle ones included. What comes beyond gets 503, or is
    /// dropped without a word when that happens too often.
    pub max_connections: usize,
    /// Handshake and request of a connection that gets 503 for want of room.
    pub turn_away_limit: Duration,
    /// TLS handshake.
    pub handshake_limit: Duration,
    /// From the first byte of a head to its last.
    pub head_limit: Duration,
    /// Between two requests.
    pub idle_limit: Duration,
    /// A request body that doesn't come on for this long is given up.
    pub body_idle_limit: Option<Duration>,
    /// An answer of which the client takes nothing for this long is given up.
    pub write_limit: Option<Duration>,
    /// How long the rest of a request is thrown away after an early answer.
    pub linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "http",
            tls: None,
            options: ConnectOptions {
                // It would end a client that is alive and doesn't read for a while, a
                // terminal that somebody has stopped: the write limit is for that.
                user_timeout: None,
                ..ConnectOptions::default()
            },
            max_connections: 1024,
            turn_away_limit: Duration::from_secs(5),
            handshake_limit: Duration::from_secs(10),
            head_limit: Duration::from_secs(10),
            idle_limit: Duration::from_mins(2),
            body_idle_limit: Some(Duration::from_mins(1)),
            write_limit: Some(Duration::from_mins(1)),
            linger: Duration::from_secs(2),
        }
    }
}

/// A running server. Dropping it stops it at once.
pub struct Server {
    service: Arc<Service>,
    address: SocketAddr,
}

impl Server {
    /// Serves what connects to `listener` until it is stopped.
    pub fn start(
        listener: TcpListener,
        settings: Settings,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let listener = Arc::new(Socket::from(listener));
        let service = Arc::new(Service {
            watcher: client_watch::ClientWatcher::new(settings.name.to_owned()),
            handler,
            settings,
            state: Mutex::default(),
            changed: Condvar::new(),
            listener: listener.clone(),
        });
        let accepts = service.clone();
        let name = format!("{}-accept", service.settings.name);
        threads::spawn(name, Stack::Work, move || accepts.accept(&listener))
            .map_err(io::Error::other)?;
        Ok(Self { service, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections now, idle ones included; not those that were taken over, nor
    /// those that get 503 for want of room.
    pub fn connections(&self) -> usize {
        self.service.state.lock().served()
    }

    /// Accepts nothing more, closes idle connections, lets exchanges that run
    /// finish for at most `grace`, then cuts them off. Returns when all have ended.
    pub fn stop(&self, grace: Duration) {
        let service = &self.service;
        let mut state = service.state.lock();
        state.stopping = true;
        // Wakes the thread that accepts (with EINVAL).
        let _ = service.listener.shutdown(Shutdown::Both);
        service.changed.notify_all();
        let idle = state.connections.values().filter(|slot| !slot.busy);
        let idle: Vec<Cancel> = idle.map(|slot| slot.cancel.clone()).collect();
        let until = Instant::now() + grace;
        drop(state);
        for cancel in idle {
            cancel.cancel(Reason::Shutdown);
        }
        let mut state = service.state.lock();
        while !state.connections.is_empty() {
            if service.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let rest: Vec<Cancel> = state
            .connections
            .values()
            .map(|p| p.cancel.clone())
            .collect();
        drop(state);
        for cancel in rest {
            cancel.cancel(Reason::Shutdown);
        }
        service.watcher.stop();
        let mut state = service.state.lock();
        let until = Instant::now() + service.settings.linger;
        while !state.connections.is_empty() || state.accepting {
            if service.changed.wait_until(&mut state, until).timed_out() {
                return; // a handler that doesn't come back
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.service.is_stopping() {
            self.stop(Duration::ZERO);
        }
    }
}

/// What the threads of a server share.
struct Service {
    settings: Settings,
    handler: Arc<dyn Handler>,
    watcher: Arc<client_watch::ClientWatcher>,
    listener: Arc<Socket>,
    state: Mutex<State>,
    /// Something in `state` changed: for those who wait for the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    accepting: bool,
    next: u64,
    connections: HashMap<u64, Entry>,
    /// How many of them only hear that there is no room for them.
    turned_away: usize,
    last_complaint: Option<Instant>,
}

impl State {
    fn served(&self) -> usize {
        self.connections.len() - self.turned_away
    }
}

struct Entry {
    cancel: Cancel,
    turned_away: bool,
    /// Between the first byte of a request and the last of its answer.
    busy: bool,
}

/// A connection's slot in [`State::connections`]; given back when dropped.
struct ConnectionSlot {
    service: Arc<Service>,
    key: u64,
    cancel: Cancel,
}

impl ConnectionSlot {
    /// False when the server is stopping.
    fn set_busy(&self, busy: bool) -> bool {
        let mut state = self.service.state.lock();
        if let Some(entry) = state.connections.get_mut(&self.key) {
            entry.busy = busy;
        }
        !state.stopping
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut state = self.service.state.lock();
        if let Some(entry) = state.connections.remove(&self.key) {
            state.turned_away -= usize::from(entry.turned_away);
        }
        drop(state);
        self.service.changed.notify_all();
    }
}

impl Service {
    fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    fn accept(self: Arc<Self>, listener: &Socket) {
        self.state.lock().accepting = true;
        let mut pause = FIRST_PAUSE;
        while !self.is_stopping() {
            match listener.accept() {
                Ok((socket, address)) => {
                    pause = FIRST_PAUSE;
                    if let Some(peer) = address.as_socket() {
                        self.clone().admit(socket, peer);
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: that passes (libraries.md on
                    // tiny_http: it must not end the loop).
                    let mut state = self.state.lock();
                    if state.stopping {
                        break;
                    }
                    self.complain(&mut state, &format!("cannot accept: {error}"));
                    self.changed.wait_for(&mut state, pause);
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
        self.state.lock().accepting = false;
        self.changed.notify_all();
    }

    fn admit(self: Arc<Self>, socket: Socket, peer: SocketAddr) {
        let mut state = self.state.lock();
        if state.stopping {
            return;
        }
        let full = state.served() >= self.settings.max_connections;
        if full {
            self.complain(&mut state, "too many connections");
            if state.turned_away >= MAX_TURNED_AWAY {
                return;
            }
            state.turned_away += 1;
        }
        let key = state.next;
        state.next += 1;
        let cancel = Cancel::new();
        let entry = Entry {
            cancel: cancel.clone(),
            turned_away: full,
            busy: false,
        };
        state.connections.insert(key, entry);
        drop(state);
        let slot = ConnectionSlot {
            service: self.clone(),
            key,
            cancel,
        };
        let name = format!("{}-{key}", self.settings.name);
        let service = self.clone();
        let spawned = threads::spawn(name, Stack::Work, move || {
            if full {
                connection::turn_away(&service, &slot, socket, peer);
            } else {
                connection::serve(&service, &slot, socket, peer);
            }
        });
        if let Err(error) = spawned {
            self.complain(&mut self.state.lock(), &error.to_string());
        }
    }

    /// A warning, at most one in ten seconds: clients can provoke it.
    fn complain(&self, state: &mut State, what: &str) {
        let now = Instant::now();
        let due = |last: Instant| now.duration_since(last) >= COMPLAIN_AGAIN;
        if state.last_complaint.is_none_or(due) {
            state.last_complaint = Some(now);
            log::warn!("{}: {what}", self.settings.name);
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(1);
const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);

/// Connections at a time, beyond the limit, that are told so: few, because a thread
/// does it, and each for `turn_away_limit` and `linger` at most.
const MAX_TURNED_AWAY: usize = 32;

#[cfg(test)]
mod tests;
