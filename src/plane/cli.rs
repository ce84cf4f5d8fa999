//! The commands of `pipeops-agent plane …`, without the parsing of flags.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::admin::{self, Answer, Request};
use super::hub::ClusterView;
use super::registry::Token;
use super::table::{ago, table};
use super::{
    Access, CertificateSource, ClusterName, GatewayUrl, Grant, Plane, PlaneConfig, PlaneError,
    Scope,
};
use crate::net::Cancel;

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
            })?;
            say(&mut out, &welcome(&plane, &args.data));
            drop(out);
            plane.run_until(stop);
            Ok(())
        }
        command => {
            let (data, request) = request(command)?;
            say(&mut out, &shown(admin::ask(data, &request)?, command)?);
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
    })
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

fn shown(answer: Answer, command: &Command) -> Result<String, PlaneError> {
    let now = jiff::Timestamp::now().as_second();
    Ok(match answer {
        Answer::Created { token, text } => format!(
            "{text}\n\nThis is the only time that it is shown. {} ({}).\nTo take it back: \
             pipeops-agent plane token revoke {} --data {}\n",
            capital(&token.grant.to_string()),
            token.id,
            token.id,
            data(command).display(),
        ),
        Answer::Tokens(tokens) => tokens_table(&tokens, now),
        Answer::Revoked(Some(token)) => format!("revoked {} ({})\n", token.id, token.grant),
        Answer::Revoked(None) => return Err(PlaneError::NoSuchToken),
        Answer::Clusters(clusters) => clusters_table(&clusters, now),
        Answer::Failed(text) => return Err(admin::AdminError::Refused(text).into()),
    })
}

fn data(command: &Command) -> &Path {
    match command {
        Command::Run(args) => &args.data,
        Command::CreateToken(create) => &create.data,
        Command::ListTokens { data }
        | Command::RevokeToken { data, .. }
        | Command::Clusters { data } => data,
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn tokens_table(tokens: &[Token], now: i64) -> String {
    let mut rows = vec![["ID", "FOR", "LABEL", "CREATED", "LAST USED"].map(str::to_owned)];
    rows.extend(tokens.iter().map(|token| {
        [
            token.id.clone(),
            token.grant.to_string(),
            token.label.clone().unwrap_or_default(),
            ago(token.created, now) + " ago",
            token
                .last_used
                .map_or_else(|| "never".to_owned(), |used| ago(used, now) + " ago"),
        ]
    }));
    table(&rows)
}

fn clusters_table(clusters: &[ClusterView], now: i64) -> String {
    let head = [
        "NAME",
        "CONNECTED",
        "LAST SEEN",
        "NODES",
        "PODS",
        "KUBERNETES",
        "AGENT",
        "ID",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(clusters.iter().map(|view| {
        let cluster = &view.cluster;
        [
            cluster.name.to_string(),
            match view.since {
                Some(since) => format!("for {}", ago(since, now)),
                None => "no".to_owned(),
            },
            ago(cluster.last_seen, now) + " ago",
            cluster.nodes.to_string(),
            cluster.pods.to_string(),
            cluster.agent.kubernetes.clone(),
            cluster.agent.version.clone(),
            cluster.id.clone(),
        ]
    }));
    table(&rows)
}

/// What a newcomer needs next.
fn welcome(plane: &Plane, data: &Path) -> String {
    let url = plane.url();
    let certificate = absolute(plane.certificate_path());
    let data = data.display();
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = write!(
        text,
        "The plane listens on {url}

  data          {data}
  certificate   {certificate}
                SHA-256 {fingerprint}

To connect a cluster, in another terminal:

  1. Make a token for its agent, and one for yourself.

       pipeops-agent plane token create --data {data} --role agent --cluster NAME
       pipeops-agent plane token create --data {data} --role user --all

  2. Start the agent with this configuration, where it can reach the cluster.

       pipeops:
         api_url: {url}
         token: ppa_…
         tls:
           ca_file: {certificate}
       agent:
         cluster_name: NAME

  3. Use the cluster.

       kubectl --server {url}/clusters/NAME --token ppu_… \\
         --certificate-authority {certificate} get pods -A

  pipeops-agent plane clusters --data {data}
      lists what is connected.

Ctrl-C ends it.
",
        certificate = certificate.display(),
        fingerprint = plane.fingerprint(),
    );
    text
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
