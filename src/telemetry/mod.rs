//! What the agent says about itself: log lines, without secrets, one write each, by a
//! thread that does nothing else (`sink`). Who logs never waits for the log.
//!
//! Fields are `time`, `level`, `msg`, `component` and whatever key-value pairs a
//! record has (config-and-state.md §13). The component is the room: the module
//! below the crate that the record comes from.

mod limit;
mod line;
pub mod metrics;
mod panic;
mod redact;
mod sink;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use log::LevelFilter;
use parking_lot::Mutex;

pub use limit::RateLimit;
pub use redact::{redact, register};

use crate::config::{Config, LogFormat, LogOutput, Logging, Secret};

/// Why logging can't begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the log file {}: {cause}", path.display())]
    Open {
        path: std::path::PathBuf,
        cause: io::Error,
    },
}

/// Starts logging for the rest of the process, hides the configuration's secrets
/// and reports panics. A second call changes nothing.
pub fn start(config: &Config) -> Result<(), LogError> {
    hide(config);
    start_logging(&config.logging)
}

/// The same for a process without a configuration.
pub fn start_logging(logging: &Logging) -> Result<(), LogError> {
    let Logging {
        level,
        format,
        output,
    } = logging;
    let terminal = match output {
        LogOutput::Stdout => io::stdout().is_terminal(),
        LogOutput::Stderr => io::stderr().is_terminal(),
        LogOutput::File(_) => false,
    };
    let format = format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let missing = match format {
        LogFormat::Text => |count| missing(LogFormat::Text, count),
        LogFormat::Json => |count| missing(LogFormat::Json, count),
    };
    let sink = sink::Sink::open(output, missing).map_err(|cause| LogError::Open {
        path: match output {
            LogOutput::File(path) => path.clone(),
            _ => "-".into(),
        },
        cause,
    })?;
    let started = env_logger::Builder::new()
        .filter_level(others(*level))
        .filter_module("pipeops_agent", *level)
        .format(move |out, record| {
            let line = line::line(format, record, jiff::Timestamp::now());
            out.write_all(line.as_bytes())
        })
        .target(env_logger::Target::Pipe(Box::new(sink.clone())))
        .write_style(env_logger::WriteStyle::Never)
        .try_init();
    if started.is_ok() {
        *SINK.lock() = Some(sink.clone());
        panic::install();
        if let Err(error) = sink.start_writer() {
            log::warn!("whoever logs has to write: {error}");
        }
    }
    Ok(())
}

/// Waits until what was logged is written, a second at most: before the process ends,
/// and when a thread has panicked.
pub fn flush() {
    let sink = SINK.lock().clone();
    if let Some(sink) = sink {
        sink.flush(LAST_LINES);
    }
}

fn missing(format: LogFormat, count: u64) -> String {
    let kvs = [("component", "telemetry")];
    line::line(
        format,
        &log::Record::builder()
            .level(log::Level::Warn)
            .args(format_args!(
                "{count} lines of the log are missing here: it takes them too slowly"
            ))
            .key_values(&kvs)
            .build(),
        jiff::Timestamp::now(),
    )
}

/// Opens the log file anew, if there is one (SIGHUP after rotation).
pub fn reopen() -> io::Result<()> {
    let sink = SINK.lock().clone();
    sink.map_or(Ok(()), |sink| sink.reopen())
}

/// One record in JSON for a process that ends before logging began
/// (config-and-state.md §10.2).
pub fn error_record(component: &str, message: &str) -> String {
    let kvs = [("component", component)];
    line::line(
        LogFormat::Json,
        &log::Record::builder()
            .level(log::Level::Error)
            .args(format_args!("{message}"))
            .key_values(&kvs)
            .build(),
        jiff::Timestamp::now(),
    )
}

/// Registers every secret of the configuration with the redactor. Whoever gets a new
/// one later (a token file read again) calls [`register`].
fn hide(config: &Config) {
    if let Ok(token) = config.pipeops.token.read() {
        register(&token);
    }
    let others = [
        &config.kubernetes.service_token,
        &config.pipeops.proxy.https,
        &config.pipeops.proxy.http,
    ];
    for secret in others.into_iter().flatten() {
        // A proxy's address is no secret, its password is: the look of a URL with
        // a user name is masked anyway.
        if !secret.expose().contains("://") {
            register(secret);
        } else if let Some(password) = password(secret.expose()) {
            register(&Secret::new(password));
        }
    }
}

fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (userinfo, _) = rest.rsplit_once('@')?;
    userinfo.split_once(':').map(|(_, password)| password)
}

/// Libraries speak below `warning` only where everything is asked for: their words
/// are not ours to vouch for.
fn others(level: LevelFilter) -> LevelFilter {
    match level {
        LevelFilter::Trace => LevelFilter::Debug,
        level => level.min(LevelFilter::Warn),
    }
}

/// How long the end of the process, or of a thread, waits for a log.
const LAST_LINES: Duration = Duration::from_secs(1);

static SINK: Mutex<Option<sink::Sink>> = Mutex::new(None);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_record_is_one_json_line() {
        let line = error_record("config", "broken\nfile");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["level"], "error");
        assert_eq!(value["component"], "config");
        assert_eq!(value["msg"], "broken\nfile");
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn the_password_of_a_proxy_is_found() {
        assert_eq!(password("http://me:p@ss@proxy:1/"), Some("p@ss"));
        assert_eq!(password("http://proxy:1/"), None);
    }
}
