//! The tunnels of the process, from the configuration: where they may lead, what is
//! left of them in the audit, and how much memory they take.

use std::sync::Arc;
use std::time::Duration;

use super::AgentError;
use crate::config::Config;
use crate::kube;
use crate::net::Deadline;
use crate::tunnel::Tunnels;
use crate::tunnel::audit::Audit;
use crate::tunnel::connection::{self, Acceptors};
use crate::tunnel::json::{self, JsonTunnels};
use crate::tunnel::policy::{self, Policy, Watch};
use crate::tunnel::session::{Acceptor, Memory};
use crate::tunnel::streams::{self, Connection, Streams};
use crate::tunnel::target::{ExternalNames, Mode, Routes, Targets};

/// What names of Services mean to this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surroundings {
    /// A pod of the cluster that it speaks for.
    Pod,
    /// It has a kubeconfig.
    Outside,
    /// There is no cluster.
    Machine,
}

/// The tunnels of the process, of both kinds: one policy, one audit and one cap of
/// memory for all of them.
pub struct Tunnelling {
    pub streams: Arc<Tunnels>,
    /// TCP and UDP in JSON messages; `None` where `tunnels.enabled` is off.
    pub json: Option<Arc<JsonTunnels>>,
    /// Where all of them may lead, and proxied requests, too.
    pub targets: Arc<Targets>,
    pub audit: Arc<Audit>,
}

impl Tunnelling {
    /// A policy or an audit file that can't be read is an error: without them more
    /// would be allowed, or less known, than was asked for.
    ///
    /// `external` tells Services that are only another name, where those can be read.
    pub fn start(
        config: &Config,
        surroundings: Surroundings,
        external: Option<Arc<dyn ExternalNames>>,
    ) -> Result<Self, AgentError> {
        let policy = Arc::new(Policy::open(policy::Settings::from_config(config))?);
        policy.set_own_ports(vec![config.agent.port]);
        let watch = match config.tunnels.policy_file {
            Some(_) => Some(Watch::start(policy.clone(), POLICY_PERIOD)?),
            None => None,
        };
        let mode = match surroundings {
            Surroundings::Pod => Mode::Cluster {
                domain: kube::cluster_domain(),
                external,
            },
            Surroundings::Outside => Mode::Outside,
            Surroundings::Machine => Mode::Machine,
        };
        let tcp = &config.tunnels.tcp;
        let targets = Targets::new(mode, policy, Routes::from_config(config))
            .with_keepalive(tcp.keepalive.then_some(tcp.keepalive_period));
        let targets = Arc::new(targets);
        let audit = Arc::new(Audit::start(&config.tunnels.audit)?);
        let memory = Memory::new(config.tunnels.memory_limit).looked_after();
        let json = config.tunnels.enabled.then(|| {
            JsonTunnels::new(
                json::Settings::from_config(config),
                targets.clone(),
                audit.clone(),
                memory.budget().clone(),
            )
        });
        let settings = streams::Settings::from_config(config);
        let sessions = connection::Settings {
            max_streams: settings.max_streams,
            half_close: config.tunnels.half_close_timeout,
            drain: config.tunnels.drain_timeout,
        };
        let served = Served {
            streams: Streams::new(settings, targets.clone(), audit.clone()),
            json: json.clone(),
            audit: audit.clone(),
            _watch: watch,
        };
        Ok(Self {
            streams: Tunnels::new(sessions, memory, served),
            json,
            targets,
            audit,
        })
    }
}

/// Lives as long as the tunnels.
struct Served {
    streams: Arc<Streams>,
    json: Option<Arc<JsonTunnels>>,
    audit: Arc<Audit>,
    _watch: Option<Watch>,
}

impl Acceptors for Served {
    fn acceptor(&self, connection: Connection) -> Box<dyn Acceptor> {
        Box::new(self.streams.acceptor(connection))
    }
}

impl Drop for Served {
    /// The lines of the last tunnels are still to be written.
    fn drop(&mut self) {
        let deadline = Deadline::after(LAST_LINES);
        self.streams.finish(deadline);
        if let Some(json) = &self.json {
            json.finish(deadline);
        }
        self.audit.finish(deadline);
    }
}

/// How often the policy file is looked at (docs/tunnel-policy.md).
const POLICY_PERIOD: Duration = Duration::from_secs(10);

/// How long the last tunnels and the last lines of the audit may take.
const LAST_LINES: Duration = Duration::from_secs(1);
