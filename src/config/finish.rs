//! What no single key can say: values that depend on others or on the machine, and
//! checks across keys (config-and-state.md §2.5, §5, §7.4).

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Secret;
use super::load::{Load, Source};
use super::token::TokenSource;
use super::value::{self, Input};
use crate::duration;

pub(super) fn finish(load: &mut Load<'_>) {
    token(load);
    names(load);
    intervals(load);
    logging(load);
    tls(load);
    limits(load);
    state_file(load);
    bind_address(load);
}

/// The token by the usual precedence over both its keys; a literal goes before a
/// file of the same rank; the systemd credential comes last.
fn token(load: &mut Load<'_>) {
    let rank = |source: &Source| match source {
        Source::Flag(_) => 0,
        Source::Env(_) => 1,
        Source::File(_) => 2,
    };
    let text = |name| match load.given.get(name).map(|given| (given, &given.input)) {
        Some((given, Input::Text(text))) => Some((rank(&given.source), text.trim().to_owned())),
        _ => None,
    };
    let literal = text("pipeops.token");
    let file = text("pipeops.token_file");
    let both = literal.is_some() && file.is_some();
    let source = match (literal, file) {
        (Some((mine, _)), Some((theirs, path))) if theirs < mine => {
            TokenSource::File(PathBuf::from(path))
        }
        (Some((_, text)), _) => TokenSource::Literal(Secret::new(text)),
        (None, Some((_, path))) => TokenSource::File(PathBuf::from(path)),
        (None, None) => credential(load).map_or(TokenSource::Missing, TokenSource::File),
    };
    if both {
        let used = match source {
            TokenSource::File(_) => "pipeops.token_file",
            _ => "pipeops.token",
        };
        load.warn(format!(
            "pipeops.token and pipeops.token_file are both set; {used} is used"
        ));
    }
    if let Err(error) = source.read_from(load.around) {
        load.problems.push(error.to_string());
    }
    if load
        .given
        .get("pipeops.token")
        .is_some_and(|given| matches!(given.source, Source::Flag(_)))
    {
        load.warn("--token shows in the process list; prefer --token-file".to_owned());
    }
    load.config.pipeops.token = source;
}

fn credential(load: &Load<'_>) -> Option<PathBuf> {
    let folder = load.around.var("CREDENTIALS_DIRECTORY")?;
    let path = Path::new(&folder).join("pipeops-token");
    load.around.exists(&path).then_some(path)
}

fn names(load: &mut Load<'_>) {
    if !load.given.contains_key("agent.cluster_name") {
        let name = &load.config.agent.cluster_name;
        load.warn(format!(
            "no agent.cluster_name is set; the cluster registers as {name}"
        ));
    }
    let url = load.config.pipeops.api_url.clone();
    if !url.tls && !url.is_loopback() {
        load.warn(format!(
            "{url} is not encrypted: token and traffic travel in clear text"
        ));
    }
}

/// The deprecated poll interval means the connected heartbeat (§5 row 2).
fn intervals(load: &mut Load<'_>) {
    let Some(given) = load.given.get("agent.poll_interval").cloned() else {
        return;
    };
    if load
        .given
        .contains_key("agent.heartbeat_interval_connected")
    {
        load.warn(format!(
            "agent.poll_interval ({}) is deprecated and ignored beside \
             agent.heartbeat_interval_connected",
            given.source
        ));
        return;
    }
    let Input::Text(text) = &given.input else {
        return;
    };
    // A text that doesn't parse is a problem already.
    if let Ok(parsed) = duration::parse(text) {
        let interval = parsed.value.max(Duration::from_secs(5));
        load.config.agent.heartbeat_interval_connected = interval;
        load.warn(format!(
            "agent.poll_interval ({}) is deprecated; it is read as \
             agent.heartbeat_interval_connected: {}",
            given.source,
            duration::format(interval)
        ));
    }
}

fn logging(load: &mut Load<'_>) {
    if load.config.agent.debug && !load.given.contains_key("logging.level") {
        load.config.logging.level = log::LevelFilter::Debug;
    }
}

fn tls(load: &mut Load<'_>) {
    let tls = load.config.pipeops.tls.clone();
    if load.given.contains_key("pipeops.tls.enabled") && tls.ca_file.is_none() {
        let others = ["insecure_skip_verify", "ca_file", "cert_file", "key_file"];
        let ignored = others.iter().any(|name| {
            load.given
                .contains_key(format!("pipeops.tls.{name}").as_str())
        });
        let disabled = load.given.get("pipeops.tls.enabled").is_some_and(
            |given| matches!(&given.input, Input::Text(text) if value::boolean(text.trim()) == Ok(false)),
        );
        if disabled && ignored {
            load.warn(
                "pipeops.tls.enabled is false: the other pipeops.tls keys are ignored".to_owned(),
            );
        }
    }
    if tls.insecure_skip_verify {
        load.warn(
            "pipeops.tls.insecure_skip_verify is on: anybody on the way can pose as the \
             control plane"
                .to_owned(),
        );
    }
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    files.extend(tls.ca_file.map(|path| ("pipeops.tls.ca_file", path)));
    if let Some(client) = tls.client {
        let (cert, key) = (client.cert_file, client.key_file);
        if cert.as_os_str().is_empty() || key.as_os_str().is_empty() {
            load.problems
                .push("pipeops.tls.cert_file and pipeops.tls.key_file go together".to_owned());
        } else {
            files.push(("pipeops.tls.cert_file", cert));
            files.push(("pipeops.tls.key_file", key));
        }
    }
    for (name, path) in files {
        if let Err(error) = load.around.read(&path, MAX_PEM) {
            load.problems
                .push(format!("{name}: cannot read {}: {error}", path.display()));
        }
    }
}

fn limits(load: &mut Load<'_>) {
    let limits = &load.config.timeouts;
    if limits.websocket_reconnect_max < limits.websocket_reconnect {
        load.problems.push(
            "timeouts.websocket_reconnect_max is shorter than timeouts.websocket_reconnect"
                .to_owned(),
        );
    }
    if limits.websocket_read <= limits.websocket_ping {
        load.problems.push(
            "timeouts.websocket_read must be longer than timeouts.websocket_ping: a quiet \
             connection would be cut before its pong"
                .to_owned(),
        );
    }
}

/// The order of §7.4: `daemon.state_file`, then `state.file`, then systemd, then home.
/// A flag goes before all of them.
fn state_file(load: &mut Load<'_>) {
    if let Some(given) = load.given.get("state.file")
        && let (Source::Flag(_), Input::Text(text)) = (&given.source, &given.input)
    {
        load.config.state.file = PathBuf::from(text.trim());
    }
    if !load.config.state.file.as_os_str().is_empty() {
        load.config.state.file_given = true;
        return;
    }
    let var = |name: &str| load.around.var(name).filter(|value| !value.is_empty());
    load.config.state.file = if let Some(folders) = var("STATE_DIRECTORY") {
        // systemd lists several with colons; the first is the unit's own.
        let first = folders.split(':').next().unwrap_or(&folders);
        Path::new(first).join("state.yaml")
    } else if let Some(home) = var("HOME") {
        Path::new(&home).join(".pipeops-agent/state.yaml")
    } else {
        PathBuf::from("/var/lib/pipeops-agent/state.yaml")
    };
}

/// decisions.md §2 "Local server".
fn bind_address(load: &mut Load<'_>) {
    if load.config.agent.bind_address.is_none() {
        let set = |name| load.around.var(name).is_some_and(|value| !value.is_empty());
        let in_pod = set("KUBERNETES_SERVICE_HOST") && set("KUBERNETES_SERVICE_PORT");
        load.config.agent.bind_address = Some(IpAddr::V4(if in_pod {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        }));
    }
}

/// A bundle of all public roots has 200 KiB.
const MAX_PEM: usize = 1024 * 1024;
