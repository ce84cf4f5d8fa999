//! Registration, heartbeats and reconnects between agent and plane.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use pipeops_agent::agent::AgentError;
use pipeops_agent::config::{StateBackend, Transport};
use pipeops_agent::control::session::ConnectionState;
use pipeops_agent::http::Headers;
use pipeops_agent::kube::Material;
use pipeops_agent::plane::GatewayUrl;
use pipeops_agent::url::Url;
use serde_json::{Value, json};

use crate::support::fault_proxy::FaultProxy;
use crate::support::house::{House, acknowledged, agent_config, start};
use crate::support::upstream::{self, Upstream};
use crate::support::wait::{far, until};

fn yes() -> Upstream {
    Upstream::start_tls(|_, _, responder| {
        let headers = upstream::json();
        responder.respond(200, &headers, b"{}").expect("answered");
    })
}

#[test]
fn an_agent_registers_moves_to_the_gateway_and_reports_its_cluster() {
    let upstream = yes();
    for gateway in [GatewayUrl::SameHost, GatewayUrl::Stay] {
        let house = House::with_gateway(gateway.clone());
        let agent = house.agent("edge", upstream.credentials());
        acknowledged(&agent);
        let status = agent.status();
        let endpoint = status.endpoint.expect("connected");
        let path = match gateway {
            GatewayUrl::Stay => "/api/v1/clusters/agent/ws",
            _ => "/ws",
        };
        assert_eq!(endpoint, format!("wss://{}{path}", house.address()));
        until("the facts have come", || {
            let view = house.plane.clusters().remove(0);
            (view.cluster.nodes, view.cluster.pods) == (3, 3)
        });
        let view = house.plane.clusters().remove(0);
        assert_eq!(status.cluster_id.as_deref(), Some(view.cluster.id.as_str()));
        assert_eq!(view.cluster.agent.id, status.agent_id);
        assert_eq!(view.cluster.agent.kubernetes, "v1.36.3");
        assert_eq!(view.cluster.agent.version, env!("CARGO_PKG_VERSION"));
        agent.stop();
        agent.wait().expect("an orderly end");
    }
}

#[test]
fn heartbeats_go_on() {
    let house = House::new();
    let mut config = house.agent_config("edge");
    config.agent.heartbeat_interval_connected = Duration::from_millis(50);
    let agent = start(&config, None);
    agent
        .wait_until(far(), |status| status.heartbeat_acks >= 5)
        .expect("acknowledged");
    assert_eq!(agent.status().connections, 1);
}

#[test]
fn a_second_agent_of_the_same_name_is_refused_while_the_first_is_there() {
    let house = House::new();
    let agent_of = |id: &str| {
        let mut config = house.agent_config("edge");
        config.agent.id = Some(id.to_owned());
        start(&config, None)
    };
    let first = agent_of("the-first");
    acknowledged(&first);
    let error = agent_of("the-second").wait().expect_err("refused");
    let text = error.to_string();
    assert!(matches!(error, AgentError::Refused(_)), "{text}");
    assert!(
        text.contains("another agent (the-first) is connected"),
        "{text}"
    );
    // The first has heard nothing of it.
    assert_eq!(first.status().connections, 1);
    assert_eq!(first.status().state, ConnectionState::Connected);
    first.stop();
    first.wait().expect("an orderly end");
    until("the place is free", || !house.is_connected("edge"));
    acknowledged(&agent_of("the-second"));
}

#[test]
fn a_token_that_is_wrong_ends_the_agent_at_once() {
    let house = House::new();
    let user = house.token(pipeops_agent::plane::Grant::User {
        scope: pipeops_agent::plane::Scope::All,
        access: pipeops_agent::plane::Access::Use,
    });
    for (token, status) in [("ppa_0000", "401"), (user.as_str(), "403")] {
        let url = format!("https://{}", house.address());
        let config = agent_config(&url, token, house.plane.certificate_path());
        let text = start(&config, None)
            .wait()
            .expect_err("refused")
            .to_string();
        assert!(text.contains(status), "{text}");
        assert!(!text.contains(token), "{text}");
    }
}

#[test]
fn an_agent_that_comes_back_takes_the_place_of_its_own_dead_connection() {
    let upstream = yes();
    let house = House::new();
    let proxy = FaultProxy::start(house.address());
    let mut config = house.agent_config("edge");
    config.pipeops.api_url = Url::parse(&format!("https://{}", proxy.address())).expect("a URL");
    config.timeouts.websocket_ping = Duration::from_millis(100);
    config.timeouts.websocket_read = Duration::from_millis(800);
    let agent = start(&config, Some(upstream.credentials()));
    acknowledged(&agent);
    let id = agent.status().cluster_id;
    // The plane goes on believing in the old connection.
    proxy.strand();
    agent
        .wait_until(far(), |status| {
            status.connections >= 2 && status.heartbeat_acks >= 2
        })
        .expect("it comes back");
    assert_eq!(agent.status().cluster_id, id);
    assert_eq!(house.plane.clusters().len(), 1);
    assert_eq!(house.front("edge").get("/api/v1/pods").status, 200);
}

#[test]
fn ids_are_kept_and_used_again() {
    let house = House::new();
    let mut config = house.agent_config("edge");
    config.state.backend = StateBackend::File;
    config.state.file = house.file("state.yaml", "");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let agent = start(&config, None);
        acknowledged(&agent);
        let status = agent.status();
        ids.push((status.agent_id, status.cluster_id));
        // The second goes straight to the gateway.
        assert_eq!(status.connections, 1);
        agent.stop();
        agent.wait().expect("an orderly end");
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(house.plane.clusters().len(), 1);
}

#[test]
fn the_plane_takes_registrations_and_heartbeats_by_http() {
    let (house, cluster) = (House::with_gateway(GatewayUrl::Stay), yes());
    let mut config = house.agent_config("edge");
    config.pipeops.transport = Transport::Http;
    config.agent.heartbeat_interval_connected = Duration::from_millis(50);
    let agent = start(&config, Some(cluster.credentials()));
    agent
        .wait_until(far(), |status| status.heartbeat_acks >= 3)
        .expect("acknowledged");
    let view = house.plane.clusters().remove(0);
    assert_eq!(view.cluster.name.as_str(), "edge");
    assert_eq!(
        agent.status().cluster_id.as_deref(),
        Some(view.cluster.id.as_str())
    );
    assert!(!view.connected, "requests have no way to it");
    agent.stop();
    agent.wait().expect("an orderly end");
}

#[test]
fn a_controller_without_websockets_is_used_by_http() {
    let cluster = yes();
    for status in [404, 405, 426, 501] {
        let seen = Arc::new(Mutex::new(Vec::<(String, Value)>::new()));
        let noted = seen.clone();
        // Not a cluster this time.
        let controller = Upstream::start(move |request, mut body, responder| {
            let sent = body.read_all(1 << 20).expect("a body");
            drop(body);
            let sent = serde_json::from_slice(&sent).unwrap_or(Value::Null);
            let authorized = request.headers.get("Authorization") == Some("Bearer t-1");
            let (status, answer) = match request.target.as_str() {
                "/api/v1/clusters/agent/ws" => (status, json!({"error": "no such thing"})),
                _ if !authorized => (401, json!({"error": "who is it?"})),
                "/api/v1/clusters/agent/register" => (200, json!({"cluster": {"id": "c-9"}})),
                "/api/v1/clusters/agent/c-9/heartbeat" => (200, json!({"success": true})),
                _ => (400, json!({"error": "never heard of it"})),
            };
            noted.lock().push((request.target, sent));
            let headers: Headers = upstream::json();
            let answer = answer.to_string();
            responder
                .respond(status, &headers, answer.as_bytes())
                .expect("answered");
        });
        let ca = tempfile::NamedTempFile::new().expect("a file");
        let url = format!("http://{}", controller.address());
        let mut config = agent_config(&url, "t-1", ca.path());
        config.pipeops.tls.ca_file = None;
        config.agent.heartbeat_interval_connected = Duration::from_millis(50);
        let agent = start(&config, Some(cluster.credentials()));
        agent
            .wait_until(far(), |status| status.heartbeat_acks >= 2)
            .expect("acknowledged");
        assert_eq!(
            agent.status().cluster_id.as_deref(),
            Some("c-9"),
            "{status}"
        );
        let seen = seen.lock();
        let (_, register) = seen
            .iter()
            .find(|(target, _)| target.ends_with("register"))
            .expect("registered");
        assert_eq!(register["agent_id"], agent.status().agent_id.as_str());
        // control-channel.md §12.8: fields that a WebSocket doesn't carry.
        let Material::Pem(pem) = cluster.credentials().ca.expect("a CA") else {
            panic!("a file");
        };
        let pem = base64_simd::STANDARD.encode_to_string(pem);
        assert_eq!(register["cluster_cert_data"], pem);
        assert_eq!(register["cluster_name"], register["name"]);
        assert_eq!(register["server_code"], register["server_ip"]);
        for name in ["last_seen", "registry_region", "status"] {
            assert!(register[name].is_string(), "{name}");
        }
        let (_, heartbeat) = seen
            .iter()
            .find(|(target, _)| target.ends_with("heartbeat"))
            .expect("a heartbeat");
        assert_eq!(heartbeat["cluster_id"], "c-9");
    }
}
