//! What the subcommands get: typed arguments, no clap in them.

use std::path::PathBuf;

use clap::ArgMatches;
use log::LevelFilter;

use crate::demo;
use crate::plane::GatewayUrl;
use crate::plane::cli::{Command, CreateToken, Expose, Role, RunArgs};

/// `pipeops-agent demo`.
pub(super) fn demo(matches: &ArgMatches) -> demo::Options {
    let defaults = demo::Options::default();
    let size = matches.get_one::<u64>("tunnel-size").copied();
    demo::Options {
        once: matches.get_flag("once"),
        kubeconfig: matches.get_one::<PathBuf>("kubeconfig").cloned(),
        context: one(matches, "context"),
        keep: matches.get_flag("keep"),
        tunnel_size: size.unwrap_or(defaults.tunnel_size),
    }
}

/// `pipeops-agent plane …`.
pub(super) fn plane(matches: &ArgMatches) -> Result<Command, String> {
    Ok(match matches.subcommand() {
        None => Command::Run(run(matches)?),
        Some(("run", matches)) => Command::Run(run(matches)?),
        Some(("clusters", matches)) => Command::Clusters {
            data: data(matches),
        },
        Some(("expose", matches)) => Command::Expose(Expose {
            data: data(matches),
            kind: one(matches, "kind").unwrap_or_default(),
            entry: one(matches, "entry").unwrap_or_default(),
            cluster: one(matches, "cluster").unwrap_or_default(),
            service: one(matches, "service").unwrap_or_default(),
        }),
        Some(("unexpose", matches)) => Command::Unexpose {
            data: data(matches),
            kind: one(matches, "kind").unwrap_or_default(),
            entry: one(matches, "entry").unwrap_or_default(),
        },
        Some(("tunnels", matches)) => Command::Tunnels {
            data: data(matches),
        },
        Some(("token", matches)) => match matches.subcommand() {
            Some(("create", matches)) => Command::CreateToken(create_token(matches)?),
            Some(("list", matches)) => Command::ListTokens {
                data: data(matches),
            },
            Some(("revoke", matches)) => Command::RevokeToken {
                data: data(matches),
                id: one(matches, "id").unwrap_or_default(),
            },
            _ => return Err("plane token needs a subcommand: create, list or revoke".to_owned()),
        },
        Some((other, _)) => return Err(format!("unknown command {other:?}")),
    })
}

fn run(matches: &ArgMatches) -> Result<RunArgs, String> {
    let file = |name| matches.get_one::<PathBuf>(name).cloned();
    Ok(RunArgs {
        listen: *matches
            .get_one("listen")
            .expect("the argument has a default"),
        data: data(matches),
        http: *matches.get_one("http").expect("the argument has a default"),
        tls: file("tls-cert").zip(file("tls-key")),
        names: many(matches, "tls-name"),
        log_level: match one(matches, "log-level").as_deref() {
            Some("error") => LevelFilter::Error,
            Some("warning") => LevelFilter::Warn,
            Some("debug") => LevelFilter::Debug,
            Some("trace") => LevelFilter::Trace,
            _ => LevelFilter::Info,
        },
        gateway: match one(matches, "gateway-url").as_deref() {
            None => GatewayUrl::SameHost,
            Some("none") => GatewayUrl::Stay,
            Some(url) if url.starts_with("wss://") => GatewayUrl::Fixed(url.to_owned()),
            Some(url) => {
                return Err(format!(
                    "--gateway-url {url:?}: write wss://HOST[:PORT]/ws, or none"
                ));
            }
        },
    })
}

fn create_token(matches: &ArgMatches) -> Result<CreateToken, String> {
    let mut clusters = many(matches, "cluster");
    let all = matches.get_flag("all");
    let read_only = matches.get_flag("read-only");
    let role = if one(matches, "role").as_deref() == Some("agent") {
        let cluster = clusters.pop().filter(|_| clusters.is_empty() && !all);
        if read_only {
            return Err("--read-only is for user tokens".to_owned());
        }
        Role::Agent {
            cluster: cluster.ok_or("an agent token is for exactly one --cluster")?,
        }
    } else {
        let clusters = match (all, clusters.is_empty()) {
            (true, true) => None,
            (false, false) => Some(clusters),
            _ => return Err("a user token needs either --cluster or --all".to_owned()),
        };
        Role::User {
            clusters,
            read_only,
        }
    };
    Ok(CreateToken {
        data: data(matches),
        role,
        label: one(matches, "label"),
    })
}

fn data(matches: &ArgMatches) -> PathBuf {
    matches
        .get_one::<PathBuf>("data")
        .cloned()
        .expect("the argument has a default")
}

fn one(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn many(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .get_many::<String>(name)
        .unwrap_or_default()
        .cloned()
        .collect()
}
