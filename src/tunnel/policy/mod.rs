//! What streams may reach (decisions.md §6.6 "Policy").
//!
//! Asked twice: by name before anything is dialled, and again for each address
//! that the name led to. The address that was checked is the one to dial:
//! what [`Policy::by_address`] gives back.

mod address;
mod file;
mod glob;
mod rule;
mod watch;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use address::{Special, special};
pub use file::PolicyError;
use rule::{Address, Said, decide};
pub use watch::Watch;

use super::Protocol;
use crate::config::{Config, Origin, Place};

/// What a stream asks for, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub protocol: Protocol,
    /// As the stream's header says; they may be empty on a plain machine.
    pub namespace: &'a str,
    pub service: &'a str,
    /// The port that is dialled; a Unix socket has none.
    pub port: Option<u16>,
    pub target: Target<'a>,
}

/// Where it leads.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Service,
    /// A Service that is only another name of a host outside the cluster.
    ExternalService(&'a str),
    /// A route of a plain machine.
    Origin(&'a Origin),
    /// An entry of `tunnel.forwards`.
    Forward(&'a Origin),
    /// 127.0.0.1 at a Gateway's port, for tunnels in JSON messages.
    Local,
}

/// Whether a stream may go on, and why. By default it may not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// One clause.
    pub reason: String,
    /// The file runs dry and would have said otherwise: what.
    pub dry_run: Option<String>,
}

/// What doesn't change while the agent runs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `tunnels.policy_file`.
    pub file: Option<PathBuf>,
    /// `daemon.allowed_origins`.
    pub allowed_origins: Vec<String>,
    /// `tunnels.enabled`: tunnels in JSON messages may reach 127.0.0.1.
    pub local_targets: bool,
}

impl Settings {
    pub fn from_config(config: &Config) -> Self {
        Self {
            file: config.tunnels.policy_file.clone(),
            allowed_origins: config.daemon.allowed_origins.clone(),
            local_targets: config.tunnels.enabled,
        }
    }
}

/// The policy in force. Shared by all streams.
pub struct Policy {
    settings: Settings,
    /// What the file says; `None` without a file.
    rules: RwLock<Option<Arc<file::Rules>>>,
    /// TCP ports that this agent listens on.
    own_ports: RwLock<Vec<u16>>,
    is_local: fn(IpAddr) -> bool,
    /// What of the file was tried last; held while it is read.
    seen: Mutex<Option<watch::Stamp>>,
}

impl Policy {
    /// Reads the file, if there is one. A policy that can't be read is no policy:
    /// an error for who starts the agent.
    pub fn open(settings: Settings) -> Result<Self, PolicyError> {
        let stamp = settings.file.as_deref().and_then(watch::stamp);
        let rules = settings.file.as_deref().map(file::read).transpose()?;
        Ok(Self {
            rules: RwLock::new(rules.map(Arc::new)),
            own_ports: RwLock::default(),
            is_local: address::is_local,
            seen: Mutex::new(stamp),
            settings,
        })
    }

    /// Says which TCP ports this agent listens on (its local server's); no rule can
    /// open them.
    pub fn set_own_ports(&self, ports: Vec<u16>) {
        *self.own_ports.write() = ports;
    }

    /// Reads the file again; streams that run go on. A file that can't be read or
    /// is wrong changes nothing, and the error says so.
    pub fn reload(&self) -> Result<(), PolicyError> {
        let Some(path) = self.settings.file.as_deref() else {
            return Ok(());
        };
        let mut seen = self.seen.lock();
        *seen = watch::stamp(path);
        let rules = file::read(path)?;
        log::info!(rules = rules.rules.len(), dry_run = rules.dry_run; "tunnel policy read again");
        *self.rules.write() = Some(Arc::new(rules));
        Ok(())
    }

    /// By name, before the dial. What depends on the address passes for now.
    pub fn by_name(&self, ask: &Ask<'_>) -> Verdict {
        let address = match ask.target.origin().map(|origin| &origin.place) {
            Some(Place::Unix(_)) => Address::None,
            _ => Address::Unknown,
        };
        self.judge(ask, address)
    }

    /// For one address that the name led to: the verdict, and the address to dial,
    /// in its plainest form.
    pub fn by_address(&self, ask: &Ask<'_>, address: SocketAddr) -> (Verdict, SocketAddr) {
        let address = address::canonical(address);
        let verdict = self
            .own_port(ask, address)
            .unwrap_or_else(|| self.judge(ask, Address::Known(address.ip())));
        (verdict, address)
    }

    fn own_port(&self, ask: &Ask<'_>, address: SocketAddr) -> Option<Verdict> {
        let own = ask.protocol == Protocol::Tcp
            && !matches!(ask.target, Target::Forward(_))
            && self.own_ports.read().contains(&address.port())
            && (self.is_local)(address.ip());
        own.then(|| Verdict::denied(format!("{address} is a port of this agent itself")))
    }

    fn judge(&self, ask: &Ask<'_>, address: Address) -> Verdict {
        if let Some(origin) = ask.target.origin() {
            let allowed = &self.settings.allowed_origins;
            if !allowed.is_empty() && !allowed.iter().any(|entry| is_same(entry, origin)) {
                return Verdict::denied(format!("{origin} is not in daemon.allowed_origins"));
            }
        }
        let named = ask.target.names(address);
        let special = what_is_special(ask, address).filter(|_| !named);
        let by_default = self.without_file(ask, special.as_deref());
        let Some(file) = self.rules.read().clone() else {
            return by_default;
        };
        let ruled = match decide(&file.rules, ask, address, named) {
            Said::Allowed(rule) => Verdict::allowed(format!("allowed by {}", rule.name)),
            Said::Denied(rule) => Verdict::denied(format!("denied by {}", rule.name)),
            Said::Open => Verdict::allowed("the address decides"),
            // `tunnels.enabled` counts as a rule, the last one.
            Said::Nothing if matches!(ask.target, Target::Local) => by_default.clone(),
            Said::Nothing => Verdict::denied(match special {
                Some(special) => format!("{special}, and no rule names it"),
                None => "no rule allows it".to_owned(),
            }),
        };
        if !file.dry_run {
            return ruled;
        }
        Verdict {
            dry_run: (ruled.allowed != by_default.allowed).then_some(ruled.reason),
            ..by_default
        }
    }

    /// The Services of the cluster and what is configured, but nothing special.
    fn without_file(&self, ask: &Ask<'_>, special: Option<&str>) -> Verdict {
        if let Some(special) = special {
            return Verdict::denied(special);
        }
        match ask.target {
            Target::Service | Target::ExternalService(_) => {
                Verdict::allowed("a Service of the cluster")
            }
            Target::Origin(_) => Verdict::allowed("a configured origin"),
            Target::Forward(_) => Verdict::allowed("a configured forward"),
            Target::Local if self.settings.local_targets => Verdict::allowed("tunnels.enabled"),
            Target::Local => Verdict::denied("tunnels.enabled is off"),
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Verdict {
    fn allowed(reason: impl Into<String>) -> Self {
        Self {
            allowed: true,
            reason: reason.into(),
            dry_run: None,
        }
    }

    fn denied(reason: impl Into<String>) -> Self {
        Self {
            allowed: false,
            ..Self::allowed(reason)
        }
    }
}

impl<'a> Target<'a> {
    fn origin(self) -> Option<&'a Origin> {
        match self {
            Self::Origin(origin) | Self::Forward(origin) => Some(origin),
            Self::Service | Self::ExternalService(_) | Self::Local => None,
        }
    }

    fn external_name(self) -> Option<&'a str> {
        match self {
            Self::ExternalService(name) => Some(name),
            _ => None,
        }
    }

    /// Whether the configuration itself names this address: `127.0.0.1:3000` does,
    /// and `localhost:3000` names every loopback address. Another name doesn't,
    /// wherever it leads: who answers for the name isn't who configured it.
    fn names(self, address: Address) -> bool {
        let Address::Known(ip) = address else {
            return false;
        };
        let host = match self {
            Self::Local => "localhost",
            Self::Service | Self::ExternalService(_) => return false,
            Self::Origin(origin) | Self::Forward(origin) => match &origin.place {
                Place::Host { host, .. } => host.trim_end_matches('.'),
                Place::Unix(_) => return false,
            },
        };
        if let Ok(given) = host.parse::<IpAddr>() {
            return address::canonical(SocketAddr::new(given, 0)).ip() == ip;
        }
        let localhost = host == "localhost" || host.ends_with(".localhost");
        localhost && special(ip) == Some(Special::Loopback)
    }
}

/// Why the target needs somebody to name it.
fn what_is_special(ask: &Ask<'_>, address: Address) -> Option<String> {
    if let Address::Known(ip) = address
        && let Some(special) = special(ip)
    {
        return Some(format!("{ip} is {special}"));
    }
    let name = ask.target.external_name()?;
    Some(format!(
        "the Service points to {name:?} outside the cluster"
    ))
}

/// An entry of the allow-list: `host:port`, a host for any port, or a socket with or
/// without `unix://`. Only the text counts: `localhost` is not `127.0.0.1`
/// (config-and-state.md §12.2).
fn is_same(entry: &str, origin: &Origin) -> bool {
    let entry = entry.trim();
    match &origin.place {
        Place::Unix(path) => entry.strip_prefix("unix://").unwrap_or(entry) == path.as_os_str(),
        Place::Host { host, .. } => {
            let entry = match entry.split_once("://") {
                Some(("http" | "https", rest)) => rest,
                _ => entry,
            };
            let bare = entry.trim_start_matches('[').trim_end_matches(']');
            entry.eq_ignore_ascii_case(&origin.to_string()) || bare.eq_ignore_ascii_case(host)
        }
    }
}

#[cfg(test)]
mod tests;
