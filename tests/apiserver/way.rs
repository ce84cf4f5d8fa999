//! The way of the tests of streams to a pod of their own.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::api_server::{ApiServer, shared};
use crate::channels::Channels;
use crate::house::{House, Plan};
use crate::kubectl::Kubectl;

/// Through plane and agent; with `PIPEOPS_TEST_STRAIGHT` in the environment straight to
/// the API server, which shows what a test itself is worth.
pub(crate) struct Way {
    pub(crate) api: &'static ApiServer,
    /// Its pod is called `box` and has the containers `app` and `sidecar`.
    pub(crate) namespace: String,
    pub(crate) server: String,
    pub(crate) ca: PathBuf,
    pub(crate) token: String,
    house: Option<House>,
}

impl Way {
    /// As somebody who may do everything.
    pub(crate) fn new(namespace: &str) -> Self {
        let api = shared();
        let namespace = api.namespace(namespace);
        api.pod(&namespace, "box");
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        api.service_account(&namespace, "everything", &all);
        let token = api.token(&namespace, "everything");
        Self::with_token(api, namespace, token)
    }

    /// As the holder of this token of the cluster.
    pub(crate) fn with_token(api: &'static ApiServer, namespace: String, token: String) -> Self {
        if std::env::var_os("PIPEOPS_TEST_STRAIGHT").is_some() {
            return Self {
                api,
                namespace,
                server: api.facts.server.clone(),
                ca: api.facts.ca_file.clone(),
                token,
                house: None,
            };
        }
        let house = Plan::new(api.admin())
            .hand_over(&token)
            .heartbeat_every(Duration::from_secs(1))
            .build();
        Self {
            api,
            namespace,
            server: house.server(),
            ca: house.ca(),
            token: house.token(),
            house: Some(house),
        }
    }

    /// Its commands are for the way's namespace.
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::at(&self.api.facts.kube, &self.server, &self.ca, &self.token)
            .within(&self.namespace)
    }

    /// A command in the pod's container `app`.
    pub(crate) fn exec(&self, words: &[&str]) -> Channels {
        let pod = format!("/api/v1/namespaces/{}/pods/box", self.namespace);
        Channels::exec(&self.server, &self.ca, &self.token, &pod, words)
    }

    /// Waits for this many acknowledged heartbeats from now on.
    pub(crate) fn heartbeats(&self, count: u64) {
        if let Some(house) = &self.house {
            house.heartbeats(count);
        }
    }

    /// The files of a container of the pod.
    pub(crate) fn files(&self, container: &str) -> PathBuf {
        let name = format!("{}_box_{container}", self.namespace);
        self.api.facts.dir.join("containers").join(name)
    }

    /// The lines of the node's log that are about the pod and have this in them.
    pub(crate) fn on_node(&self, part: &str) -> usize {
        let pod = format!(" target={}/box", self.namespace);
        let log = self.api.kubelet_log();
        let lines = log.lines();
        lines
            .filter(|line| line.contains(part) && line.contains(&pod))
            .count()
    }
}
