//! The real binary, as a newcomer uses it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::api_server::shared;
use crate::kubectl::Kubectl;
use crate::process::{Process, binary};
use crate::wait_until;

pub(crate) fn command(home: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(line).env_clear().env("HOME", home);
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
    let home = tempfile::tempdir().expect("a folder");
    let data = home.path().join("plane");
    let data = data.to_str().expect("text");
    let ask = |line: &[&str]| {
        let line = [line, &["--data", data]].concat();
        let output = command(home.path(), &line).output().expect("it runs");
        assert!(output.status.success(), "{line:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let listen = ["plane", "--listen", "127.0.0.1:0", "--data", data];
    let mut plane = Process::start(&mut command(home.path(), &listen));
    let url = plane.line_with("api_url:");
    let url = url.split_whitespace().last().expect("a URL").to_owned();
    let ca = plane.line_with("ca_file:");
    let ca = Path::new(ca.split_whitespace().last().expect("a path")).to_owned();
    let token = |role: &[&str]| {
        let made = ask(&[&["plane", "token", "create", "--role"], role].concat());
        made.trim().to_owned()
    };

    let config = format!(
        "pipeops:\n  api_url: {url}\n  token: {}\n  tls:\n    ca_file: {}\n\
         agent:\n  cluster_name: home\n  port: 0\n\
         kubernetes:\n  kubeconfig: {}\n  impersonate_agent: true\n\
         state:\n  backend: file\n  file: {}\n",
        token(&["agent", "--cluster", "home"]),
        ca.display(),
        api.facts.admin_kubeconfig.display(),
        home.path().join("state.yaml").display(),
    );
    let file = home.path().join("agent.yaml");
    fs::write(&file, config).expect("written");
    let line = ["--config", file.to_str().expect("text")];
    let agent = Process::start(&mut command(home.path(), &line));
    let clusters = || ask(&["plane", "clusters"]);
    wait_until("the cluster is connected", || clusters().contains("for "));

    let server = format!("{url}/clusters/home");
    let kubectl = Kubectl::at(&api.facts.kube, &server, &ca, &token(&["user", "--all"]));
    assert!(kubectl.ok(&["get", "nodes"]).contains("node-1"));
    let table = clusters();
    let row = table.lines().nth(1).expect("a cluster");
    assert!(
        row.starts_with("home") && row.contains(&api.facts.version),
        "{table}"
    );

    agent.signal("TERM");
    let (status, text) = agent.end();
    assert_eq!(status.code(), Some(0), "{text}");
    plane.signal("TERM");
    let (status, text) = plane.end();
    assert_eq!(status.code(), Some(0), "{text}");
}
