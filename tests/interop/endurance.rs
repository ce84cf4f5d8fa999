//! One stream for long, through the real binary, while others come and go.

use std::fs;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::driver::{Gateway, PATIENCE_MS};
use crate::process::Home;
use crate::tunnel_driver::{SERVICE, pattern_sum};

/// Bytes both ways at once, checksummed, under random cuts of other streams: by the
/// gateway in both directions, and by the target. The agent's memory stays below 64 MiB,
/// and each stream leaves its line in the audit, also those that the agent's end ends.
///
/// `PIPEOPS_TEST_TRANSFER` is how many MiB go each way (256); for 10 GiB, with the
/// binary that ships:
///
/// ```text
/// PIPEOPS_TEST_TRANSFER=10240 PIPEOPS_TEST_BINARY=… PIPEOPS_TEST_GATEWAY=… \
///   cargo test --test interop -- --ignored --nocapture endurance
/// ```
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn one_stream_carries_all_its_bytes_while_others_are_cut() {
    let size = bytes_each_way();
    let gateway = Gateway::start_with(&["--target"]);
    let port = gateway.target_port.expect("a service");
    let yaml = format!(
        "daemon: {{enabled: true, ingress: [{{hostname: {SERVICE}, origin: \"127.0.0.1:{port}\"}}]}}\n\
         tunnels: {{audit_file: audit, audit_max_size: 1000000000, drain_timeout: 10ms}}"
    );
    let home = Home::over(gateway, "warn", &yaml);
    let running = home.start();
    let conn = home.connected();
    let gateway = &home.gateway;
    gateway.hello(json!({"yamux_config": {"max_stream_window_size": 1 << 20}}));
    let echo = json!([{"say": "echo\n"}, {"both": [[{"send": size}, {"finish": true}], [{"drain": true}]]}]);
    gateway.streams("whole", json!({}), echo);
    let mut streams = 1;
    let mut most = resident(running.id());
    let mut random = fastrand::Rng::with_seed(4);
    while progress(gateway, "whole")["live"] != 0 {
        let job = format!("cut-{streams}");
        streams += cut(gateway, &job, &mut random);
        most = most.max(resident(running.id()));
    }
    let done = gateway.all_ended("whole", "eof", 1);
    let ended = gateway.expect(json!({"event": "stream", "job": "whole"}));
    assert_eq!(ended["received"], size);
    assert_eq!(ended["received_sha256"], pattern_sum(1, size));
    let seconds = done["us"].as_f64().expect("a time") / 1e6;
    let cut = streams - 1;
    let figures = format!(
        "{cut} streams cut, {seconds} s, at most {} KiB",
        most / 1024
    );
    if std::env::var_os(TRANSFER).is_some() {
        writeln!(std::io::stdout(), "{figures}").expect("written");
    }
    assert!(most < 64 << 20, "{figures}");

    // The end, in the middle of others.
    let held = json!([{"say": "echo\n"}, {"trips": 1, "size": 10}, {"gate": "never"}]);
    gateway.streams("held", json!({"count": 50, "bulk": true}), held);
    while progress(gateway, "held")["waiting"] != 50 {
        std::thread::sleep(Duration::from_millis(5));
    }
    gateway.settle();
    running.terminate();
    gateway.expect(json!({"event": "frame", "type": "goaway", "length": 0}));
    gateway.closed(&conn, 1000);
    assert_eq!(running.end().0, Some(0));
    let audit = fs::read_to_string(home.path("audit")).expect("an audit");
    let lines: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), streams + 50);
    // The first line of the stream comes back with no echo, but is carried.
    let carried = |line: &&Value| line["bytes_out"] == size && line["bytes_in"] == size + 5;
    assert_eq!(lines.iter().filter(carried).count(), 1);
    assert!(lines.iter().all(|line| line.get("lost").is_none()));
    home.gateway.finish();
}

/// A few streams that end early, in one of the three ways there are; how many.
fn cut(gateway: &Gateway, job: &str, random: &mut fastrand::Rng) -> usize {
    let bytes = random.usize(1..400_000);
    let (steps, end) = match random.u8(0..3) {
        0 => (
            json!([{"say": "source 1000000000 1\n"}, {"receive": bytes}, {"reset": true}]),
            "we-reset",
        ),
        1 => (
            json!([{"say": "sink\n"}, {"send": bytes}, {"reset": true}]),
            "we-reset",
        ),
        _ => (
            json!([{"say": format!("reset {bytes} 1\n")}, {"receive": bytes}, {"say": "x"}, {"drain": true}]),
            "reset",
        ),
    };
    let count = random.usize(1..8);
    gateway.streams(job, json!({"count": count, "bulk": true}), steps);
    gateway.all_ended(job, end, count as u64);
    count
}

fn progress(gateway: &Gateway, job: &str) -> Value {
    gateway.command(json!({"cmd": "progress", "key": job, "timeout_ms": PATIENCE_MS}))
}

fn bytes_each_way() -> usize {
    let mib = std::env::var(TRANSFER).ok();
    mib.map_or(256, |mib| mib.parse().expect("MiB")) << 20
}

/// Bytes of memory that a process has.
fn resident(id: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it lives");
    let field = |name: &str| -> usize {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect(name).trim().parse().expect(name)
    };
    // What it has written: of a test's binary the code is as large again.
    field("RssAnon:") * 1024
}

/// MiB each way.
const TRANSFER: &str = "PIPEOPS_TEST_TRANSFER";
