//! The shape of the table of keys, and look-ups in it.
//!
//! A key is one row: its name in the file, its environment names, its flag, its
//! type with the place its value goes to, its default and a line of help. Parsing,
//! `--help` and `docs/configuration.md` all come from the rows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::{KEYS, SECTIONS};
use super::{Config, Secret};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path in the file, in lower case.
    pub name: &'static str,
    /// Other spellings of the path.
    pub aliases: &'static [&'static str],
    /// Explicit environment names, best first. The automatic name (the path in
    /// upper case with `_` for `.`) comes after them, see [`Key::env_names`].
    pub env: &'static [&'static str],
    /// The flag, without dashes.
    pub flag: Option<&'static str>,
    pub kind: Kind,
    pub default: Option<&'static str>,
    /// What the default depends on, in words, where no single text says it.
    pub default_note: &'static str,
    pub help: &'static str,
    pub status: Status,
}

/// Whether setting a key changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Effective,
    /// Accepted; the part that it configures isn't built yet.
    NotYet,
    /// Accepted for compatibility, never has an effect; the text says why.
    NoEffect(&'static str),
}

/// The type of a key's value, and the place where the parsed value goes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Text(fn(&mut Config, String)),
    Secret(fn(&mut Config, Secret)),
    Path(fn(&mut Config, PathBuf)),
    Bool(fn(&mut Config, bool)),
    Int {
        min: i64,
        max: i64,
        set: fn(&mut Config, i64),
    },
    /// A bare number is read as seconds, with a warning.
    Duration {
        min: Duration,
        set: fn(&mut Config, Duration),
    },
    /// As `Duration`, but a bare number of `unit` is the documented form.
    Interval {
        unit: Duration,
        min: Duration,
        set: fn(&mut Config, Duration),
    },
    /// Bytes: a number, or one with KiB, MiB, GiB (also Ki, Mi, Gi, K, M, G).
    Size {
        min: u64,
        set: fn(&mut Config, u64),
    },
    Choice {
        of: &'static [&'static str],
        set: fn(&mut Config, &str),
    },
    List(fn(&mut Config, Vec<String>)),
    Map(fn(&mut Config, BTreeMap<String, String>) -> Result<(), String>),
    /// A list of maps with these fields in the file, a JSON array elsewhere.
    Entries {
        fields: &'static [&'static str],
        set: SetEntries,
    },
    /// Text that a parser of its own understands.
    Parsed {
        what: &'static str,
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
    /// A list of structured entries: as such in the file, as a JSON array elsewhere.
    JsonList(fn(&str) -> Result<(), String>),
    /// A whole section of the file that is accepted unread.
    Opaque,
}

/// Takes the entries of a list to their place.
type SetEntries = fn(&mut Config, Vec<BTreeMap<String, String>>) -> Result<(), String>;

impl Kind {
    /// The type in a word, for help and docs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Secret(_) => "secret",
            Self::Path(_) => "path",
            Self::Bool(_) => "bool",
            Self::Int { .. } => "number",
            Self::Duration { .. } | Self::Interval { .. } => "duration",
            Self::Size { .. } => "size",
            Self::Choice { .. } => "choice",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Entries { .. } => "entries",
            Self::Parsed { what, .. } => what,
            Self::JsonList(_) => "json",
            Self::Opaque => "section",
        }
    }

    /// Types for which `tcp://…` can only be a Kubernetes service-link variable
    /// that happens to have the name (config-and-state.md §2.1).
    pub(super) fn is_numeric(&self) -> bool {
        matches!(
            self,
            Self::Bool(_)
                | Self::Int { .. }
                | Self::Duration { .. }
                | Self::Interval { .. }
                | Self::Size { .. }
        )
    }
}

impl Key {
    pub(super) const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            env: &[],
            flag: None,
            kind,
            default: None,
            default_note: "",
            help,
            status: Status::Effective,
        }
    }

    pub(super) const fn env(mut self, names: &'static [&'static str]) -> Self {
        self.env = names;
        self
    }

    pub(super) const fn flag(mut self, name: &'static str) -> Self {
        self.flag = Some(name);
        self
    }

    pub(super) const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    pub(super) const fn default_note(mut self, text: &'static str) -> Self {
        self.default_note = text;
        self
    }

    pub(super) const fn aliases(mut self, names: &'static [&'static str]) -> Self {
        self.aliases = names;
        self
    }

    pub(super) const fn not_yet(mut self) -> Self {
        self.status = Status::NotYet;
        self
    }

    pub(super) const fn no_effect(mut self, why: &'static str) -> Self {
        self.status = Status::NoEffect(why);
        self
    }

    /// All environment names, best first: the explicit ones, then the automatic one.
    pub fn env_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.env.iter().map(|name| (*name).to_owned()).collect();
        if !matches!(self.kind, Kind::Opaque) {
            let automatic = self.name.to_ascii_uppercase().replace('.', "_");
            if !names.contains(&automatic) {
                names.push(automatic);
            }
        }
        names
    }

    /// The first part of the name.
    pub fn section(&self) -> &'static str {
        self.name
            .split_once('.')
            .map_or(self.name, |(first, _)| first)
    }

    /// The default in words, or nothing.
    pub fn default_text(&self) -> &'static str {
        match self.default {
            Some(text) => text,
            None => self.default_note,
        }
    }
}

/// A group of keys in help and docs.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub name: &'static str,
    pub title: &'static str,
}

/// All rows, in the order of help and docs.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().copied().flatten()
}

pub fn sections() -> &'static [Section] {
    SECTIONS
}

/// The row with this path (in lower case), or one of its aliases.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == path || key.aliases.contains(&path))
}

/// Whether some row lies below this path.
pub(super) fn is_parent(path: &str) -> bool {
    let below = |name: &str| {
        name.strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    keys().any(|key| below(key.name) || key.aliases.iter().any(|alias| below(alias)))
}

/// The name most like `text`, if any is near enough to be meant.
pub fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    if text.len() > 128 {
        return None;
    }
    names
        .map(|name| (distance(&text, name), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= (name.len().max(text.len()) / 3).max(1))
        .map(|(_, name)| name)
}

/// Edit distance with transpositions (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests;
