//! The configuration file: YAML or JSON, walked along the table of keys.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_yaml::{Mapping, Value};

use super::expand::expand;
use super::table::{self, Key, Kind};
use super::value::Input;

/// What the file says, in terms of the table.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Values by key name; empty ones are left out.
    pub values: BTreeMap<&'static str, Input>,
    /// Keys that expanded to nothing because of variables that aren't set.
    pub undefined: Vec<(&'static str, String)>,
    /// Paths that the table doesn't have.
    pub unknown: Vec<String>,
    /// What is wrong with the file's shape, each with its path.
    pub problems: Vec<String>,
}

/// Reads the text of a file. The error says where (`path:line:column`) and what.
pub(super) fn read(
    path: &Path,
    text: &str,
    var: &dyn Fn(&str) -> Option<String>,
) -> Result<Document, String> {
    let root = parse(path, text)?;
    let mut walk = Walk {
        text,
        var,
        out: Document::default(),
        exact_left: MAX_EXACT,
    };
    match root {
        Value::Null => {}
        Value::Mapping(_) => walk.section(&root, "", &mut Vec::new()),
        _ => {
            return Err(format!(
                "{}:1:1: expected keys and values, found {}",
                path.display(),
                shape(&root)
            ));
        }
    }
    Ok(walk.out)
}

fn parse(path: &Path, text: &str) -> Result<Value, String> {
    let extension = path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or("")
        .to_ascii_lowercase();
    // JSON is YAML, but for tabs; and JSON's own errors are clearer.
    if extension == "json" {
        return serde_json::from_str(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            // The text without the place that serde_json adds to it.
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or("not JSON");
            format!("{}:{line}:{column}: {what}", path.display())
        });
    }
    if FOREIGN.contains(&extension.as_str()) {
        return Err(format!(
            "{}: only YAML and JSON are read, not {extension}",
            path.display()
        ));
    }
    let located = |error: serde_yaml::Error| {
        let (line, column) = error
            .location()
            .map_or((1, 1), |at| (at.line(), at.column()));
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or("not YAML");
        format!("{}:{line}:{column}: {what}", path.display())
    };
    let mut value: Value = serde_yaml::from_str(text).map_err(located)?;
    value.apply_merge().map_err(located)?;
    Ok(value)
}

struct Walk<'a> {
    text: &'a str,
    var: &'a dyn Fn(&str) -> Option<String>,
    out: Document,
    exact_left: usize,
}

impl Walk<'_> {
    /// `path` is the table's path of `value` (lower case), `exact` the file's own.
    fn section(&mut self, value: &Value, path: &str, exact: &mut Vec<String>) {
        let Value::Mapping(mapping) = value else {
            if !value.is_null() {
                let found = shape(value);
                self.out
                    .problems
                    .push(format!("{path}: expected a section of keys, found {found}"));
            }
            return;
        };
        for (name, value) in mapping {
            let Some(name) = scalar(name) else {
                let section = if path.is_empty() { "the file" } else { path };
                self.out
                    .problems
                    .push(format!("{section}: a key must be text"));
                continue;
            };
            let below = if path.is_empty() {
                name.to_ascii_lowercase()
            } else {
                format!("{path}.{}", name.to_ascii_lowercase())
            };
            exact.push(name);
            if let Some(key) = table::find(&below) {
                self.leaf(key, value, exact);
            } else if table::is_parent(&below) {
                self.section(value, &below, exact);
            } else {
                self.out.unknown.push(below);
            }
            exact.pop();
        }
    }

    fn leaf(&mut self, key: &'static Key, value: &Value, exact: &mut Vec<String>) {
        let input = match (value, &key.kind) {
            (Value::Null, _) => return,
            (_, Kind::Opaque) | (Value::Sequence(_) | Value::Mapping(_), Kind::JsonList(_)) => {
                Input::Structure
            }
            (Value::Mapping(mapping), Kind::Map(_)) => Input::Map(self.map(key, mapping, exact)),
            (Value::Sequence(parts), Kind::Entries { fields, .. }) => {
                let parts = parts
                    .iter()
                    .filter_map(|part| self.entry(key, part, fields));
                Input::Entries(parts.collect())
            }
            (Value::Sequence(parts), Kind::List(_)) => {
                let texts = parts.iter().filter_map(|part| self.text(key, part, &[]));
                Input::List(texts.collect())
            }
            _ => match self.text(key, value, exact) {
                Some(text) if text.trim().is_empty() => return,
                Some(text) => Input::Text(text),
                None => {
                    self.out.problems.push(format!(
                        "{}: expected one {}, found {}",
                        key.name,
                        key.kind.word(),
                        shape(value)
                    ));
                    return;
                }
            },
        };
        if self.out.values.insert(key.name, input).is_some() {
            self.out
                .problems
                .push(format!("{}: given twice (case is ignored)", key.name));
        }
    }

    fn map(
        &mut self,
        key: &'static Key,
        mapping: &Mapping,
        exact: &mut Vec<String>,
    ) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        for (name, value) in mapping {
            let Some(name) = scalar(name) else { continue };
            exact.push(name.clone());
            match self.text(key, value, exact) {
                Some(text) => drop(map.insert(name, text)),
                None if value.is_null() => drop(map.insert(name, String::new())),
                None => self.out.problems.push(format!(
                    "{}.{name}: expected text, found {}",
                    key.name,
                    shape(value)
                )),
            }
            exact.pop();
        }
        map
    }

    /// One of a list of maps; its fields in lower case, as all keys.
    fn entry(
        &mut self,
        key: &'static Key,
        part: &Value,
        fields: &[&str],
    ) -> Option<BTreeMap<String, String>> {
        let Value::Mapping(mapping) = part else {
            self.out.problems.push(format!(
                "{}: expected entries of {}, found {}",
                key.name,
                fields.join(" and "),
                shape(part)
            ));
            return None;
        };
        let mut entry = BTreeMap::new();
        for (name, value) in mapping {
            let Some(name) = scalar(name) else { continue };
            let name = name.to_ascii_lowercase();
            if !fields.contains(&name.as_str()) {
                self.out.unknown.push(format!("{}.{name}", key.name));
            } else if let Some(text) = self.text(key, value, &[]) {
                entry.insert(name, text);
            } else if !value.is_null() {
                let found = shape(value);
                let problem = format!("{}: {name} is not text but {found}", key.name);
                self.out.problems.push(problem);
            }
        }
        Some(entry)
    }

    /// A scalar's text as it was written, with its variables expanded.
    fn text(&mut self, key: &'static Key, value: &Value, exact: &[String]) -> Option<String> {
        if let Value::String(text) = value {
            let expanded = expand(text, self.var);
            for name in expanded.undefined {
                self.out.undefined.push((key.name, name));
            }
            return Some(expanded.text);
        }
        let rendered = scalar(value)?;
        // `version: 1.10` is a number to YAML, but the label is "1.10".
        if self.exact_left > 0 && !exact.is_empty() && !key.kind.is_numeric() {
            self.exact_left -= 1;
            if let Some(written) = as_written(self.text, exact) {
                return Some(written);
            }
        }
        Some(rendered)
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) | Value::Number(_) | Value::String(_) => "a single value",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a section",
        Value::Tagged(_) => "a tagged value",
    }
}

/// Reads the file once more, for one scalar, as text: the generic value has lost
/// how a number was written.
fn as_written(text: &str, path: &[String]) -> Option<String> {
    AsWritten(path)
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .ok()
        .flatten()
}

struct AsWritten<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for AsWritten<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            <String as serde::Deserialize>::deserialize(from).map(Some)
        } else {
            from.deserialize_map(self)
        }
    }
}

impl<'de> Visitor<'de> for AsWritten<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0[0] {
                found = map.next_value_seed(AsWritten(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Formats of the original that we don't read.
const FOREIGN: &[&str] = &["toml", "ini", "hcl", "properties", "env"];

/// Each look at how something was written reads the file again.
const MAX_EXACT: usize = 256;

#[cfg(test)]
mod tests;
