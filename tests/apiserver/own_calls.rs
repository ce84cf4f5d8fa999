//! What the agent asks the API server for itself.

use std::collections::BTreeSet;
use std::time::Duration;

use pipeops_agent::agent;
use pipeops_agent::config::Config;
use pipeops_agent::net::{Cancel, Deadline};
use serde_json::{Value, json};

use crate::api_server::{ApiServer, shared};
use crate::house::Plan;
use crate::wait_until;

/// All that the agent needs for itself.
pub(crate) fn may_count() -> Value {
    json!([{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}])
}

/// Verb and URI of all that somebody asked for with our own client.
fn asked(api: &ApiServer, user: &str) -> BTreeSet<(String, String)> {
    let by_us = |line: &Value| {
        let agent = line["userAgent"].as_str().unwrap_or_default();
        line["user"]["username"] == user && agent.starts_with("pipeops-agent/")
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let calls = api.audit(by_us);
    calls
        .iter()
        .map(|line| (text(&line["verb"]), text(&line["requestURI"])))
        .collect()
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn counts_and_version_are_right_and_cost_three_small_calls() {
    let api = shared();
    let namespace = api.namespace("own-calls");
    api.service_account(&namespace, "agent", &may_count());
    let house = Plan::new(api.bearer(&api.token(&namespace, "agent")))
        .heartbeat_every(Duration::from_millis(200))
        .build();
    wait_until(
        "the counts in the plane's list are those of the cluster",
        || {
            let count = |plural| {
                api.as_admin()
                    .get(&format!("/api/v1/{plural}"))
                    .names()
                    .len() as u64
            };
            let view = house.view();
            // Other tests make pods, too.
            (view.cluster.nodes, view.cluster.pods) == (count("nodes"), count("pods"))
        },
    );
    assert_eq!(house.view().cluster.agent.kubernetes, api.facts.version);
    house.heartbeats(3);

    let call = |verb: &str, uri: &str| (verb.to_owned(), uri.to_owned());
    let want = BTreeSet::from([
        call("get", "/version"),
        call("list", "/api/v1/nodes?limit=1"),
        call("list", "/api/v1/pods?limit=1"),
    ]);
    let user = format!("system:serviceaccount:{namespace}:agent");
    assert_eq!(asked(api, &user), want);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_token_is_judged_by_one_question_before_it_is_handed_over() {
    let api = shared();
    let namespace = api.namespace("judged");
    api.service_account(&namespace, "users", &json!([]));
    let house = Plan::new(api.admin())
        .hand_over(&api.token(&namespace, "users"))
        .build();
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
    let user = format!("system:serviceaccount:{namespace}:users");
    assert_eq!(
        asked(api, &user),
        BTreeSet::from([("create".to_owned(), review)])
    );
    // It may not create namespaces, but better it than none.
    let answer = house.http().get("/api/v1/nodes");
    assert!(answer.status == 403 && answer.text().contains(&user));
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn an_agent_without_any_right_is_still_registered() {
    let api = shared();
    let house = Plan::new(api.bearer(&api.facts.nobody_token))
        .heartbeat_every(Duration::from_millis(200))
        .build();
    let view = house.heartbeats(2);
    assert_eq!((view.cluster.nodes, view.cluster.pods), (0, 0));
    // Everybody may read it.
    assert_eq!(view.cluster.agent.kubernetes, api.facts.version);
}

/// What a tunnel's policy needs to know (decisions.md §6.6).
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_service_that_is_another_name_is_told_where_services_may_be_read() {
    let api = shared();
    let namespace = api.namespace("external-names");
    let may_read = json!([{"apiGroups": [""], "resources": ["services"], "verbs": ["get"]}]);
    api.service_account(&namespace, "reads", &may_read);
    api.service_account(&namespace, "may-not", &json!([]));
    let services = format!("/api/v1/namespaces/{namespace}/services");
    for (name, spec) in [
        (
            "outside",
            json!({"type": "ExternalName", "externalName": "db.example.test"}),
        ),
        ("plain", json!({"ports": [{"port": 80}]})),
    ] {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
        });
        assert_eq!(api.as_admin().post(&services, &service).status, 201);
    }
    let ask = |account: &str, service: &str| {
        let credentials = api.bearer(&api.token(&namespace, account));
        let (_, facts) = agent::reach(Some(credentials), &Config::defaults()).expect("usable");
        let names = facts.external_names().expect("a cluster");
        let deadline = Deadline::after(Duration::from_mins(1));
        names.external_name(&namespace, service, deadline, &Cancel::new())
    };
    let outside = Some("db.example.test".to_owned());
    assert_eq!(ask("reads", "outside"), Ok(outside));
    assert_eq!(ask("reads", "plain"), Ok(None));
    assert_eq!(ask("reads", "missing"), Ok(None));
    assert_eq!(ask("may-not", "outside"), Ok(None), "as far as it may know");
}
