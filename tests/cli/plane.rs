//! The control plane, as an operator starts it.

use serde_json::Value;

use crate::{Bench, Running};

/// Its exit code and what it logged, one record a line; stopped when it runs.
fn records(more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let bench = Bench::new();
    let line = ["plane", "run", "--listen", "127.0.0.1:0", "--data", "data"];
    let mut plane = Running::start(&bench, &[&line, more].concat());
    plane.line("the welcome", |line| {
        line.starts_with("The plane listens on ")
    });
    plane.line("its end", |line| line.starts_with("Ctrl-C ends it"));
    plane.signal("TERM");
    let (code, all) = plane.end();
    let records = all.lines().filter(|line| line.starts_with('{'));
    let records = records.map(|line| serde_json::from_str(line).expect("a JSON record"));
    (code, records.collect())
}

/// All that it had to complain of was lost: nobody had started the log.
#[test]
fn a_plane_logs_on_standard_error() {
    let (code, records) = records(&[]);
    assert_eq!(code, Some(0));
    let said = |message: &str| records.iter().any(|record| record["msg"] == message);
    assert!(said("the plane listens"), "{records:?}");
}

#[test]
fn and_as_much_as_it_is_asked_to() {
    let (code, records) = records(&["--log-level", "warning"]);
    assert_eq!((code, records), (Some(0), Vec::new()));
}
