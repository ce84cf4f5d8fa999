//! What only shows with time. First in the alphabet, so that it starts first and
//! the other tests run meanwhile.

use std::time::{Duration, Instant};

use crate::api_server::shared;
use crate::house::Plan;
use crate::watching::make;

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn a_watch_of_kubectl_lives_for_over_a_minute() {
    let api = shared();
    let house = Plan::new(api.admin()).lend().build();
    let namespace = api.namespace("long-watch");
    make(api, &namespace, "old");
    let kubectl = house.kubectl(&api.facts.kube);
    let mut watch = kubectl.start(&[
        "get",
        "configmaps",
        "-n",
        &namespace,
        "-w",
        "--no-headers",
        "--output-watch-events",
    ]);
    let since = Instant::now();
    watch.line_with("old");
    make(api, &namespace, "early");
    assert!(watch.line_with("early").starts_with("ADDED"));
    // Its age is what is tested: limits of 30 s and 60 s lie behind it.
    std::thread::sleep(Duration::from_secs(66).saturating_sub(since.elapsed()));
    make(api, &namespace, "late");
    assert!(watch.line_with("late").starts_with("ADDED"));
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/late");
    api.as_admin().ask("DELETE", &path, &[], Vec::new());
    watch.line(|line| line.starts_with("DELETED") && line.contains("late"));
    assert_eq!(house.connections(), 1, "on one connection");
}
