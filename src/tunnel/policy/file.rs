//! The policy file (docs/tunnel-policy.md): a small YAML, read strictly. A typing
//! error must not open what was meant to be closed.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::glob::Glob;
use super::rule::{Action, Rule};
use crate::tunnel::Protocol;

/// Why a policy file can't be used; one line with path, and line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("cannot read the tunnel policy {}: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("tunnel policy {}: {what}", path.display())]
    Parse { path: PathBuf, what: String },
}

/// What a file says.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) dry_run: bool,
    pub(super) rules: Vec<Rule>,
}

pub(super) fn read(path: &Path) -> Result<Rules, PolicyError> {
    let text = read_text(path).map_err(|cause| PolicyError::Read {
        path: path.to_owned(),
        cause,
    })?;
    parse(&text).map_err(|what| PolicyError::Parse {
        path: path.to_owned(),
        what,
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    // Opening a pipe would block, reading a device might never end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

/// The error is one clause that begins with `line N: ` where that is known.
pub(super) fn parse(text: &str) -> Result<Rules, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file: File = serde_yaml::from_str(text).map_err(|error| {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or("not YAML");
        match error.location() {
            Some(at) => format!("line {}: {what}", at.line()),
            None => what.to_owned(),
        }
    })?;
    if file.rules.len() > MAX_ENTRIES {
        return Err(format!("more than {MAX_ENTRIES} rules"));
    }
    let mut rules = Vec::new();
    for (index, entry) in file.rules.into_iter().enumerate() {
        let place = format!("rule {}", index + 1);
        let name = match entry.name.as_deref().map(str::trim) {
            None | Some("") => place,
            Some(name) if name.chars().count() > MAX_NAME => {
                return Err(format!(
                    "{place}: the name has more than {MAX_NAME} characters"
                ));
            }
            Some(name) => format!("{place} ({name})"),
        };
        rules.push(Rule {
            action: entry.action.0,
            namespaces: entry.namespaces.items(),
            services: entry.services.items(),
            ports: entry.ports.items(),
            protocol: entry.protocol.map(|Parsed(protocol)| protocol),
            addresses: entry.addresses.items(),
            external_names: entry.external_names.items(),
            name,
        });
    }
    Ok(Rules {
        dry_run: matches!(file.mode, Some(Parsed(Mode::DryRun))),
        rules,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mode: Option<Parsed<Mode>>,
    rules: Vec<Entry>,
}

enum Mode {
    Enforce,
    DryRun,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Option<String>,
    action: Parsed<Action>,
    #[serde(default)]
    namespaces: List<Parsed<Glob>>,
    #[serde(default)]
    services: List<Parsed<Glob>>,
    #[serde(default)]
    ports: List<Parsed<RangeInclusive<u16>>>,
    protocol: Option<Parsed<Protocol>>,
    #[serde(default)]
    addresses: List<Parsed<super::address::Block>>,
    #[serde(default)]
    external_names: List<Parsed<Glob>>,
}

/// A list that isn't empty when it is there: does `ports: []` mean none, or any?
struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> List<Parsed<T>> {
    fn items(self) -> Vec<T> {
        self.0.into_iter().map(|Parsed(item)| item).collect()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Items(PhantomData))
    }
}

/// A visitor, so that its errors have their line.
struct Items<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX_ENTRIES {
                return Err(de::Error::custom(format_args!(
                    "more than {MAX_ENTRIES} entries"
                )));
            }
            items.push(item);
        }
        if items.is_empty() {
            return Err(de::Error::custom(
                "the list is empty; leave it out for everything",
            ));
        }
        Ok(List(items))
    }
}

/// A scalar that a parser of ours understands.
struct Parsed<T>(T);

trait Scalar: Sized {
    const WHAT: &'static str;

    fn parse(text: &str) -> Result<Self, String>;
}

impl Scalar for Mode {
    const WHAT: &'static str = "enforce or dry-run";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "enforce" => Ok(Self::Enforce),
            "dry-run" => Ok(Self::DryRun),
            _ => Err(format!("{text:?} is neither enforce nor dry-run")),
        }
    }
}

impl Scalar for Action {
    const WHAT: &'static str = "allow or deny";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(format!("{text:?} is neither allow nor deny")),
        }
    }
}

impl Scalar for Protocol {
    const WHAT: &'static str = "tcp or udp";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("{text:?} is neither tcp nor udp")),
        }
    }
}

impl Scalar for Glob {
    const WHAT: &'static str = "a pattern of names";

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Scalar for super::address::Block {
    const WHAT: &'static str = "a block of addresses";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

impl Scalar for RangeInclusive<u16> {
    const WHAT: &'static str = "a port or a range of ports";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a port nor a range (8000-8010)");
        let port = |text: &str| {
            let text = text.trim();
            text.parse::<u16>()
                .ok()
                .filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(wrong)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = port(first)?..=port(last)?;
        if range.is_empty() {
            return Err(wrong());
        }
        Ok(range)
    }
}

impl<'de, T: Scalar> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);

        impl<T: Scalar> Visitor<'_> for Text<T> {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::WHAT)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::parse(text).map(Parsed).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
                self.visit_str(&number.to_string())
            }
        }

        from.deserialize_any(Text(PhantomData))
    }
}

/// A file of rules is never this large; a mistaken path may be.
const MAX_FILE: u64 = 1024 * 1024;

/// Rules in a file, and entries of one list: each stream walks through all of them.
const MAX_ENTRIES: usize = 1_000;

/// Names stand in each line of the audit.
const MAX_NAME: usize = 100;

#[cfg(test)]
mod tests;
