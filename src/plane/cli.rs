//! The commands of `pipeops-agent plane …`, without the parsing of flags.

mod shown;
#[cfg(test)]
mod tests;
mod welcome;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::admin::{self, Request};
use super::{
    Access, CertificateSource, ClusterName, Entry, Exposure, GatewayUrl, Grant, Plane, PlaneConfig,
    PlaneError, Scope,
};
use crate::net::Cancel;
use shown::{Shown, shown};
use welcome::welcome;

/// One command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `plane [run]`: until it is told to stop.
    Run(RunArgs),
    /// `plane token create`.
    CreateToken(CreateToken),
    /// `plane token list`.
    ListTokens { data: PathBuf },
    /// `plane token revoke ID`.
    RevokeToken { data: PathBuf, id: String },
    /// `plane clusters`.
    Clusters { data: PathBuf },
    /// `plane expose`.
    Expose(Expose),
    /// `plane unexpose`.
    Unexpose {
        data: PathBuf,
        kind: String,
        entry: String,
    },
    /// `plane tunnels`.
    Tunnels { data: PathBuf },
}

/// As it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    pub data: PathBuf,
    /// `tcp`, `udp`, `http`.
    pub kind: String,
    /// A port, an address, or a host.
    pub entry: String,
    pub cluster: String,
    pub service: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunArgs {
    /// Default: 127.0.0.1:8443.
    pub listen: SocketAddr,
    /// Folder of the registry and of a generated certificate.
    pub data: PathBuf,
    /// Certificate chain and key (PEM); generated when not given.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Names for the generated certificate, besides the loopback ones.
    pub names: Vec<String>,
    pub gateway: GatewayUrl,
    /// Default: 127.0.0.1:8088.
    pub http: SocketAddr,
    /// Of what it logs, on standard error.
    pub log_level: log::LevelFilter,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateToken {
    pub data: PathBuf,
    pub role: Role,
    pub label: Option<String>,
}

/// What a new token allows, as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Agent {
        cluster: String,
    },
    /// `None`: all clusters.
    User {
        clusters: Option<Vec<String>>,
        read_only: bool,
    },
}

/// Does what a command line says; returns when it is done, `Run` when `stop` is
/// cancelled.
pub fn run(command: &Command, stop: &Cancel) -> Result<(), PlaneError> {
    let mut out = io::stdout().lock();
    match command {
        Command::Run(args) => {
            // A client of a tunnel is a descriptor; so is one of kubectl's.
            crate::tunnel::limits::raise_files();
            let plane = Plane::start(PlaneConfig {
                data_dir: args.data.clone(),
                listen: args.listen,
                certificate: match &args.tls {
                    Some((chain, key)) => CertificateSource::Files {
                        chain: chain.clone(),
                        key: key.clone(),
                    },
                    None => CertificateSource::Generated {
                        names: args.names.clone(),
                    },
                },
                gateway: args.gateway.clone(),
                http: args.http,
            })?;
            say(&mut out, &welcome(&plane, args));
            drop(out);
            plane.run_until(stop);
            Ok(())
        }
        command => {
            let (data, request) = request(command)?;
            let Shown { text, note } = shown(admin::ask(data, &request)?, command)?;
            say(&mut out, &text);
            say(&mut io::stderr().lock(), &note);
            Ok(())
        }
    }
}

/// Who closed the pipe doesn't want to read on; that is no failure.
fn say(out: &mut impl Write, text: &str) {
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn request(command: &Command) -> Result<(&Path, Request), PlaneError> {
    Ok(match command {
        Command::Run(_) => unreachable!("running is not a request"),
        Command::CreateToken(create) => {
            let label = create.label.clone();
            let grant = grant(&create.role)?;
            (create.data.as_path(), Request::CreateToken { grant, label })
        }
        Command::ListTokens { data } => (data, Request::Tokens),
        Command::RevokeToken { data, id } => (data, Request::RevokeToken { id: id.clone() }),
        Command::Clusters { data } => (data, Request::Clusters),
        Command::Expose(expose) => {
            let exposure = Exposure {
                entry: entry(&expose.kind, &expose.entry)?,
                cluster: ClusterName::parse(&expose.cluster)?,
                service: expose.service.parse()?,
                created: jiff::Timestamp::now().as_second(),
            };
            (expose.data.as_path(), Request::Expose(exposure))
        }
        Command::Unexpose {
            data,
            kind,
            entry: text,
        } => (data, Request::Unexpose(entry(kind, text)?)),
        Command::Tunnels { data } => (data, Request::Exposures),
    })
}

fn entry(kind: &str, text: &str) -> Result<Entry, PlaneError> {
    Entry::parse(kind, text).map_err(PlaneError::Entry)
}

fn grant(role: &Role) -> Result<Grant, PlaneError> {
    Ok(match role {
        Role::Agent { cluster } => Grant::Agent {
            cluster: ClusterName::parse(cluster)?,
        },
        Role::User {
            clusters,
            read_only,
        } => Grant::User {
            scope: match clusters {
                None => Scope::All,
                Some(names) => {
                    let names = names.iter().map(|name| ClusterName::parse(name));
                    Scope::Named(names.collect::<Result<_, _>>()?)
                }
            },
            access: if *read_only {
                Access::ReadOnly
            } else {
                Access::Use
            },
        },
    })
}
