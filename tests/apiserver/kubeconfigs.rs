//! Each way in which the agent can learn how to reach its cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base64_simd::STANDARD as BASE64;
use pipeops_agent::kube::{Credentials, in_cluster};
use serde_json::json;

use crate::api_server::{ApiServer, kubeconfig, shared};
use crate::house::{House, Plan};
use crate::identity::who;
use crate::wait_until;

/// A kubeconfig with one context.
pub(crate) fn write(path: &Path, cluster: &str, user: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         clusters: [{{name: c, cluster: {cluster}}}]\n\
         users: [{{name: u, user: {user}}}]\n\
         contexts: [{{name: here, context: {{cluster: c, user: u}}}}]\n"
    );
    fs::write(path, text).expect("written");
}

/// The `cluster` of a kubeconfig, with the CA as a file.
pub(crate) fn cluster(api: &ApiServer) -> String {
    format!(
        "{{server: '{}', certificate-authority: '{}'}}",
        api.facts.server,
        api.facts.ca_file.display()
    )
}

fn encoded(path: &Path) -> String {
    BASE64.encode_to_string(fs::read(path).expect("readable"))
}

const ADMIN: &str = "admin";
const READER: &str = "system:serviceaccount:default:reader";

/// An agent with these credentials registers, counts, and proxies as `user`.
#[track_caller]
fn works(credentials: Credentials, user: &str) -> House {
    let house = Plan::new(credentials)
        .lend()
        .heartbeat_every(Duration::from_millis(200))
        .build();
    wait_until("its node is counted", || house.view().cluster.nodes == 1);
    let api = shared();
    assert_eq!(house.view().cluster.agent.kubernetes, api.facts.version);
    assert_eq!(house.http().get("/api/v1/nodes").names(), ["node-1"]);
    assert_eq!(who(&house.http()), user);
    house
}

#[track_caller]
fn form_works(cluster: &str, user: &str, name: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    write(&path, cluster, user);
    let token = &shared().facts.reader_token;
    fs::write(folder.path().join("token"), token).expect("written");
    works(kubeconfig(&path, None), name);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn client_certificate_as_data() {
    let api = shared();
    works(kubeconfig(&api.facts.admin_kubeconfig, None), ADMIN);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn client_certificate_in_files() {
    let api = shared();
    let user = format!(
        "{{client-certificate: '{}', client-key: '{}'}}",
        api.facts.admin_cert_file.display(),
        api.facts.admin_key_file.display()
    );
    form_works(&cluster(api), &user, ADMIN);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn token_and_ca_as_data() {
    let api = shared();
    let cluster = format!(
        "{{server: '{}', certificate-authority-data: {}}}",
        api.facts.server,
        encoded(&api.facts.ca_file)
    );
    let user = format!("{{token: {}}}", api.facts.reader_token);
    form_works(&cluster, &user, READER);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn token_file() {
    form_works(&cluster(shared()), "{tokenFile: token}", READER);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn insecure_flag() {
    let server = &shared().facts.server;
    let cluster = format!("{{server: '{server}', insecure-skip-tls-verify: true}}");
    form_works(&cluster, "{tokenFile: token}", READER);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn tls_server_name() {
    let api = shared();
    let named = |name: &str| {
        let cluster = cluster(api);
        let open = cluster.strip_suffix('}').expect("flow style");
        format!("{open}, tls-server-name: {name}}}")
    };
    let right = named("kubernetes.default.svc");
    form_works(&right, "{tokenFile: token}", READER);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let user = format!("{{token: {}}}", api.facts.reader_token);
    write(&path, &named("elsewhere.example"), &user);
    let house = Plan::new(kubeconfig(&path, None)).lend().build();
    does_not_trust(&house, api);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_server_of_another_authority_is_not_trusted() {
    let api = shared();
    let server = &api.facts.server;
    let user = format!("{{token: {}}}", api.facts.reader_token);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    // No CA: the system's roots, which have never signed it.
    write(&path, &format!("{{server: '{server}'}}"), &user);
    let house = Plan::new(kubeconfig(&path, None)).lend().build();
    does_not_trust(&house, api);
}

/// The agent is there, and says why its cluster isn't.
#[track_caller]
fn does_not_trust(house: &House, api: &ApiServer) {
    let answer = house.http().get("/api/v1/nodes");
    let message = answer.json()["message"].to_string();
    assert_eq!(answer.status, 502, "{message}");
    assert!(message.contains("certificate"), "{message}");
    let complaint = house.kubectl(&api.facts.kube).fails(&["get", "nodes"]);
    assert!(complaint.contains("certificate"), "{complaint}");
    assert_eq!(house.view().cluster.agent.kubernetes, "");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn exec_plug_in() {
    let api = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("give-token");
    let text = format!(
        "#!/bin/sh\n\
         [ \"$1\" = get-token ] && [ \"$WHO\" = reader ] || exit 1\n\
         case $KUBERNETES_EXEC_INFO in *'\"server\":\"{}\"'*) ;; *) exit 2 ;; esac\n\
         printf '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\
         \"status\":{{\"token\":\"%s\"}}}}' '{}'\n",
        api.facts.server, api.facts.reader_token
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("executable");
    let path = folder.path().join("config");
    let user = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: ./give-token, \
                args: [get-token], env: [{name: WHO, value: reader}], \
                interactiveMode: Never, provideClusterInfo: true}}";
    write(&path, &cluster(api), user);
    works(kubeconfig(&path, None), READER);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn exec_plug_in_with_a_client_certificate() {
    let api = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let read = |path: &Path| fs::read_to_string(path).expect("readable");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "kind": "ExecCredential",
        "status": {
            "clientCertificateData": read(&api.facts.admin_cert_file),
            "clientKeyData": read(&api.facts.admin_key_file),
        },
    });
    let given = folder.path().join("credential");
    fs::write(&given, credential.to_string()).expect("written");
    let path = folder.path().join("config");
    let user = format!(
        "{{exec: {{apiVersion: client.authentication.k8s.io/v1beta1, command: cat, args: ['{}']}}}}",
        given.display()
    );
    write(&path, &cluster(api), &user);
    works(kubeconfig(&path, None), ADMIN);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_context_that_was_named() {
    let api = shared();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: gone\n\
         clusters:\n- {{name: gone, cluster: {{server: 'https://127.0.0.1:1'}}}}\n\
         - {{name: here, cluster: {}}}\n\
         users:\n- {{name: other, user: {{token: x}}}}\n- {{name: reader, user: {{token: {}}}}}\n\
         contexts:\n- {{name: gone, context: {{cluster: gone, user: other}}}}\n\
         - {{name: here, context: {{cluster: here, user: reader, namespace: shop}}}}\n",
        cluster(api),
        api.facts.reader_token
    );
    fs::write(&path, text).expect("written");
    works(kubeconfig(&path, Some("here")), READER);
}

/// What a pod finds. Its folder has a fixed place, which tests must not write to:
/// here it is another one.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn in_a_pod() {
    let api = shared();
    let folder = tempfile::tempdir().expect("a folder");
    fs::copy(&api.facts.ca_file, folder.path().join("ca.crt")).expect("copied");
    fs::write(folder.path().join("token"), &api.facts.reader_token).expect("written");
    let (host, port) = api
        .facts
        .server
        .strip_prefix("https://")
        .and_then(|authority| authority.split_once(':'))
        .expect("host and port");
    let credentials = in_cluster(host, port, folder.path()).expect("readable");
    works(credentials.expect("a pod"), READER);
}
