//! The real binary, as an operator runs it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Gateway;
use crate::stage::CLUSTER_ID;

/// A folder with configuration, token and state of an agent.
pub(crate) struct Home {
    pub(crate) gateway: Gateway,
    folder: TempDir,
}

impl Home {
    /// `more`: lines of YAML beside the usual ones.
    fn new(more: &str) -> Self {
        Self::over(Gateway::start(), "debug", more)
    }

    pub(crate) fn over(gateway: Gateway, level: &str, more: &str) -> Self {
        let home = Self {
            gateway,
            folder: tempfile::tempdir().expect("a folder"),
        };
        home.write("token", &home.gateway.token);
        let mut yaml = String::new();
        writeln!(yaml, "agent: {{cluster_name: interop, port: 0}}").expect("a String");
        writeln!(yaml, "pipeops:\n  api_url: {}", home.gateway.controller_url).expect("a String");
        writeln!(yaml, "  token_file: {}", home.path("token").display()).expect("a String");
        writeln!(
            yaml,
            "  tls: {{ca_file: {}}}",
            home.gateway.ca_file().display()
        )
        .expect("a String");
        writeln!(
            yaml,
            "state: {{backend: file, file: {}}}",
            home.path("state.yaml").display()
        )
        .expect("a String");
        writeln!(yaml, "logging: {{level: {level}}}\n{more}").expect("a String");
        home.write("config.yaml", &yaml);
        // On a machine that is busy with other tests the switch to the gateway may not
        // wait for the controller's close.
        home.gateway.set("allow_abrupt", true);
        home
    }

    /// Waits until the agent has arrived at the gateway; the connection's name. From
    /// then on it has to close in order.
    pub(crate) fn connected(&self) -> String {
        let conn = self.gateway.connection("gateway");
        self.gateway.message("heartbeat");
        let controllers = json!({"event": "upgrade", "role": "controller", "status": 101});
        for upgrade in self.gateway.seen(&controllers) {
            let close = json!({"event": "close", "conn": upgrade["conn"]});
            if self.gateway.seen(&close).is_empty() {
                self.gateway.expect(close);
            }
        }
        self.gateway.set("allow_abrupt", false);
        conn
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    pub(crate) fn start(&self) -> Running {
        let binary = std::env::var_os("PIPEOPS_TEST_BINARY")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_pipeops-agent").into());
        let mut child = Command::new(binary)
            .arg("--config")
            .arg(self.path("config.yaml"))
            .env_clear()
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (lines, out) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let readers = [
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // Whoever doesn't listen any more has seen enough.
                    let _ = lines.send(line);
                }
                String::new()
            }),
            thread::spawn(move || {
                let mut text = String::new();
                stderr.read_to_string(&mut text).expect("text");
                text
            }),
        ];
        Running {
            child: Kept(child),
            out,
            readers,
            token: self.gateway.token.clone(),
        }
    }
}

pub(crate) struct Running {
    child: Kept,
    out: mpsc::Receiver<String>,
    readers: [JoinHandle<String>; 2],
    token: String,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.0.id()
    }

    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("sent");
    }

    /// Its exit code and its log, in which the token isn't.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let code = self.child.0.wait().expect("it ends").code();
        let [_, stderr] = self.readers.map(|reader| reader.join().expect("read"));
        let lines: Vec<String> = self.out.iter().collect();
        assert!(
            !lines.iter().any(|line| line.contains(&self.token)),
            "{lines:#?}"
        );
        assert_eq!(stderr, "", "everything is said in the log");
        let record = |line: &String| serde_json::from_str(line).expect("a JSON record");
        (code, lines.iter().map(record).collect())
    }
}

/// A test that fails leaves no process behind.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // Both fail where it has ended, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn errors(log: &[Value]) -> Vec<&str> {
    log.iter()
        .filter(|record| record["level"] == "error")
        .map(|record| record["msg"].as_str().expect("text"))
        .collect()
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_termination_closes_with_1000_and_ends_with_0() {
    let home = Home::new("");
    let running = home.start();
    let gateway = home.connected();
    home.gateway.settle();
    running.terminate();
    home.gateway.closed(&gateway, 1000);
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
    assert_eq!(errors(&log), Vec::<&str>::new());
    home.gateway.finish();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_refused_registration_is_one_clear_line_and_exit_code_1() {
    let home = Home::new("");
    home.gateway.set("register", "error");
    home.gateway
        .set("register_error", "the plan allows no more clusters");
    let running = home.start();
    home.gateway.closed("controller#1", 1000);
    let (code, log) = running.end();
    assert_eq!(code, Some(1));
    assert_eq!(
        errors(&log),
        ["the control plane refused the registration: the plan allows no more clusters"]
    );
    home.gateway.finish();
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_refused_token_is_one_clear_line_and_exit_code_1() {
    for status in [401, 403] {
        let home = Home::new("");
        home.gateway.set("controller", json!({"status": status}));
        let running = home.start();
        home.gateway.refused("controller", status);
        let (code, log) = running.end();
        assert_eq!(code, Some(1));
        let [line] = errors(&log)[..] else {
            panic!("{log:#?}")
        };
        assert!(
            line.contains("refused") && line.contains(&status.to_string()),
            "{line}"
        );
        home.gateway.finish();
    }
}

#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn the_state_file_lets_the_next_process_resume() {
    let home = Home::new("");
    let running = home.start();
    let gateway = home.connected();
    running.terminate();
    home.gateway.closed(&gateway, 1000);
    assert_eq!(running.end().0, Some(0));
    let state = std::fs::read_to_string(home.path("state.yaml")).expect("written");
    assert!(state.contains(CLUSTER_ID), "{state}");
    assert!(!state.contains(&home.gateway.token), "{state}");

    let running = home.start();
    let gateway = home.connected();
    let registers = json!({"event": "message", "type": "register"});
    assert_eq!(home.gateway.seen(&registers).len(), 1);
    running.terminate();
    home.gateway.closed(&gateway, 1000);
    assert_eq!(running.end().0, Some(0));
    home.gateway.finish();
}

/// The end of the process looks for the token in its log.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_token_that_an_answer_repeats_stays_out_of_the_log() {
    let home = Home::new("timeouts: {websocket_reconnect: 10ms}");
    let body = format!("denied: Authorization: Bearer {}", home.gateway.token);
    home.gateway.set(
        "controller",
        json!({"status": 503, "body": body, "times": 3}),
    );
    let running = home.start();
    for _ in 0..3 {
        home.gateway.refused("controller", 503);
    }
    let gateway = home.connected();
    let error = format!("{} is not welcome", home.gateway.token);
    home.gateway.send("error", "", json!({"error": error}));
    home.gateway.round_trip();
    running.terminate();
    home.gateway.closed(&gateway, 1000);
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
    let warns = |text: &str| {
        log.iter()
            .any(|record| record["msg"].as_str().is_some_and(|msg| msg.contains(text)))
    };
    assert!(warns("denied") && warns("is not welcome"), "{log:#?}");
    home.gateway.finish();
}

/// A termination that comes while nothing is connected.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn a_termination_while_the_controller_is_down_ends_with_0() {
    let home = Home::new("");
    home.gateway.set("controller", json!({"status": 503}));
    let running = home.start();
    home.gateway.refused("controller", 503);
    running.terminate();
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
    assert_eq!(errors(&log), Vec::<&str>::new());
    home.gateway.finish();
}

/// T4: the limits of the file, under the names that the original never decoded.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn t04_the_time_limits_of_the_configuration_are_effective() {
    let home = Home::new(
        "timeouts: {websocket_handshake: 1s, websocket_ping: 200ms, websocket_read: 2s, \
         websocket_reconnect: 10ms, websocket_reconnect_max: 20ms, registration: 1s}",
    );
    // An upgrade that is never answered, then a registration that isn't: with the
    // defaults each would take half a minute.
    home.gateway
        .set("controller", json!({"hang": true, "times": 1}));
    home.gateway.set("register", "silence");
    let running = home.start();
    home.gateway.refused("controller", 0);
    home.gateway.message("register");
    home.gateway.message("register");
    home.gateway.set("register", "success");
    let frozen = home.gateway.connection("gateway");
    home.gateway.message("heartbeat");
    home.gateway
        .expect(json!({"event": "ping", "conn": frozen}));
    home.gateway.command(json!({"cmd": "pause"}));
    let gateway = home.connected();
    let t_ms = |pattern: Value| home.gateway.seen(&pattern).pop().expect("seen")["t_ms"].as_u64();
    let total = t_ms(json!({"event": "upgrade", "conn": gateway})).expect("ms");
    assert!(
        Duration::from_millis(total) < Duration::from_secs(30),
        "{total} ms"
    );
    running.terminate();
    home.gateway.closed(&gateway, 1000);
    assert_eq!(running.end().0, Some(0));
    home.gateway.finish();
}
