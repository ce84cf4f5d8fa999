//! From a stream's header to a connected socket: names, policy, look-up, policy
//! again, dial (tunnels.md §3.3, decisions.md §6.6).

mod alias;
mod dial;
mod http;
mod refusal;
mod routes;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

pub use alias::ExternalNames;
use alias::{Alias, follow};
pub use refusal::{Refusal, RefusalKind};
pub use routes::Routes;

use super::Protocol;
use super::header::{Header, Names};
use super::policy::{self, Ask, Policy, Verdict};
use crate::config::{Origin, Place};
use crate::net::{self, Cancel, ConnectOptions, Deadline, Resolver};

/// Where streams can lead. Shared by all of them.
pub struct Targets {
    mode: Mode,
    policy: Arc<Policy>,
    routes: Routes,
    resolver: Arc<Resolver>,
    options: ConnectOptions,
}

/// What names mean here.
pub enum Mode {
    /// In a pod: Services, by their absolute names.
    Cluster {
        /// Of names in the cluster: `cluster.local` mostly.
        domain: String,
        /// Where the agent may read Services.
        external: Option<Arc<dyn ExternalNames>>,
    },
    /// With a kubeconfig, outside the cluster: its names lead nowhere.
    Outside,
    /// A plain machine: routes.
    Machine,
}

/// A stream whose names have passed. Nothing has been looked up yet.
#[derive(Clone)]
pub struct Admitted {
    targets: Arc<Targets>,
    protocol: Protocol,
    namespace: String,
    service: String,
    to: To,
    verdict: Verdict,
}

#[derive(Clone, Debug)]
enum To {
    Service { port: u16 },
    Origin(Origin),
    Forward(Origin),
    Local { port: u16 },
}

/// A target that answered. The socket is in blocking mode, and no longer registered
/// with the dial's [`Cancel`].
#[derive(Debug)]
pub struct Connected {
    pub socket: Arc<Socket>,
    pub kind: Kind,
    /// `None` for a Unix socket.
    pub address: Option<SocketAddr>,
    /// The Service is only another name, of what was judged beside it.
    pub is_alias: bool,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Unix,
    /// Connected: it hears only its peer.
    Udp,
}

impl Targets {
    pub fn new(mode: Mode, policy: Arc<Policy>, routes: Routes) -> Self {
        Self {
            mode,
            policy,
            routes,
            resolver: Arc::new(Resolver::apart(MAX_LOOKUPS)),
            options: ConnectOptions {
                keepalive: Some(KEEPALIVE),
                // A target that reads nothing for a while is slow, not dead.
                user_timeout: None,
                ..ConnectOptions::default()
            },
        }
    }

    /// When idle targets are probed (30 s); `None`: never.
    #[must_use]
    pub fn with_keepalive(mut self, period: Option<Duration>) -> Self {
        self.options.keepalive = period;
        self
    }

    #[cfg(test)]
    pub(crate) fn with_resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = Arc::new(resolver);
        self
    }

    /// Checks the header's names and asks the policy by name. Never waits.
    pub fn admit(self: &Arc<Self>, header: &Header) -> Result<Admitted, Refusal> {
        self.admit_named(header.protocol, header.names())
    }

    fn admit_named(
        self: &Arc<Self>,
        protocol: Protocol,
        names: Names<'_>,
    ) -> Result<Admitted, Refusal> {
        let to = self.find(names)?;
        self.judge(protocol, names.namespace, names.service, to)
    }

    /// As [`admit`](Self::admit), for 127.0.0.1: the target of a JSON tunnel that
    /// names no Service.
    pub fn admit_local(
        self: &Arc<Self>,
        protocol: Protocol,
        port: u16,
    ) -> Result<Admitted, Refusal> {
        if port == 0 {
            return Err(Refusal::header("port 0"));
        }
        self.judge(protocol, "", "", To::Local { port })
    }

    fn find(&self, names: Names<'_>) -> Result<To, Refusal> {
        let routes = &self.routes;
        let forward = |name: &str| routes.forward(name).cloned().map(To::Forward);
        match self.mode {
            Mode::Machine => {
                let (namespace, service) = names.of_route()?;
                routes
                    .route(namespace, service)
                    .cloned()
                    .map(To::Origin)
                    .or_else(|| forward(service))
                    .or_else(|| routes.default_origin.clone().map(To::Origin))
                    .ok_or_else(|| {
                        Refusal::dial(format!("no local address configured for {service:?}"))
                    })
            }
            Mode::Cluster { .. } | Mode::Outside => {
                // Not a Service then, but a forward may be meant.
                if names.namespace.is_empty()
                    && let Some(to) = forward(names.service)
                {
                    return Ok(to);
                }
                names.of_service()?;
                if matches!(self.mode, Mode::Outside) {
                    return Err(Refusal::dial(
                        "this agent runs outside the cluster, where names of Services lead \
                         nowhere; run it in a pod",
                    ));
                }
                Ok(To::Service { port: names.port })
            }
        }
    }

    fn judge(
        self: &Arc<Self>,
        protocol: Protocol,
        namespace: &str,
        service: &str,
        to: To,
    ) -> Result<Admitted, Refusal> {
        let mut admitted = Admitted {
            targets: self.clone(),
            protocol,
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            to,
            verdict: Verdict::default(),
        };
        if protocol == Protocol::Udp && admitted.port().is_none() {
            return Err(Refusal::dial(format!(
                "{admitted} is a Unix socket; UDP can't be forwarded there"
            )));
        }
        admitted.verdict = self.policy.by_name(&admitted.ask());
        if !admitted.verdict.allowed {
            return Err(Refusal::denied(&admitted.verdict));
        }
        Ok(admitted)
    }
}

impl Admitted {
    /// What the policy said by name.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Looks the name up, asks the policy about each address, and connects to one
    /// that passed. Everything within `deadline`; ends at once when `cancel` fires.
    /// For the stream's own thread.
    pub fn dial(&self, deadline: Deadline, cancel: &Cancel) -> Result<Connected, Refusal> {
        let result = self.try_dial(deadline, cancel);
        let Some(reason) = cancel.reason() else {
            return result;
        };
        if let Ok(connected) = result {
            // It was accepted: a clean end would be an empty upload.
            net::abort(&connected.socket);
        }
        Err(Refusal::cancelled(reason))
    }

    fn try_dial(&self, deadline: Deadline, cancel: &Cancel) -> Result<Connected, Refusal> {
        if let To::Origin(origin) | To::Forward(origin) = &self.to
            && let Place::Unix(path) = &origin.place
        {
            return Ok(Connected {
                socket: dial::unix(path, deadline, cancel)
                    .map_err(|error| self.unreachable(&error))?,
                kind: Kind::Unix,
                address: None,
                is_alias: false,
                verdict: self.verdict.clone(),
            });
        }
        let alias = self.alias(deadline, cancel)?;
        let asks = alias.asks(self.ask());
        let port = self.port().unwrap_or(0);
        let host = self.host();
        let found = self
            .targets
            .resolver
            .resolve(&host, port, deadline, cancel)
            .map_err(|error| self.unreachable(&format_args!("looking up {host}: {error}")))?;
        let (verdict, addresses) = self.judge_addresses(&asks, &found)?;
        let (kind, socket) = match self.protocol {
            Protocol::Tcp => {
                let socket = dial::tcp(&addresses, &self.targets.options, deadline, cancel);
                (Kind::Tcp, socket)
            }
            Protocol::Udp => (Kind::Udp, dial::udp(&addresses)),
        };
        let socket = socket.map_err(|error| self.unreachable(&error))?;
        Ok(Connected {
            address: socket.peer_addr().ok().and_then(|peer| peer.as_socket()),
            socket,
            kind,
            is_alias: !alias.is_none(),
            verdict,
        })
    }

    /// The addresses that pass, at least one. All of them are dialled as they are:
    /// no name is looked up again.
    fn judge_addresses(
        &self,
        asks: &[Ask<'_>],
        found: &[SocketAddr],
    ) -> Result<(Verdict, Vec<SocketAddr>), Refusal> {
        let mut allowed = Vec::new();
        let mut verdict = self.verdict.clone();
        let mut denied = None;
        for address in found {
            let mut passed = None;
            for ask in asks {
                let (said, plain) = self.targets.policy.by_address(ask, *address);
                if !said.allowed {
                    passed = None;
                    denied.get_or_insert(said);
                    break;
                }
                let before = passed.and_then(|(said, _): (Verdict, _)| said.dry_run);
                let dry_run = said.dry_run.or(before);
                passed = Some((Verdict { dry_run, ..said }, plain));
            }
            if let Some((said, plain)) = passed
                && !allowed.contains(&plain)
            {
                verdict = said;
                allowed.push(plain);
            }
        }
        match denied {
            Some(denied) if allowed.is_empty() => Err(Refusal::denied(&denied)),
            _ => Ok((verdict, allowed)),
        }
    }

    fn alias(&self, deadline: Deadline, cancel: &Cancel) -> Result<Alias, Refusal> {
        let (To::Service { .. }, Mode::Cluster { domain, external }) =
            (&self.to, &self.targets.mode)
        else {
            return Ok(Alias::default());
        };
        let Some(external) = external else {
            return Ok(Alias::default());
        };
        let alias = follow(
            external.as_ref(),
            domain,
            (&self.namespace, &self.service),
            deadline,
            cancel,
        )
        .map_err(|why| self.unreachable(&why))?;
        for ask in alias.asks(self.ask()) {
            let verdict = self.targets.policy.by_name(&ask);
            if !verdict.allowed {
                return Err(Refusal::denied(&verdict));
            }
        }
        Ok(alias)
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            protocol: self.protocol,
            namespace: &self.namespace,
            service: &self.service,
            port: self.port(),
            target: match &self.to {
                To::Service { .. } => policy::Target::Service,
                To::Origin(origin) => policy::Target::Origin(origin),
                To::Forward(origin) => policy::Target::Forward(origin),
                To::Local { .. } => policy::Target::Local,
            },
        }
    }

    fn port(&self) -> Option<u16> {
        match &self.to {
            To::Service { port } | To::Local { port } => Some(*port),
            To::Origin(origin) | To::Forward(origin) => match origin.place {
                Place::Host { port, .. } => Some(port),
                Place::Unix(_) => None,
            },
        }
    }

    /// The name to look up. A Service's is absolute: with four dots it is below the
    /// usual `ndots:5`, and the search list would be tried first (tunnels.md T15).
    fn host(&self) -> String {
        match (&self.to, &self.targets.mode) {
            (To::Service { .. }, Mode::Cluster { domain, .. }) => {
                format!("{}.{}.svc.{domain}.", self.service, self.namespace)
            }
            (To::Origin(origin) | To::Forward(origin), _) => match &origin.place {
                Place::Host { host, .. } => host.clone(),
                Place::Unix(_) => String::new(),
            },
            // Not "localhost": what that is, a file decides.
            _ => "127.0.0.1".to_owned(),
        }
    }

    fn unreachable(&self, why: &dyn fmt::Display) -> Refusal {
        Refusal::dial(format!("{self}: {why}"))
    }
}

impl fmt::Display for Admitted {
    /// `postgres.databases:5432`, or the origin.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            To::Service { port } => write!(f, "{}.{}:{port}", self.service, self.namespace),
            To::Origin(origin) | To::Forward(origin) => write!(f, "{origin}"),
            To::Local { port } => write!(f, "127.0.0.1:{port}"),
        }
    }
}

/// Names that hang at once, over all streams; more are refused at once.
const MAX_LOOKUPS: usize = 64;

/// An idle target is probed after this long (`tunnels.tcp.keepalive_period`).
const KEEPALIVE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
