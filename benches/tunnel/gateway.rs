//! The Go gateway of the interop tests as a process: commands out, answers in
//! (`tests/interop/README.md`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bulk::Direction;
use crate::far::{Address, Far, Opened, Progress};
use crate::service::{Part, Service};
use crate::times::{BYTES, Times};

/// A running gateway. Dropped, it is killed.
pub(crate) struct Gateway {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    url: String,
    folder: TempDir,
}

impl Gateway {
    pub(crate) fn start(program: &Path, plain: bool) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the gateway: {error}");
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        certificate(folder.path()).map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command.args(["--yamux", "--token", TOKEN]);
        if plain {
            command.arg("--plain");
        } else {
            command.arg("--cert").arg(folder.path().join(CERTIFICATE));
            command.arg("--key").arg(folder.path().join(KEY));
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
        let mut gateway = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
            url: String::new(),
            folder,
        };
        let ready = gateway.line()?;
        ready["controller_url"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut gateway.url);
        // What else is said is of no interest here; agents are killed.
        for (key, value) in [("allow_abrupt", true), ("allow_no_ack", true)] {
            gateway.run(&json!({"cmd": "set", "key": key, "value": value}))?;
        }
        Ok(gateway)
    }

    /// Runs a command; its answer, if that is good.
    fn run(&mut self, command: &Value) -> Result<Value, String> {
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

    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err("the gateway has ended".into()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn streams(&mut self, plan: &Value) -> Result<(), String> {
        self.run(&json!({"cmd": "streams", "plan": plan}))?;
        Ok(())
    }

    /// Ends a job; what it has come to.
    fn stop(&mut self, job: &str) -> Result<Value, String> {
        self.run(&json!({"cmd": "stop", "key": job, "timeout_ms": 60_000}))
    }

    /// Opens streams that move `bytes` each way and then wait; `at_once` of them
    /// move some at a time. Returns when all wait.
    pub(crate) fn open_idle(
        &mut self,
        service: &Service,
        streams: usize,
        bytes: usize,
        at_once: usize,
    ) -> Result<(), String> {
        let there = json!([{"send": bytes}]);
        let back = json!([{"receive": bytes}]);
        let steps =
            json!([{"both": [there, back]}, {"gate": IDLE}, {"finish": true}, {"drain": true}]);
        let mut plan = plan(service, IDLE, Part::Echo, &steps);
        plan["count"] = streams.into();
        plan["at_once"] = at_once.into();
        self.streams(&plan)?;
        let limit = Instant::now() + IDLE_LIMIT;
        loop {
            let progress = self.run(&json!({"cmd": "progress", "key": IDLE}))?;
            let waiting = progress["waiting"].as_u64().unwrap_or(0);
            if waiting as usize == streams {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(format!("{waiting} of {streams} streams idle"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Closes them; there can be none afterwards.
    pub(crate) fn close_idle(&mut self, streams: usize) -> Result<(), String> {
        self.run(&json!({"cmd": "gate", "key": IDLE}))?;
        let done = self.run(&json!({"cmd": "wait", "key": IDLE, "timeout_ms": 60_000}))?;
        match done["ends"]["eof"].as_u64() {
            Some(ended) if ended as usize == streams => Ok(()),
            _ => Err(format!("the streams ended as {done}")),
        }
    }
}

impl Far for Gateway {
    fn address(&self) -> Address {
        Address {
            url: self.url.clone(),
            token: TOKEN.to_owned(),
            ca: self.folder.path().join(CERTIFICATE),
        }
    }

    /// Waits for its first heartbeat, then offers yamux with the original's windows.
    fn meet(&mut self, _: &Service) -> Result<bool, String> {
        let heartbeat = json!({"event": "message", "type": "heartbeat", "conn": "gateway#1"});
        self.run(&json!({"cmd": "expect", "match": heartbeat, "timeout_ms": 30_000}))?;
        let config = json!({"max_stream_window_size": WINDOW});
        let hello = json!({"yamux_config": config, "window": WINDOW});
        let command = json!({"cmd": "hello", "hello": hello, "timeout_ms": 3000});
        Ok(self.run(&command).is_ok())
    }

    fn start_bulk(
        &mut self,
        service: &Service,
        direction: Direction,
        streams: usize,
    ) -> Result<(), String> {
        let mut plan = match direction {
            Direction::Down => plan(service, BULK, Part::Source, &json!([{"receive": -1}])),
            Direction::Up => plan(service, BULK, Part::Sink, &json!([{"send": -1}])),
        };
        plan["count"] = streams.into();
        self.streams(&plan)
    }

    fn progress(&mut self) -> Result<Progress, String> {
        let done = self.run(&json!({"cmd": "progress", "key": BULK}))?;
        let number = |name: &str| done[name].as_u64().unwrap_or(0);
        Ok(Progress {
            bytes: number("in") + number("out"),
            seconds: number("us") as f64 / 1e6,
        })
    }

    fn stop_bulk(&mut self) -> Result<(), String> {
        self.stop(BULK).map(drop)
    }

    fn open_and_close(
        &mut self,
        service: &Service,
        at_once: usize,
        window: Duration,
    ) -> Result<Opened, String> {
        let steps = json!([{"say": "x"}, {"expect": "x"}, {"finish": true}, {"drain": true}]);
        let mut plan = plan(service, "opens", Part::Echo, &steps);
        plan["count"] = (-1).into();
        plan["parallel"] = at_once.into();
        self.streams(&plan)?;
        thread::sleep(window);
        let done = self.stop("opens")?;
        Ok(Opened {
            count: done["ends"]["eof"].as_u64().unwrap_or(0),
            seconds: done["us"].as_f64().unwrap_or(f64::NAN) / 1e6,
            times: times(&done),
        })
    }

    fn echo_and_ping(
        &mut self,
        service: &Service,
        window: Duration,
    ) -> Result<(Times, Option<Times>), String> {
        let steps = json!([{"trips": -1, "size": BYTES}]);
        self.streams(&plan(service, "trips", Part::Echo, &steps))?;
        let mut pings = Vec::new();
        let end = Instant::now() + window;
        while Instant::now() < end {
            let done = self.run(&json!({"cmd": "session_ping"}))?;
            pings.push(done["us"].as_f64().unwrap_or(f64::NAN) / 1e3);
            thread::sleep(PING_PAUSE);
        }
        let done = self.stop("trips")?;
        Ok((times(&done), Some(Times::of(pings))))
    }
}

/// The plan of a job towards a part of the service.
fn plan(service: &Service, job: &str, part: Part, steps: &Value) -> Value {
    json!({
        "job": job,
        "header": {"port": service.port(part), "service": part.name(), "namespace": "bench", "tunnel": job},
        "bulk": true,
        "steps": steps,
    })
}

fn times(done: &Value) -> Times {
    let ms = |name: &str| done[name].as_f64().unwrap_or(f64::NAN) / 1e3;
    Times {
        p50: ms("p50_us"),
        p99: ms("p99_us"),
        count: done["trips"].as_u64().unwrap_or(0) as usize,
    }
}

/// A certificate for loopback that is its own authority.
fn certificate(folder: &Path) -> Result<(), String> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])
        .map_err(|error| error.to_string())?;
    let write = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).map_err(|error| error.to_string())
    };
    write(CERTIFICATE, made.cert.pem())?;
    write(KEY, made.signing_key.serialize_pem())
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const TOKEN: &str = "bench";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// The original's.
const WINDOW: u32 = 256 * 1024;

const PING_PAUSE: Duration = Duration::from_millis(2);

/// Names of jobs; that of the idle ones is also their gate's.
const BULK: &str = "bulk";
const IDLE: &str = "idle";

const IDLE_LIMIT: Duration = Duration::from_mins(5);
