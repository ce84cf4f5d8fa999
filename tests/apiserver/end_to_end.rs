//! The real binary, as a newcomer uses it.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::api_server::shared;
use crate::installed::Installed;
use crate::process::{Process, binary};

pub(crate) fn command(home: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(line).env_clear().env("HOME", home);
    command.stdin(Stdio::null());
    command
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn the_demo_shows_a_real_cluster_and_ends_well() {
    let api = shared();
    let home = tempfile::tempdir().expect("a folder");
    let kubeconfig = api.facts.admin_kubeconfig.to_str().expect("text");
    let line = ["demo", "--once", "--kubeconfig", kubeconfig];
    let (status, text) = Process::start(&mut command(home.path(), &line)).end();
    assert_eq!(status.code(), Some(0), "{text}");
    for step in [
        "is registered as",
        "heartbeat is acknowledged",
        "1 nodes listed through the tunnel: node-1",
        "a watch event arrived live",
    ] {
        assert!(text.contains(step), "{step:?} in {text}");
    }
}

#[test]
#[ignore = "needs a real API server: tests/run cluster"]
fn plane_and_agent_by_their_command_lines() {
    let api = shared();
    let installed = Installed::start(api);
    let kubectl = installed.kubectl(&api.facts.kube);
    assert!(kubectl.ok(&["get", "nodes"]).contains("node-1"));
    let table = installed.clusters();
    let row = table.lines().nth(1).expect("a cluster");
    assert!(
        row.starts_with("home") && row.contains(&api.facts.version),
        "{table}"
    );

    let Installed { agent, plane, .. } = installed;
    agent.signal("TERM");
    let (status, text) = agent.end();
    assert_eq!(status.code(), Some(0), "{text}");
    plane.signal("TERM");
    let (status, text) = plane.end();
    assert_eq!(status.code(), Some(0), "{text}");
}
