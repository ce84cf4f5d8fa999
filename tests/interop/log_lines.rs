//! Every log line of the agents in this process, as it was before any secret is
//! hidden: a token that only the redactor keeps out of the log is in here.

use std::fmt::Write as _;
use std::sync::{Mutex, Once, PoisonError};

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

/// Begins to record.
pub(crate) fn record() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Recorder).expect("the only logger of this process");
        log::set_max_level(LevelFilter::Trace);
    });
}

/// The first line that contains `text`.
pub(crate) fn with(text: &str) -> Option<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().find(|line| line.contains(text)).cloned()
}

struct Recorder;

impl Log for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("pipeops_agent")
    }

    #[allow(clippy::print_stderr)] // shown beside the test that it belongs to, if it fails
    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = format!("{} {}: {}", record.level(), record.target(), record.args());
        record
            .key_values()
            .visit(&mut Pairs(&mut line))
            .expect("a String takes all");
        eprintln!("{line}");
        LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    fn flush(&self) {}
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
