//! One exposure while the plane runs: its clients, and their streams.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::State;
use super::exposure::Exposure;
use crate::net::{self, Cancel, Guard};
use crate::plane::hub::Hub;
use crate::telemetry::RateLimit;
use crate::threads::Stack;
use crate::tunnel::header::Version;
use crate::tunnel::session::{Payload, Stream};
use crate::tunnel::streams::{self, Account};
use crate::workers::Workers;
use crate::yamux::{Cut, OpenError, Reset};

/// The threads of all exposures.
pub(super) struct Crew {
    /// They open streams, and read heads of requests.
    pub(super) openers: Workers,
    pub(super) copiers: Workers,
    pub(super) settings: streams::Settings,
}

impl Crew {
    pub(super) fn new() -> Self {
        Self {
            openers: Workers::new("expose", Stack::Work, PARKED),
            copiers: Workers::new("expose-copy", Stack::Copy, PARKED),
            settings: streams::Settings::default(),
        }
    }
}

/// Where the clients of one exposure pass.
pub(super) struct Entrance {
    pub(super) exposure: Exposure,
    pub(super) crew: Arc<Crew>,
    hub: Arc<Hub>,
    /// Ends its listener and all clients.
    pub(super) cancel: Cancel,
    clients: AtomicUsize,
    total: AtomicU64,
    refused: AtomicU64,
    /// From the Service to clients, in bytes.
    down: AtomicU64,
    up: AtomicU64,
}

/// What an entrance has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) clients: usize,
    pub(super) total: u64,
    pub(super) refused: u64,
    pub(super) down: u64,
    pub(super) up: u64,
}

/// Why a client gets no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoStream {
    #[error("the agent is not connected, or has no tunnels")]
    Away,
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("the stream was lost at once")]
    Lost,
    #[error("it has too many clients")]
    Full,
    #[error("it is not exposed any more")]
    Closed,
    #[error("the streams before came to nothing; it has to wait for the next")]
    Failing,
}

impl Entrance {
    pub(super) fn new(exposure: Exposure, hub: Arc<Hub>, crew: Arc<Crew>) -> Arc<Self> {
        Arc::new(Self {
            exposure,
            crew,
            hub,
            cancel: Cancel::new(),
            clients: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            down: AtomicU64::new(0),
            up: AtomicU64::new(0),
        })
    }

    /// Counts a client in, unless there are too many.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Client, NoStream> {
        if self.cancel.reason().is_some() {
            return Err(NoStream::Closed);
        }
        let more = |clients| (clients < MAX_CLIENTS).then_some(clients + 1);
        let entered = self
            .clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if entered.is_err() {
            self.refuse(&NoStream::Full);
            return Err(NoStream::Full);
        }
        Ok(Client {
            entrance: self.clone(),
            guard: None,
        })
    }

    /// Opens a stream for a client, its header sent. Waits until `until`, and only
    /// while the agent is slow to answer others before it.
    pub(super) fn open(&self, client: SocketAddr, until: Instant) -> Result<Stream, NoStream> {
        let Exposure {
            entry,
            cluster,
            service,
            ..
        } = &self.exposure;
        let (session, version) = self.hub.tunnels(cluster).ok_or(NoStream::Away)?;
        // A listener on [::] shows the clients of IPv4 as addresses of IPv6.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        let client = (version == Version::Two).then_some(client);
        let header = service.header(entry.protocol(), entry.tunnel_id(), client);
        // Both were checked when it was exposed.
        let header = header.encode(version).map_err(|_| NoStream::Lost)?;
        let stream = session.open(until)?;
        let sent = stream.send(Payload::from(&header[..]), Some(until));
        sent.map_err(|_| NoStream::Lost)?;
        Ok(stream)
    }

    /// A client was turned away.
    pub(super) fn refuse(&self, why: &dyn std::fmt::Display) {
        static REFUSED: RateLimit = RateLimit::new(5, Duration::from_mins(1));
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(skipped) = REFUSED.pass() {
            let entry = &self.exposure.entry;
            let cluster = self.exposure.cluster.as_str();
            log::info!(cluster, skipped; "a client of {entry} is refused: {why}");
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            clients: self.clients.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            up: self.up.load(Ordering::Relaxed),
        }
    }

    /// Whether the agent of its cluster can take streams now.
    pub(super) fn reach(&self) -> State {
        match self.hub.connection(&self.exposure.cluster) {
            None => State::Away,
            Some(connection) if connection.tunnels().is_none() => State::NoTunnels,
            Some(_) => State::Open,
        }
    }
}

/// One client's place; given back when it is dropped.
pub(super) struct Client {
    entrance: Arc<Entrance>,
    /// Takes the stream from it when the exposure ends.
    guard: Option<Guard>,
}

impl Client {
    /// It has its stream, which the end of the exposure resets from now on.
    pub(super) fn holds(&mut self, stream: &Stream) -> Result<(), NoStream> {
        let held = stream.clone();
        let reset = Arc::new(move || held.reset(Reset::AtOnce));
        let guard = self.entrance.cancel.on_wake(reset);
        self.guard = Some(guard.map_err(|_| NoStream::Closed)?);
        self.entrance.total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Leads a connection to the Service. An error leaves the connection as it is.
    pub(super) fn connect(
        mut self,
        socket: &Arc<Socket>,
        address: SocketAddr,
        first: &[u8],
    ) -> Result<(), NoStream> {
        let stream = self.start(address, first)?;
        self.join(stream, socket);
        Ok(())
    }

    /// Opens the client's stream, `first` before all else on it.
    pub(super) fn start(&mut self, address: SocketAddr, first: &[u8]) -> Result<Stream, NoStream> {
        let refuse = |why: NoStream| {
            self.entrance.refuse(&why);
            why
        };
        let until = Instant::now() + OPEN_LIMIT;
        let stream = self.entrance.open(address, until).map_err(refuse)?;
        self.send(&stream, first, until).map_err(refuse)?;
        self.holds(&stream)?;
        Ok(stream)
    }

    /// Sends what fits in what every stream may send at first: a head.
    pub(super) fn send(
        &self,
        stream: &Stream,
        bytes: &[u8],
        until: Instant,
    ) -> Result<(), NoStream> {
        for part in bytes.chunks(PART) {
            let sent = stream.send(Payload::from(part), Some(until));
            sent.map_err(|_| NoStream::Lost)?;
        }
        self.moved_out(bytes.len());
        Ok(())
    }

    /// From now on bytes go both ways, until the end.
    pub(super) fn join(self, stream: Stream, socket: &Arc<Socket>) {
        let crew = self.entrance.crew.clone();
        let (settings, copiers) = (&crew.settings, &crew.copiers);
        streams::join(stream, socket.clone(), Box::new(self), settings, copiers);
    }
}

impl Account for Client {
    fn moved_in(&self, bytes: usize) {
        let down = &self.entrance.down;
        down.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn moved_out(&self, bytes: usize) {
        self.entrance.up.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn ended(&self, _: &'static str) {}

    fn failed(&self, why: Cow<'static, str>) {
        log::debug!("a client of {}: {why}", self.entrance.exposure.entry);
    }

    fn copy_failed(&self, why: String) {
        self.failed(why.into());
    }

    fn cut(&self, cut: Cut) {
        self.failed(cut.to_string().into());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.entrance.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Turns a connection away, so that its client sees it at once.
pub(super) fn turn_away(socket: &Socket) {
    net::abort(socket);
}

/// Clients of one exposure at a time.
pub(super) const MAX_CLIENTS: usize = 1024;

/// How long a client waits for its stream.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// Bytes of a head in one frame.
const PART: usize = 16 * 1024;

/// How long a thread without work is kept.
const PARKED: Duration = Duration::from_secs(3);
