//! What goes on for long: watches and followed logs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api_server::{ApiServer, shared};
use crate::house::{House, Plan};
use crate::wait_for;

fn house() -> (&'static ApiServer, House) {
    let api = shared();
    (api, Plan::new(api.admin()).lend().build())
}

pub(crate) fn make(api: &ApiServer, namespace: &str, name: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let made = api
        .as_admin()
        .post(&path, &json!({"metadata": {"name": name}}));
    assert_eq!(made.status, 201, "{}", made.text());
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_watch_gives_each_event_as_it_happens() {
    let (api, house) = house();
    let namespace = api.namespace("live-watch");
    make(api, &namespace, "first");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?watch=true");
    let http = house.http();
    let mut watch = http.open(&format!("{path}&timeoutSeconds=30"));
    let since = Instant::now();
    let event = watch.event();
    assert_eq!((event.kind.as_str(), event.name()), ("ADDED", "first"));
    for name in ["second", "third"] {
        make(api, &namespace, name);
        assert_eq!(watch.event().name(), name);
    }
    // The API server ends it after 30 s: nothing waited for that.
    assert!(since.elapsed() < Duration::from_secs(25), "{since:?}");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_watch_that_the_api_server_ends_has_a_proper_end() {
    let (api, house) = house();
    let namespace = api.namespace("short-watch");
    let http = house.http();
    let mut watch = http.open(&format!(
        "/api/v1/namespaces/{namespace}/configmaps?watch=true&timeoutSeconds=1"
    ));
    assert_eq!(watch.next().expect("not cut off"), None);
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn watches_leave_room_for_short_requests() {
    let (api, house) = house();
    let namespace = api.namespace("many-watches");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps?watch=true");
    let http = house.http();
    let mut watches = (0..300).map(|_| http.open(&path)).collect::<Vec<_>>();
    assert_eq!(http.get("/api/v1/nodes").status, 200);
    make(api, &namespace, "seen-by-all");
    for watch in &mut watches {
        assert_eq!(watch.event().name(), "seen-by-all");
    }
}

/// The audit lines of a watch that has this in its URI, by stage.
fn stages(api: &ApiServer, part: &str) -> Vec<(String, jiff::Timestamp)> {
    let of_watch = |line: &Value| {
        let uri = line["requestURI"].as_str().unwrap_or_default();
        uri.contains(part)
    };
    let stage = |line: &Value| {
        let time = line["stageTimestamp"].as_str()?.parse().ok()?;
        Some((line["stage"].as_str()?.to_owned(), time))
    };
    api.audit(of_watch).iter().filter_map(stage).collect()
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_watch_ends_at_the_api_server_when_its_client_goes() {
    let (api, house) = house();
    let marker = "left-alone";
    let http = house.http();
    let watch = http.open(&format!(
        "/api/v1/configmaps?watch=true&labelSelector=test%3D{marker}&resourceVersion=0"
    ));
    wait_for("the watch's begin", || {
        let all = stages(api, marker);
        all.into_iter()
            .find(|(stage, _)| stage == "ResponseStarted")
    });
    let left = jiff::Timestamp::now();
    drop(watch);
    let (_, ended) = wait_for("the watch's end", || {
        let all = stages(api, marker);
        all.into_iter()
            .find(|(stage, _)| stage == "ResponseComplete")
    });
    assert!(ended.duration_since(left) < jiff::SignedDuration::from_secs(5));
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_follows_a_log_until_it_is_killed() {
    let (api, house) = house();
    let line = |n: u32| format!("shop/api/sidecar line {n}");
    let kubectl = house.kubectl(&api.facts.kube);
    let mut logs = kubectl.start(&["logs", "-f", "-n", "shop", "api", "-c", "sidecar"]);
    for n in 1..=9 {
        logs.line(|text| text == line(n));
    }
    logs.signal("KILL");
    let killed = Instant::now();
    wait_for("follow-end in the kubelet's log", || {
        let log = api.kubelet_log();
        let end = |line: &&str| line.contains("follow-end") && line.contains("shop/api/sidecar");
        log.lines().find(end).map(str::to_owned)
    });
    // Plane, agent, API server and kubelet each have to notice.
    assert!(killed.elapsed() < Duration::from_secs(5), "{killed:?}");
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_reads_the_end_of_a_log() {
    let (api, house) = house();
    let kubectl = house.kubectl(&api.facts.kube);
    let tail = kubectl.ok(&["logs", "web", "--tail=2"]);
    assert_eq!(tail, "default/web/app line 4\ndefault/web/app line 5\n");
    let complaint = kubectl.fails(&["logs", "web", "--previous"]);
    assert!(
        complaint.contains("previous terminated container"),
        "{complaint}"
    );
}
