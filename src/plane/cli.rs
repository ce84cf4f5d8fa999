//! The commands of `pipeops-agent plane …`, without the parsing of flags.

mod welcome;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::admin::{self, Answer, Request};
use super::hub::ClusterView;
use super::registry::Token;
use super::table::{ago, bytes, table};
use super::{
    Access, CertificateSource, ClusterName, Entry, Exposure, ExposureState, ExposureView,
    GatewayUrl, Grant, Plane, PlaneConfig, PlaneError, Scope,
};
use crate::net::Cancel;
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

/// The result, for standard output, and what else a person wants to know, for
/// standard error: `TOKEN=$(… token create …)` holds a token and nothing else.
struct Shown {
    text: String,
    note: String,
}

fn shown(answer: Answer, command: &Command) -> Result<Shown, PlaneError> {
    let now = jiff::Timestamp::now().as_second();
    let mut note = String::new();
    let text = match answer {
        Answer::Created { token, text } => {
            note = format!(
                "Token {id} ({grant}). Its text is shown this once.\n\
                 To take it back: pipeops-agent plane token revoke {id} --data {data}\n",
                id = token.id,
                grant = token.grant,
                data = data(command).display(),
            );
            text + "\n"
        }
        Answer::Tokens(tokens) => tokens_table(&tokens, now),
        Answer::Revoked(Some(token)) => format!("revoked {} ({})\n", token.id, token.grant),
        Answer::Revoked(None) => return Err(PlaneError::NoSuchToken),
        Answer::Clusters(clusters) => clusters_table(&clusters, now),
        Answer::Exposed { exposure, open } => {
            if !open {
                note.push_str("It opens when the plane runs on this data.\n");
            }
            exposed(&exposure)
        }
        Answer::Unexposed(Some(exposure)) => format!("closed {}\n", exposure.entry),
        Answer::Unexposed(None) => {
            let Command::Unexpose {
                kind, entry: text, ..
            } = command
            else {
                unreachable!("only that is answered so")
            };
            return Err(PlaneError::NotExposed(entry(kind, text)?));
        }
        Answer::Exposures(exposures) => exposures_table(&exposures),
        Answer::Failed(text) => return Err(admin::AdminError::Refused(text).into()),
    };
    Ok(Shown { text, note })
}

fn data(command: &Command) -> &Path {
    match command {
        Command::Run(args) => &args.data,
        Command::CreateToken(create) => &create.data,
        Command::ListTokens { data }
        | Command::RevokeToken { data, .. }
        | Command::Clusters { data }
        | Command::Unexpose { data, .. }
        | Command::Tunnels { data } => data,
        Command::Expose(expose) => &expose.data,
    }
}

fn exposed(exposure: &Exposure) -> String {
    format!(
        "{} leads to {} of {}\n",
        exposure.entry,
        exposure.service,
        exposure.cluster.as_str()
    )
}

fn exposures_table(exposures: &[ExposureView]) -> String {
    let head = [
        "ENTRY", "CLUSTER", "SERVICE", "CLIENTS", "SO FAR", "REFUSED", "DOWN", "UP", "STATE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(exposures.iter().map(|view| {
        [
            view.exposure.entry.to_string(),
            view.exposure.cluster.to_string(),
            view.exposure.service.to_string(),
            view.clients.to_string(),
            view.total.to_string(),
            view.refused.to_string(),
            bytes(view.down),
            bytes(view.up),
            match &view.state {
                ExposureState::Resting => "the plane doesn't run".to_owned(),
                ExposureState::Open => "open".to_owned(),
                ExposureState::Away => "agent away".to_owned(),
                ExposureState::Failed(why) => why.clone(),
            },
        ]
    }));
    table(&rows)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::tests::house::House;

    fn agent(data: &Path) -> Command {
        Command::CreateToken(CreateToken {
            data: data.to_owned(),
            role: Role::Agent {
                cluster: "edge".into(),
            },
            label: Some("mine".into()),
        })
    }

    fn done(command: &Command) -> Result<Shown, PlaneError> {
        let (data, request) = request(command)?;
        shown(admin::ask(data, &request)?, command)
    }

    #[test]
    fn a_token_stands_alone_on_standard_output() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path();
        let made = done(&agent(data)).expect("made");
        assert_eq!((made.text.len(), made.text.lines().count()), (69, 1));
        let data = data.to_owned();
        let list = done(&Command::ListTokens { data: data.clone() })
            .expect("listed")
            .text;
        assert!(
            list.contains("agent of edge   mine") && !list.contains("ppa_"),
            "{list}"
        );
        let id = list.lines().nth(1).and_then(|line| line.split(' ').next());
        let id = id.expect("an id").to_owned();
        assert!(made.note.contains(&id));
        let revoke = Command::RevokeToken { data, id };
        assert!(
            done(&revoke)
                .expect("revoked")
                .text
                .contains("agent of edge")
        );
        assert!(matches!(done(&revoke), Err(PlaneError::NoSuchToken)));
    }

    #[test]
    fn a_bad_name_is_an_error_before_anything_is_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("new");
        let role = Role::User {
            clusters: Some(vec!["a/b".into()]),
            read_only: false,
        };
        let command = Command::CreateToken(CreateToken {
            data: data.clone(),
            role,
            label: None,
        });
        assert!(matches!(done(&command), Err(PlaneError::Name(_))));
        assert!(!data.exists());
    }

    fn expose(data: &Path, kind: &str, entry: &str) -> Command {
        Command::Expose(Expose {
            data: data.to_owned(),
            kind: kind.into(),
            entry: entry.into(),
            cluster: "edge".into(),
            service: "postgres.default:5432".into(),
        })
    }

    fn tunnels(data: &Path) -> String {
        let data = data.to_owned();
        done(&Command::Tunnels { data }).expect("listed").text
    }

    #[test]
    fn what_is_exposed_without_a_running_plane_waits_for_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path();
        done(&agent(data)).expect("made");
        let exposed = done(&expose(data, "http", "shop.test")).expect("exposed");
        assert_eq!(
            exposed.text,
            "http shop.test leads to postgres.default:5432 of edge\n"
        );
        assert!(exposed.note.contains("when the plane runs"));
        assert!(tunnels(data).contains("the plane doesn't run"));
        let again = done(&expose(data, "http", "Shop.Test")).err();
        let again = again.expect("taken").to_string();
        assert!(again.contains("plane unexpose http shop.test"), "{again}");
        let unexpose = Command::Unexpose {
            data: data.to_owned(),
            kind: "http".into(),
            entry: "shop.test".into(),
        };
        assert_eq!(
            done(&unexpose).expect("closed").text,
            "closed http shop.test\n"
        );
        assert!(matches!(done(&unexpose), Err(PlaneError::NotExposed(_))));
        for (kind, entry) in [("tcp", "0"), ("http", "a/b")] {
            let error = done(&expose(data, kind, entry)).err().expect("refused");
            assert!(error.to_string().contains("write"), "{error}");
        }
    }

    /// The port of another listener says what is wrong; one of ours is closed again.
    #[test]
    fn exposing_beside_a_running_plane() {
        let house = House::new();
        let data = house.config.data_dir.clone();
        let busy = house.plane.addr().to_string();
        let error = done(&expose(&data, "tcp", &busy)).err().expect("busy");
        assert!(error.to_string().contains("cannot listen on"), "{error}");
        let [.., high, low] = std::process::id().to_be_bytes();
        let entry = format!("127.{}.{low}.254:15432", high | 128);
        let opened = done(&expose(&data, "tcp", &entry)).expect("opened");
        assert!(opened.note.is_empty());
        assert!(tunnels(&data).contains("agent away"));
        drop(std::net::TcpStream::connect(&entry).expect("it listens"));
        let unexpose = Command::Unexpose {
            data,
            kind: "tcp".into(),
            entry: entry.clone(),
        };
        done(&unexpose).expect("closed");
        let error = std::net::TcpStream::connect(&entry).expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn beside_a_running_plane() {
        let house = House::new();
        let data = house.config.data_dir.clone();
        let token = done(&agent(&data)).expect("made").text;
        let mut agent = house
            .agent("/api/v1/clusters/agent/ws", token.trim())
            .expect("let in");
        agent.answer_hello(true);
        agent.register("edge", "agent-1");
        agent.expect("register_success");
        house.attached("edge");
        let table = done(&Command::Clusters { data }).expect("listed").text;
        let row = table.lines().nth(1).expect("a cluster");
        assert!(row.starts_with("edge") && row.contains("for ") && row.contains("v1.36.3"));
    }
}
