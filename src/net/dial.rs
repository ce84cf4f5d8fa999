//! The dial chain: resolve → TCP → CONNECT proxy → TLS, under one deadline.

use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use super::connect::{ConnectOptions, connect};
use super::dial_error::{DialCause, DialError, Phase};
use super::proxy::connect::open_tunnel;
use super::proxy::{Proxy, ProxyRules};
use super::resolve::Resolver;
use super::tls::{ClientTls, ServerTls};
use super::{Cancel, Deadline, Halves};

/// Where to connect: a host (name or address, no brackets) and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    /// TLS on top of the connection.
    pub tls: bool,
}

impl std::fmt::Display for Endpoint {
    /// `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') && !self.host.starts_with('[') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Dials [`Endpoint`]s by one set of rules (TLS, proxy, address order). Clones
/// share what is behind them.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientTls>,
    proxy: Arc<ProxyRules>,
    options: ConnectOptions,
    resolver: Arc<Resolver>,
}

impl Dialer {
    /// Straight to every target; see [`with_proxy`](Self::with_proxy).
    pub fn new(tls: Arc<ClientTls>) -> Self {
        Self {
            tls,
            proxy: Arc::new(ProxyRules::none()),
            options: ConnectOptions::default(),
            resolver: Resolver::system(),
        }
    }

    #[must_use]
    pub fn with_proxy(mut self, rules: ProxyRules) -> Self {
        self.proxy = Arc::new(rules);
        self
    }

    #[must_use]
    pub fn with_options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    #[cfg(test)]
    #[must_use]
    pub(super) fn with_resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Connects: the name is resolved, its addresses are tried, the proxy (if the
    /// rules name one) opens a tunnel, TLS (if the endpoint has it) is on top.
    ///
    /// All of it within `deadline`; ends at once when `cancel` fires. The halves
    /// have no deadline left and are no longer registered with `cancel`.
    pub fn dial(
        &self,
        to: &Endpoint,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Halves, DialError> {
        let proxy = self.proxy.proxy_for(to);
        let mut progress = Progress {
            phase: Phase::Resolve,
            address: None,
        };
        let result = self.chain(&mut progress, to, proxy, deadline, cancel);
        // A cancelled socket fails in many ways; the reason is what counts.
        match cancel.reason() {
            Some(reason) => Err(DialCause::Cancelled(reason)),
            None => result,
        }
        .map_err(|cause| {
            let via = proxy.map(ToString::to_string);
            DialError::new(progress.phase, to, cause).on_the_way(via, progress.address)
        })
    }

    fn chain(
        &self,
        progress: &mut Progress,
        to: &Endpoint,
        proxy: Option<&Proxy>,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Halves, DialCause> {
        if !is_plausible_host(&to.host) {
            return Err(DialCause::Invalid(format!(
                "{:?} is not a host name",
                to.host
            )));
        }
        // Before anything is sent: a name that TLS can't verify is no use.
        let session = if to.tls {
            Some(self.tls.session(&to.host)?)
        } else {
            None
        };
        let first = proxy.map_or(to, |proxy| &proxy.endpoint);
        let addresses = self
            .resolver
            .resolve(&first.host, first.port, deadline, cancel)?;
        progress.phase = Phase::Connect;
        let (socket, _guard) = connect(&addresses, &self.options, deadline, cancel)?;
        progress.address = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        let mut halves = Halves::shared(socket);
        halves.set_deadline(Some(deadline));
        if let Some(proxy) = proxy {
            progress.phase = Phase::Proxy;
            if proxy.endpoint.tls {
                let session = self.tls.proxy_session(&proxy.endpoint.host)?;
                halves = halves.tls_client(session)?;
            }
            open_tunnel(&mut halves, proxy, to)?;
        }
        if let Some(session) = session {
            progress.phase = Phase::Tls;
            halves = halves.tls_client(session)?;
        }
        halves.set_deadline(None);
        Ok(halves)
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

/// How far a dial has come.
struct Progress {
    phase: Phase,
    /// The address that is connected to.
    address: Option<SocketAddr>,
}

/// The server's side: options and, with `tls`, the handshake on a socket that was
/// just accepted. Blocks until the client has done its part or `deadline` passes:
/// not for an accept loop's own thread.
pub fn accept(
    socket: Socket,
    tls: Option<&ServerTls>,
    options: &ConnectOptions,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Halves, DialError> {
    let peer = socket
        .peer_addr()
        .ok()
        .and_then(|address| address.as_socket())
        .map_or_else(|| "a client".to_owned(), |address| address.to_string());
    let mut phase = Phase::Connect;
    let result = shake_hands(&mut phase, socket, tls, options, deadline, cancel);
    match cancel.reason() {
        Some(reason) => Err(DialCause::Cancelled(reason)),
        None => result,
    }
    .map_err(|cause| DialError::from_client(phase, peer, cause))
}

fn shake_hands(
    phase: &mut Phase,
    socket: Socket,
    tls: Option<&ServerTls>,
    options: &ConnectOptions,
    deadline: Deadline,
    cancel: &Cancel,
) -> Result<Halves, DialCause> {
    socket.set_nonblocking(false)?;
    options.apply(&socket)?;
    let socket = Arc::new(socket);
    let _guard = cancel
        .on_socket(socket.clone())
        .map_err(DialCause::Cancelled)?;
    let mut halves = Halves::shared(socket);
    if let Some(tls) = tls {
        *phase = Phase::Tls;
        halves.set_deadline(Some(deadline));
        halves = halves.tls_server(tls.session()?)?;
        halves.set_deadline(None);
    }
    Ok(halves)
}

/// Whether `host` may stand in a request line. What it means is for the resolver.
pub(super) fn is_plausible_host(host: &str) -> bool {
    (1..=MAX_HOST).contains(&host.len())
        && host
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/?#@\\<>\"".contains(&byte))
}

/// A name has at most 253 characters (RFC 1035), an address with a zone fewer.
const MAX_HOST: usize = 255;

#[cfg(test)]
mod tests;
