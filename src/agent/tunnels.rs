//! What tunnels have in common, made from the configuration: where they may lead,
//! what is left of them in the audit, and how much memory they take.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{SERVICE_ACCOUNT, mounted_token};
use super::error::AgentError;
use crate::config::Config;
use crate::kube::{self, Credentials};
use crate::net::Deadline;
use crate::tunnel::audit::Audit;
use crate::tunnel::json::{self, JsonTunnels};
use crate::tunnel::policy::{self, Policy};
use crate::tunnel::target::{Mode, Routes, Targets};
use crate::yamux::Budget;

/// The tunnels of this process. Its policy file is looked after while it lives.
pub struct Tunnelling {
    json: Arc<JsonTunnels>,
    audit: Arc<Audit>,
    _watch: policy::Watch,
}

impl Tunnelling {
    /// `None` where there are none (`tunnels.enabled`). `own_ports`: those that this
    /// agent listens on, which no tunnel may reach.
    pub fn start(
        config: &Config,
        cluster: Option<&Credentials>,
        own_ports: &[u16],
    ) -> Result<Option<Self>, AgentError> {
        if !config.tunnels.enabled {
            return Ok(None);
        }
        let policy = Arc::new(Policy::open(policy::Settings::from_config(config))?);
        policy.set_own_ports(own_ports.to_vec());
        let watch = policy::Watch::start(policy.clone(), POLICY_LOOK)?;
        let audit = Arc::new(Audit::start(&config.tunnels.audit)?);
        let keepalive = &config.tunnels.tcp;
        let targets = Targets::new(mode(config, cluster), policy, Routes::from_config(config))
            .with_keepalive(keepalive.keepalive.then_some(keepalive.keepalive_period));
        let json = JsonTunnels::new(
            json::Settings::from_config(config),
            Arc::new(targets),
            audit.clone(),
            Arc::new(Budget::new(config.tunnels.memory_limit)),
        );
        Ok(Some(Self {
            json,
            audit,
            _watch: watch,
        }))
    }

    /// TCP and UDP in JSON messages.
    pub fn json(&self) -> Arc<JsonTunnels> {
        self.json.clone()
    }

    /// Waits until all tunnels have ended and the audit is written, until `deadline`
    /// at most. The agent has ended before.
    pub fn finish(self, deadline: Deadline) {
        self.json.finish(deadline);
        self.audit.finish(deadline);
    }
}

/// What names of targets mean here.
fn mode(config: &Config, cluster: Option<&Credentials>) -> Mode {
    match cluster {
        Some(credentials) if !config.daemon.enabled => {
            if mounted_token(credentials, Path::new(SERVICE_ACCOUNT)).is_some() {
                Mode::Cluster {
                    domain: kube::cluster_domain(),
                    external: None,
                }
            } else {
                Mode::Outside
            }
        }
        _ => Mode::Machine,
    }
}

/// How often the policy file is looked at (docs/tunnel-policy.md).
const POLICY_LOOK: Duration = Duration::from_secs(10);
