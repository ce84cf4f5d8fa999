//! What the subcommands get: typed arguments, no clap in them.

use std::path::PathBuf;

use clap::ArgMatches;

#[cfg(feature = "plane")]
use crate::plane::GatewayUrl;
#[cfg(feature = "plane")]
use crate::plane::cli::{Command, CreateToken, Role, RunArgs};

/// `pipeops-agent demo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DemoArgs {
    /// End after the steps, with 0 or 1.
    pub once: bool,
    /// A real cluster instead of the built-in sample.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// Leave the temporary folder in place.
    pub keep: bool,
}

impl DemoArgs {
    pub(super) fn from(matches: &ArgMatches) -> Self {
        Self {
            once: matches.get_flag("once"),
            kubeconfig: matches.get_one::<PathBuf>("kubeconfig").cloned(),
            context: matches.get_one::<String>("context").cloned(),
            keep: matches.get_flag("keep"),
        }
    }
}

/// `pipeops-agent plane …`.
#[cfg(feature = "plane")]
pub(super) fn plane(matches: &ArgMatches) -> Result<Command, String> {
    Ok(match matches.subcommand() {
        None => Command::Run(run(matches)?),
        Some(("run", matches)) => Command::Run(run(matches)?),
        Some(("clusters", matches)) => Command::Clusters {
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

#[cfg(feature = "plane")]
fn run(matches: &ArgMatches) -> Result<RunArgs, String> {
    let file = |name| matches.get_one::<PathBuf>(name).cloned();
    Ok(RunArgs {
        listen: *matches
            .get_one("listen")
            .expect("the argument has a default"),
        data: data(matches),
        tls: file("tls-cert").zip(file("tls-key")),
        names: many(matches, "tls-name"),
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

#[cfg(feature = "plane")]
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

#[cfg(feature = "plane")]
fn data(matches: &ArgMatches) -> PathBuf {
    matches
        .get_one::<PathBuf>("data")
        .cloned()
        .expect("the argument has a default")
}

#[cfg(feature = "plane")]
fn one(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

#[cfg(feature = "plane")]
fn many(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .get_many::<String>(name)
        .unwrap_or_default()
        .cloned()
        .collect()
}
