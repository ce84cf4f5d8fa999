//! Which origin a name leads to (config-and-state.md §12.2).

use std::collections::BTreeMap;

use crate::config::{Config, Forward, Origin};

/// The routes and forwards that are configured. All names are in lower case.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pub routes: BTreeMap<String, Origin>,
    /// For what no route names.
    pub default_origin: Option<Origin>,
    pub forwards: Vec<Forward>,
}

impl Routes {
    pub fn from_config(config: &Config) -> Self {
        Self {
            routes: config.daemon.routes.clone(),
            default_origin: config.daemon.default_origin.clone(),
            forwards: config.tunnels.forwards.clone(),
        }
    }

    /// By service, then by `service.namespace`. A stream names no host.
    pub(super) fn route(&self, namespace: &str, service: &str) -> Option<&Origin> {
        let service = service.to_ascii_lowercase();
        self.routes.get(&service).or_else(|| {
            let namespace = namespace.to_ascii_lowercase();
            self.routes.get(&format!("{service}.{namespace}"))
        })
    }

    pub(super) fn forward(&self, name: &str) -> Option<&Origin> {
        self.forwards
            .iter()
            .find(|forward| forward.name.eq_ignore_ascii_case(name))
            .map(|forward| &forward.origin)
    }
}
