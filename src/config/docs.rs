//! `docs/configuration.md`, written from the table.

use std::fmt::Write as _;

use super::table::{Kind, Status, keys, sections};

/// The whole page. A test compares it with the committed file.
pub fn markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for section in sections() {
        let _ = write!(
            out,
            "\n## {}\n\n| Key | Type | Default | Environment | Flag | Meaning |\n|---|---|---|---|---|---|\n",
            section.title
        );
        for key in keys().filter(|key| key.section() == section.name) {
            let names: Vec<String> = match key.kind {
                Kind::Opaque => Vec::new(),
                _ => key.env_names(),
            };
            let env = names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ");
            let default = match key.default {
                Some(text) => format!("`{text}`"),
                None => key.default_note.to_owned(),
            };
            let flag = key
                .flag
                .map(|flag| format!("`--{flag}`"))
                .unwrap_or_default();
            let status = match key.status {
                Status::Effective => String::new(),
                Status::NotYet => " *Accepted, without effect yet.*".to_owned(),
                Status::NoEffect(why) => format!(" *No effect: {why}.*"),
            };
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {env} | {flag} | {}.{status} |",
                key.name,
                key.kind.word(),
                key.help.replace('|', "\\|"),
            );
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

This page is written from the table of keys in `src/config/keys`
(`pipeops-agent config docs`); edit that, not this.

A value is looked for in this order: flag, environment (the names in the order
given here), configuration file, default. An empty value counts as not set.

The file is YAML or JSON: the one that `--config` names, else the first of
`$HOME/.pipeops-agent.yaml`, `/etc/pipeops/config.yaml`,
`/etc/pipeops/.pipeops-agent.yaml`, `config.yaml`, `.pipeops-agent.yaml`. A key
`agent.port` is `port` in the section `agent`; case doesn't matter. In its values
`${NAME}` and `${NAME:-default}` stand for environment variables, `$${` for `${`.
`pipeops-agent config validate` reports everything that is wrong with it.

Types: a *duration* is `30s`, `1h30m`, `500ms`; a bare number is seconds. A *size* is
bytes or `64KiB`, `96MiB`, `1GiB`. A *bool* is true/false, yes/no, on/off, 1/0. A
*map* is `name=value,name2=value2` in the environment, a *list* `a,b,c`; *entries* are a
list of maps, a JSON array in the environment. A *secret* is never shown.
";

#[cfg(test)]
mod tests {
    use super::*;

    /// To write it anew: `cargo run -- config docs > docs/configuration.md`.
    #[test]
    fn the_committed_page_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == markdown(),
            "docs/configuration.md is stale: cargo run -- config docs > docs/configuration.md"
        );
    }
}
