//! Who the API server thinks is asking.

use serde_json::{Value, json};

use crate::api_server::shared;
use crate::house::Plan;
use crate::http::{Answer, Http};

/// Says who asks.
pub(crate) const SELF: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[track_caller]
pub(crate) fn who(http: &Http) -> String {
    let review = http.post(SELF, &json!({}));
    assert_eq!(review.status, 201, "{}", review.text());
    let name = &review.json()["status"]["userInfo"]["username"];
    name.as_str().expect("a name").to_owned()
}

/// Made by the API server for a request that it knows the caller of.
#[track_caller]
fn refused(answer: &Answer, user: &str) -> Value {
    let status = answer.json();
    assert_eq!(
        (answer.status, &status["reason"]),
        (403, &json!("Forbidden"))
    );
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.contains(&format!("User \"{user}\" cannot")),
        "{message}"
    );
    status
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn the_token_that_the_agent_hands_over_is_what_users_have() {
    let api = shared();
    let house = Plan::new(api.admin())
        .hand_over(&api.facts.reader_token)
        .build();
    let reader = "system:serviceaccount:default:reader";
    assert_eq!(who(&house.http()), reader);
    assert_eq!(house.http().get("/api/v1/nodes").names(), ["node-1"]);

    // RBAC refuses, and its refusal is passed on as it is.
    let secrets = "/api/v1/namespaces/default/secrets";
    let through = house.http().get(secrets);
    refused(&through, reader);
    let direct = api.with_token(Some(&api.facts.reader_token)).get(secrets);
    assert_eq!(through.text(), direct.text());
    let complaint = house.kubectl(&api.facts.kube).fails(&["get", "secrets"]);
    let want = format!(
        "Error from server (Forbidden): secrets is forbidden: User \"{reader}\" cannot list"
    );
    assert!(complaint.contains(&want), "{complaint}");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn the_agents_certificate_never_overrules_the_token_of_a_user() {
    let api = shared();
    for lend in [false, true] {
        let plan = Plan::new(api.admin()).hand_over(&api.facts.nobody_token);
        let house = if lend { plan.lend() } else { plan }.build();
        // The agent's own calls are made, with its certificate, all the while.
        let nobody = "system:serviceaccount:default:nobody";
        assert_eq!(who(&house.http()), nobody);
        refused(&house.http().get("/api/v1/nodes"), nobody);
    }
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn without_a_token_users_are_anonymous() {
    let api = shared();
    let house = Plan::new(api.admin()).build();
    let through = house.http().get("/api/v1/nodes");
    refused(&through, "system:anonymous");
    let direct = api.with_token(None).get("/api/v1/nodes");
    assert_eq!(through.text(), direct.text());
    // What everybody may.
    let version = house.http().get("/version").json();
    assert_eq!(version["gitVersion"], api.facts.version.as_str());
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn the_agents_identity_is_lent_where_it_is_told_to() {
    let api = shared();
    let house = Plan::new(api.admin()).lend().build();
    assert_eq!(who(&house.http()), "admin");
    let house = Plan::new(api.bearer(&api.facts.agent_token)).lend().build();
    let agent = "system:serviceaccount:pipeops-system:pipeops-agent";
    assert_eq!(who(&house.http()), agent);
    // No more than it may itself.
    refused(&house.http().get("/api/v1/secrets"), agent);

    let complaint = house.kubectl(&api.facts.kube).fails(&[
        "get",
        "pods",
        "--as",
        "admin",
        "--as-group",
        "system:masters",
    ]);
    assert!(complaint.contains("impersonation"), "{complaint}");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_stranger_hears_no_more_than_that() {
    let api = shared();
    let house = Plan::new(api.admin()).lend().build();
    let stranger = house.http().with_user("ppu_nonsense");
    let refused = stranger.get("/api/v1/nodes");
    assert_eq!(
        (refused.status, &refused.json()["reason"]),
        (401, &json!("Unauthorized"))
    );
    // A token of the cluster's own opens nothing here.
    let token = house.http().with_user(&api.facts.reader_token);
    assert_eq!(token.get("/api/v1/nodes").status, 401);
}
