//! The agent's own token is replaced while it works.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::api_server::{kubeconfig, shared};
use crate::house::Plan;
use crate::identity::who;
use crate::kubeconfigs;
use crate::own_calls::may_count;
use crate::wait_until;

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_rotated_token_goes_on_and_the_old_one_is_worthless() {
    let api = shared();
    let namespace = api.namespace("rotation");
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let renew = || {
        api.service_account(&namespace, "rotated", &may_count());
        let token = api.token(&namespace, "rotated");
        replace(&file, &token);
        token
    };
    let old = renew();

    let config = folder.path().join("config");
    let cluster = kubeconfigs::cluster(api);
    kubeconfigs::write(&config, &cluster, "{tokenFile: token}");
    let house = Plan::new(kubeconfig(&config, None))
        .lend()
        .heartbeat_every(Duration::from_millis(300))
        .build();
    let user = format!("system:serviceaccount:{namespace}:rotated");
    assert_eq!(who(&house.http()), user);

    // With its account a token becomes worthless, as soon as the API server's cache
    // has forgotten it.
    api.as_admin()
        .ask("DELETE", &format!("{accounts}/rotated"), &[], Vec::new());
    renew();
    wait_until("the old token is refused", || {
        api.with_token(Some(&old)).get("/api/v1/nodes").status == 401
    });

    // A pod that only the new token can have counted.
    let account = json!({"metadata": {"name": "default"}});
    api.as_admin().post(&accounts, &account);
    let pod = json!({
        "metadata": {"name": "counted"},
        "spec": {"containers": [{"name": "c", "image": "example.test/c:1"}]},
    });
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let made = api.as_admin().post(&pods, &pod);
    assert_eq!(made.status, 201, "{}", made.text());
    wait_until("the pod is counted", || {
        let pods = api.as_admin().get("/api/v1/pods").names().len();
        house.view().cluster.pods == pods as u64
    });
    assert_eq!(who(&house.http()), user);
    assert_eq!(house.connections(), 1);
}

/// As the kubelet does it: never half written.
fn replace(path: &Path, token: &str) {
    let new = path.with_extension("new");
    fs::write(&new, format!("{token}\n")).expect("written");
    fs::rename(&new, path).expect("renamed");
}
