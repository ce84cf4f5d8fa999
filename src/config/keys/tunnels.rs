//! Keys of tunnels and of a plain machine's origins.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::table::{Key, Kind};
use crate::config::types::{Config, DialFailure, Forward, ProxyProtocol};
use crate::config::{Origin, value::quote};

/// config-and-state.md §3.5, decisions.md §6.6.
pub(super) const TUNNELS: &[Key] = &[
    Key::new(
        "tunnel.enabled",
        Kind::Bool(|_, _| {}),
        "Tunnels of the first releases",
    )
    .default("false")
    .no_effect("the gateway asks for tunnels itself"),
    Key::new(
        "tunnel.poll_interval",
        Kind::Duration {
            min: Duration::ZERO,
            set: |_, _| {},
        },
        "Poll interval of the first releases",
    )
    .no_effect("nothing is polled"),
    Key::new(
        "tunnel.inactivity_timeout",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| c.tunnels.inactivity_timeout = Some(v),
        },
        "Close a stream, TCP or UDP, that is idle for this long, also one whose ends wait for each other (0: never)",
    )
    .default_note("TCP never, UDP 5m"),
    Key::new(
        "tunnel.forwards",
        Kind::Entries {
            fields: &["name", "local_addr", "remote_port"],
            set: forwards,
        },
        "Named targets: a list of {name, local_addr}; they may be the agent's own ports",
    ),
    Key::new(
        "tunnels.enabled",
        Kind::Bool(|c, v| c.tunnels.enabled = v),
        "TCP and UDP tunnels in JSON messages, which may reach 127.0.0.1; Gateway API listeners (not yet)",
    )
    .default("false"),
    Key::new(
        "tunnels.max_streams",
        Kind::Int {
            min: 1,
            max: 65_536,
            set: |c, v| c.tunnels.max_streams = v as usize,
        },
        "Streams at once; lowered at start to what the machine grants",
    )
    .default("4096"),
    Key::new(
        "tunnels.memory_limit",
        Kind::Size {
            min: 1024 * 1024,
            set: |c, v| c.tunnels.memory_limit = usize::try_from(v).unwrap_or(usize::MAX),
        },
        "All queues and enlarged windows of streams together; queues of JSON tunnels have half of it, 64MiB each at most",
    )
    .default("64MiB"),
    Key::new(
        "tunnels.half_close_timeout",
        Kind::Duration {
            min: Duration::from_mins(5),
            set: |c, v| c.tunnels.half_close_timeout = v,
        },
        "How long a stream may live on after the target's end",
    )
    .default("5m"),
    Key::new(
        "tunnels.drain_timeout",
        Kind::Duration {
            min: Duration::ZERO,
            set: |c, v| c.tunnels.drain_timeout = v,
        },
        "How long streams may go on when the agent ends; never more than half of timeouts.shutdown",
    )
    .default("5s"),
    Key::new(
        "tunnels.dial_failure",
        Kind::Choice {
            of: &["rst", "fin"],
            set: |c, v| {
                c.tunnels.dial_failure = match v {
                    "fin" => DialFailure::Fin,
                    _ => DialFailure::Reset,
                };
            },
        },
        "How a stream ends whose target can't be reached: rst or, as the original, fin",
    )
    .default("rst"),
    Key::new(
        "tunnels.policy_file",
        Kind::Path(|c, v| c.tunnels.policy_file = Some(v)),
        "Rules of what streams may reach (docs/tunnel-policy.md)",
    )
    .env(&["PIPEOPS_TUNNEL_POLICY_FILE"])
    .default_note("Services of the cluster, configured origins"),
    Key::new(
        "tunnels.audit_file",
        Kind::Path(|c, v| c.tunnels.audit.file = Some(v)),
        "A line of JSON per stream goes to this file, besides the log",
    )
    .env(&["PIPEOPS_TUNNEL_AUDIT_FILE"]),
    Key::new(
        "tunnels.audit_max_size",
        Kind::Size {
            min: 64 * 1024,
            set: |c, v| c.tunnels.audit.max_size = v,
        },
        "Size at which the audit file is rotated",
    )
    .default("10MiB"),
    Key::new(
        "tunnels.audit_keep",
        Kind::Int {
            min: 0,
            max: 1000,
            set: |c, v| c.tunnels.audit.keep = v as usize,
        },
        "Rotated audit files to keep",
    )
    .default("5"),
    Key::new(
        "tunnels.proxy_protocol",
        Kind::Map(proxy_protocol),
        "Targets that are told the client's address: service.namespace[:port] (or the name of a route or forward) to v1 or v2",
    ),
    Key::new(
        "tunnels.routing.force_tunnel_mode",
        Kind::Bool(|c, v| c.tunnels.force_tunnel_mode = v),
        "Treat the cluster as private: its traffic comes through the agent",
    )
    .default("true"),
    Key::new(
        "tunnels.routing.dual_mode_enabled",
        Kind::Bool(|_, _| {}),
        "Offer both ways into the cluster",
    )
    .default("false")
    .not_yet(),
    opaque("tunnels.discovery", "Which Gateways to watch"),
];

/// config-and-state.md §12.1.
pub(super) const DAEMON: &[Key] = &[
    Key::new(
        "daemon.enabled",
        Kind::Bool(|c, v| c.daemon.enabled = v),
        "A plain machine, also where there is a kubeconfig: its origins are served, no cluster (docs/targets.md)",
    )
    .env(&["PIPEOPS_DAEMON_ENABLED"])
    .flag("daemon")
    .default("false"),
    Key::new(
        "daemon.origin_mode",
        Kind::Text(|c, v| c.daemon.enabled |= v.eq_ignore_ascii_case("host")),
        "host means daemon.enabled",
    )
    .env(&["PIPEOPS_ORIGIN_MODE"]),
    Key::new(
        "daemon.default_origin",
        Kind::Parsed {
            what: "origin",
            set: |c, v| {
                c.daemon.default_origin = Some(Origin::parse(v)?);
                Ok(())
            },
        },
        "Origin for what no route names: host:port or unix:///path",
    )
    .env(&["PIPEOPS_DAEMON_ORIGIN"])
    .flag("daemon-default-origin"),
    Key::new(
        "daemon.state_file",
        Kind::Path(|c, v| c.state.file = v),
        "State file in daemon mode; goes before PIPEOPS_STATE_FILE",
    ),
    // The rows are applied in their order: entries of the list win.
    Key::new(
        "daemon.routes",
        Kind::Map(|c, map| {
            for (name, origin) in map {
                route(c, &name, &origin)?;
            }
            Ok(())
        }),
        "Routes to local origins, as a map of host or service to origin",
    )
    .env(&["PIPEOPS_DAEMON_ROUTES"]),
    Key::new(
        "daemon.ingress",
        Kind::Entries {
            fields: &["hostname", "origin"],
            set: |c, entries| {
                for entry in entries {
                    let field = |name| entry.get(name).map_or("", String::as_str);
                    route(c, field("hostname"), field("origin"))?;
                }
                Ok(())
            },
        },
        "Routes to local origins, a list of {hostname, origin}; they win over daemon.routes",
    ),
    Key::new(
        "daemon.allowed_origins",
        Kind::List(|c, v| c.daemon.allowed_origins = v),
        "Origins that may be dialled: host:port, a host for any port, or a socket's path",
    )
    .default_note("all that are configured"),
];

/// Entries with an empty member are skipped, as in the original.
fn route(config: &mut Config, name: &str, origin: &str) -> Result<(), String> {
    let (name, origin) = (name.trim(), origin.trim());
    if !name.is_empty() && !origin.is_empty() {
        let origin = Origin::parse(origin).map_err(|why| format!("{}: {why}", quote(name)))?;
        let routes = &mut config.daemon.routes;
        routes.insert(name.to_ascii_lowercase(), origin);
    }
    Ok(())
}

fn forwards(config: &mut Config, entries: Vec<BTreeMap<String, String>>) -> Result<(), String> {
    for entry in entries {
        let field = |name| entry.get(name).map_or("", |text: &String| text.trim());
        let name = field("name");
        if name.is_empty() {
            return Err("a forward has no name".to_owned());
        }
        let origin = Origin::parse(field("local_addr"))
            .map_err(|why| format!("forward {}: {why}", quote(name)))?;
        config.tunnels.forwards.push(Forward {
            name: name.to_ascii_lowercase(),
            origin,
        });
    }
    Ok(())
}

fn proxy_protocol(config: &mut Config, map: BTreeMap<String, String>) -> Result<(), String> {
    for (target, version) in map {
        let version = match version.trim().to_ascii_lowercase().as_str() {
            "v1" | "1" => ProxyProtocol::V1,
            "v2" | "2" => ProxyProtocol::V2,
            _ => return Err(format!("{}: write v1 or v2", quote(&target))),
        };
        let targets = &mut config.tunnels.proxy_protocol;
        targets.insert(target.trim().to_ascii_lowercase(), version);
    }
    Ok(())
}

const fn opaque(name: &'static str, help: &'static str) -> Key {
    Key::new(name, Kind::Opaque, help).not_yet()
}
