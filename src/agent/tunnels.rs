//! What streams of tunnels lead to, from the configuration.

use std::sync::Arc;
use std::time::Duration;

use super::AgentError;
use crate::config::Config;
use crate::kube;
use crate::net::Deadline;
use crate::tunnel::Tunnels;
use crate::tunnel::audit::Audit;
use crate::tunnel::connection::{self, Acceptors};
use crate::tunnel::policy::{self, Policy, Watch};
use crate::tunnel::session::Acceptor;
use crate::tunnel::streams::{self, Connection, Streams};
use crate::tunnel::target::{Mode, Routes, Targets};

/// What names of Services mean to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surroundings {
    /// A pod of the cluster that it speaks for.
    Pod,
    /// It has a kubeconfig.
    Outside,
    /// There is no cluster.
    Machine,
}

/// The tunnels of the process. A policy or an audit file that can't be read is an
/// error: without them more would be allowed, or less known, than was asked for.
pub(super) fn tunnels(
    config: &Config,
    surroundings: Surroundings,
) -> Result<Arc<Tunnels>, AgentError> {
    let policy = Arc::new(Policy::open(policy::Settings::from_config(config))?);
    policy.set_own_ports(vec![config.agent.port]);
    let watch = match config.tunnels.policy_file {
        Some(_) => Some(Watch::start(policy.clone(), POLICY_PERIOD)?),
        None => None,
    };
    let mode = match surroundings {
        Surroundings::Pod => Mode::Cluster {
            domain: kube::cluster_domain(),
            external: None,
        },
        Surroundings::Outside => Mode::Outside,
        Surroundings::Machine => Mode::Machine,
    };
    let targets = Arc::new(Targets::new(mode, policy, Routes::from_config(config)));
    let audit = Arc::new(Audit::start(&config.tunnels.audit)?);
    let settings = streams::Settings::from_config(config);
    let sessions = connection::Settings {
        max_streams: settings.max_streams,
        memory_limit: config.tunnels.memory_limit,
        half_close: config.tunnels.half_close_timeout,
        drain: config.tunnels.drain_timeout,
    };
    let served = Served {
        streams: Streams::new(settings, targets, audit.clone()),
        audit,
        _watch: watch,
    };
    Ok(Tunnels::new(sessions, served))
}

/// Lives as long as the tunnels.
struct Served {
    streams: Arc<Streams>,
    audit: Arc<Audit>,
    _watch: Option<Watch>,
}

impl Acceptors for Served {
    fn acceptor(&self, connection: Connection) -> Box<dyn Acceptor> {
        Box::new(self.streams.acceptor(connection))
    }
}

impl Drop for Served {
    /// The lines of the last streams are still to be written.
    fn drop(&mut self) {
        self.audit.finish(Deadline::after(AUDIT_LIMIT));
    }
}

/// How often the policy file is looked at.
const POLICY_PERIOD: Duration = Duration::from_secs(10);

/// How long the last lines of the audit may take.
const AUDIT_LIMIT: Duration = Duration::from_secs(1);
