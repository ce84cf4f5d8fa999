//! Drives the Go gateway: commands out, events in (README.md).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base64_simd::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::log_lines;

/// A running gateway with a certificate and a token of its own. Dropped without
/// [`finish`](Self::finish) (by a test that failed), it shows what happened.
pub(crate) struct Gateway {
    process: Child,
    stdin: Mutex<Option<ChildStdin>>,
    events: Arc<Events>,
    readers: Vec<JoinHandle<()>>,
    stderr: Arc<Mutex<String>>,
    folder: TempDir,
    tags: AtomicU64,
    pub(crate) controller_url: String,
    pub(crate) gateway_url: String,
    pub(crate) token: String,
    /// Of its service, with `--target`.
    pub(crate) target_port: Option<u16>,
    /// Of its WebSockets, with `--sockets`: without TLS and with it.
    pub(crate) sockets_ports: Option<[u16; 2]>,
}

/// What was printed so far, `done` included.
#[derive(Default)]
struct Events {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<Value>,
    ended: bool,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        log_lines::record();
        let program = std::env::var_os("PIPEOPS_TEST_GATEWAY")
            .expect("PIPEOPS_TEST_GATEWAY names the gateway; `tests/run interop` builds it");
        let folder = tempfile::tempdir().expect("a folder");
        let made =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let (cert, key) = (
            folder.path().join("cert.pem"),
            folder.path().join("key.pem"),
        );
        std::fs::write(&cert, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let token = format!("interop-{:016x}", fastrand::u64(..));

        let mut process = Command::new(program)
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .args(["--token", &token, "--yamux"])
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut first = String::new();
        stdout.read_line(&mut first).expect("its first line");
        let ready: Value = serde_json::from_str(&first).expect("the line that says ready");

        let events = Arc::new(Events::default());
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut errors = process.stderr.take().expect("piped");
        let (to_events, to_stderr) = (events.clone(), stderr.clone());
        let readers = vec![
            thread::spawn(move || to_events.read(stdout)),
            thread::spawn(move || {
                let mut text = String::new();
                errors.read_to_string(&mut text).expect("text");
                *lock(&to_stderr) = text;
            }),
        ];
        let port = |name: &str| ready[name].as_u64().map(|port| port as u16);
        let url = |name: &str| ready[name].as_str().expect("a URL").to_owned();
        Self {
            stdin: Mutex::new(process.stdin.take()),
            process,
            events,
            readers,
            stderr,
            folder,
            tags: AtomicU64::new(0),
            controller_url: url("controller_url"),
            gateway_url: url("gateway_url"),
            token,
            target_port: port("target_port"),
            sockets_ports: port("sockets_port")
                .zip(port("sockets_tls_port"))
                .map(|(a, b)| [a, b]),
        }
    }

    /// What agents must trust.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Runs a command and returns its `done` event, whether it succeeded or not.
    fn run(&self, mut command: Value) -> Value {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        command["tag"] = tag.into();
        let line = format!("{command}\n");
        if let Some(stdin) = &mut *lock(&self.stdin) {
            stdin
                .write_all(line.as_bytes())
                .expect("the gateway reads commands");
        }
        let done = json!({"event": "done", "tag": tag});
        self.events.wait(|event| contains(&done, event))
    }

    /// Runs a command that must succeed.
    pub(crate) fn command(&self, command: Value) -> Value {
        let done = self.run(command.clone());
        assert_eq!(done["ok"], true, "{command}");
        done
    }

    pub(crate) fn set(&self, key: &str, value: impl Into<Value>) {
        self.command(json!({"cmd": "set", "key": key, "value": value.into()}));
    }

    /// Waits for an event like this one and returns it. Each is taken once, also
    /// when it came before.
    pub(crate) fn expect(&self, pattern: Value) -> Value {
        let done =
            self.command(json!({"cmd": "expect", "match": pattern, "timeout_ms": PATIENCE_MS}));
        let seq = json!({"seq": done["matched"]});
        self.events.wait(|event| contains(&seq, event))
    }

    /// Waits for a connection and returns its name.
    pub(crate) fn connection(&self, role: &str) -> String {
        let upgrade = self.expect(json!({"event": "upgrade", "role": role, "status": 101}));
        upgrade["conn"].as_str().expect("a name").to_owned()
    }

    /// Waits for a refused upgrade.
    pub(crate) fn refused(&self, role: &str, status: u16) -> Value {
        self.expect(json!({"event": "upgrade", "role": role, "status": status}))
    }

    /// Waits for a message and returns its envelope.
    pub(crate) fn message(&self, kind: &str) -> Value {
        self.expect(json!({"event": "message", "type": kind}))["envelope"].clone()
    }

    /// Waits for a call of HTTP mode; `path` without what all have in common.
    pub(crate) fn call(&self, path: &str, status: u16) -> Value {
        let path = format!("/api/v1/clusters/agent/{path}");
        self.expect(json!({"event": "http", "path": path, "status": status}))
    }

    /// Waits for the end of a connection that says `code`.
    pub(crate) fn closed(&self, conn: &str, code: u16) -> Value {
        self.expect(json!({"event": "close", "conn": conn, "code": code}))
    }

    /// Sends an envelope; `id` and payload as they are, `null` stays away.
    pub(crate) fn send(&self, kind: &str, id: &str, payload: Value) {
        let mut command = json!({"cmd": "send_envelope", "type": kind, "payload": payload});
        if !id.is_empty() {
            command["request_id"] = id.into();
        }
        self.command(command);
    }

    pub(crate) fn send_text(&self, text: &str) {
        self.command(json!({"cmd": "send_text", "text": text}));
    }

    pub(crate) fn send_binary(&self, bytes: &[u8]) {
        self.command(json!({"cmd": "send_binary", "base64": BASE64.encode_to_string(bytes)}));
    }

    /// Writes bytes below the WebSocket.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        self.command(json!({"cmd": "send_raw", "base64": BASE64.encode_to_string(bytes)}));
    }

    /// A message there and its answer back: whatever was sent before was heard.
    pub(crate) fn round_trip(&self) {
        let id = format!("trip-{}", self.tags.load(Ordering::Relaxed));
        self.send("ping", &id, json!({}));
        self.expect(json!({"event": "message", "type": "pong", "request_id": id}));
    }

    pub(crate) fn drop_connection(&self) {
        self.command(json!({"cmd": "drop"}));
    }

    pub(crate) fn close(&self, code: u16) {
        self.command(json!({"cmd": "close", "code": code}));
    }

    /// Waits until the agent owes nothing.
    pub(crate) fn settle(&self) {
        self.command(json!({"cmd": "settle", "timeout_ms": PATIENCE_MS}));
    }

    /// What happened so far and is like this.
    pub(crate) fn seen(&self, pattern: &Value) -> Vec<Value> {
        let state = self.events.lock();
        let like = |event: &&Value| contains(pattern, event);
        state.lines.iter().filter(like).cloned().collect()
    }

    /// Ends the gateway, which must have found nothing wrong.
    pub(crate) fn finish(self) {
        self.finish_with(&[]);
    }

    /// Ends the gateway, which must have found exactly these faults: for tests that
    /// provoke them. Parts of their texts, in any order.
    pub(crate) fn finish_with(mut self, faults: &[&str]) {
        drop(lock(&self.stdin).take());
        let status = self.process.wait().expect("it ends");
        for reader in self.readers.drain(..) {
            reader.join().expect("all was read");
        }
        let stderr = lock(&self.stderr).clone();
        let found: Vec<&str> = stderr.lines().collect();
        let each = faults
            .iter()
            .all(|fault| found.iter().any(|text| text.contains(fault)));
        let code = i32::from(!faults.is_empty());
        assert!(
            status.code() == Some(code) && found.len() == faults.len() && each,
            "{status}, faults {found:#?}, expected {faults:?}"
        );
        self.token_stayed_in_the_header();
    }

    fn token_stayed_in_the_header(&self) {
        for event in &self.events.lock().lines {
            assert!(
                !event.to_string().contains(&self.token),
                "the token is in {event}"
            );
        }
        assert_eq!(
            log_lines::with(&self.token),
            None,
            "the token is in the log"
        );
    }

    fn recent(&self) -> String {
        let state = self.events.lock();
        let from = state.lines.len().saturating_sub(SHOWN);
        let lines = state.lines[from..].iter().map(|event| {
            let mut line = event.to_string();
            line.truncate(line.floor_char_boundary(600));
            format!("\n  {line}")
        });
        format!("the last events:{}", lines.collect::<String>())
    }
}

impl Drop for Gateway {
    #[allow(clippy::print_stderr)] // shown with the test that failed
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.recent());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Events {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn read(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).expect("a JSON event");
            self.lock().lines.push(event);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// The first event that fits; it is on its way, so this doesn't take long.
    fn wait(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut state = self.lock();
        let mut looked_at = 0;
        loop {
            if let Some(event) = state.lines[looked_at..].iter().find(|event| fits(event)) {
                return event.clone();
            }
            looked_at = state.lines.len();
            assert!(!state.ended, "the gateway has ended");
            let limit = Duration::from_millis(2 * PATIENCE_MS);
            let waited = self.changed.wait_timeout(state, limit);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            assert!(!timeout.timed_out(), "the gateway says nothing");
            state = next;
        }
    }
}

/// Everything in `pattern` is in `value`: objects by their named members.
fn contains(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::Object(pattern), Value::Object(value)) => pattern
            .iter()
            .all(|(name, wanted)| value.get(name).is_some_and(|value| contains(wanted, value))),
        _ => pattern == value,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Only a failing test waits so long.
pub(crate) const PATIENCE_MS: u64 = 60_000;

/// Events that a failing test shows.
const SHOWN: usize = 40;
