//! What tests of tunnels say to the gateway (README.md, Tunnels).

use std::fmt::Write as _;

use pipeops_agent::config::Origin;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::driver::{Gateway, PATIENCE_MS};
use crate::stage::Stage;

/// The gateway's own service, as streams name it.
pub(crate) const SERVICE: &str = "target";
pub(crate) const NAMESPACE: &str = "interop";

/// A service that leads nowhere.
pub(crate) const NOWHERE: &str = "nowhere";

impl Stage {
    /// An agent of a plain machine, which has a route to the gateway's service.
    pub(crate) fn with_tunnels() -> Self {
        let mut stage = Self::over(Gateway::start_with(&["--yamux", "--target"]));
        let port = stage.gateway.target_port.expect("a service");
        stage.routes = vec![
            (SERVICE.to_owned(), origin(port)),
            // Nobody listens on it.
            (NOWHERE.to_owned(), origin(1)),
        ];
        stage
    }
}

fn origin(port: u16) -> Origin {
    Origin::parse(&format!("127.0.0.1:{port}")).expect("an origin")
}

impl Gateway {
    /// Offers yamux; returns when the agent has taken it up.
    pub(crate) fn hello(&self, hello: Value) {
        self.command(json!({"cmd": "hello", "hello": hello, "timeout_ms": PATIENCE_MS}));
    }

    /// Starts streams to the service; `more` is put into the plan.
    pub(crate) fn streams(&self, job: &str, more: Value, steps: Value) {
        self.streams_to(job, self.header(SERVICE, "tcp"), more, steps);
    }

    pub(crate) fn streams_to(&self, job: &str, header: Value, more: Value, steps: Value) {
        let mut plan = json!({"job": job, "header": header, "steps": steps});
        for (name, value) in more.as_object().expect("an object") {
            plan[name] = value.clone();
        }
        self.command(json!({"cmd": "streams", "plan": plan}));
    }

    pub(crate) fn header(&self, service: &str, protocol: &str) -> Value {
        json!({
            "service": service, "namespace": NAMESPACE, "tunnel": "t-1", "protocol": protocol,
            "port": self.target_port.expect("a service"),
        })
    }

    /// Waits for the end of a job, all of whose streams ended like this.
    pub(crate) fn all_ended(&self, job: &str, end: &str, count: u64) -> Value {
        let done = self.command(json!({"cmd": "wait", "key": job, "timeout_ms": PATIENCE_MS}));
        assert_eq!(done["ends"], json!({end: count}), "{done}");
        done
    }

    pub(crate) fn stop_job(&self, job: &str) -> Value {
        self.command(json!({"cmd": "stop", "key": job, "timeout_ms": PATIENCE_MS}))
    }

    pub(crate) fn open_gate(&self, gate: &str) {
        self.command(json!({"cmd": "gate", "key": gate}));
    }

    /// A ping of yamux and back: microseconds.
    pub(crate) fn session_ping(&self) -> u64 {
        let done = self.command(json!({"cmd": "session_ping", "timeout_ms": PATIENCE_MS}));
        done["us"].as_u64().expect("a time")
    }

    pub(crate) fn script(&self, name: &str, service: &str) {
        let protocol = if name == "datagrams" { "udp" } else { "tcp" };
        self.command(json!({
            "cmd": "script", "script": name, "timeout_ms": PATIENCE_MS,
            "header": self.header(service, protocol),
        }));
    }

    /// Waits until so many connections of the service have begun with `line`.
    pub(crate) fn target_opened(&self, line: &str, count: usize) {
        for _ in 0..count {
            self.expect(json!({"event": "target_open", "line": line}));
        }
    }

    /// Waits until a connection of the service has ended like this.
    pub(crate) fn target_saw(&self, line: &str, end: &str) -> Value {
        self.expect(json!({"event": "target", "line": line, "end": end}))
    }
}

/// SHA-256 of the first bytes of a pattern (README.md).
pub(crate) fn pattern_sum(seed: u64, size: usize) -> String {
    let mut sum = Sha256::new();
    let mut left = size;
    for index in 0..size.div_ceil(8) as u64 {
        let word = mix((seed << 40).wrapping_add(index)).to_le_bytes();
        let count = left.min(8);
        sum.update(&word[..count]);
        left -= count;
    }
    sum.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String");
        text
    })
}

/// SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
