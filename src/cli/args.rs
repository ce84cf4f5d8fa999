//! What the subcommands get: typed arguments, no clap in them.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ArgMatches;

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

/// `pipeops-agent plane …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaneCommand {
    Run(PlaneRun),
    CreateToken(CreateToken),
    Clusters { data: PathBuf },
}

/// `pipeops-agent plane [run]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneRun {
    pub listen: SocketAddr,
    /// Folder of the registry and of a generated certificate.
    pub data: PathBuf,
    /// Certificate chain and key (PEM); generated when not given.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names for the generated certificate, besides the address.
    pub names: Vec<String>,
}

/// `pipeops-agent plane token create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateToken {
    pub data: PathBuf,
    pub grant: Grant,
}

/// What a new token allows (decisions.md §6.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Registers one cluster under this name.
    Agent { cluster: String },
    /// Reaches these clusters, or all.
    User { clusters: Clusters, read_only: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clusters {
    All,
    Named(Vec<String>),
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

impl PlaneCommand {
    pub(super) fn from(matches: &ArgMatches) -> Result<Self, String> {
        match matches.subcommand() {
            None => Ok(Self::Run(PlaneRun::from(matches))),
            Some(("run", matches)) => Ok(Self::Run(PlaneRun::from(matches))),
            Some(("clusters", matches)) => Ok(Self::Clusters {
                data: data(matches),
            }),
            Some(("token", matches)) => match matches.subcommand() {
                Some(("create", matches)) => CreateToken::from(matches).map(Self::CreateToken),
                _ => Err("plane token needs a subcommand: create".to_owned()),
            },
            Some((other, _)) => Err(format!("unknown command {other:?}")),
        }
    }
}

impl PlaneRun {
    fn from(matches: &ArgMatches) -> Self {
        let file = |name| matches.get_one::<PathBuf>(name).cloned();
        Self {
            listen: *matches
                .get_one("listen")
                .expect("the argument has a default"),
            data: data(matches),
            tls: file("tls-cert").zip(file("tls-key")),
            names: many(matches, "tls-name"),
        }
    }
}

impl CreateToken {
    fn from(matches: &ArgMatches) -> Result<Self, String> {
        let mut clusters = many(matches, "cluster");
        let all = matches.get_flag("all");
        let role = matches.get_one::<String>("role").map(String::as_str);
        let grant = if role == Some("agent") {
            let one = clusters.pop().filter(|_| clusters.is_empty() && !all);
            let cluster = one.ok_or("an agent token is for exactly one --cluster")?;
            if matches.get_flag("read-only") {
                return Err("--read-only is for user tokens".to_owned());
            }
            Grant::Agent { cluster }
        } else {
            let clusters = match (all, clusters.is_empty()) {
                (true, true) => Clusters::All,
                (false, false) => Clusters::Named(clusters),
                _ => return Err("a user token needs either --cluster or --all".to_owned()),
            };
            Grant::User {
                clusters,
                read_only: matches.get_flag("read-only"),
            }
        };
        Ok(Self {
            data: data(matches),
            grant,
        })
    }
}

fn data(matches: &ArgMatches) -> PathBuf {
    matches
        .get_one::<PathBuf>("data")
        .cloned()
        .expect("the argument has a default")
}

fn many(matches: &ArgMatches, name: &str) -> Vec<String> {
    matches
        .get_many::<String>(name)
        .unwrap_or_default()
        .cloned()
        .collect()
}
