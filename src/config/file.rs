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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn document(text: &str) -> Document {
        read(Path::new("config.yaml"), text, &|_| None).expect("readable")
    }

    fn text(value: &str) -> Input {
        Input::Text(value.to_owned())
    }

    #[test]
    fn sections_are_found_in_any_case_and_labels_keep_theirs() {
        let out = document(
            "Agent:\n  Cluster_Name: Prod\n  labels:\n    App.Kubernetes.io/Name: X\n    version: 1.10\n    flag: True\n    n: 0755\n    empty:\n",
        );
        assert_eq!(out.values["agent.cluster_name"], text("Prod"));
        let Some(Input::Map(labels)) = out.values.get("agent.labels") else {
            panic!("{out:?}");
        };
        assert_eq!(labels["App.Kubernetes.io/Name"], "X");
        assert_eq!(labels["version"], "1.10");
        assert_eq!(labels["flag"], "True");
        assert_eq!(labels["n"], "0755");
        assert_eq!(labels["empty"], "");
    }

    #[test]
    fn a_number_where_text_is_meant_stays_as_written() {
        let out = document(
            "agent: {cluster_name: 1e3, port: 9090}\npipeops: {token: 0123456789012345678901}",
        );
        assert_eq!(out.values["agent.cluster_name"], text("1e3"));
        assert_eq!(out.values["agent.port"], text("9090"));
        assert_eq!(out.values["pipeops.token"], text("0123456789012345678901"));
    }

    #[test]
    fn unknown_keys_are_named_by_their_path() {
        let out = document("agent: {prot: 1}\nsecurity: {tls: {x: 1}}\n");
        assert_eq!(out.unknown, ["agent.prot", "security"]);
        assert!(out.problems.is_empty());
    }

    #[test]
    fn empty_files_sections_and_values_are_nothing() {
        for text in [
            "",
            "---\n",
            "# nothing\n",
            "agent:\n",
            "agent: {port: , id: ''}\n",
        ] {
            let out = document(text);
            assert!(out.values.is_empty() && out.problems.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_wrong_shape_is_a_problem() {
        for text in [
            "agent: 5",
            "agent: [1]",
            "agent: {port: [1]}",
            "agent: {port: {x: 1}}",
            "agent: {labels: {a: [1]}}",
            "agent: {Port: 1, port: 2}",
            "? [1]\n: x",
        ] {
            assert!(!document(text).problems.is_empty(), "{text:?}");
        }
    }

    #[test]
    fn syntax_errors_have_line_and_column() {
        for (name, text, place) in [
            ("a.yaml", "agent:\n  port: 1\n bad: [\n", "a.yaml:"),
            ("a.yaml", "agent: {port: 1}\nagent: {port: 2}\n", "a.yaml:"),
            ("b.json", "{\n  \"agent\": }", "b.json:2:12: "),
            ("c.yaml", "- a\n- b\n", "c.yaml:1:1: "),
        ] {
            let error = read(Path::new(name), text, &|_| None).expect_err(text);
            assert!(error.starts_with(place), "{error}");
            let mut parts = error.splitn(4, ':').skip(1);
            for _ in 0..2 {
                let number = parts.next().expect("a number");
                assert!(number.parse::<u32>().is_ok(), "{error}");
            }
        }
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let error = read(Path::new("x.toml"), "a = 1", &|_| None).expect_err("refused");
        assert!(error.contains("YAML and JSON"), "{error}");
    }

    #[test]
    fn merge_keys_and_json_work() {
        let out = document("x-base: &b {port: 7}\nagent:\n  <<: *b\n");
        assert_eq!(out.values["agent.port"], text("7"));
        let out = read(
            Path::new("c.json"),
            "{\n\t\"agent\": {\"port\": 7, \"labels\": {\"a\": \"b\"}}}",
            &|_| None,
        )
        .expect("readable");
        assert_eq!(out.values["agent.port"], text("7"));
    }

    #[test]
    fn variables_expand_in_values_only() {
        let var = |name: &str| (name == "X").then(|| "y".to_owned());
        let out = read(
            Path::new("c.yaml"),
            "agent: {cluster_name: 'a-${X}', id: '${NOPE}', '${X}': 1}",
            &var,
        )
        .expect("readable");
        assert_eq!(out.values["agent.cluster_name"], text("a-y"));
        assert!(!out.values.contains_key("agent.id"));
        assert_eq!(out.undefined, [("agent.id", "NOPE".to_owned())]);
        assert_eq!(out.unknown, ["agent.${x}"]);
    }

    #[test]
    fn an_alias_bomb_is_refused_and_not_unfolded() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            let row = vec![below; 10].join(",");
            text.extend([&format!("a{level}: &a{level} [{row}]"), "\n"]);
        }
        assert!(read(Path::new("bomb.yaml"), &text, &|_| None).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,80}") {
            let _ = read(Path::new("x.yaml"), &text, &|_| None);
            let _ = read(Path::new("x.json"), &text, &|_| None);
        }

        #[test]
        fn anything_like_yaml_is_read_without_a_panic(
            text in "([ ]{0,4}(agent|pipeops|labels|port|token|a|<<|- |\\? )?[:\\[\\]{},&*!|>'\"#%@0-9a-z~ \\-]{0,8}\n){0,8}"
        ) {
            let _ = read(Path::new("x.yaml"), &text, &|_| None);
        }
    }
}
