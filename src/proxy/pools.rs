//! Connections to Services and origins: a pool for each, and not too many pools; and
//! what of them speaks TLS.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::Socket;

use super::services::{ConnectionLimits, Service, Unreached};
use crate::http::Client;
use crate::http::client::{CallError, IdleCount, Pool, Way};
use crate::net::{Cancel, ClientTls, Deadline, Halves, HandshakeError, explain_tls};

/// One pool for each Service and scheme.
pub(super) struct Pools {
    limits: ConnectionLimits,
    pools: Mutex<HashMap<Key, Used>>,
    /// Idle connections of all pools.
    idle: IdleCount,
    tls: OnceLock<Arc<ClientTls>>,
    spoken: Arc<Spoken>,
}

/// The Service's own key, and whether TLS is spoken.
type Key = (String, bool);

struct Used {
    pool: Arc<Pool>,
    last: Instant,
}

impl Pools {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            pools: Mutex::default(),
            idle: IdleCount::default(),
            tls: OnceLock::new(),
            spoken: Arc::default(),
        }
    }

    /// For one call to this Service, by TLS or not.
    pub(super) fn client(
        &self,
        service: &Arc<dyn Service>,
        https: bool,
    ) -> Result<Client, CallError> {
        let way = self.way(service, https)?;
        let pool = self.pool(service, https);
        let authority = service.authority();
        Ok(Client::sharing(
            pool,
            way,
            authority,
            self.limits.dial_limit,
        ))
    }

    /// How a connection to this Service comes about.
    fn way(&self, service: &Arc<dyn Service>, https: bool) -> Result<ServiceWay, CallError> {
        let tls = if https { Some(self.tls()?) } else { None };
        Ok(ServiceWay {
            service: service.clone(),
            tls,
            handshake_limit: self.limits.handshake_limit,
            spoken: self.spoken.clone(),
        })
    }

    fn pool(&self, service: &Arc<dyn Service>, https: bool) -> Arc<Pool> {
        let key = (service.key(), https);
        let last = Instant::now();
        let mut pools = self.pools.lock();
        if let Some(used) = pools.get_mut(&key) {
            used.last = last;
            return used.pool.clone();
        }
        let surplus = if pools.len() >= MAX_POOLS {
            let oldest = pools.iter().min_by_key(|(_, used)| used.last);
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.and_then(|key| pools.remove(&key))
        } else {
            None
        };
        let (max, limit) = (self.limits.max_idle_each, self.limits.idle_limit);
        let pool = Arc::new(Pool::new(max, limit, self.idle.clone()));
        let used = Used {
            pool: pool.clone(),
            last,
        };
        pools.insert(key, used);
        drop(pools);
        drop(surplus); // closes sockets: outside the lock
        pool
    }

    /// After a call: closes what waits longest while too much is idle.
    pub(super) fn trim(&self) {
        while self.idle.now() > self.limits.max_idle {
            let oldest = {
                let pools = self.pools.lock();
                let waiting = pools
                    .values()
                    .filter_map(|used| Some((used.pool.oldest()?, used.pool.clone())));
                waiting.min_by_key(|(since, _)| *since)
            };
            let Some((_, pool)) = oldest else {
                return; // in pools that are no longer here: they close by themselves
            };
            pool.close_oldest();
        }
    }

    /// Whether there is anything to look after.
    pub(super) fn is_empty(&self) -> bool {
        self.pools.lock().is_empty()
    }

    /// Closes what is idle for too long.
    pub(super) fn sweep(&self) {
        let all: Vec<Arc<Pool>> = {
            let pools = self.pools.lock();
            pools.values().map(|used| used.pool.clone()).collect()
        };
        for pool in all {
            pool.sweep(); // closes sockets: outside the lock
        }
        let limit = self.limits.idle_limit;
        let mut pools = self.pools.lock();
        pools.retain(|_, used| !used.pool.is_empty() || used.last.elapsed() < limit);
    }

    /// Idle connections now.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.now()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.pools.lock().len()
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

/// What those speak that were asked for TLS (control-channel.md T13), by the Service's
/// key.
#[derive(Default)]
struct Spoken(Mutex<HashMap<String, Speech>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    /// For good: from then on nobody who pretends that it has none gets the request in
    /// clear text.
    Tls,
    /// Until then nobody asks again.
    Plain(Instant),
}

impl Spoken {
    fn by(&self, key: &str) -> Option<Speech> {
        let mut known = self.0.lock();
        let speech = *known.get(key)?;
        if let Speech::Plain(until) = speech
            && until <= Instant::now()
        {
            known.remove(key);
            return None;
        }
        Some(speech)
    }

    fn note(&self, key: String, speech: Speech) {
        let mut known = self.0.lock();
        if known.len() >= MAX_SPOKEN && !known.contains_key(&key) {
            known.retain(|_, speech| *speech == Speech::Tls);
            if known.len() >= MAX_SPOKEN {
                return;
            }
        }
        known.insert(key, speech);
    }
}

/// The way to one Service, for one call: the policy, a connection, perhaps TLS on top.
struct ServiceWay {
    service: Arc<dyn Service>,
    tls: Option<Arc<ClientTls>>,
    handshake_limit: Duration,
    spoken: Arc<Spoken>,
}

impl Way for ServiceWay {
    fn open(&self, limit: Deadline, cancel: &Cancel) -> Result<Halves, CallError> {
        let Some(tls) = &self.tls else {
            return Ok(Halves::shared(self.service.dial(limit, cancel)?));
        };
        // The scheme is the client's, and its port may be one of plain HTTP (T13). One
        // that is configured is as it says.
        let is_sure = self.service.https().is_some();
        let key = self.service.key();
        let spoken = self.spoken.by(&key).filter(|_| !is_sure);
        let socket = self.service.dial(limit, cancel)?;
        if matches!(spoken, Some(Speech::Plain(_))) {
            return Ok(Halves::shared(socket));
        }
        let soon = limit.earlier(Deadline::after(self.handshake_limit));
        match self.encrypt(socket, tls, soon, cancel) {
            Ok(halves) => {
                if !is_sure && spoken.is_none() {
                    self.spoken.note(key, Speech::Tls);
                }
                Ok(halves)
            }
            // Nothing of the request has been sent.
            Err(HandshakeError::Tls(error))
                if !is_sure && spoken.is_none() && is_no_tls(&error) =>
            {
                log::debug!(
                    "{} speaks no TLS; it is called without",
                    self.service.name()
                );
                let until = Instant::now() + PLAIN_FOR;
                self.spoken.note(key, Speech::Plain(until));
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
        }
    }

    fn allows(&self, socket: &Socket) -> bool {
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        self.service.allows(peer)
    }

    fn keeps(&self) -> bool {
        self.service.keeps()
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

impl From<Unreached> for CallError {
    fn from(unreached: Unreached) -> Self {
        match unreached {
            Unreached::Denied(_) => Self::Denied(unreached.to_string()),
            Unreached::Unknown(_) | Unreached::Failed(_) => {
                Self::Unreachable(unreached.to_string())
            }
        }
    }
}

/// Services that connections are kept to; more take the place of the one that was
/// called longest ago.
const MAX_POOLS: usize = 128;

/// Services of which is known what they speak.
const MAX_SPOKEN: usize = 4096;

/// Whoever spoke no TLS is asked again after this long: it may have been exchanged.
const PLAIN_FOR: Duration = Duration::from_mins(10);
