//! How a failure reaches the person who must act on it: one line, on stderr.

use std::io::{self, IsTerminal, Write};

use crate::config::{ConfigErrors, LogOutput, nearest};
use crate::telemetry::{error_record, redact};

/// Why a command failed. Every kind means exit code 1.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line makes no sense; the text says what would.
    Usage(String),
    Config(ConfigErrors),
    /// The agent could not begin, or gave up. Once logging has begun, `log` says
    /// where its lines go.
    Agent {
        error: Box<dyn std::error::Error + Send + Sync>,
        log: Option<LogOutput>,
    },
    /// Any other command.
    Command(Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// Tells. A person gets a line, a machine (no terminal) a JSON record where the
    /// agent itself failed (config-and-state.md §10.2).
    pub(super) fn report(&self) {
        let person = io::stderr().is_terminal();
        match self {
            Self::Usage(text) => line(person, text),
            Self::Command(error) => line(person, &chain(error.as_ref())),
            Self::Config(errors) if person => {
                for problem in errors.problems() {
                    line(true, problem);
                }
            }
            Self::Config(errors) => write(&error_record("config", &errors.to_string())),
            Self::Agent { error, log } => {
                let text = chain(error.as_ref());
                match log {
                    Some(output) => {
                        log::error!(component = "agent"; "{text}");
                        if person && matches!(output, LogOutput::File(_)) {
                            line(true, &text);
                        }
                    }
                    None if person => line(true, &text),
                    None => write(&error_record("agent", &text)),
                }
            }
        }
    }
}

/// A usage error of clap's in one line, with the nearest name that exists. `None`
/// where clap only wants to print help or the version.
pub(super) fn usage(error: &clap::Error, flags: &[String], commands: &[String]) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let hint = |name: &str, names: &[String]| {
        nearest(name, names.iter().map(String::as_str))
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default()
    };
    let text = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return None,
        ErrorKind::UnknownArgument => {
            let name = context(ContextKind::InvalidArg).unwrap_or("that");
            let name = name.split(['=', ' ']).next().unwrap_or(name);
            if name.starts_with('-') {
                format!("unknown flag {name}{}", hint(name, flags))
            } else {
                format!("unexpected argument {name:?}{}", hint(name, commands))
            }
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or("that");
            if matches!(name, "true" | "false") {
                format!(
                    "unexpected argument {name:?}: a switch takes its value with =, as in \
                     --in-cluster={name}"
                )
            } else {
                format!("unknown command {name:?}{}", hint(name, commands))
            }
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            // The first paragraph says what is wrong; usage follows after it.
            let paragraph = text.split("\n\n").next().unwrap_or(text);
            paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    };
    Some(format!("{text} (pipeops-agent --help says more)"))
}

/// An error with its causes, where they say more than it does itself.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn line(person: bool, text: &str) {
    let text: String = redact(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let colour = person && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (on, off) = if colour {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    write(&format!("{on}error:{off} {text}\n"));
}

/// Nothing can be done about a stderr that doesn't take it.
fn write(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
