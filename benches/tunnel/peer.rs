//! The Go gateway of the interop tests as a process: commands out, answers in
//! (`tests/interop/README.md`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A running gateway. Dropped, it is killed.
pub(crate) struct Peer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    pub(crate) controller_url: String,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Bytes that came out of streams, and that went in.
    pub(crate) moved: u64,
    /// Since the job began.
    pub(crate) us: u64,
    /// Streams at their gate.
    pub(crate) waiting: u64,
}

impl Peer {
    pub(crate) fn start(program: &Path, folder: &Path, plain: bool) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the gateway: {error}");
        let mut command = Command::new(program);
        command.args(["--yamux", "--token", "bench"]);
        if plain {
            command.arg("--plain");
        } else {
            let file = |name: &str| folder.join(name);
            command.arg("--cert").arg(file("cert.pem"));
            command.arg("--key").arg(file("key.pem"));
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("no pipes".into());
        };
        let mut peer = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
            controller_url: String::new(),
        };
        let ready = peer.line()?;
        ready["controller_url"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut peer.controller_url);
        // What else is said is of no interest here; agents are killed.
        for (key, value) in [("allow_abrupt", true), ("allow_no_ack", true)] {
            peer.run(&json!({"cmd": "set", "key": key, "value": value}))?;
        }
        Ok(peer)
    }

    /// Runs a command; its answer, if that is good.
    pub(crate) fn run(&mut self, command: &Value) -> Result<Value, String> {
        writeln!(self.stdin, "{command}").map_err(|error| error.to_string())?;
        let mut said = Vec::new();
        loop {
            let event = self.line()?;
            match event["event"].as_str() {
                Some("done") if event["ok"] == true => return Ok(event),
                Some("done") => return Err(format!("{command}: {}", said.join("; "))),
                Some("failure") => said.push(event["text"].to_string()),
                _ => {}
            }
        }
    }

    /// Waits until the agent has sent its first heartbeat to the gateway.
    pub(crate) fn arrived(&mut self) -> Result<(), String> {
        let heartbeat = json!({"event": "message", "type": "heartbeat", "conn": "gateway#1"});
        self.run(&json!({"cmd": "expect", "match": heartbeat, "timeout_ms": 30_000}))?;
        Ok(())
    }

    /// Offers yamux with the original's windows; whether the agent took it up.
    pub(crate) fn offer_yamux(&mut self, window: u32) -> bool {
        let config = json!({"max_stream_window_size": window});
        let hello = json!({"yamux_config": config, "window": window});
        let command = json!({"cmd": "hello", "hello": hello, "timeout_ms": 3000});
        self.run(&command).is_ok()
    }

    pub(crate) fn streams(&mut self, plan: &Value) -> Result<(), String> {
        self.run(&json!({"cmd": "streams", "plan": plan}))?;
        Ok(())
    }

    pub(crate) fn progress(&mut self, job: &str) -> Result<Progress, String> {
        let done = self.run(&json!({"cmd": "progress", "key": job}))?;
        let number = |name: &str| done[name].as_u64().unwrap_or(0);
        Ok(Progress {
            moved: number("in") + number("out"),
            us: number("us"),
            waiting: number("waiting"),
        })
    }

    /// Ends a job; what it has come to.
    pub(crate) fn stop(&mut self, job: &str) -> Result<Value, String> {
        self.run(&json!({"cmd": "stop", "key": job, "timeout_ms": 60_000}))
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err("the gateway has ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
