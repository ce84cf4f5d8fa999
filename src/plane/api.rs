//! The plane's small HTTP API: for agents that can't have a WebSocket
//! (control-channel.md §12.8), and the list of clusters for people.
//!
//! Pure: what was asked in, what is answered out.

use serde_json::{Value, json};

use super::agent_event::{Heartbeat, RegisterRequest};
use super::hub::{ClusterView, Hub, NotRegistered};
use super::name::ClusterName;
use super::token::{Grant, Scope};
use crate::wire::{Payload, from_agent};

/// A JSON answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn new(status: u16, body: Value) -> Self {
        Self { status, body }
    }

    /// An error, as agents expect it.
    pub(crate) fn error(status: u16, text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        Self::new(
            status,
            json!({"success": false, "error": text, "message": text}),
        )
    }
}

/// What an agent can ask for by HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AgentCall<'a> {
    Register,
    Heartbeat { cluster_id: &'a str },
}

impl<'a> AgentCall<'a> {
    /// Which call `path` is; `None` for any other.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        match path.strip_prefix("/api/v1/clusters/agent/")? {
            "register" => Some(Self::Register),
            rest => {
                let cluster_id = rest.strip_suffix("/heartbeat")?;
                Some(Self::Heartbeat { cluster_id })
            }
        }
    }

    /// Does it for the holder of an agent token.
    pub(crate) fn answer(
        self,
        hub: &Hub,
        cluster: &ClusterName,
        gateway: Option<&str>,
        body: &[u8],
    ) -> Reply {
        let payload: Payload<'_> = match serde_json::from_slice(body) {
            Ok(payload) => payload,
            Err(error) => return Reply::error(400, format!("the body is no JSON object: {error}")),
        };
        match self {
            Self::Register => register(hub, cluster, gateway, &payload),
            Self::Heartbeat { cluster_id } => heartbeat(hub, cluster, cluster_id, &payload),
        }
    }
}

fn register(
    hub: &Hub,
    cluster: &ClusterName,
    gateway: Option<&str>,
    payload: &Payload<'_>,
) -> Reply {
    let registration = from_agent::Registration::parse(payload);
    match hub.register(cluster, RegisterRequest::from_wire(&registration)) {
        Ok(cluster) => {
            let mut body = json!({
                "success": true,
                "cluster_id": cluster.id,
                "cluster_uuid": cluster.id,
                "name": cluster.name,
                "status": "registered",
            });
            if let Some(gateway) = gateway {
                body["gateway_ws_url"] = gateway.into();
            }
            Reply::new(200, body)
        }
        Err(NotRegistered::Refused(text)) => Reply::error(409, text),
        Err(NotRegistered::Failed(error)) => {
            log::error!(cluster = cluster.as_str(); "registration failed: {error}");
            Reply::error(500, "the registration could not be saved")
        }
    }
}

fn heartbeat(hub: &Hub, cluster: &ClusterName, cluster_id: &str, payload: &Payload<'_>) -> Reply {
    let beat = Heartbeat::from_wire(&from_agent::HeartbeatReport::parse(payload));
    let known = hub.registry.cluster(cluster);
    match known.filter(|known| known.id == cluster_id && known.id == beat.cluster_id) {
        None => Reply::error(404, "cluster not registered"),
        Some(known) if known.agent.id != beat.agent_id => {
            Reply::error(409, "cluster not registered by this agent: another one has")
        }
        Some(_) => {
            hub.registry.seen(cluster, Some((beat.nodes, beat.pods)));
            Reply::new(200, json!({"success": true}))
        }
    }
}

/// The clusters that a user token reaches.
pub(crate) fn clusters(hub: &Hub, grant: &Grant) -> Reply {
    let Grant::User { scope, .. } = grant else {
        return Reply::error(403, "this is an agent's token; the list is for user tokens");
    };
    let visible = |view: &ClusterView| match scope {
        Scope::All => true,
        Scope::Named(names) => names.contains(&view.cluster.name),
    };
    let clusters: Vec<Value> = hub
        .clusters()
        .iter()
        .filter(|v| visible(v))
        .map(shown)
        .collect();
    Reply::new(200, json!({ "clusters": clusters }))
}

fn shown(view: &ClusterView) -> Value {
    let time = |seconds: i64| {
        jiff::Timestamp::from_second(seconds).map_or(Value::Null, |time| time.to_string().into())
    };
    let cluster = &view.cluster;
    json!({
        "name": cluster.name,
        "id": cluster.id,
        "connected": view.connected,
        "connected_since": view.since.map_or(Value::Null, time),
        "created": time(cluster.created),
        "last_seen": time(cluster.last_seen),
        "nodes": cluster.nodes,
        "pods": cluster.pods,
        "requests": view.requests,
        "kubernetes_version": cluster.agent.kubernetes,
        "agent_version": cluster.agent.version,
        "agent_id": cluster.agent.id,
        "hostname": cluster.agent.hostname,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::registry::{AgentInfo, Registry};
    use crate::plane::token::Access;

    fn hub() -> (Hub, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let hub = Hub::new(Registry::open(directory.path()).expect("opens"));
        (hub, directory)
    }

    fn name(text: &str) -> ClusterName {
        ClusterName::parse(text).expect("a name")
    }

    fn call(hub: &Hub, path: &str, body: &str) -> Reply {
        let call = AgentCall::of(path).expect("a call");
        call.answer(hub, &name("edge"), Some("wss://plane/ws"), body.as_bytes())
    }

    const REGISTER: &str = "/api/v1/clusters/agent/register";

    #[test]
    fn an_agent_without_a_websocket_registers_and_sends_heartbeats() {
        let (hub, _dir) = hub();
        let reply = call(
            &hub,
            REGISTER,
            r#"{"agent_id":"a","name":"edge","k8s_version":"v1"}"#,
        );
        assert_eq!((reply.status, &reply.body["name"]), (200, &json!("edge")));
        assert_eq!(reply.body["gateway_ws_url"], "wss://plane/ws");
        let id = reply.body["cluster_id"].as_str().expect("an id").to_owned();
        let path = format!("/api/v1/clusters/agent/{id}/heartbeat");
        let beat = |id: &str, agent: &str| {
            json!({"cluster_id": id, "agent_id": agent, "metadata": {"k8s_nodes": 2}}).to_string()
        };
        assert_eq!(call(&hub, &path, &beat(&id, "a")).status, 200);
        assert_eq!(hub.clusters()[0].cluster.nodes, 2);
        assert_eq!(call(&hub, &path, &beat(&id, "b")).status, 409);
        assert_eq!(call(&hub, &path, &beat("other", "a")).status, 404);
    }

    /// What HTTP mode has more (control-channel.md §12.8) is no hindrance, and where
    /// only the other name is given, that counts.
    #[test]
    fn the_fields_of_http_mode_are_understood() {
        let (hub, _dir) = hub();
        let body = r#"{"agent_id":"a","cluster_name":"edge","cluster_cert_data":"dGhlIENB",
            "last_seen":"2026-03-01T10:00:00Z","registry_region":"us","server_code":"192.0.2.1",
            "status":"registering"}"#;
        assert_eq!(call(&hub, REGISTER, body).status, 200);
        let other = r#"{"agent_id":"a","cluster_name":"other"}"#;
        assert_eq!(call(&hub, REGISTER, other).status, 409);
    }

    #[test]
    fn the_wrong_name_and_what_is_no_json_are_refused() {
        let (hub, _dir) = hub();
        assert_eq!(
            call(&hub, REGISTER, r#"{"agent_id":"a","name":"other"}"#).status,
            409
        );
        for bad in ["", "[]", "{", "7"] {
            assert_eq!(call(&hub, REGISTER, bad).status, 400, "{bad}");
        }
        assert!(hub.clusters().is_empty());
    }

    #[test]
    fn calls_are_found_by_their_path() {
        assert_eq!(AgentCall::of(REGISTER), Some(AgentCall::Register));
        assert_eq!(AgentCall::of("/api/v1/clusters/agent/ws"), None);
        assert_eq!(AgentCall::of("/api/v1/health"), None);
    }

    #[test]
    fn a_user_sees_the_clusters_of_the_token_and_no_secret() {
        let (hub, _dir) = hub();
        for cluster in ["a", "b"] {
            let secret = crate::plane::registry::ServiceToken::new("geheim");
            hub.registry
                .register(&name(cluster), AgentInfo::default(), secret)
                .expect("registered");
        }
        let list = |scope| {
            let access = Access::ReadOnly;
            clusters(&hub, &Grant::User { scope, access }).body
        };
        assert_eq!(
            list(Scope::All)["clusters"].as_array().map(Vec::len),
            Some(2)
        );
        let some = list(Scope::Named([name("b"), name("c")].into()));
        assert_eq!(some["clusters"].as_array().map(Vec::len), Some(1));
        assert_eq!(some["clusters"][0]["name"], "b");
        assert!(!some.to_string().contains("geheim"));
        assert_eq!(
            clusters(&hub, &Grant::Agent { cluster: name("a") }).status,
            403
        );
    }
}
