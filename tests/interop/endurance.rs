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
/// `PIPEOPS_TEST_TRANSFER` is how many MiB go each way (256). With `PIPEOPS_TEST_BINARY`,
/// the one that ships, all of its resident memory counts, at its highest; of a debug build
/// only what it has written, now and then. So, for 10 GiB each way:
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
    let home = Home::over(gateway, "info", &yaml);
    let running = home.start();
    let conn = home.connected();
    let gateway = &home.gateway;
    gateway.hello(json!({"yamux_config": {"max_stream_window_size": 1 << 20}}));
    let echo = json!([{"say": "echo\n"}, {"both": [[{"send": size}, {"finish": true}], [{"drain": true}]]}]);
    gateway.streams("whole", json!({}), echo);
    let mut streams = 1;
    let mut most = resident(running.id());
    let mut random = fastrand::Rng::with_seed(4);
    while !has_ended(gateway, "whole") {
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
    if std::env::var_os(BINARY).is_some() {
        most = most.max(status(running.id(), "VmHWM:"));
    }
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
    let (code, log) = running.end();
    assert_eq!(code, Some(0));
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
    // The log has the same.
    let logged = log.iter().filter(|record| record["msg"] == "tunnel stream");
    let logged: Vec<&Value> = logged.collect();
    assert_eq!(logged.len(), lines.len());
    let same = [
        "tunnel", "protocol", "target", "address", "verdict", "reason",
    ];
    let same = same.iter().chain(&["bytes_in", "bytes_out", "end"]);
    // There, numbers are text, and what there is none of is empty.
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (record, line) in logged.into_iter().zip(&lines) {
        assert_eq!(record["stream"], line["id"]);
        for field in same.clone() {
            let (logged, written) = (text(&record[field]), text(&line[field]));
            assert_eq!(logged, written, "{field}: {record}, {line}");
        }
    }
    home.gateway.finish();
}

/// As the kernel sees it: 64 targets that read no more, the
/// first of them behind windows of many MiB, and a 65th stream both ways.
#[test]
#[ignore = "needs the Go gateway: tests/run interop"]
fn beside_64_stalled_targets_resident_memory_stays_under_the_cap() {
    const MOVED: usize = 64 << 20;
    let window = 16 << 20;
    let gateway = Gateway::start_with(&["--target"]);
    let port = gateway.target_port.expect("a service");
    let yaml = format!(
        "daemon: {{enabled: true, ingress: [{{hostname: {SERVICE}, origin: \"127.0.0.1:{port}\"}}]}}\n\
         tunnels: {{memory_limit: {CAP}, drain_timeout: 10ms}}"
    );
    let home = Home::over(gateway, "warn", &yaml);
    let running = home.start();
    let conn = home.connected();
    let gateway = &home.gateway;
    gateway.hello(json!({
        "yamux_config": {"max_stream_window_size": window}, "window": window,
        "pong_delay_ms": 2000,
    }));
    // From then on the gateway seems far away.
    gateway.session_ping();
    let before = resident(running.id());
    for (job, count, reads) in [("large", 6, 18 << 20), ("small", 58, 100_000)] {
        let line = format!("stall {reads}\n");
        let steps = json!([{"say": line}, {"send": -1}]);
        gateway.streams(job, json!({"count": count, "bulk": true}), steps);
        let stalled = json!({"event": "target_stalled", "line": line.trim()});
        for _ in 0..count {
            gateway.expect(stalled.clone());
        }
    }
    let echo = json!([{"say": "echo\n"}, {"both": [[{"send": MOVED}, {"finish": true}], [{"drain": true}]]}]);
    gateway.streams("next", json!({}), echo);
    let mut most = 0;
    while !has_ended(gateway, "next") {
        most = most.max(resident(running.id()));
    }
    gateway.all_ended("next", "eof", 1);
    let ended = gateway.expect(json!({"event": "stream", "job": "next"}));
    assert_eq!(ended["received_sha256"], pattern_sum(1, MOVED));
    assert_eq!(progress(gateway, "large")["live"], 6);
    assert_eq!(progress(gateway, "small")["live"], 58);
    // Two threads for each stream, what is on its way in sockets' buffers, the allocator.
    let beside = 24 << 20;
    let more = most.saturating_sub(before);
    assert!(more < CAP + beside, "{} KiB more", more / 1024);
    gateway.stop_job("large");
    gateway.stop_job("small");
    running.terminate();
    gateway.closed(&conn, 1000);
    assert_eq!(running.end().0, Some(0));
    home.gateway.finish();
}

/// `tunnels.memory_limit`, in bytes.
const CAP: usize = 64 << 20;

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

/// Its streams may not have begun yet: none that live says nothing.
fn has_ended(gateway: &Gateway, job: &str) -> bool {
    let ended = json!({"event": "job", "job": job});
    !gateway.seen(&ended).is_empty()
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
    // Of a test's binary the code is as large again.
    let is_shipped = std::env::var_os(BINARY).is_some();
    status(id, if is_shipped { "VmRSS:" } else { "RssAnon:" })
}

/// A field of the process' status, in bytes.
fn status(id: u32, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: usize = kib.expect(name).trim().parse().expect(name);
    kib * 1024
}

/// The binary that is run instead of a debug build.
const BINARY: &str = "PIPEOPS_TEST_BINARY";

/// MiB each way.
const TRANSFER: &str = "PIPEOPS_TEST_TRANSFER";
