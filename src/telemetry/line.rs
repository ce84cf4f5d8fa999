//! How one record becomes one line.

use std::fmt::Write as _;

use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

use super::redact::{is_secret_name, redact};
use crate::config::LogFormat;

/// One line with its line break. Values are redacted, and cannot break the line:
/// JSON escapes control characters, the text form replaces them.
pub(super) fn line(format: LogFormat, record: &Record<'_>, now: Timestamp) -> String {
    let mut fields = Fields(Vec::new());
    // Collecting into a vector has no error of its own.
    let _ = record.key_values().visit(&mut fields);
    let level = match fields.take("level") {
        Some(level) => level,
        None => name(record.level()).to_owned(),
    };
    let component = fields
        .take("component")
        .unwrap_or_else(|| component(record.target()).to_owned());
    let message = redact(&record.args().to_string()).into_owned();
    let time = time(now);
    let mut out = match format {
        LogFormat::Json => json(&time, &level, &message, &component, &fields.0),
        LogFormat::Text => text(&time, &level, &message, &component, &fields.0),
    };
    out.push('\n');
    out
}

fn json(
    time: &str,
    level: &str,
    message: &str,
    component: &str,
    fields: &[(String, String)],
) -> String {
    let mut out = String::with_capacity(160);
    let mut pair = |name: &str, value: &str, first: bool| {
        out.push(if first { '{' } else { ',' });
        escape(&mut out, name);
        out.push(':');
        escape(&mut out, value);
    };
    pair("time", time, true);
    pair("level", level, false);
    pair("msg", message, false);
    pair("component", component, false);
    for (name, value) in fields {
        // The three names belong to the record (config-and-state.md §13).
        match name.as_str() {
            "time" | "level" | "msg" => pair(&format!("fields.{name}"), value, false),
            _ => pair(name, value, false),
        }
    }
    out.push('}');
    out
}

fn text(
    time: &str,
    level: &str,
    message: &str,
    component: &str,
    fields: &[(String, String)],
) -> String {
    let mut out = String::with_capacity(160);
    let _ = write!(out, "{time} {level:<7} {component}: ");
    clean(&mut out, message);
    for (name, value) in fields {
        let _ = write!(out, " {name}=");
        if value.is_empty() || value.contains([' ', '"', '=']) {
            out.push('"');
            clean(&mut out, &value.replace('"', "'"));
            out.push('"');
        } else {
            clean(&mut out, value);
        }
    }
    out
}

fn escape(out: &mut String, text: &str) {
    // A string always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned()));
}

/// No control character of a peer reaches a terminal or begins a line of its own.
fn clean(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
}

/// RFC 3339 in UTC, to the millisecond.
fn time(now: Timestamp) -> String {
    format!("{now:.3}")
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The room that a record comes from: `pipeops_agent::link::writer` is `link`.
fn component(target: &str) -> &str {
    let mut parts = target.split("::");
    let first = parts.next().unwrap_or(target);
    match first {
        "pipeops_agent" => parts.next().unwrap_or("agent"),
        other => other,
    }
}

struct Fields(Vec<(String, String)>);

impl Fields {
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        // `level` as a field is the caller's word for a level that log doesn't have.
        if name == "level" && !matches!(self.0[at].1.as_str(), "panic" | "fatal") {
            return None;
        }
        Some(self.0.remove(at).1)
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let name = key.as_str();
        let value = if is_secret_name(name) {
            "[REDACTED]".to_owned()
        } else {
            redact(&value.to_string()).into_owned()
        };
        self.0.push((name.to_owned(), value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(format: LogFormat, target: &str, message: &str, kvs: &[(&str, &str)]) -> String {
        let now = "2026-11-21T10:30:00.5Z".parse().expect("time");
        line(
            format,
            &Record::builder()
                .level(Level::Warn)
                .target(target)
                .args(format_args!("{message}"))
                .key_values(&kvs)
                .build(),
            now,
        )
    }

    #[test]
    fn the_json_form() {
        assert_eq!(
            render(
                LogFormat::Json,
                "pipeops_agent::link::writer",
                "lost \"it\"",
                &[("cluster_id", "c-1"), ("msg", "x")]
            ),
            "{\"time\":\"2026-11-21T10:30:00.500Z\",\"level\":\"warning\",\"msg\":\"lost \\\"it\\\"\",\"component\":\"link\",\"cluster_id\":\"c-1\",\"fields.msg\":\"x\"}\n"
        );
    }

    #[test]
    fn the_text_form() {
        assert_eq!(
            render(
                LogFormat::Text,
                "rustls::client",
                "lost",
                &[("why", "a b"), ("code", "1006")]
            ),
            "2026-11-21T10:30:00.500Z warning rustls: lost why=\"a b\" code=1006\n"
        );
    }

    #[test]
    fn a_field_can_name_component_and_a_level_of_its_own() {
        let out = render(
            LogFormat::Json,
            "x",
            "m",
            &[("level", "panic"), ("component", "StateManager")],
        );
        assert!(out.contains("\"level\":\"panic\",\"msg\":\"m\",\"component\":\"StateManager\"}"));
    }

    #[test]
    fn secrets_do_not_pass() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let out = render(
                format,
                "x",
                "Bearer hidden-hidden-hidden",
                &[("token", "hidden"), ("url", "http://a:hidden@h/")],
            );
            assert!(!out.contains("hidden"), "{out}");
        }
    }

    proptest! {
        #[test]
        fn one_record_is_one_line(message in any::<String>(), value in any::<String>()) {
            for format in [LogFormat::Json, LogFormat::Text] {
                let out = render(format, "x", &message, &[("v", &value)]);
                prop_assert_eq!(out.matches('\n').count(), 1);
                prop_assert!(!out.contains('\r') && out.ends_with('\n'));
                if format == LogFormat::Json {
                    serde_json::from_str::<serde_json::Value>(&out).expect("valid JSON");
                }
            }
        }
    }
}
