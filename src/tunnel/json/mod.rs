//! TCP and UDP tunnels in JSON messages (tunnels.md §4, its traps T20 to T26).
//!
//! ```text
//! link-reader ─► Dispatch ─► Tunnels ─┬─► Connection: Queue ─► [json-tcp-…] ─► target
//!                                     │   messages ◄─ [json-tcp-…-read] ◄─────┘
//!                                     └─► Session ───────────────────────────► target
//!                                         messages ◄─ [json-udp] ◄────────────┘
//! ```
//!
//! [`Tunnels`] belongs to one connection to the control plane and is used on its
//! reader, which never waits: what a target doesn't take is queued, and a queue that
//! is full ends its own tunnel. When it is dropped, the connection is lost, and so is
//! everything here: targets see an abort.

mod ending;
mod queue;
mod recent;
mod settings;
mod tcp;
mod udp;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

pub use settings::{Preference, Settings};

use super::Protocol;
use super::audit::{Audit, Judged, Line};
use super::header::Header;
use super::proxy_protocol;
use super::target::{Admitted, Refusal, RefusalKind, Targets};
use crate::config::ProxyProtocol;
use crate::link::{Message, SendError};
use crate::net::{Cancel, Deadline};
use crate::telemetry::RateLimit;
use crate::telemetry::metrics::{TCP_CONNECTION_FAILED, TCP_DENIED};
use crate::wire::from_agent;
use crate::wire::tunnel::{CloseReason, Datagram, Target, TcpClose, TcpStart};
use crate::yamux::Budget;

use ending::End;
use queue::{Chunk, Memory, PushError};
use recent::Recent;
use tcp::Connection;

/// The way back to the peer.
pub trait Outlet: Send + Sync {
    /// Queues a message of this tunnel, behind what it has queued before; waits for
    /// room until there is some, the connection ends or `cancel` fires.
    fn send(&self, tunnel: &str, message: Message, cancel: &Cancel) -> Result<(), SendError>;
}

/// The JSON tunnels of this agent, on whatever connection.
pub struct JsonTunnels {
    settings: Settings,
    targets: Arc<Targets>,
    audit: Arc<Audit>,
    memory: Memory,
    connections: Arc<AtomicUsize>,
    sessions: Arc<AtomicUsize>,
    /// Held by whatever lives; `None` when nothing may begin any more.
    alive: Mutex<Option<Sender<()>>>,
    /// Disconnected when nothing lives.
    ended: Receiver<()>,
}

/// One of so many; given back when it is dropped.
struct Place {
    of: Arc<AtomicUsize>,
    _alive: Sender<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.fetch_sub(1, Ordering::Relaxed);
    }
}

impl JsonTunnels {
    /// `budget` is what the queues of all tunnels, those of yamux too, may hold
    /// together.
    pub fn new(
        settings: Settings,
        targets: Arc<Targets>,
        audit: Arc<Audit>,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let (alive, ended) = bounded(0);
        Arc::new(Self {
            memory: Memory::new(settings.memory, budget),
            settings,
            targets,
            audit,
            connections: Arc::default(),
            sessions: Arc::default(),
            alive: Mutex::new(Some(alive)),
            ended,
        })
    }

    /// Those of a new connection to the control plane (T20: of whichever kind).
    pub fn connection(self: &Arc<Self>, outlet: Arc<dyn Outlet>) -> Tunnels {
        Tunnels {
            table: Arc::default(),
            udp: udp::Sessions::new(self.clone(), outlet.clone()),
            shared: self.clone(),
            outlet,
            unknown: RateLimit::new(MAX_UNKNOWN, Duration::from_secs(1)),
        }
    }

    /// Connections of TCP and sessions of UDP that there are now, ending ones
    /// included.
    pub fn live(&self) -> (usize, usize) {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        (count(&self.connections), count(&self.sessions))
    }

    /// Begins nothing more, and waits until nothing is left of what there was, until
    /// `deadline` at most. Their connections have to be gone.
    pub fn finish(&self, deadline: Deadline) {
        drop(self.alive.lock().take());
        // Nothing is ever sent there.
        let _ = self.ended.recv_deadline(deadline.instant());
    }

    fn place(&self, of: &Arc<AtomicUsize>, limit: usize) -> Option<Place> {
        let alive = self.alive.lock().clone()?;
        let order = Ordering::Relaxed;
        let taken = of.try_update(order, order, |used| (used < limit).then_some(used + 1));
        taken.ok().map(|_| Place {
            of: of.clone(),
            _alive: alive,
        })
    }

    /// T23: the Service, where one is named, or the port of this machine; the other
    /// one where the first can't be meant. What the policy denies is denied. With it,
    /// which PROXY protocol the target wants to hear: a target that trusts it must
    /// not be reached without, or the client could say itself who it is.
    fn admit(
        &self,
        protocol: Protocol,
        target: &Target<'_>,
    ) -> Result<(Admitted, Option<ProxyProtocol>), Refusal> {
        let service = || -> Result<_, Refusal> {
            let admitted = self.targets.admit(&Header {
                protocol,
                port: target.port,
                service: target.service.as_ref().into(),
                namespace: target.namespace.as_ref().into(),
                tunnel_id: String::new(),
                client: None,
            })?;
            let name = (&*target.namespace, &*target.service, target.port);
            let is_route = admitted.origin().is_some();
            let proxy = proxy_protocol::configured(&self.settings.proxy_protocol, name, is_route);
            Ok((admitted, proxy))
        };
        let local = || -> Result<_, Refusal> {
            let admitted = self.targets.admit_local(protocol, target.gateway_port)?;
            Ok((admitted, None))
        };
        let named = !target.service.is_empty() && !target.namespace.is_empty() && target.port != 0;
        match self.settings.prefer {
            Preference::Service if named => match service() {
                Err(refusal) if refusal.kind == RefusalKind::Denied => Err(refusal),
                Err(refusal) if target.gateway_port == 0 => Err(refusal),
                Err(_) => local(),
                admitted => admitted,
            },
            Preference::Gateway if named && target.gateway_port == 0 => service(),
            Preference::Service | Preference::Gateway => local(),
        }
    }
}

/// What the table of connections and its ended ones know.
#[derive(Default)]
struct Table {
    live: HashMap<Arc<str>, Arc<Connection>>,
    /// Late messages for them are nobody's fault.
    ended: Recent,
}

/// The tunnels of one connection to the control plane. None of its methods waits;
/// what they give is to be sent to the peer.
pub struct Tunnels {
    shared: Arc<JsonTunnels>,
    outlet: Arc<dyn Outlet>,
    table: Arc<Mutex<Table>>,
    udp: udp::Sessions,
    unknown: RateLimit,
}

impl Tunnels {
    /// `tcp_tunnel_start`. What fails later, the tunnel says itself.
    pub fn start(&mut self, id: &str, start: &TcpStart<'_>) -> Option<Message> {
        let mut table = self.table.lock();
        // One that has only its close to send makes room for the next.
        if table.live.get(id).is_some_and(|live| !live.is_ending()) {
            static TWICE: RateLimit = RateLimit::new(5, Duration::from_mins(1));
            if let Some(skipped) = TWICE.pass() {
                log::warn!(skipped; "tcp_tunnel_start for a connection that there is already");
            }
            return None;
        }
        table.ended.remove(id);
        if start.tunnel_id.len() > MAX_NAME
            || start.client.len() > MAX_NAME
            || names_are_too_long(&start.target)
        {
            let error = format!("a name has more than {MAX_NAME} bytes");
            return Some(refusal(id, CloseReason::RegistrationFailed, &error));
        }
        let max = self.shared.settings.max_connections;
        let Some(place) = self.shared.place(&self.shared.connections, max) else {
            let error = format!("max TCP connections reached: {max}");
            return Some(refusal(id, CloseReason::RegistrationFailed, &error));
        };
        let (admitted, proxy) = match self.shared.admit(Protocol::Tcp, &start.target) {
            Ok(admitted) => admitted,
            Err(refused) => {
                self.note_refused(id, start, &refused);
                return Some(refusal(
                    id,
                    CloseReason::ConnectionFailed,
                    &refused.to_string(),
                ));
            }
        };
        let id: Arc<str> = id.into();
        let connection =
            Connection::new(id.clone(), start, proxy, &self.shared, self.outlet.clone());
        match connection.spawn(admitted, self.table.clone(), place) {
            Ok(()) => {
                table.live.insert(id, connection);
                None
            }
            Err(error) => {
                drop(table);
                log::warn!("{error}");
                let error = error.to_string();
                self.note_refused(&id, start, &Refusal::dial(&*error));
                Some(refusal(&id, CloseReason::ConnectionFailed, &error))
            }
        }
    }

    /// `tcp_tunnel_data`: base64.
    pub fn data(&mut self, id: &str, data: Option<&str>) -> Option<Message> {
        let (known, ended) = {
            let table = self.table.lock();
            (table.live.get(id).cloned(), table.ended.contains(id))
        };
        let Some(connection) = known else {
            return if ended { None } else { self.unknown(id) };
        };
        let Some(data) = data else {
            static NONE: RateLimit = RateLimit::new(1, Duration::from_mins(1));
            if let Some(skipped) = NONE.pass() {
                log::warn!(skipped; "tcp_tunnel_data without data dropped");
            }
            return None;
        };
        match self.decode(data, &connection) {
            Ok(chunk) => connection.push(chunk),
            Err(error) => connection.end(End::Refused(error)),
        }
        None
    }

    /// Where memory is missing, the connection goes for whose target most is waiting:
    /// one that takes nothing must not cost the others theirs.
    fn decode(&self, data: &str, of: &Connection) -> Result<Chunk, PushError> {
        loop {
            match Chunk::decode(data, &self.shared.memory) {
                Err(PushError::OverBudget) => {}
                decoded => return decoded,
            }
            let most = {
                let table = self.table.lock();
                let others = table.live.values().map(|other| (other.queued(), other));
                others
                    .max_by_key(|(queued, _)| *queued)
                    .map(|(queued, other)| (queued, other.clone()))
            };
            match most {
                // Which frees as much at once.
                Some((queued, other)) if queued > of.queued() => {
                    other.end(End::Refused(PushError::OverBudget));
                }
                _ => return Err(PushError::OverBudget),
            }
        }
    }

    /// `tcp_tunnel_close`. One for a connection that there isn't is ignored.
    pub fn close(&mut self, id: &str, reason: Option<&str>) {
        let connection = self.table.lock().live.get(id).cloned();
        if let Some(connection) = connection {
            connection.close(reason.unwrap_or_default());
        }
    }

    /// `udp_tunnel_data`. Nothing is ever answered but with datagrams.
    pub fn datagram(&mut self, datagram: &Datagram<'_>) {
        self.udp.datagram(datagram);
    }

    /// T26: a gateway that holds on to what isn't there learns so, once per id.
    fn unknown(&mut self, id: &str) -> Option<Message> {
        let skipped = self.unknown.pass()?;
        log::debug!(skipped; "tcp_tunnel_data for an unknown request_id");
        self.table.lock().ended.insert(id);
        let text = "unknown request_id";
        Some(refusal(id, CloseReason::WriteError, text))
    }

    fn note_refused(&self, id: &str, start: &TcpStart<'_>, refused: &Refusal) {
        let judged = if refused.kind == RefusalKind::Denied {
            TCP_DENIED.increment();
            Judged::Denied
        } else {
            TCP_CONNECTION_FAILED.increment();
            Judged::Invalid
        };
        self.shared.audit.record(Line {
            is_request: false,
            id: id.to_owned(),
            tunnel: start.tunnel_id.to_string(),
            client: start.client.parse().ok(),
            protocol: Protocol::Tcp,
            target: asked_for(&start.target),
            address: None,
            judged,
            reason: refused.to_string(),
            dry_run: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            end: "refused".into(),
        });
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        let live: Vec<_> = self.table.lock().live.values().cloned().collect();
        for connection in live {
            connection.end(End::Lost);
        }
    }
}

/// In words, for the audit.
fn asked_for(target: &Target<'_>) -> String {
    if target.service.is_empty() {
        format!("127.0.0.1:{}", target.gateway_port)
    } else {
        format!("{}.{}:{}", target.service, target.namespace, target.port)
    }
}

/// No Service is called that. Names are kept, logged and sent back.
fn names_are_too_long(target: &Target<'_>) -> bool {
    target.service.len() > MAX_NAME || target.namespace.len() > MAX_NAME
}

/// The close of what was no connection.
pub fn refusal(id: &str, reason: CloseReason, error: &str) -> Message {
    Message::text(id.len() + error.len() + 128, |buf| {
        let close = TcpClose {
            reason,
            error: Some(error),
            totals: None,
        };
        from_agent::tcp_tunnel_close(buf, id, &close);
    })
}

/// Bytes of a tunnel's id, a client's address, or a name of a target.
const MAX_NAME: usize = 256;

/// Closes for unknown ids in a second, per connection.
const MAX_UNKNOWN: u32 = 10;

#[cfg(test)]
mod tests;
