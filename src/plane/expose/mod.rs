//! Services of clusters, exposed by the plane: listeners whose clients are led over
//! the tunnel of an agent (decisions.md §6.6).
//!
//! ```text
//!  client ─► tcp, udp, http: a listener's thread         entrance: counts, limits
//!               └► [expose-N] Entrance::open ─► Session::open, header
//!                     └► [expose-copy-N] tunnel::streams::join, as at the agent
//! ```
//!
//! What is exposed is in the registry, and open again after a restart: `exposer`
//! opens and closes, and tries again where an address was in use. A client that comes
//! while the agent is away is reset at once (HTTP: 503); one whose agent goes is
//! reset then.

mod backoff;
mod entrance;
mod exposer;
mod exposure;
mod http;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde::{Deserialize, Serialize};

pub(in crate::plane) use exposer::Exposer;
pub use exposure::{Entry, Exposure, ServiceError, ServiceName};

use crate::net::Cancel;
use entrance::Counts;

/// What is shown of an exposure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposureView {
    pub exposure: Exposure,
    pub state: State,
    /// Now, those included whose stream is being opened.
    pub clients: usize,
    /// Clients that had a stream, since it was opened.
    pub total: u64,
    /// Clients that were turned away; of UDP, datagrams.
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
    /// It listens, but the agent is away.
    Away,
    /// It listens, but the agent has none, or hasn't agreed on them yet.
    NoTunnels,
    /// It can't listen: why, and when it tries again.
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

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Where the HTTP listener is opened while hosts are exposed.
    pub(crate) http: SocketAddr,
    /// A UDP client without a datagram for this long is forgotten.
    pub(crate) udp_idle: Duration,
    /// What a UDP client waits for its next stream when the agent has ended the last one
    /// and nothing had come of it; doubles while that goes on ([`backoff`]).
    pub(crate) udp_pause: Duration,
    /// Before a listener that couldn't be opened at the start is tried again; doubles
    /// up to [`LAST_RETRY`](exposer::LAST_RETRY).
    pub(crate) retry: Duration,
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

/// For a listener that can't take anybody now: out of descriptors, most likely. Not in
/// a tight loop, and over when `cancel` fires.
fn pause(cancel: &Cancel) {
    let (wake, woken) = bounded(1);
    let waker = move || {
        // Full: it has been woken already.
        let _ = wake.try_send(());
    };
    let _guard = cancel.on_wake(std::sync::Arc::new(waker));
    let _ = woken.recv_timeout(PAUSE);
}

const PAUSE: Duration = Duration::from_secs(1);
