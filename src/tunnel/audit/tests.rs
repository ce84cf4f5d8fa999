//! What is in the lines, and that no stream waits for them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::net::testing::far_deadline;

fn line(id: &str) -> Line {
    Line {
        is_request: false,
        id: id.into(),
        tunnel: "t-1".into(),
        client: Some("192.0.2.7:4040".parse().expect("address")),
        protocol: Protocol::Tcp,
        target: "postgres.databases:5432".into(),
        address: Some("10.0.0.9:5432".parse().expect("address")),
        judged: Judged::Allowed,
        reason: "allowed by rule 1".into(),
        dry_run: None,
        bytes_in: 17,
        bytes_out: 4711,
        duration: Duration::from_millis(1500),
        end: "the target closed".into(),
    }
}

fn settings(path: &Path) -> config::Audit {
    config::Audit {
        file: Some(path.to_owned()),
        max_size: 1 << 20,
        keep: 2,
    }
}

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("read");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn a_line_says_who_reached_what() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::start(&settings(&path)).expect("started");
    audit.record(line("2"));
    audit.record(Line {
        client: None,
        address: None,
        judged: Judged::Denied,
        tunnel: "a \"quoted\"\nname".into(),
        dry_run: Some("allowed by rule 2".into()),
        ..line("4")
    });
    audit.finish(far_deadline());
    let records = records(&path);
    let mut first = records[0].clone();
    let time = first.as_object_mut().expect("object").remove("time");
    let time = time.expect("a time");
    time.as_str()
        .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .expect("a time");
    assert_eq!(
        first,
        serde_json::json!({
            "id": "2", "tunnel": "t-1", "client": "192.0.2.7:4040", "protocol": "tcp",
            "target": "postgres.databases:5432", "address": "10.0.0.9:5432",
            "verdict": "allowed", "reason": "allowed by rule 1", "bytes_in": 17,
            "bytes_out": 4711, "duration_ms": 1500, "end": "the target closed",
        })
    );
    let second = &records[1];
    assert_eq!(second["verdict"], "denied");
    assert_eq!(second["tunnel"], "a \"quoted\"\nname");
    assert_eq!(second["dry_run"], "allowed by rule 2");
    assert!(second.get("client").is_none() && second.get("address").is_none());
    assert_eq!((records.len(), audit.lost()), (2, 0));
    // Nobody is left to write it.
    audit.record(line("6"));
    assert_eq!(audit.lost(), 1);
}

#[test]
fn without_a_file_there_is_only_the_log() {
    let audit = Audit::start(&config::Audit::default()).expect("started");
    audit.record(line("2"));
    audit.finish(far_deadline());
    assert_eq!(audit.lost(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_said_at_the_start() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("no/such/folder/audit.jsonl");
    let error = Audit::start(&settings(&path)).expect_err("no folder");
    assert!(error.to_string().contains("audit.jsonl"), "{error}");
}

#[test]
fn a_full_queue_costs_lines_and_never_waits() {
    let (alive, ended) = bounded::<()>(0);
    let audit = Audit {
        queue: Arc::new(Queue::new()),
        lost: Arc::default(),
        ended,
    };
    for id in 0..QUEUE + 3 {
        audit.record(line(&id.to_string()));
    }
    let waiting = audit.queue.waiting.lock().lines.len();
    assert_eq!((waiting, audit.lost()), (QUEUE, 3));
    // A writer that hangs doesn't hang the end.
    audit.finish(Deadline::after(Duration::from_millis(1)));
    drop(alive);
}

#[test]
fn a_gap_is_seen_in_the_file_once_it_can_be_written_again() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("audit.jsonl");
    let mut writer = Writer {
        file: Some(RotatedFile::open(&path, 1 << 20, 1).expect("opened")),
        lost: Arc::default(),
        told: 0,
    };
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("in its place");
    writer.write(&line("2"));
    writer.write(&line("4"));
    writer.tell_lost();
    assert_eq!(writer.lost.load(Ordering::Relaxed), 2);
    fs::remove_dir(&path).expect("removed");
    writer.write(&line("6"));
    writer.tell_lost();
    writer.tell_lost();
    let records = records(&path);
    assert_eq!(records[0]["id"], "6");
    assert_eq!(records[1]["lost"], 2);
    assert_eq!(records.len(), 2);
}
