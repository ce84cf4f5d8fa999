//! What only shows with time. First in the alphabet, so that it starts first and
//! the other tests run meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::api_server::shared;
use crate::end_to_end::command;
use crate::kubectl::Kubectl;
use crate::process::Process;
use crate::watching::make;

/// All that the demo promises of a real cluster, with the file that it writes and for
/// longer than any limit of ours.
#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn kubectl_with_the_demos_kubeconfig_for_two_minutes() {
    let api = shared();
    let namespace = api.namespace("long-watch");
    make(api, &namespace, "old");
    api.pod(&namespace, "box");
    let home = tempfile::tempdir().expect("a folder");
    let kubeconfig = api.facts.admin_kubeconfig.to_str().expect("text");
    let line = ["demo", "--kubeconfig", kubeconfig];
    let mut demo = Process::start(&mut command(home.path(), &line));
    let hint = demo.line(|line| line.trim().starts_with("kubectl --kubeconfig"));
    let written = Path::new(hint.split_whitespace().nth(2).expect("a path"));
    let kubectl = Kubectl::with(&api.facts.kube, written);

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
    let mut cat = kubectl.start_listening(&["exec", "-i", "-n", &namespace, "box", "--", "cat"]);
    cat.say("early");
    cat.line_with("early");
    let mut logs = kubectl.start(&["logs", "-f", "-n", "shop", "api", "-c", "app"]);
    logs.line_with("shop/api/app line 7");

    assert!(kubectl.ok(&["get", "pods", "-A"]).contains("waiting"));
    let manifest = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        )
    };
    let applied = kubectl.apply(&manifest("early"), &[]);
    assert!(applied.good, "{}", applied.err);
    assert!(watch.line_with("early").starts_with("ADDED"));

    // Their age is what is tested: limits of 30 s, 60 s and 120 s lie behind it.
    std::thread::sleep(Duration::from_secs(121).saturating_sub(since.elapsed()));
    let applied = kubectl.apply(&manifest("late"), &[]);
    assert!(applied.good, "{}", applied.err);
    assert!(watch.line_with("late").starts_with("ADDED"));
    kubectl.ok(&["delete", "configmap", "-n", &namespace, "late"]);
    watch.line(|line| line.starts_with("DELETED") && line.contains("late"));
    // Two lines a second, and one at once.
    logs.line_with("shop/api/app line 240");
    cat.say("late");
    cat.line_with("late");
    // It is the same watch as in the beginning, and it goes on.
    let stages = |stage: &str| {
        let lines = api.audit(|line| {
            let uri = line["requestURI"].as_str().unwrap_or_default();
            let mine = uri.contains(&namespace) && uri.contains("watch=true");
            mine && line["stage"] == stage
        });
        lines.len()
    };
    assert_eq!(
        (stages("ResponseStarted"), stages("ResponseComplete")),
        (1, 0)
    );

    demo.signal("INT");
    let (status, text) = demo.end();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(!written.exists(), "the folder is removed");
}
