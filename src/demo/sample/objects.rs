//! The objects of the sample cluster and their history.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use crate::net::Deadline;

/// The kinds that the sample cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Namespace,
    Pod,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Node, Self::Namespace, Self::Pod];

    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
            Self::Pod => "pods",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
        }
    }

    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Node => "no",
            Self::Namespace => "ns",
            Self::Pod => "po",
        }
    }

    pub(super) fn namespaced(self) -> bool {
        self == Self::Pod
    }
}

/// One change, as a watch shows it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: Kind,
    /// `ADDED` or `MODIFIED`.
    pub(super) what: &'static str,
    pub(super) object: Value,
}

/// All objects, with a bounded history for watches.
pub(super) struct Store {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    version: u64,
    objects: BTreeMap<(Kind, String, String), Value>,
    history: VecDeque<Change>,
    closed: bool,
}

/// What a watch gets when it asks for the changes after a version.
pub(super) enum Changes {
    Some(Vec<Change>),
    /// Nothing within the time limit.
    None,
    /// That version is no longer in the history (410 Gone).
    Gone,
    Closed,
}

impl Store {
    pub(super) fn new() -> Self {
        let store = Self {
            state: Mutex::new(State {
                version: FIRST_VERSION,
                objects: BTreeMap::new(),
                history: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        };
        for namespace in ["default", "kube-system", "shop"] {
            store.put(
                Kind::Namespace,
                "",
                namespace,
                json!({ "status": { "phase": "Active" } }),
            );
        }
        for (i, role) in ["control-plane", "worker", "worker"]
            .into_iter()
            .enumerate()
        {
            store.put(
                Kind::Node,
                "",
                &format!("sample-{}", i + 1),
                node(role, i + 1),
            );
        }
        for (namespace, name, node) in [
            ("kube-system", "coredns-0", "sample-1"),
            ("shop", "web-0", "sample-2"),
            ("shop", "web-1", "sample-3"),
            ("shop", "postgres-0", "sample-2"),
            ("default", TICKER, "sample-3"),
        ] {
            store.put(Kind::Pod, namespace, name, pod(name, node));
        }
        store
    }

    /// The ticker's heart: changes a pod, so that a watch has something to show.
    pub(super) fn tick(&self, count: u64) {
        let mut object = pod(TICKER, "sample-3");
        object["metadata"] = json!({ "annotations": { "sample/tick": count.to_string() } });
        self.put(Kind::Pod, "default", TICKER, object);
    }

    fn put(&self, kind: Kind, namespace: &str, name: &str, mut object: Value) {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!(kind.name());
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name);
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        metadata["uid"] = json!(format!(
            "5a3b1e00-0000-4000-8000-{:012x}",
            hash(kind, namespace, name)
        ));
        metadata["resourceVersion"] = json!(version.to_string());
        metadata["creationTimestamp"] = json!(CREATED);
        let key = (kind, namespace.to_owned(), name.to_owned());
        let what = if state.objects.contains_key(&key) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.objects.insert(key, object.clone());
        if state.history.len() == HISTORY {
            state.history.pop_front();
        }
        state.history.push_back(Change {
            version,
            kind,
            what,
            object,
        });
        drop(state);
        self.changed.notify_all();
    }

    /// The objects of a kind, of one namespace or all, and the version of the list.
    pub(super) fn list(&self, kind: Kind, namespace: Option<&str>) -> (u64, Vec<Value>) {
        let state = self.state.lock();
        let wanted =
            |(k, ns, _): &&(Kind, String, String)| *k == kind && namespace.is_none_or(|n| n == ns);
        let items = state
            .objects
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(_, object)| object.clone());
        (state.version, items.collect())
    }

    pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        self.state.lock().objects.get(&key).cloned()
    }

    /// The changes after `version`; waits for some until `limit`.
    pub(super) fn after(&self, version: u64, kind: Kind, limit: Duration) -> Changes {
        let deadline = Deadline::after(limit);
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return Changes::Closed;
            }
            let oldest = state
                .history
                .front()
                .map_or(state.version + 1, |change| change.version);
            if version + 1 < oldest {
                return Changes::Gone;
            }
            let new = state
                .history
                .iter()
                .filter(|change| change.version > version && change.kind == kind);
            let new: Vec<Change> = new.cloned().collect();
            if !new.is_empty() {
                return Changes::Some(new);
            }
            if self
                .changed
                .wait_until(&mut state, deadline.instant())
                .timed_out()
            {
                return Changes::None;
            }
        }
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

fn node(role: &str, number: usize) -> Value {
    let label = format!("node-role.kubernetes.io/{role}");
    json!({
        "metadata": { "labels": { label: "", "kubernetes.io/hostname": format!("sample-{number}") } },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": format!("192.0.2.{number}") }],
            "conditions": [{ "type": "Ready", "status": "True" }],
            "nodeInfo": { "kubeletVersion": VERSION, "osImage": "Sample Linux", "architecture": "amd64" },
        },
    })
}

fn pod(name: &str, node: &str) -> Value {
    let container = name.rsplit_once('-').map_or(name, |(base, _)| base);
    json!({
        "metadata": { "labels": { "app": container } },
        "spec": { "nodeName": node, "containers": [{ "name": container, "image": "registry.example/sample:1" }] },
        "status": {
            "phase": "Running",
            "podIP": "192.0.2.100",
            "containerStatuses": [{
                "name": container, "ready": true, "restartCount": 0, "image": "registry.example/sample:1",
                "imageID": "", "state": { "running": { "startedAt": CREATED } },
            }],
        },
    })
}

/// A stable number for an object's uid (FNV-1a, cut to 48 bits).
fn hash(kind: Kind, namespace: &str, name: &str) -> u64 {
    let text = format!("{}/{namespace}/{name}", kind.plural());
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step) & 0xffff_ffff_ffff
}

/// The pod that changes every second and whose log has a line every second.
pub(super) const TICKER: &str = "ticker-0";
pub(super) const VERSION: &str = "v1.36.0+sample";
const CREATED: &str = "2026-01-01T00:00:00Z";
const FIRST_VERSION: u64 = 1000;
const HISTORY: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn lists_are_by_kind_and_namespace() {
        let store = Store::new();
        assert_eq!(store.list(Kind::Node, None).1.len(), 3);
        assert_eq!(store.list(Kind::Pod, None).1.len(), 5);
        assert_eq!(store.list(Kind::Pod, Some("shop")).1.len(), 3);
        assert!(store.get(Kind::Pod, "shop", "web-0").is_some());
        assert!(store.get(Kind::Pod, "default", "web-0").is_none());
    }

    #[test]
    fn a_change_is_seen_after_the_version_of_the_list() {
        let store = Store::new();
        let (version, _) = store.list(Kind::Pod, None);
        assert!(matches!(
            store.after(version, Kind::Pod, SOON),
            Changes::None
        ));
        store.tick(7);
        let Changes::Some(changes) = store.after(version, Kind::Pod, SOON) else {
            panic!("nothing came")
        };
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].what, "MODIFIED");
        assert_eq!(
            changes[0].object["metadata"]["annotations"]["sample/tick"],
            "7"
        );
        assert!(matches!(
            store.after(version, Kind::Node, SOON),
            Changes::None
        ));
    }

    #[test]
    fn what_has_left_the_history_is_gone() {
        let store = Store::new();
        let (version, _) = store.list(Kind::Pod, None);
        for count in 0..=HISTORY as u64 {
            store.tick(count);
        }
        assert!(matches!(
            store.after(version, Kind::Pod, SOON),
            Changes::Gone
        ));
    }

    #[test]
    fn closing_ends_a_watch() {
        let store = Store::new();
        store.close();
        assert!(matches!(
            store.after(u64::MAX - 1, Kind::Pod, SOON),
            Changes::Closed
        ));
    }
}
