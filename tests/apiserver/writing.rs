//! apply, patch, delete, and bodies of all sizes.

use serde_json::json;

use crate::api_server::{ApiServer, shared};
use crate::house::{House, Plan};

fn house(namespace: &str) -> (&'static ApiServer, House, String) {
    let api = shared();
    let house = Plan::new(api.admin()).lend().build();
    (api, house, api.namespace(namespace))
}

fn manifest(namespace: &str, value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied, namespace: {namespace}}}\n\
         data: {{colour: {value}}}\n"
    )
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_applies_on_the_server_and_reads_a_conflict() {
    let (api, house, namespace) = house("apply");
    let kubectl = house.kubectl(&api.facts.kube);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/applied");
    let colour = || api.as_admin().get(&path).json()["data"]["colour"].clone();

    for value in ["red", "green"] {
        let done = kubectl.apply(&manifest(&namespace, value), &[]);
        assert!(done.good, "{}", done.err);
        assert_eq!(done.out.trim(), "configmap/applied serverside-applied");
        assert_eq!(colour(), value);
    }
    let other = ["--field-manager=other"];
    let conflict = kubectl.apply(&manifest(&namespace, "blue"), &other);
    assert!(!conflict.good);
    for part in [
        "conflict with \"kubectl\"",
        ".data.colour",
        "--force-conflicts",
    ] {
        assert!(conflict.err.contains(part), "{part} in {}", conflict.err);
    }
    assert_eq!(colour(), "green");
    let forced = ["--field-manager=other", "--force-conflicts"];
    let done = kubectl.apply(&manifest(&namespace, "blue"), &forced);
    assert!(done.good, "{}", done.err);
    assert_eq!(colour(), "blue");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_creates_patches_and_deletes() {
    let (api, house, namespace) = house("patch");
    let kubectl = house.kubectl(&api.facts.kube);
    let object = ["configmap", "one", "-n", &namespace];
    let with = |verb: &'static str, more: &[&'static str]| {
        kubectl.ok(&[&[verb], object.as_slice(), more].concat())
    };
    with("create", &["--from-literal=a=1"]);
    with("patch", &["--type=merge", "-p", r#"{"data":{"b":"2"}}"#]);
    let add = r#"[{"op":"add","path":"/data/c","value":"3"}]"#;
    with("patch", &["--type=json", "-p", add]);
    with("patch", &["-p", r#"{"metadata":{"labels":{"x":"y"}}}"#]);
    with("annotate", &["note=ünï"]);
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/one");
    let found = api.as_admin().get(&path).json();
    assert_eq!(found["data"], json!({"a": "1", "b": "2", "c": "3"}));
    assert_eq!(found["metadata"]["labels"]["x"], "y");
    assert_eq!(found["metadata"]["annotations"]["note"], "ünï");
    // kubectl waits for the end of it with a watch.
    with("delete", &[]);
    assert_eq!(api.as_admin().get(&path).status, 404);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn what_the_api_server_finds_invalid_is_said_in_its_words() {
    let (api, house, namespace) = house("invalid");
    let manifest = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: Not_A_Name, namespace: {namespace}}}\n"
    );
    let refused = house.kubectl(&api.facts.kube).apply(&manifest, &[]);
    assert!(
        !refused.good && refused.err.contains("RFC 1123"),
        "{}",
        refused.err
    );
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_body_of_a_mebibyte_arrives() {
    let (api, house, namespace) = house("big-body");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let text = "0123456789abcdef".repeat((1 << 20) / 16 - 64);
    let body = json!({"metadata": {"name": "big"}, "data": {"text": text}});
    let made = house.http().post(&path, &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let found = api.as_admin().get(&format!("{path}/big")).json();
    assert!(found["data"]["text"] == text.as_str());
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_body_over_the_limit_is_refused_by_the_api_server() {
    let (api, house, namespace) = house("huge-body");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/huge");
    let body = json!({"metadata": {"name": "huge"}, "data": {"text": "x".repeat(5 << 20)}});
    let body = body.to_string().into_bytes();
    let headers = [("Content-Type", "application/json")];
    let put = |http: &crate::http::Http| http.ask("PUT", &path, &headers, body.clone());
    let [through, direct] = [put(&house.http()), put(&api.as_admin())];
    assert_eq!(
        (through.status, direct.status),
        (413, 413),
        "{}",
        through.text()
    );
    assert_eq!(through.text(), direct.text());
    // The agent is as well as before.
    assert_eq!(house.http().get("/version").status, 200);
    assert_eq!(house.connections(), 1);
}
