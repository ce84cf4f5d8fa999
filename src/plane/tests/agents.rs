//! Agents: registration, heartbeats, one at a time, tokens.

use serde_json::json;

use super::house::{CONTROLLER, House, name};
use crate::plane::*;

#[test]
fn only_agent_tokens_open_the_endpoints_of_agents() {
    let house = House::new();
    let (agent, user) = (house.agent_token("a"), house.user_token());
    for path in [CONTROLLER, "/ws?cluster_uuid=x"] {
        assert_eq!(house.agent(path, "ppa_wrong").err(), Some(401), "{path}");
        assert_eq!(house.agent(path, &user).err(), Some(403), "{path}");
        assert!(house.agent(path, &agent).is_ok(), "{path}");
    }
}

#[test]
fn an_agent_registers_is_sent_to_the_gateway_and_sends_heartbeats() {
    let house = House::with_gateway(GatewayUrl::SameHost);
    let token = house.agent_token("edge");
    let mut agent = house.agent(CONTROLLER, &token).expect("let in");
    agent.answer_hello(true);
    agent.register("edge", "agent-1");
    let success = agent.expect("register_success");
    assert_eq!(success["id"], "req_1");
    let host = format!("wss://127.0.0.1:{}/ws", house.plane.addr().port());
    assert_eq!(success["gateway_ws_url"], host);
    let cluster_id = success["cluster_id"].as_str().expect("an id").to_owned();
    drop(agent);
    let path = format!("/ws?agent_version=1&cluster_uuid={cluster_id}&supports_yamux=true");
    let mut agent = house.agent(&path, &token).expect("let in");
    agent.answer_hello(true);
    agent.heartbeat(&cluster_id, "agent-1");
    assert!(agent.expect("heartbeat_ack")["received_at"].is_string());
    house.attached("edge");
    let view = house.plane.clusters().remove(0);
    assert_eq!((view.cluster.nodes, view.cluster.pods), (3, 41));
}

#[test]
fn a_gateway_connection_of_another_cluster_is_forbidden() {
    let house = House::new();
    let _other = house.registered("other");
    let id = house.plane.clusters()[0].cluster.id.clone();
    let token = house.agent_token("mine");
    let path = format!("/ws?cluster_uuid={id}");
    assert_eq!(house.agent(&path, &token).err(), Some(403));
}

#[test]
fn a_second_agent_is_refused_and_the_first_stays() {
    let house = House::new();
    let mut first = house.registered("edge");
    let mut second = house
        .agent(CONTROLLER, &house.agent_token("edge"))
        .expect("let in");
    second.answer_hello(true);
    second.register("edge", "agent-2");
    let error = second.expect("error");
    assert_eq!(error["id"], "req_1");
    assert!(error["error"].as_str().expect("text").contains("agent-1"));
    assert!(second.next().is_none(), "the connection ends");
    let id = house.plane.clusters()[0].cluster.id.clone();
    first.heartbeat(&id, "agent-1");
    first.expect("heartbeat_ack");
}

#[test]
fn an_agent_that_comes_back_takes_the_place_of_its_dead_connection() {
    let house = House::new();
    let token = house.user_token();
    // Nobody reads from the old one any more; the plane can't know yet.
    let mut old = house.registered("edge");
    let mut new = house
        .agent(CONTROLLER, &house.agent_token("edge"))
        .expect("let in");
    new.answer_hello(true);
    new.register("edge", "agent-1");
    new.expect("register_success");
    assert!(old.next().is_none(), "it was cut");
    house.attached("edge");
    let mut client = house.client();
    client.get("/clusters/edge/api", &token);
    let id = new.request();
    new.header(&id, 204, json!(null));
    new.end(&id);
    assert_eq!(client.head().status, 204);
}

#[test]
fn the_place_is_free_when_the_agent_has_gone() {
    let house = House::new();
    house.registered("edge").cut();
    house.until(|plane| !plane.clusters()[0].connected);
    let id = house.plane.clusters()[0].cluster.id.clone();
    let mut second = house
        .agent(CONTROLLER, &house.agent_token("edge"))
        .expect("let in");
    second.answer_hello(true);
    second.register("edge", "agent-2");
    assert_eq!(second.expect("register_success")["cluster_id"], id.as_str());
}

#[test]
fn ids_and_tokens_survive_a_restart() {
    let house = House::new();
    let token = house.agent_token("edge");
    let mut agent = house.agent(CONTROLLER, &token).expect("let in");
    agent.answer_hello(true);
    agent.register("edge", "agent-1");
    let id = agent.expect("register_success")["cluster_id"].clone();
    let house = house.restart();
    assert!(agent.next().is_none(), "a stopped plane lets go");
    let cluster = house.plane.clusters().remove(0);
    assert!(!cluster.connected);
    // Only a heartbeat, as an agent that has been registered before.
    let mut agent = house.agent(CONTROLLER, &token).expect("let in");
    agent.answer_hello(true);
    agent.heartbeat(id.as_str().expect("text"), "agent-1");
    agent.expect("heartbeat_ack");
    house.attached("edge");
}

#[test]
fn an_agent_of_a_plane_that_lost_its_data_is_told_to_register() {
    let house = House::new();
    let token = house.agent_token("edge");
    let mut agent = house
        .agent("/ws?cluster_uuid=gone", &token)
        .expect("let in");
    agent.answer_hello(true);
    let text = agent.expect("error")["error"].clone();
    assert_eq!(text, "cluster not registered");
}

#[test]
fn a_revoked_token_ends_the_agents_connection() {
    let house = House::new();
    let mut agent = house.registered("edge");
    let tokens = house.plane.hub.registry.tokens();
    assert!(house.plane.revoke_token(&tokens[0].id).expect("written"));
    assert!(agent.next().is_none());
    house.until(|plane| !plane.clusters()[0].connected);
    assert!(!house.plane.revoke_token(&tokens[0].id).expect("written"));
}

#[test]
fn an_agent_by_http() {
    let house = House::new();
    let token = house.agent_token("edge");
    let mut client = house.client();
    let mut post = |path: &str, body: String| {
        let more = format!("Content-Length: {}\r\n", body.len());
        client.ask("POST", path, &token, &more);
        client.send(body);
        client.json()
    };
    let register = json!({"agent_id": "agent-1", "name": "edge"}).to_string();
    let (status, answer) = post("/api/v1/clusters/agent/register", register);
    assert_eq!(status, 200);
    let id = answer["cluster_id"].as_str().expect("an id").to_owned();
    let beat = json!({"agent_id": "agent-1", "cluster_id": id}).to_string();
    let path = format!("/api/v1/clusters/agent/{id}/heartbeat");
    assert_eq!(post(&path, beat.clone()).0, 200);
    assert_eq!(post("/api/v1/clusters/agent/x/heartbeat", beat).0, 404);
}

#[test]
fn a_name_that_the_token_is_not_for() {
    let house = House::new();
    let token = house.agent_token("edge");
    let mut agent = house.agent(CONTROLLER, &token).expect("let in");
    agent.register("other", "agent-1");
    assert_eq!(agent.expect("error")["id"], "req_1");
    assert!(house.plane.clusters().is_empty());
    assert!(house.plane.hub.connection(&name("other")).is_none());
}

#[test]
fn hostile_messages_change_nothing() {
    let house = House::new();
    let mut agent = house.registered("edge");
    for text in [
        "",
        "{",
        "[]",
        "null",
        r#"{"type":7}"#,
        r#"{"type":"x","payload":[]}"#,
    ] {
        agent.send_binary(text.as_bytes().to_vec());
    }
    agent.send_binary(vec![0xff; 1000]);
    agent.send("proxy_response_chunk", "nobody", json!({"data": "aGk="}));
    agent.send("proxy_flow", "nobody", json!({"credit": -1}));
    let id = house.plane.clusters()[0].cluster.id.clone();
    agent.heartbeat(&id, "agent-1");
    agent.expect("heartbeat_ack");
}

#[test]
fn a_flood_of_heartbeats_ends_the_connection_and_nothing_else() {
    let house = House::new();
    let mut flooder = house.registered("flood");
    let mut other = house.registered("edge");
    let mut sent = 0;
    // Answers are never read, so in the end nothing goes out of the plane either.
    while flooder.try_send("heartbeat", "", json!({"cluster_id": "x", "agent_id": "y"})) {
        sent += 1;
        assert!(sent < 10_000_000, "it could go on for ever");
    }
    let id = house
        .plane
        .hub
        .registry
        .cluster(&name("edge"))
        .expect("known")
        .id;
    other.heartbeat(&id, "agent-1");
    other.expect("heartbeat_ack");
}
