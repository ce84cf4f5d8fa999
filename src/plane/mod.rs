//! Our own control plane: small, self-hostable, and the peer of the agent in the
//! demo and in our tests (decisions.md §5, §6.4).
//!
//! One request of a user and its answer, file by file:
//!
//! ```text
//!  client ─► http::Server ─► FrontDoor: token, role, which cluster        front/mod.rs
//!                               │
//!                            forward: opens an Exchange, sends,           front/proxied.rs
//!                               │     waits for the head, relays
//!                               ▼
//!                            AgentConnection::open ─► InFlight            agent_connection.rs
//!                               │
//!                            RequestSender: proxy_request, _chunk, …      in_flight.rs
//!                               │     (its slot, waits for room)
//!                               ▼
//!                            link ═══════════ agent ══ cluster
//!                               │
//!                            link-reader ─► AgentReceiver (never waits)   agent_receiver.rs
//!                               │
//!                               ▼
//!                            Exchange: head, pieces, end                  exchange.rs
//!                               │
//!  client ◄─ ResponseWriter ◄─ relay, and credit back to the agent        front/proxied.rs
//! ```
//!
//! and its cancellation: the client leaves → `ClientWatcher` (thread `plane-watch`)
//! fires the exchange's `Cancel` → `Exchange::end_when_cancelled` ends the exchange, the
//! client's socket is shut down → `relay` and `upload` stop waiting and return →
//! `InFlight` is dropped → `proxy_cancel`. What else ends an exchange stands at
//! `Exchange`.
//!
//! A WebSocket of a client (`kubectl exec`) takes the same way with other stations:
//! `websocket::forward`, `LiveStream` and `Stream`, `leg::carry` (pictures in
//! front/websocket.rs and front/leg.rs). What `Exchange` and `Stream` have in common is
//! `Pending`.
//!
//! Around that path: `agent` runs an agent's connection from its upgrade to its end
//! and `dialogue` says on it what is no request (hello, registration, heartbeat: the
//! `agent_event`s); `flow` counts the credit of one request, `budget` the memory of
//! all, `token_quota` the requests of one user; the `hub` knows who is connected, the
//! `registry` keeps clusters and tokens on disk, `api` is for agents without a
//! WebSocket, `admin` lets the command line reach hub and registry while the plane runs.
//! What flows over tunnels has its own picture, in `expose`.

mod admin;
mod agent;
mod agent_connection;
mod agent_event;
mod agent_receiver;
mod api;
mod budget;
mod certificate;
pub mod cli;
mod config;
mod dialogue;
mod error;
mod exchange;
mod expose;
mod flow;
mod flusher;
mod front;
mod hub;
mod in_flight;
mod live_stream;
mod name;
mod pending;
mod registry;
mod stream;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod token;
mod token_quota;
mod tunnels;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

pub use admin::AdminError;
pub use certificate::{CertificateError, CertificateSource};
pub use config::{GatewayUrl, PlaneConfig};
pub use error::PlaneError;
pub use expose::{
    Entry, Exposure, ExposureView, ServiceError, ServiceName, State as ExposureState,
};
pub use hub::ClusterView;
pub use name::{ClusterName, NameError};
pub use registry::{AgentInfo, Cluster, RegistryError, Token, UnixTime};
pub use token::{Access, Grant, Scope, TokenText};

use crate::http::server::{Server, Settings};
use crate::net::Cancel;
use admin::AdminSocket;
use certificate::Certificate;
use expose::Exposer;
use flusher::Flusher;
use front::{FrontDoor, LastRefusals};
use hub::Hub;
use registry::Registry;

/// A running plane. Dropping it stops it.
pub struct Plane {
    hub: Arc<Hub>,
    server: Option<Server>,
    address: SocketAddr,
    certificate: Certificate,
    admin_socket: Option<AdminSocket>,
    exposer: Arc<Exposer>,
    flusher: Option<Flusher>,
}

impl Plane {
    pub fn start(config: PlaneConfig) -> Result<Self, PlaneError> {
        let registry = open_registry(&config.data_dir)?;
        let certificate = Certificate::load(&config.certificate, &config.data_dir)?;
        let hub = Arc::new(Hub::new(registry));
        let listener = TcpListener::bind(config.listen).map_err(|cause| PlaneError::Listen {
            address: config.listen,
            cause,
        })?;
        let settings = expose::Settings {
            http: config.http,
            udp_idle: UDP_IDLE,
            udp_pause: UDP_PAUSE,
            retry: FIRST_RETRY,
        };
        let exposer = Exposer::start(hub.clone(), settings);
        let told = Some(exposer.clone());
        let admin_socket = match AdminSocket::open(&config.data_dir, hub.clone(), told) {
            Ok(admin_socket) => Some(admin_socket),
            // A path that is too long for a socket, for instance.
            Err(error) => {
                log::warn!(
                    "no control socket, so tokens can't be managed while the plane runs: {error}"
                );
                None
            }
        };
        let flusher = Flusher::start(hub.clone()).map_err(PlaneError::Start)?;
        let settings = Settings {
            name: "plane",
            tls: Some(certificate.tls.clone()),
            max_connections: MAX_CONNECTIONS,
            write_limit: Some(WRITE_LIMIT),
            ..Settings::default()
        };
        let front_door = FrontDoor {
            hub: hub.clone(),
            gateway: config.gateway,
            refusals: LastRefusals::default(),
        };
        let server =
            Server::start(listener, settings, Arc::new(front_door)).map_err(PlaneError::Start)?;
        let address = server.address();
        log::info!(address:%; "the plane listens");
        Ok(Self {
            hub,
            server: Some(server),
            address,
            certificate,
            admin_socket,
            exposer,
            flusher: Some(flusher),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL, for clients on this machine.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate in PEM, for clients that are to trust it.
    pub fn ca_pem(&self) -> &str {
        &self.certificate.pem
    }

    pub fn certificate_path(&self) -> &Path {
        &self.certificate.path
    }

    /// SHA-256 of the certificate, in pairs of hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.certificate.fingerprint
    }

    /// Makes a token. Its text exists only in the answer.
    pub fn create_token(&self, grant: Grant) -> Result<(Token, TokenText), PlaneError> {
        Ok(self.hub.create_token(grant, None)?)
    }

    /// Takes a token back and ends what runs on it; false when there is none of that id.
    pub fn revoke_token(&self, id: &str) -> Result<bool, PlaneError> {
        Ok(self.hub.revoke_token(id)?.is_some())
    }

    /// All clusters that have ever registered, by name.
    pub fn clusters(&self) -> Vec<ClusterView> {
        self.hub.clusters()
    }

    /// Exposes a Service of a cluster, from now on and after restarts; port 0 takes
    /// any. Where clients come in now; an error says what to do.
    pub fn expose(
        &self,
        entry: Entry,
        cluster: ClusterName,
        service: ServiceName,
    ) -> Result<Entry, PlaneError> {
        let exposure = Exposure {
            entry,
            cluster,
            service,
            created: jiff::Timestamp::now().as_second(),
        };
        let exposed = self.exposer.expose(&exposure);
        exposed.map(|it| it.entry).map_err(PlaneError::Entry)
    }

    /// Takes it back, and resets its clients; false when it isn't exposed.
    pub fn unexpose(&self, entry: &Entry) -> Result<bool, PlaneError> {
        let gone = self.exposer.unexpose(entry);
        gone.map(|it| it.is_some()).map_err(PlaneError::Entry)
    }

    /// What is exposed, with what was counted.
    pub fn exposures(&self) -> Vec<ExposureView> {
        self.exposer.views()
    }

    /// Runs until `stop` is cancelled.
    pub fn run_until(self, stop: &Cancel) {
        let (sender, stopped) = bounded(1);
        let waker = Arc::new(move || {
            // Full: it has been told already.
            let _ = sender.try_send(());
        });
        if let Ok(_guard) = stop.on_wake(waker) {
            // The sender lives as long as the guard.
            let _ = stopped.recv();
        }
        self.stop();
    }

    /// Stops it: agents and clients are disconnected, what was to be written is.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        drop(self.admin_socket.take());
        self.exposer.stop();
        // Agents first: with them end the answers that clients wait for.
        self.hub.close(Instant::now() + CLOSE_LIMIT);
        server.stop(STOP_LIMIT);
        drop(server);
        if let Some(flusher) = self.flusher.take() {
            flusher.stop();
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// A command line that has the database open for a moment is waited for.
fn open_registry(directory: &Path) -> Result<Registry, RegistryError> {
    let until = Instant::now() + OPEN_LIMIT;
    loop {
        match Registry::open(directory) {
            Err(RegistryError::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

/// Clients at a time, idle ones included; agents are counted by their tokens.
const MAX_CONNECTIONS: usize = 2048;

/// Requests at a time on one user token: a connection has one, so the other half of
/// them is left for others.
const REQUESTS_PER_TOKEN: usize = MAX_CONNECTIONS / 2;

/// A client that takes nothing for this long is given up. Long, because a terminal
/// that somebody has stopped with Ctrl-S is a slow client, not a dead one.
const WRITE_LIMIT: Duration = Duration::from_mins(5);

/// A UDP client without a datagram for this long is forgotten: as long as an agent
/// waits for one.
const UDP_IDLE: Duration = Duration::from_mins(5);

/// Before a UDP client's second stream, when nothing came of the first.
const UDP_PAUSE: Duration = Duration::from_millis(250);

/// What couldn't be opened at the start: somebody else has the address for a moment,
/// perhaps this plane's predecessor.
const FIRST_RETRY: Duration = Duration::from_secs(1);

const OPEN_LIMIT: Duration = Duration::from_secs(3);
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
const STOP_LIMIT: Duration = Duration::from_secs(2);
