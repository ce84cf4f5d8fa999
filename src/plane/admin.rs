//! Managing a plane from the command line, whether it runs or not.
//!
//! Only one process can have the database open. So a running plane listens on a
//! Unix socket in its data directory, and the command line asks there when it finds
//! the database in use. One JSON line each way; owner only.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::expose::{self, Entry, Exposer, Exposure, ExposureView};
use super::hub::{ClusterView, Hub};
use super::registry::{Registry, RegistryError, Token};
use super::token::Grant;
use crate::net::Cancel;
use crate::threads::{self, Stack};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    CreateToken { grant: Grant, label: Option<String> },
    Tokens,
    RevokeToken { id: String },
    Clusters,
    Expose(Exposure),
    Unexpose(Entry),
    Exposures,
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The one time that a token's text is seen.
    Created {
        token: Token,
        text: String,
    },
    Tokens(Vec<Token>),
    /// `None`: there is none of that id.
    Revoked(Option<Token>),
    Clusters(Vec<ClusterView>),
    Exposed {
        exposure: Exposure,
        /// A plane runs, and listens now.
        open: bool,
        /// A cluster of that name has registered.
        known: bool,
    },
    /// `None`: there is none.
    Unexposed(Option<Exposure>),
    Exposures(Vec<ExposureView>),
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("there is no plane's data in {0}")]
    NoData(PathBuf),
    #[error(
        "{directory} is in use by another process, but that process doesn't answer at {SOCKET}: \
         {cause}; stop the plane that runs there, or use its own --data"
    )]
    NoAnswer {
        directory: PathBuf,
        cause: io::Error,
    },
    #[error("the running plane says: {0}")]
    Refused(String),
}

/// Does what is asked on the database in `directory`, through the plane that runs
/// on it if one does. Only making a token makes a new database.
pub(crate) fn ask(directory: &Path, request: &Request) -> Result<Answer, AdminError> {
    let may_create = matches!(request, Request::CreateToken { .. });
    if !may_create && !Registry::exists(directory) {
        return Err(AdminError::NoData(directory.to_owned()));
    }
    let until = Instant::now() + OPEN_LIMIT;
    loop {
        let cause = match Registry::open(directory) {
            Ok(registry) => return succeeded(answer(&Hub::new(registry), None, request)),
            Err(RegistryError::InUse { .. }) => match call(&directory.join(SOCKET), request) {
                Ok(answer) => return succeeded(answer),
                Err(cause) => cause,
            },
            Err(error) => return Err(error.into()),
        };
        // Not listening yet, or not any more: a plane that starts or stops, or
        // another command line.
        let passing = [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&cause.kind());
        if !passing || Instant::now() > until {
            let directory = directory.to_owned();
            return Err(AdminError::NoAnswer { directory, cause });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn succeeded(answer: Answer) -> Result<Answer, AdminError> {
    match answer {
        Answer::Failed(text) => Err(AdminError::Refused(text)),
        answer => Ok(answer),
    }
}

/// `exposer`: of the plane that runs.
fn answer(hub: &Hub, exposer: Option<&Exposer>, request: &Request) -> Answer {
    let answer = match request {
        Request::CreateToken { grant, label } => hub
            .create_token(grant.clone(), label.clone())
            .map(|(token, text)| Answer::Created {
                token,
                text: text.reveal().to_owned(),
            }),
        Request::Tokens => Ok(Answer::Tokens(hub.registry.tokens())),
        Request::RevokeToken { id } => hub.revoke_token(id).map(Answer::Revoked),
        Request::Clusters => Ok(Answer::Clusters(hub.clusters())),
        Request::Expose(exposure) => return expose(hub, exposer, exposure),
        Request::Unexpose(entry) => match exposer {
            Some(exposer) => {
                return exposer
                    .unexpose(entry)
                    .map_or_else(Answer::Failed, Answer::Unexposed);
            }
            None => hub.registry.unexpose(entry).map(Answer::Unexposed),
        },
        Request::Exposures => Ok(Answer::Exposures(exposer.map_or_else(
            || {
                let all = hub.registry.exposures().into_iter();
                all.map(ExposureView::resting).collect()
            },
            Exposer::views,
        ))),
    };
    answer.unwrap_or_else(|error| Answer::Failed(error.to_string()))
}

fn expose(hub: &Hub, exposer: Option<&Exposer>, exposure: &Exposure) -> Answer {
    let exposed = if let Some(exposer) = exposer {
        exposer.expose(exposure)
    } else {
        let mut before = hub.registry.exposures().into_iter();
        if let Some(other) = before.find(|other| other.entry == exposure.entry) {
            Err(expose::taken(&other))
        } else {
            let written = hub.registry.expose(exposure).map(|()| exposure.clone());
            written.map_err(|error| error.to_string())
        }
    };
    match exposed {
        Ok(exposure) => Answer::Exposed {
            known: hub.registry.cluster(&exposure.cluster).is_some(),
            open: exposer.is_some(),
            exposure,
        },
        Err(why) => Answer::Failed(why),
    }
}

fn call(path: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    send(&mut stream, request)?;
    receive(&mut stream)
}

/// The listening side, until it is dropped.
pub(crate) struct AdminSocket {
    cancel: Cancel,
    thread: Option<JoinHandle<Option<()>>>,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens in `directory`. Called by who has the database open, so a socket
    /// that is there is left over from a crash.
    pub(crate) fn open(
        directory: &Path,
        hub: Arc<Hub>,
        exposer: Option<Arc<Exposer>>,
    ) -> io::Result<Self> {
        let path = directory.join(SOCKET);
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let socket = Arc::new(Socket::from(listener));
        let cancel = Cancel::new();
        let stop = cancel.clone();
        let thread = threads::spawn("plane-admin", Stack::Work, move || {
            serve(&socket, &stop, &hub, exposer.as_deref());
        })
        .map_err(io::Error::other)?;
        Ok(Self {
            cancel,
            thread: Some(thread),
            path,
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        self.cancel.cancel(crate::net::Reason::Shutdown);
        drop(std::fs::remove_file(&self.path));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One caller after the other: they are people at a terminal.
fn serve(listener: &Arc<Socket>, stop: &Cancel, hub: &Hub, exposer: Option<&Exposer>) {
    // Shutting a listening socket down ends its accept.
    let Ok(_guard) = stop.on_socket(listener.clone()) else {
        return;
    };
    loop {
        let accepted = listener.accept();
        if stop.reason().is_some() {
            return;
        }
        match accepted {
            Ok((socket, _)) => {
                let mut stream = UnixStream::from(socket);
                if let Err(error) = attend(&mut stream, hub, exposer) {
                    log::debug!("a caller at the control socket failed: {error}");
                }
            }
            Err(error) => {
                log::warn!("the control socket can't accept: {error}");
                // Out of descriptors, most likely: not in a tight loop.
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

fn attend(stream: &mut UnixStream, hub: &Hub, exposer: Option<&Exposer>) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    let allowed = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    if !allowed {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let request = receive(stream)?;
    send(stream, &answer(hub, exposer, &request))
}

fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.set_write_timeout(Some(LIMIT))?;
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn receive<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut line = Vec::new();
    let mut byte = [0; 4096];
    while line.last() != Some(&b'\n') {
        let count = stream.read(&mut byte)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&byte[..count]);
        if line.len() > MAX_LINE {
            return Err(io::Error::other("the message is too long"));
        }
    }
    Ok(serde_json::from_slice(&line)?)
}

const SOCKET: &str = "control.sock";

/// How long a database in use and a socket that nobody listens at are taken for a
/// plane that starts or stops.
const OPEN_LIMIT: Duration = Duration::from_millis(1500);

/// A caller that says nothing keeps others waiting for this long at most.
const LIMIT: Duration = Duration::from_secs(5);

/// A list of some ten thousand clusters.
const MAX_LINE: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::name::ClusterName;
    use crate::plane::token::{Access, Scope};

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn create() -> Request {
        let (scope, access) = (Scope::All, Access::Use);
        Request::CreateToken {
            grant: Grant::User { scope, access },
            label: None,
        }
    }

    fn tokens(directory: &Path) -> Vec<Token> {
        match ask(directory, &Request::Tokens) {
            Ok(Answer::Tokens(tokens)) => tokens,
            Ok(_) => panic!("another answer"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn without_a_running_plane_the_database_is_used() {
        let dir = directory();
        assert!(ask(dir.path(), &create()).is_ok());
        assert_eq!(tokens(dir.path()).len(), 1);
    }

    #[test]
    fn with_a_running_plane_the_plane_is_asked() {
        let dir = directory();
        let hub = Arc::new(Hub::new(Registry::open(dir.path()).expect("opens")));
        // Left over from a crash.
        drop(UnixListener::bind(dir.path().join(SOCKET)).expect("bound"));
        let socket = AdminSocket::open(dir.path(), hub.clone(), None).expect("listens");
        let Ok(Answer::Created { token, text }) = ask(dir.path(), &create()) else {
            panic!("no token")
        };
        assert!(hub.registry.authenticate(&text).is_some());
        let revoke = Request::RevokeToken { id: token.id };
        assert!(matches!(
            ask(dir.path(), &revoke),
            Ok(Answer::Revoked(Some(_)))
        ));
        assert!(hub.registry.authenticate(&text).is_none());
        let name = ClusterName::parse("a").expect("a name");
        hub.registry
            .register(&name, crate::plane::registry::AgentInfo::default(), None)
            .expect("registered");
        let Ok(Answer::Clusters(clusters)) = ask(dir.path(), &Request::Clusters) else {
            panic!("no clusters")
        };
        assert_eq!((clusters.len(), clusters[0].connected), (1, false));
        drop(socket);
        drop(hub);
        assert_eq!(tokens(dir.path()), []);
    }

    #[test]
    fn a_caller_that_says_nothing_or_nonsense_stops_nobody() {
        let dir = directory();
        let hub = Arc::new(Hub::new(Registry::open(dir.path()).expect("opens")));
        let _socket = AdminSocket::open(dir.path(), hub, None).expect("listens");
        let path = dir.path().join(SOCKET);
        drop(UnixStream::connect(&path).expect("connected"));
        let mut nonsense = UnixStream::connect(&path).expect("connected");
        nonsense.write_all(b"{]\n").expect("written");
        assert_eq!(nonsense.read(&mut [0; 8]).expect("closed"), 0);
        assert_eq!(tokens(dir.path()), []);
    }

    #[test]
    fn a_database_in_use_by_somebody_else_says_what_to_do() {
        let dir = directory();
        let _registry = Registry::open(dir.path()).expect("opens");
        let error = ask(dir.path(), &Request::Tokens).err().expect("refused");
        assert!(error.to_string().contains("stop the plane"), "{error}");
    }

    #[test]
    fn only_making_a_token_makes_a_database() {
        let dir = directory();
        let inner = dir.path().join("nowhere");
        assert!(matches!(
            ask(&inner, &Request::Clusters),
            Err(AdminError::NoData(_))
        ));
        assert!(!inner.exists());
    }
}
