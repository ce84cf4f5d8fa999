//! Logging as a process sees it: global, so it has a test program of its own.

use pipeops_agent::config::{Config, LogFormat, LogOutput, Secret, TokenSource};
use pipeops_agent::telemetry;
use pipeops_agent::threads::{self, Stack};
use serde_json::Value;

#[test]
fn a_panic_is_one_record_with_thread_and_backtrace_and_without_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let mut config = Config::defaults();
    config.logging.output = LogOutput::File(path.clone());
    config.logging.format = Some(LogFormat::Json);
    config.pipeops.token = TokenSource::Literal(Secret::new("very-s3cret-token"));
    telemetry::start(&config).expect("logging starts");

    log::info!(target: "pipeops_agent::test", token = "very-s3cret-token", state = "very-s3cret-token"; "with very-s3cret-token");
    log::debug!(target: "pipeops_agent::test", "below the level");
    log::info!(target: "rustls::client", "a library's own words");
    // The small stack is the point: the backtrace must fit on a copy thread's.
    let handle = threads::spawn("proxy-7", Stack::Copy, || {
        let token = "very-s3cret-token";
        panic!("no stream for {token}\nsecond line");
    })
    .expect("a thread");
    assert_eq!(handle.join().expect("the root catches it"), None::<()>);
    // What fails below should be seen.
    drop(std::panic::take_hook());

    let text = std::fs::read_to_string(&path).expect("a log");
    assert!(!text.contains("s3cret"), "{text}");
    let records: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(records.len(), 2, "{text}");
    let panic = &records[1];
    assert_eq!(panic["level"], "panic");
    assert_eq!(panic["component"], "panic");
    assert_eq!(panic["thread"], "proxy-7");
    assert_eq!(panic["msg"], "no stream for [REDACTED]\nsecond line");
    assert!(panic["place"].to_string().contains("main.rs"), "{panic}");
    assert!(panic["backtrace"].to_string().len() > 100, "{panic}");
}
