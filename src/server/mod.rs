//! The local HTTP server: `/health` and `/ready` for probes (local-server.md §5.1,
//! §5.2, §6); the rest of that specification comes later.
//!
//! Anybody who reaches the port may send anything, so the accept loop and the reading
//! of a request are ours, with limits in number, size and time; tiny_http writes the
//! responses. Why: `vendor-notes/tiny_http.md`.

mod connection;
mod health;
mod routes;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use parking_lot::{Condvar, Mutex};
use socket2::Socket;

pub use health::{Health, HealthState};

use crate::config;
use crate::net::{Cancel, Reason};
use crate::telemetry::RateLimit;
use crate::threads::{self, SpawnError, Stack};
use routes::Readiness;

/// Why the local server can't begin; fatal at start (config-and-state.md §10.2).
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(
        "cannot listen on {address}: {cause}; free the port, or set agent.port (--port) or \
         agent.bind_address"
    )]
    Bind {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error(transparent)]
    Thread(#[from] SpawnError),
}

/// A listening server. Dropping it stops it without grace.
#[derive(Debug)]
pub struct LocalServer {
    address: SocketAddr,
    listener: Arc<Socket>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<Option<()>>>,
}

/// What the accept loop and the connections have in common.
#[derive(Debug)]
struct Shared {
    health: Arc<HealthState>,
    readiness: Readiness,
    limits: Limits,
    /// Ends connections that outlive the grace.
    cancel: Cancel,
    live: Mutex<Live>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Live {
    stopping: bool,
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// What one client, and all of them, may take.
#[derive(Clone, Debug)]
struct Limits {
    /// From accepted to the end of the request's head.
    head: Duration,
    head_bytes: usize,
    /// One write of the response.
    write: Duration,
    connections: usize,
    per_address: usize,
}

impl LocalServer {
    /// Listens on `agent.bind_address` and `agent.port`, and answers from then on.
    pub fn start(agent: &config::Agent, health: Arc<HealthState>) -> Result<Self, ServerError> {
        let address = agent
            .bind_address
            .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        let readiness = if agent.truthful_readiness_probe {
            Readiness::Truthful
        } else {
            Readiness::Compatible
        };
        let address = SocketAddr::new(address, agent.port);
        Self::start_with(address, health, readiness, LIMITS)
    }

    fn start_with(
        address: SocketAddr,
        health: Arc<HealthState>,
        readiness: Readiness,
        limits: Limits,
    ) -> Result<Self, ServerError> {
        let failed = |cause| ServerError::Bind { address, cause };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = Arc::new(Socket::from(listener));
        let shared = Arc::new(Shared {
            health,
            readiness,
            limits,
            cancel: Cancel::new(),
            live: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = threads::spawn("local-accept", Stack::Work, {
            let (listener, shared) = (listener.clone(), shared.clone());
            move || accept(&listener, &shared)
        })?;
        info!(address:% = address; "local server is listening");
        Ok(Self {
            address,
            listener,
            shared,
            accepting: Some(accepting),
        })
    }

    /// Where it listens; tells the port when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing new, lets what runs finish within `grace`, then cuts it. Returns
    /// when no thread of the server is left, at most about a second after the grace.
    pub fn stop(mut self, grace: Duration) {
        self.end(grace);
    }

    fn end(&mut self, grace: Duration) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.shared.live.lock().stopping = true;
        self.shared.changed.notify_all();
        // Wakes `accept` on Linux. That it may already be ended changes nothing.
        drop(self.listener.shutdown(std::net::Shutdown::Both));
        // The loop catches its panics itself (`threads`).
        drop(accepting.join());
        if !self.shared.wait_empty(Instant::now() + grace) {
            self.shared.cancel.cancel(Reason::Shutdown);
            self.shared
                .wait_empty(Instant::now() + Duration::from_secs(1));
        }
        debug!("local server stopped");
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn accept(listener: &Socket, shared: &Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = listener.accept();
        if shared.live.lock().stopping {
            return;
        }
        match accepted {
            Ok((socket, from)) => {
                pause = FIRST_PAUSE;
                let from = from
                    .as_socket()
                    .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |address| {
                        address.ip().to_canonical()
                    });
                admit(socket, from, shared);
            }
            // No descriptors, no memory: it may pass, and ending the loop would turn
            // a bad minute into a dead probe.
            Err(error) => {
                if let Some(skipped) = TROUBLE.pass() {
                    warn!(error:% = error, skipped; "cannot accept local connections");
                }
                let mut live = shared.live.lock();
                if !live.stopping {
                    shared.changed.wait_for(&mut live, pause);
                }
                if live.stopping {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn admit(socket: Socket, from: IpAddr, shared: &Arc<Shared>) {
    let Some(place) = Place::take(shared, from) else {
        if let Some(skipped) = TROUBLE.pass() {
            warn!(from:% = from, skipped; "too many local connections, one is refused");
        }
        return;
    };
    let spawned = threads::spawn("local-http", Stack::Work, move || {
        if let Err(error) = connection::serve(&Arc::new(socket), &place.shared) {
            debug!(from:% = from, error:% = error; "local connection ended early");
        }
    });
    if let Err(error) = spawned
        && let Some(skipped) = TROUBLE.pass()
    {
        warn!(error:% = error, skipped; "a local connection is refused");
    }
}

/// One connection's place among those allowed.
struct Place {
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, from: IpAddr) -> Option<Self> {
        let mut live = shared.live.lock();
        if live.total >= shared.limits.connections {
            return None;
        }
        let mine = live.by_address.entry(from).or_default();
        if *mine >= shared.limits.per_address {
            return None;
        }
        *mine += 1;
        live.total += 1;
        Some(Self {
            shared: shared.clone(),
            from,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut live = self.shared.live.lock();
        live.total -= 1;
        if let Some(mine) = live.by_address.get_mut(&self.from) {
            *mine -= 1;
            if *mine == 0 {
                live.by_address.remove(&self.from);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Waits until no connection is left; false when `until` came first.
    fn wait_empty(&self, until: Instant) -> bool {
        let mut live = self.live.lock();
        while live.total > 0 {
            if self.changed.wait_until(&mut live, until).timed_out() {
                return live.total == 0;
            }
        }
        true
    }
}

/// local-server.md §2. A probe asks every few seconds with one connection; the cap
/// per address keeps one neighbour from taking all places.
const LIMITS: Limits = Limits {
    head: Duration::from_secs(10),
    head_bytes: 64 * 1024,
    write: Duration::from_secs(30),
    connections: 128,
    per_address: 32,
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

static TROUBLE: RateLimit = RateLimit::new(3, Duration::from_mins(1));

#[cfg(test)]
mod tests;
