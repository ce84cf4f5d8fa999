//! From the sources to a `Config`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::file::{self, Document};
use super::surroundings::Surroundings;
use super::table::{self, Key, Kind, Status, keys};
use super::value::{self, Input};
use super::{Config, finish};

/// What the command line gave.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// `--config`; empty counts as not given.
    pub config_file: Option<PathBuf>,
    /// Values of flags, by the key's name.
    pub flags: BTreeMap<&'static str, String>,
}

/// Something worth a line in the log that doesn't stop the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub level: log::Level,
    /// One line, without secrets.
    pub text: String,
}

/// Everything that is wrong with the configuration; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ConfigErrors {}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Flag(&'static str),
    Env(String),
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Env(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What was found for one key.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub source: Source,
    pub input: Input,
}

/// A load under way: what was given, and what is to be said about it.
pub(super) struct Load<'a> {
    pub around: &'a dyn Surroundings,
    pub config: Config,
    pub given: BTreeMap<&'static str, Given>,
    pub warnings: Vec<Warning>,
    pub problems: Vec<String>,
}

impl Config {
    /// Reads everything there is and checks it. On errors it reports all of them.
    pub fn load(
        args: &Args,
        around: &dyn Surroundings,
    ) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let mut load = Load {
            around,
            config: Self::defaults(),
            given: BTreeMap::new(),
            warnings: Vec::new(),
            problems: Vec::new(),
        };
        let document = load.file(args);
        for key in keys() {
            load.key(key, args, &document);
        }
        finish::finish(&mut load);
        if load.problems.is_empty() {
            Ok((load.config, load.warnings))
        } else {
            Err(ConfigErrors(load.problems))
        }
    }

    /// The defaults of the table, for processes that configure themselves (the demo,
    /// tests). There is no token in it, and no address to listen on.
    pub fn defaults() -> Self {
        let mut config = Self::default();
        for key in keys() {
            if let Some(text) = key.default {
                value::apply(&key.kind, &Input::Text(text.to_owned()), &mut config)
                    .expect("each default of the table parses, which a test proves");
            }
        }
        config
    }
}

impl Load<'_> {
    fn file(&mut self, args: &Args) -> Document {
        let asked = args
            .config_file
            .clone()
            .filter(|path| !path.as_os_str().is_empty());
        let Some(path) = asked.or_else(|| search(self.around)) else {
            return Document::default();
        };
        match self.document(&path) {
            Ok(document) => {
                self.config.file = Some(path);
                document
            }
            Err(problem) => {
                self.problems.push(problem);
                Document::default()
            }
        }
    }

    fn document(&mut self, path: &Path) -> Result<Document, String> {
        let bytes = self
            .around
            .read(path, MAX_FILE)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| format!("{}: not UTF-8: {error}", path.display()))?;
        // Editors of other systems put a mark of byte order in front.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mut document = file::read(path, text, &|name| self.around.var(name))?;
        let shown = path.display();
        for problem in document.problems.drain(..) {
            self.problems.push(format!("{shown}: {problem}"));
        }
        for unknown in &document.unknown {
            let names = keys()
                .map(|key| key.name)
                .chain(table::sections().iter().map(|section| section.name));
            let hint = table::nearest(unknown, names)
                .map(|name| format!("; did you mean {name}?"))
                .unwrap_or_default();
            let unknown = value::quote(unknown);
            self.warn(format!("{shown}: unknown key {unknown} is ignored{hint}"));
        }
        for (name, variable) in &document.undefined {
            // Half of a token is none.
            if *name == "pipeops.token" {
                document.values.remove(name);
            }
            self.warn(format!(
                "{shown}: {name} refers to {variable}, which is not set"
            ));
        }
        Ok(document)
    }

    fn key(&mut self, key: &'static Key, args: &Args, document: &Document) {
        let Some(given) = self.best(key, args, document) else {
            return;
        };
        self.remark_status(key, &given);
        match value::apply(&key.kind, &given.input, &mut self.config) {
            Ok(None) => {}
            Ok(Some(remark)) => {
                self.warn(format!("{} ({}): {remark}", key.name, given.source));
            }
            Err(problem) => {
                let line = format!("{} ({}): {problem}", key.name, given.source);
                self.problems.push(line);
            }
        }
        self.given.insert(key.name, given);
    }

    /// The value of the best source that has one.
    fn best(&mut self, key: &'static Key, args: &Args, document: &Document) -> Option<Given> {
        let flag = key.flag.and_then(|flag| {
            let text = args.flags.get(key.name)?;
            Some((Source::Flag(flag), Input::Text(text.clone())))
        });
        let env = key.env_names().into_iter().filter_map(|name| {
            let text = self.around.var(&name)?;
            Some((Source::Env(name), Input::Text(text)))
        });
        let file = document.values.get(key.name).and_then(|input| {
            let path = self.config.file.clone()?;
            Some((Source::File(path), input.clone()))
        });
        let all: Vec<_> = flag.into_iter().chain(env).chain(file).collect();
        for (source, input) in all {
            if let Input::Text(text) = &input {
                let service_link = matches!(source, Source::Env(_)) && is_service_link(text);
                if text.trim().is_empty() || (key.kind.is_numeric() && service_link) {
                    continue;
                }
                if key.name == "pipeops.token" && super::token::is_placeholder(text) {
                    self.warn(format!(
                        "{} ({source}) is a placeholder and counts as not set",
                        key.name
                    ));
                    continue;
                }
            }
            return Some(Given { source, input });
        }
        None
    }

    fn remark_status(&mut self, key: &'static Key, given: &Given) {
        let as_default = match &given.input {
            Input::Text(text) => key
                .default
                .is_some_and(|default| means_the_same(&key.kind, text, default)),
            _ => false,
        };
        let (level, what) = match key.status {
            Status::Effective => return,
            Status::NotYet if as_default => return,
            Status::NotYet => (
                log::Level::Warn,
                "is accepted but has no effect yet".to_owned(),
            ),
            Status::NoEffect(why) => (log::Level::Info, format!("has no effect: {why}")),
        };
        self.warnings.push(Warning {
            level,
            text: format!("{} ({}) {what}", key.name, given.source),
        });
    }

    pub(super) fn warn(&mut self, text: String) {
        self.warnings.push(Warning {
            level: log::Level::Warn,
            text,
        });
    }
}

/// The places of config-and-state.md §2.2, first existing wins.
fn search(around: &dyn Surroundings) -> Option<PathBuf> {
    let home = around
        .var("HOME")
        .filter(|home| !home.is_empty())
        .map(|home| Path::new(&home).join(".pipeops-agent.yaml"));
    home.into_iter()
        .chain(PLACES.iter().map(PathBuf::from))
        .find(|path| around.exists(path))
}

/// Kubernetes gives each pod `<SERVICE>_PORT=tcp://…` for each Service.
fn is_service_link(text: &str) -> bool {
    ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| text.trim_start().starts_with(scheme))
}

/// `False` and `0` say what the default `false` says.
fn means_the_same(kind: &Kind, text: &str, default: &str) -> bool {
    let text = text.trim();
    text == default
        || (matches!(kind, Kind::Bool(_))
            && value::boolean(text).is_ok_and(|value| value.to_string() == default))
}

const PLACES: &[&str] = &[
    "/etc/pipeops/config.yaml",
    "/etc/pipeops/.pipeops-agent.yaml",
    "config.yaml",
    ".pipeops-agent.yaml",
];

/// A file of settings is never this large; a mistaken path may be.
const MAX_FILE: usize = 1024 * 1024;
