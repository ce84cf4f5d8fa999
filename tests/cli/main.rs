//! The real binary, driven by its command line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

#[cfg(feature = "plane")]
mod demo;
#[cfg(feature = "plane")]
mod plane;

const TOKEN: &str = "sat_0123456789abcdefghijklmnopqrstuv";

/// The binary that ships where `PIPEOPS_TEST_BINARY` names it, else the one that was
/// built with the tests.
fn binary() -> PathBuf {
    std::env::var_os("PIPEOPS_TEST_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_pipeops-agent")),
        PathBuf::from,
    )
}

/// A command in an empty folder with an empty environment.
struct Bench {
    folder: TempDir,
    vars: BTreeMap<&'static str, String>,
}

impl Bench {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            vars: BTreeMap::new(),
        }
    }

    fn var(mut self, name: &'static str, value: &str) -> Self {
        self.vars.insert(name, value.to_owned());
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.folder.path().join(name), text).expect("written");
        self
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(line)
            .env_clear()
            .envs(&self.vars)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Ended {
        Ended::from(self.command(line).output().expect("it runs"))
    }
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Ended {
    /// The one JSON record on stderr.
    fn record(&self) -> Value {
        assert_eq!(self.err.matches('\n').count(), 1, "one line: {}", self.err);
        serde_json::from_str(&self.err).expect("a JSON record")
    }
}

/// A program that runs; what it prints is read as it is written. It is killed when it
/// is dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    fn start(bench: &Bench, line: &[&str]) -> Self {
        Self::run(&mut bench.command(line))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("piped");
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The first line from now on that `fits`.
    fn line(&mut self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let line = match self.lines.recv_timeout(Duration::from_mins(1)) {
                Ok(line) => line,
                Err(error) => panic!("no {what:?} ({error}) in {:#?}", self.seen),
            };
            self.seen.push(line.clone());
            if fits(&line) {
                return line;
            }
        }
    }

    /// The first record from now on with this message.
    fn wait_for(&mut self, message: &str) -> Value {
        let record = |line: &str| serde_json::from_str::<Value>(line).expect("a JSON record");
        record(&self.line(message, |line| record(line)["msg"] == message))
    }

    fn address(&mut self) -> String {
        let record = self.wait_for("local server is listening");
        record["address"].as_str().expect("an address").to_owned()
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(done.success());
    }

    /// Its exit code, and everything that it wrote.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().expect("it ends").code();
        let mut all = self.seen.join("\n");
        all.extend(self.lines.iter());
        let mut err = String::new();
        let stderr = self.child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut err).expect("text");
        (code, all + "\n" + &err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: &str, path: &str) -> (u16, Value) {
    let mut client = TcpStream::connect(address).expect("connected");
    write!(client, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("written");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    (
        status.parse().expect("a number"),
        serde_json::from_str(body).expect("JSON"),
    )
}

#[test]
fn help_and_version_end_with_0() {
    let bench = Bench::new();
    for line in [
        &["--help"][..],
        &["-h"],
        &["run", "--help"],
        &["plane", "--help"],
    ] {
        let ended = bench.run(line);
        assert_eq!(ended.code, Some(0), "{line:?}");
        assert!(ended.out.contains("Usage:"), "{}", ended.out);
        assert!(!ended.out.contains('\x1b'), "no colours in a pipe");
    }
    let long = bench.run(&["--version"]);
    let short = bench.run(&["version"]);
    assert_eq!((long.code, short.code), (Some(0), Some(0)));
    assert_eq!(long.out, short.out);
    assert_eq!(
        long.out,
        format!("pipeops-agent {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_ends_with_1_and_names_the_nearest() {
    let bench = Bench::new();
    for (line, parts) in [
        (&["--tokn=sat_hidden"][..], &["--tokn", "--token?"][..]),
        (&["--pipeop-url", "x"], &["--pipeops-url?"]),
        (&["run", "--cluster-nam", "x"], &["--cluster-name?"]),
        (&["demo", "--onse"], &["--once?"]),
        (&["plan"], &["plan", "plane?"]),
        (&["status"], &["unknown command", "status"]),
        (&["--in-cluster", "true"], &["--in-cluster=true"]),
        (&["--token"], &["--token"]),
        (&["--port=1", "demo"], &["belong to `run`"]),
        (&["plane", "token"], &["create"]),
        // The slim build says that it is slim instead.
        #[cfg(feature = "plane")]
        (
            &["plane", "token", "create", "--role=agent"],
            &["--cluster"],
        ),
        #[cfg(feature = "plane")]
        (&["plane", "--tls-cert=x"], &["--tls-key"]),
    ] {
        let ended = bench.run(line);
        assert_eq!(ended.code, Some(1), "{line:?}: {}", ended.err);
        assert_eq!(
            ended.err.matches('\n').count(),
            1,
            "{line:?}: {}",
            ended.err
        );
        assert!(ended.err.starts_with("error: "), "{}", ended.err);
        for part in parts {
            assert!(ended.err.contains(part), "{line:?}: {}", ended.err);
        }
        assert!(!ended.err.contains("hidden"), "{}", ended.err);
    }
}

#[test]
fn a_broken_file_ends_with_1_and_its_place() {
    let bench = Bench::new().file("bad.yaml", "agent:\n  port: [1,\n");
    let ended = bench.run(&["--config", "bad.yaml"]);
    assert_eq!(ended.code, Some(1));
    let record = ended.record();
    let message = record["msg"].as_str().expect("a message");
    let place: Vec<_> = message.split(':').take(3).collect();
    assert_eq!(place[0], "bad.yaml");
    assert!(
        place[1..].iter().all(|part| part.parse::<u32>().is_ok()),
        "{message}"
    );
    assert_eq!(record["level"], "error");
    assert_eq!(ended.out, "");
}

#[test]
fn without_a_token_it_says_how_to_give_one() {
    let bench = Bench::new().var("PIPEOPS_CLUSTER_NAME", "prod");
    let ended = bench.run(&[]);
    assert_eq!(ended.code, Some(1));
    let message = ended.record()["msg"].to_string();
    for part in ["no token", "PIPEOPS_TOKEN", "token_file", "--token"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn all_problems_come_in_one_record() {
    let bench = Bench::new()
        .var("AGENT_PORT", "http")
        .var("PIPEOPS_LOG_LEVEL", "loud");
    let message = bench.run(&[]).record()["msg"].to_string();
    for part in ["agent.port", "logging.level", "no token"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn validate_reports_without_connecting() {
    let bench = Bench::new()
        .file("good.yaml", "agent: {cluster_name: a, prot: 1}\n")
        .var("PIPEOPS_TOKEN", TOKEN);
    let ended = bench.run(&["config", "validate", "--config=good.yaml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(
        ended.out.contains("did you mean agent.port?"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("is valid (good.yaml)"), "{}", ended.out);
}

#[test]
fn completions_and_docs_are_printed() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let ended = bench.run(&["completions", shell]);
        assert!(
            ended.code == Some(0) && ended.out.contains("pipeops-agent"),
            "{shell}"
        );
    }
    assert!(
        bench
            .run(&["config", "docs"])
            .out
            .starts_with("# Configuration\n")
    );
}

#[cfg(not(feature = "plane"))]
#[test]
fn the_slim_build_says_that_it_is_slim() {
    let bench = Bench::new();
    for line in [&["demo"][..], &["plane"], &["plane", "clusters"]] {
        let ended = bench.run(line);
        assert_eq!(ended.code, Some(1));
        assert!(ended.err.contains("built without"), "{}", ended.err);
    }
}

#[test]
fn a_running_agent_answers_probes_hides_its_token_and_stops_on_sigterm() {
    let bench = Bench::new()
        .file(
            "agent.yaml",
            "pipeops: {token: '${MY_TOKEN}', api_url: 'http://127.0.0.1:1'}\nagent: {cluster_name: prod}\nlogging: {level: trace}\n",
        )
        .var("MY_TOKEN", TOKEN);
    let mut agent = Running::start(
        &bench,
        &[
            "--config=agent.yaml",
            "--in-cluster=false",
            "--port=0",
            "--gateway-enabled",
        ],
    );
    let started = agent.wait_for("starting PipeOps Agent");
    for (name, value) in [
        ("level", "info"),
        ("component", "cli"),
        ("config", "agent.yaml"),
        ("cluster_name", "prod"),
        ("ingress_sync", "false"),
    ] {
        assert_eq!(started[name], value, "{started}");
    }
    let address = agent.address();
    let (status, body) = get(&address, "/health");
    assert_eq!((status, body["status"].as_str()), (200, Some("healthy")));
    let (status, body) = get(&address, "/ready");
    assert_eq!((status, body["status"].as_str()), (503, Some("not_ready")));
    agent.signal("TERM");
    let (code, log) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(TOKEN), "{log}");
    assert!(
        log.contains("gateway.enabled (--gateway-enabled) is accepted"),
        "{log}"
    );
    assert!(log.contains("\"msg\":\"stopped\""), "{log}");
}

#[test]
fn readiness_is_always_given_where_the_originals_is_asked_for() {
    let bench = Bench::new()
        .var("PIPEOPS_TOKEN", TOKEN)
        .var("PIPEOPS_CLUSTER_NAME", "prod")
        .var("PIPEOPS_API_URL", "http://127.0.0.1:1")
        .var("PIPEOPS_TRUTHFUL_READINESS_PROBE", "false");
    let mut agent = Running::start(&bench, &["run", "--port=0"]);
    let address = agent.address();
    let (status, body) = get(&address, "/ready");
    assert_eq!(
        (status, body["mode"].as_str()),
        (200, Some("backward_compatible"))
    );
    assert_eq!(get(&address, "/health").0, 200);
    agent.signal("INT");
    assert_eq!(agent.end().0, Some(0));
}

/// config-and-state.md §10.2: the original went on without its server.
#[test]
fn a_taken_port_ends_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("address").port().to_string();
    let bench = Bench::new()
        .var("PIPEOPS_TOKEN", TOKEN)
        .var("PIPEOPS_API_URL", "http://127.0.0.1:1");
    let ended = bench.run(&["--port", &port, "--cluster-name=a"]);
    assert_eq!(ended.code, Some(1));
    let last: Value =
        serde_json::from_str(ended.out.lines().last().expect("a log")).expect("a JSON record");
    assert_eq!(last["level"], "error");
    assert!(
        last["msg"].to_string().contains("cannot listen on"),
        "{last}"
    );
}

#[test]
fn the_log_goes_where_it_is_told_to() {
    let bench = Bench::new()
        .var("PIPEOPS_TOKEN", TOKEN)
        .var("PIPEOPS_API_URL", "http://127.0.0.1:1")
        .var("LOGGING_OUTPUT", "agent.log")
        .var("LOGGING_FORMAT", "text")
        .var("PIPEOPS_PORT", "1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("address").port().to_string();
    let ended = bench.run(&["--port", &port]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    let log = std::fs::read_to_string(bench.folder.path().join("agent.log")).expect("a log");
    assert!(
        log.contains(" info    cli: starting PipeOps Agent "),
        "{log}"
    );
    assert!(log.contains("no agent.cluster_name is set"), "{log}");
    let ended = bench.run(&["--config=/dev/null/x"]);
    assert!(ended.record()["msg"].to_string().contains("/dev/null/x"));
}
