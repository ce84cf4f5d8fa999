//! The demo with its sample cluster, as a newcomer runs it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Bench, Running};

/// A kubeconfig whose API server is this.
fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: prod\n\
         clusters: [{{name: prod, cluster: {{server: '{server}'}}}}]\n\
         users: [{{name: prod, user: {{token: t}}}}]\n\
         contexts: [{{name: prod, context: {{cluster: prod, user: prod}}}}]\n"
    )
}

/// A port of loopback where nobody listens.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A bench whose temporary folder and home are the bench's own.
fn bench() -> Bench {
    let bench = Bench::new();
    let folder = bench.folder.path().display().to_string();
    bench.var("TMPDIR", &folder).var("HOME", &folder)
}

/// Folders that a demo has left behind.
fn left_behind(bench: &Bench) -> Vec<String> {
    let entries = std::fs::read_dir(bench.folder.path()).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("pipeops-demo"))
        .collect()
}

/// Whoever has a kubeconfig of production in the environment must be able to try it.
#[test]
fn demo_once_shows_the_sample_and_never_a_cluster_that_was_not_named() {
    let production = TcpListener::bind("127.0.0.1:0").expect("a port");
    production.set_nonblocking(true).expect("set");
    let server = format!("http://{}", production.local_addr().expect("its address"));
    let bench = bench().file("production", &kubeconfig(&server));
    let file = bench.folder.path().join("production");
    let bench = bench.var("KUBECONFIG", &file.display().to_string());
    std::fs::create_dir(bench.folder.path().join(".kube")).expect("made");
    let bench = bench.file(".kube/config", &kubeconfig(&server));
    let ended = bench.run(&["demo", "--once"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    for step in [
        "a sample cluster is at http://127.0.0.1:",
        "is registered as",
        "heartbeat is acknowledged",
        "nodes listed through the tunnel",
        "a watch event arrived live",
        "the plane exposes two services behind the agent: TCP at 127.0.0.1:",
        "256 MiB from the service to the client through the tunnel in ",
        "256 MiB from the client to the service through the tunnel in ",
        " MB/s, SHA-256 ",
        "datagrams to the echo and back, unchanged; median ",
        "What was counted",
    ] {
        assert!(ended.out.contains(step), "{step:?} in {}", ended.out);
    }
    assert!(!ended.out.contains("failed the steps"), "{}", ended.out);
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
    // Nobody looks at a terminal.
    assert!(!ended.out.contains(['\x1b', '\r']), "{:?}", ended.out);
    for (series, least) in [
        ("yamux_streams_accepted_total", 3.0),
        ("yamux_bytes_total{direction=\"in\"}", 256.0),
        ("yamux_bytes_total{direction=\"out\"}", 256.0),
        ("udp_tunnel_packets_total{direction=\"sent\"}", 1.0),
        ("udp_tunnel_sessions_total", 1.0),
        ("threads", 1.0),
    ] {
        let name = format!("pipeops_agent_{series} ");
        let row = ended.out.lines().find(|line| line.starts_with(&name));
        let row = row.unwrap_or_else(|| panic!("{name} in {}", ended.out));
        let value = row.split_whitespace().nth(1).and_then(|n| n.parse().ok());
        assert!(value.is_some_and(|value: f64| value >= least), "{row}");
    }
    for name in ["pipeops_tunnel_status ", "pipeops_tunnel_forwards_active "] {
        let row = ended.out.lines().find(|line| line.starts_with(name));
        let most = row.and_then(|row| row.split_whitespace().nth(2)?.parse().ok());
        assert!(most.is_some_and(|most: f64| most >= 1.0), "{row:?}");
    }
    for name in ["link_queue_bytes", "yamux_paused_streams"] {
        assert!(ended.out.contains(&format!("pipeops_agent_{name} ")));
    }
    let asked = production.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(asked, Err(std::io::ErrorKind::WouldBlock), "nobody came");
    assert_eq!(left_behind(&bench), Vec::<String>::new());
}

/// A step that fails is an exit code, with `--once`.
#[test]
fn demo_once_ends_with_1_when_a_step_fails() {
    let server = format!("http://127.0.0.1:{}", closed_port());
    let bench = bench().file("named", &kubeconfig(&server));
    for (line, part) in [
        (
            &["demo", "--once", "--kubeconfig", "named"][..],
            "/api/v1/nodes",
        ),
        (&["demo", "--once", "--kubeconfig", "missing"], "missing"),
        (&["demo", "--once", "--context", "nobody"], "kubeconfig"),
    ] {
        let ended = bench.run(line);
        assert_eq!(ended.code, Some(1), "{line:?}: {}{}", ended.out, ended.err);
        assert!(ended.out.contains("failed the steps end here"));
        assert!(ended.err.contains(part), "{line:?}: {}", ended.err);
        assert_eq!(left_behind(&bench), Vec::<String>::new());
    }
}

#[test]
fn a_size_that_is_none_says_how_to_write_one() {
    let ended = bench().run(&["demo", "--once", "--tunnel-size", "lots"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.out, ended.err);
    assert!(ended.err.contains("write 64MiB"), "{}", ended.err);
}

/// A `curl` as the demo's line has it, for another path. What it prints is read line
/// by line; it ends with the demo at the latest.
fn curl(line: &str, path: &str) -> Running {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let nodes = words.pop().expect("a URL");
    let base = nodes.strip_suffix("/api/v1/nodes").expect("that URL");
    let mut command = Command::new(words.remove(0));
    command
        .args(words)
        .args(["-sN", &format!("{base}{path}")])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(Stdio::null());
    Running::run(&mut command)
}

#[test]
fn what_the_demo_prints_works_when_pasted_and_ctrl_c_leaves_nothing() {
    let bench = bench();
    let mut demo = Running::start(&bench, &["demo", "--tunnel-size", "4MiB"]);
    let logs = demo.line("the logs line", |line| line.contains(" logs -f "));
    let line = demo.line("the curl line", |line| line.trim().starts_with("curl "));
    demo.line("how to end it", |line| line.starts_with("Ctrl-C"));
    // `kubectl --kubeconfig FILE logs -f -n NAMESPACE POD`
    let words: Vec<&str> = logs.split_whitespace().collect();
    let (kubeconfig, namespace, pod) = (Path::new(words[2]), words[6], words[7]);

    // What holds a token is its owner's alone.
    let folder = kubeconfig.parent().expect("a folder");
    assert!(folder.starts_with(bench.folder.path()));
    let mode = |path: &Path| {
        let facts = std::fs::metadata(path).expect("it is there");
        facts.permissions().mode() & 0o7777
    };
    assert_eq!(mode(kubeconfig), 0o600);
    assert_eq!(mode(&folder.join("authorization")), 0o600);

    // As it stands there, through a shell.
    let pasted = Command::new("sh")
        .args(["-c", &line])
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .output()
        .expect("a shell runs");
    let error = String::from_utf8_lossy(&pasted.stderr);
    assert!(pasted.status.success(), "{error} (tests/run installs curl)");
    let nodes: Value = serde_json::from_slice(&pasted.stdout).expect("JSON");
    assert_eq!(nodes["kind"], "NodeList", "{nodes}");
    assert!(!nodes["items"].as_array().expect("a list").is_empty());

    // Live: what changes is seen while it goes on.
    let mut watch = curl(&line, "/api/v1/pods?watch=true");
    for _ in 0..2 {
        watch.line("a change of the pod", |line| {
            line.contains("\"MODIFIED\"") && line.contains(pod)
        });
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?follow=true");
    let mut log = curl(&line, &path);
    let first = log.line("a line", |line| !line.is_empty());
    log.line("another line", |line| !line.is_empty() && line != first);

    demo.signal("INT");
    let (code, printed) = demo.end();
    assert_eq!(code, Some(0), "{printed}");
    assert!(!folder.exists(), "{} is still there", folder.display());
    // Whoever was watching has heard of it.
    watch.end();
    log.end();
}
