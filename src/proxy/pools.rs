//! Connections to Services and origins: a pool for each, and not too many pools.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use socket2::Socket;

use super::services::{Refused, Service};
use crate::http::Client;
use crate::http::client::{self, CallError, Way};
use crate::net::{Cancel, ClientTls, Deadline, Halves, HandshakeError, explain_tls};

/// One pool for each Service and scheme.
pub(super) struct Pools {
    settings: client::Settings,
    pools: Mutex<HashMap<Key, Pool>>,
    tls: OnceLock<Arc<ClientTls>>,
}

/// The Service's own key, and whether TLS is spoken.
type Key = (String, bool);

struct Pool {
    client: Client,
    used: Instant,
}

impl Pools {
    pub(super) fn new(settings: client::Settings) -> Self {
        Self {
            settings,
            pools: Mutex::default(),
            tls: OnceLock::new(),
        }
    }

    /// For calls to this Service, by TLS or not.
    pub(super) fn client(
        &self,
        service: &Arc<dyn Service>,
        https: bool,
    ) -> Result<Client, CallError> {
        let tls = if https { Some(self.tls()?) } else { None };
        let key = (service.key(), https);
        let used = Instant::now();
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get_mut(&key) {
            pool.used = used;
            return Ok(pool.client.clone());
        }
        let surplus = if pools.len() >= MAX_POOLS {
            let oldest = pools.iter().min_by_key(|(_, pool)| pool.used);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| pools.remove(&key))
        } else {
            None
        };
        let authority = service.authority();
        let way = ServiceWay {
            service: service.clone(),
            tls,
        };
        let client = Client::over(way, authority, self.settings.clone());
        let pool = Pool {
            client: client.clone(),
            used,
        };
        pools.insert(key, pool);
        drop(pools);
        drop(surplus); // closes sockets: outside the lock
        Ok(client)
    }

    /// Idle connections, and pools without any.
    pub(super) fn idle(&self) -> usize {
        let pools = self.pools.lock();
        pools.values().map(|pool| pool.client.idle().max(1)).sum()
    }

    /// Closes what is idle for too long.
    pub(super) fn sweep(&self) {
        let clients: Vec<Client> = {
            let pools = self.pools.lock();
            pools.values().map(|pool| pool.client.clone()).collect()
        };
        for client in clients {
            client.sweep(); // closes sockets: outside the lock
        }
        let limit = self.settings.idle_limit;
        let mut pools = self.pools.lock();
        pools.retain(|_, pool| pool.client.idle() > 0 || pool.used.elapsed() < limit);
    }

    /// Closes all that is idle.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.pools.lock().clear();
    }

    fn tls(&self) -> Result<Arc<ClientTls>, CallError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let made = ClientTls::unverified().map_err(|e| CallError::Unreachable(e.to_string()))?;
        Ok(self.tls.get_or_init(|| Arc::new(made)).clone())
    }
}

/// The way to one Service: the policy, a connection, perhaps TLS on top.
struct ServiceWay {
    service: Arc<dyn Service>,
    tls: Option<Arc<ClientTls>>,
}

impl Way for ServiceWay {
    fn open(&self, limit: Deadline, cancel: &Cancel) -> Result<Halves, CallError> {
        let socket = self.service.dial(limit, cancel)?;
        let Some(tls) = &self.tls else {
            return Ok(Halves::shared(socket));
        };
        match self.encrypt(socket, tls, limit, cancel) {
            // The scheme is the client's, and its port may be one of plain HTTP (T13).
            // Nothing of the request has been sent.
            Err(HandshakeError::Tls(error))
                if self.service.https().is_none() && is_no_tls(&error) =>
            {
                log::debug!(
                    "{} speaks no TLS; it is called without",
                    self.service.name()
                );
                Ok(Halves::shared(self.service.dial(limit, cancel)?))
            }
            Err(error) => Err(CallError::Unreachable(format!(
                "{}: TLS handshake: {}",
                self.service.name(),
                match &error {
                    HandshakeError::Tls(error) => explain_tls(error),
                    other => other.to_string(),
                }
            ))),
            Ok(halves) => Ok(halves),
        }
    }

    fn allows(&self, socket: &Socket) -> bool {
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        self.service.allows(peer)
    }
}

impl ServiceWay {
    fn encrypt(
        &self,
        socket: Arc<Socket>,
        tls: &ClientTls,
        limit: Deadline,
        cancel: &Cancel,
    ) -> Result<Halves, HandshakeError> {
        let ended = |reason: crate::net::Reason| {
            HandshakeError::Io(std::io::Error::other(reason.to_string()))
        };
        let _guard = cancel.on_socket(socket.clone()).map_err(ended)?;
        let authority = self.service.authority();
        let session = tls
            .session(host_of(&authority))
            .map_err(|error| HandshakeError::Io(std::io::Error::other(error)))?;
        let mut halves = Halves::shared(socket);
        halves.set_deadline(Some(limit));
        let mut halves = halves.tls_client(session)?;
        halves.set_deadline(None);
        Ok(halves)
    }
}

/// Without its port and brackets.
fn host_of(authority: &str) -> &str {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What came as the answer to a ClientHello is no record of TLS.
fn is_no_tls(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
                | rustls::InvalidMessage::UnknownProtocolVersion
        )
    )
}

impl From<Refused> for CallError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(_) => Self::Denied(refused.to_string()),
            Refused::Unknown(_) | Refused::Unreachable(_) => Self::Unreachable(refused.to_string()),
        }
    }
}

/// Services that connections are kept to; more take the place of the one that was
/// called longest ago. With 20 idle connections each it is a few thousand sockets at
/// the very most, for 90 seconds.
const MAX_POOLS: usize = 128;
