//! get and list, small and large, and what else a client asks without changing
//! anything.

use std::fmt::Write as _;
use std::io::Read;
use std::thread;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::api_server::{ApiServer, shared};
use crate::house::{House, Plan};
use crate::http::{Answer, Http};
use crate::kubectl::Ended;

fn house() -> (&'static ApiServer, House) {
    let api = shared();
    (api, Plan::new(api.admin()).lend().build())
}

/// What people and scripts do with a cluster, beside the verbs that have tests of
/// their own.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn other_commands_of_kubectl() {
    let (api, house) = house();
    let kubectl = house.kubectl(&api.facts.kube);
    for (line, want) in [
        (
            &["version"][..],
            format!("Server Version: {}", api.facts.version),
        ),
        (&["api-resources", "-o", "name"], "deployments.apps".into()),
        (&["explain", "pod.spec.nodeName"], "FIELD: nodeName".into()),
        (&["auth", "whoami"], "system:masters".into()),
        (&["auth", "can-i", "delete", "nodes"], "yes".into()),
        (&["describe", "node", "node-1"], "KubeletReady".into()),
        (&["describe", "pod", "web"], "example.test/web:1".into()),
        (&["get", "all", "-A"], "pod/waiting".into()),
        (
            &["get", "--raw", "/readyz?verbose"],
            "readyz check passed".into(),
        ),
        (&["get", "--raw", "/"], "/apis/apps/v1".into()),
        (
            &["get", "--raw", "/metrics"],
            "apiserver_request_total".into(),
        ),
        (
            &["wait", "pod/web", "--for=condition=Ready"],
            "condition met".into(),
        ),
        (
            &["get", "pods", "-l", "app in (web, api)", "-A", "-o", "wide"],
            "10.244.0.3".into(),
        ),
        (&["events", "-A"], String::new()),
    ] {
        let text = kubectl.ok(line);
        assert!(
            text.contains(&want),
            "{want:?} in what {line:?} says: {text}"
        );
    }
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_kubectl_that_speaks_only_spdy_is_told_so() {
    let (api, house) = house();
    let kubectl = house.kubectl(&api.facts.kube);
    for (line, switch) in [
        (
            &["exec", "web", "--", "true"][..],
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS",
        ),
        (
            &["port-forward", "web", ":80"],
            "KUBECTL_PORT_FORWARD_WEBSOCKETS",
        ),
    ] {
        let ended = Ended::of(kubectl.command(line).env(switch, "false"));
        let told = !ended.good && ended.err.contains("SPDY isn't passed on");
        assert!(told, "{line:?}: {}", ended.err);
    }
}

/// Makes configmaps, directly, by several clients at once.
fn fill(api: &ApiServer, namespace: &str, count: usize, size: usize) {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let text = "pipeops ".repeat(size / 8);
    let make = |client: &Http, number: usize| {
        let body = json!({
            "metadata": {"name": format!("cm-{number:04}")},
            "data": {"number": number.to_string(), "text": text},
        });
        let made = client.post(&path, &body);
        assert_eq!(made.status, 201, "{}", made.text());
    };
    thread::scope(|scope| {
        for first in 0..CLIENTS {
            let make = &make;
            scope.spawn(move || {
                let client = api.as_admin();
                (first..count)
                    .step_by(CLIENTS)
                    .for_each(|n| make(&client, n));
            });
        }
    });
}

const CLIENTS: usize = 8;

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_gets_the_pods_of_all_namespaces() {
    let (api, house) = house();
    let table = house
        .kubectl(&api.facts.kube)
        .ok(&["get", "pods", "-A", "--no-headers"]);
    for (namespace, pod, state) in [
        ("default", "web", "Running"),
        ("shop", "api", "Running"),
        ("shop", "waiting", "Pending"),
    ] {
        let row = |line: &str| {
            let columns = line.split_whitespace().collect::<Vec<_>>();
            columns.starts_with(&[namespace, pod]) && columns.contains(&state)
        };
        assert!(table.lines().any(row), "{namespace}/{pod} in {table}");
    }
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_gets_nodes_as_json() {
    let (api, house) = house();
    let through = house
        .kubectl(&api.facts.kube)
        .ok(&["get", "nodes", "-o", "json"]);
    let through: Value = serde_json::from_str(&through).expect("JSON");
    let direct = api.as_admin().get("/api/v1/nodes").json();
    assert_eq!(through["items"][0]["metadata"]["name"], "node-1");
    assert_eq!(
        through["items"][0]["status"]["nodeInfo"],
        direct["items"][0]["status"]["nodeInfo"]
    );
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_list_comes_page_by_page() {
    let (api, house) = house();
    let namespace = api.namespace("pages");
    fill(api, &namespace, 5, 8);
    let want = ["cm-0000", "cm-0001", "cm-0002", "cm-0003", "cm-0004"];

    let list = format!("/api/v1/namespaces/{namespace}/configmaps?limit=2");
    let (client, mut found, mut pages) = (house.http(), Vec::new(), 0);
    let mut next = Some(list.clone());
    while let Some(path) = next {
        let page = client.get(&path);
        assert_eq!(page.status, 200, "{}", page.text());
        found.extend(page.names());
        pages += 1;
        let token = page.json()["metadata"]["continue"]
            .as_str()
            .map(str::to_owned);
        next = token
            .filter(|t| !t.is_empty())
            .map(|t| format!("{list}&continue={t}"));
    }
    assert_eq!(
        (found.as_slice(), pages),
        (want.map(String::from).as_slice(), 3)
    );

    let names = house.kubectl(&api.facts.kube).ok(&[
        "get",
        "configmaps",
        "-n",
        &namespace,
        "--chunk-size=1",
        "-o",
        "name",
    ]);
    let names = names.lines().map(|line| line.rsplit('/').next());
    assert!(names.eq(want.map(Some)));
}

/// The same list through plane and agent and directly, at one version.
fn both(house: &House, api: &ApiServer, namespace: &str, headers: &[(&str, &str)]) -> [Answer; 2] {
    let admin = api.as_admin();
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let version = admin.get(&format!("{path}?limit=1")).json();
    let version = version["metadata"]["resourceVersion"]
        .as_str()
        .expect("one");
    let path = format!("{path}?resourceVersion={version}&resourceVersionMatch=Exact");
    let answers = [&house.http(), &admin].map(|http| http.ask("GET", &path, headers, Vec::new()));
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    answers
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_large_list_arrives_as_it_was() {
    let (api, house) = house();
    let namespace = api.namespace("large");
    fill(api, &namespace, 2000, 2048);
    let [through, direct] = both(&house, api, &namespace, &[]);
    assert!(direct.body.len() > 4 << 20, "{}", direct.body.len());
    assert!(through.body == direct.body, "byte for byte");

    // As kubectl asks for it: gzip is the API server's, and stays as it is.
    let gzip = [("Accept-Encoding", "gzip")];
    let [through, direct] = both(&house, api, &namespace, &gzip);
    for answer in [&through, &direct] {
        assert_eq!(answer.headers.get("Content-Encoding"), Some("gzip"));
    }
    assert!(through.body.len() < direct.body.len() * 2);
    let plain = [through, direct].map(|answer| {
        let mut plain = Vec::new();
        let done = GzDecoder::new(&answer.body[..]).read_to_end(&mut plain);
        done.expect("gzip");
        plain
    });
    assert!(plain[0] == plain[1] && plain[0].len() > 4 << 20);

    let wide =
        house
            .kubectl(&api.facts.kube)
            .ok(&["get", "configmaps", "-n", &namespace, "-o", "name"]);
    assert_eq!(wide.lines().count(), 2000);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn protobuf_is_passed_through() {
    let (api, house) = house();
    let namespace = api.namespace("protobuf");
    fill(api, &namespace, 3, 1024);
    let accept = [("Accept", "application/vnd.kubernetes.protobuf")];
    let [through, direct] = both(&house, api, &namespace, &accept);
    assert!(through.body.starts_with(b"k8s\0"));
    assert!(through.body == direct.body);
}

/// Answers that have nothing of their own time in them.
#[track_caller]
fn same(house: &House, api: &ApiServer, method: &str, path: &str) -> Answer {
    let [through, direct] =
        [house.http(), api.as_admin()].map(|http| http.ask(method, path, &[], Vec::new()));
    assert_eq!(through.status, direct.status, "{method} {path}");
    for field in ["Content-Type", "Content-Length", "Allow", "Cache-Control"] {
        let fields = [&through, &direct].map(|answer| answer.headers.get(field));
        assert_eq!(fields[0], fields[1], "{method} {path}: {field}");
    }
    assert_eq!(through.text(), direct.text(), "{method} {path}");
    through
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn head_and_options_are_the_api_servers_business() {
    let (api, house) = house();
    let health = same(&house, api, "HEAD", "/healthz");
    assert_eq!((health.status, health.body.len()), (200, 0));
    assert_eq!(health.headers.get("Content-Length"), Some("2"));
    same(&house, api, "HEAD", "/version");
    same(&house, api, "HEAD", "/api/v1/nodes/node-1");
    same(&house, api, "OPTIONS", "/api/v1/nodes");
    same(&house, api, "OPTIONS", "/version");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn what_does_not_exist_is_the_api_servers_own_404() {
    let (api, house) = house();
    for path in [
        "/api/v1/nonsense",
        "/api/v1/namespaces/default/pods/nothing",
        "/apis/nothing.example/v1/things",
        "/api",
        "/healthz/nothing",
    ] {
        let answer = same(&house, api, "GET", path);
        assert_eq!(answer.status == 404, path != "/api", "{path}");
    }
    let complaint = house
        .kubectl(&api.facts.kube)
        .fails(&["get", "pod", "nothing"]);
    assert!(
        complaint.contains("pods \"nothing\" not found"),
        "{complaint}"
    );
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn names_with_special_characters_reach_their_object() {
    let (api, house) = house();
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let name = "spécial: a+b &c=d;e#f?g@h,i'j\"k";
    let role = json!({"metadata": {"name": name, "labels": {"of": "special"}}, "rules": []});
    let made = house.http().post(path, &role);
    assert_eq!(made.status, 201, "{}", made.text());
    let encoded = name.bytes().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02x}");
        text
    });
    let found = house.http().get(&format!("{path}/{encoded}"));
    assert_eq!(found.json()["metadata"]["name"], name);

    let kubectl = house.kubectl(&api.facts.kube);
    assert_eq!(
        kubectl
            .ok(&["get", "clusterrole", name, "-o", "name"])
            .trim(),
        format!("clusterrole.rbac.authorization.k8s.io/{name}")
    );
    let by_label = [
        "get",
        "clusterrole",
        "-l",
        "of in (special, other)",
        "-o",
        "name",
    ];
    assert_eq!(kubectl.ok(&by_label).lines().count(), 1);
    kubectl.ok(&["delete", "clusterrole", name]);
    assert_eq!(api.as_admin().get(&format!("{path}/{encoded}")).status, 404);
}
