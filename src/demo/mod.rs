//! `pipeops-agent demo`: plane, agent and a sample cluster in one process, over
//! real TLS sockets, on loopback only, with a state of their own in a temporary
//! folder. A real cluster is used only when it is named.

mod figures;
mod sample;
mod service;
mod stage;
mod steps;
mod tunnel;

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub use sample::SampleCluster;

use crate::agent::AgentError;
use crate::http::client::CallError;
use crate::kube::KubeError;
use crate::net::{Cancel, TlsError};
use crate::plane::PlaneError;
use crate::server::ServerError;
use figures::Figures;
use stage::Stage;
use steps::{Steps, say};

/// What the demo is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// End after the steps.
    pub once: bool,
    /// A real cluster instead of the sample.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
    /// Leave the temporary folder in place.
    pub keep: bool,
    /// Bytes that are sent through the tunnel, each way.
    pub tunnel_size: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            once: false,
            kubeconfig: None,
            context: None,
            keep: false,
            tunnel_size: 256 << 20,
        }
    }
}

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("cannot write to the temporary folder: {0}")]
    Folder(#[source] io::Error),
    #[error("the sample cluster could not be started: {0}")]
    Sample(#[source] io::Error),
    #[error("the services behind the tunnel could not be started: {0}")]
    Services(#[source] io::Error),
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error("there is no kubeconfig, and a cluster was asked for")]
    NoKubeconfig,
    #[error(transparent)]
    Plane(#[from] PlaneError),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the request through the tunnel failed: {0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Step(String),
    #[error("interrupted")]
    Interrupted,
}

/// Shows it. Ends when `stop` is cancelled, or after the steps with `once`.
pub fn run(options: &Options, stop: &Cancel) -> Result<(), DemoError> {
    let folder = tempfile::Builder::new()
        .prefix("pipeops-demo-")
        .tempdir()
        .map_err(DemoError::Folder)?;
    let mut steps = Steps::begin();
    Steps::headline(options);
    let outcome = show(options, folder.path(), &mut steps, stop);
    if options.keep {
        say(&format!("left in place: {}", folder.keep().display()));
    }
    match outcome {
        // Ctrl-C before the last step is no failure of the demo's, unless the
        // caller waits for the steps.
        Err(DemoError::Interrupted) if !options.once => Ok(()),
        Err(error) => {
            steps.failed();
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

fn show(
    options: &Options,
    folder: &Path,
    steps: &mut Steps,
    stop: &Cancel,
) -> Result<(), DemoError> {
    let stage = Stage::set(options, folder, steps)?;
    let mut figures = Figures::new();
    let played = stage
        .play(steps, stop)
        .and_then(|()| stage.play_tunnels(options.tunnel_size, steps, &mut figures, stop));
    played.map_err(|error| {
        // Whatever it broke off.
        stop.reason().map_or(error, |_| DemoError::Interrupted)
    })?;
    say(figures.table().trim_end());
    let files = Files::write(&stage, folder).map_err(DemoError::Folder)?;
    if options.once {
        return stage.end(None);
    }
    say(&files.hints(&stage));
    stage.end(Some(stop))
}

/// What the lines to paste need. Secrets stay in files that only we can read.
struct Files {
    kubeconfig: PathBuf,
    certificate: PathBuf,
    header: PathBuf,
}

impl Files {
    fn write(stage: &Stage, folder: &Path) -> io::Result<Self> {
        let files = Self {
            kubeconfig: folder.join("kubeconfig"),
            certificate: folder.join("ca.pem"),
            header: folder.join("authorization"),
        };
        let ca = base64_simd::STANDARD.encode_to_string(stage.ca_pem());
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: demo\n\
             contexts:\n- name: demo\n  context:\n    cluster: demo\n    user: demo\n\
             clusters:\n- name: demo\n  cluster:\n    server: {}\n    certificate-authority-data: {ca}\n\
             users:\n- name: demo\n  user:\n    token: {}\n",
            stage.cluster_url(),
            stage.user_token(),
        );
        private(&files.kubeconfig, &kubeconfig)?;
        private(&files.certificate, stage.ca_pem())?;
        private(
            &files.header,
            &format!("Authorization: Bearer {}\n", stage.user_token()),
        )?;
        Ok(files)
    }

    fn hints(&self, stage: &Stage) -> String {
        let kubectl = format!("kubectl --kubeconfig {}", self.kubeconfig.display());
        let (namespace, pod) = stage.something_to_follow();
        format!(
            "\nIt stays up. To try, in another terminal:\n\n  \
               {kubectl} get pods -A\n  \
               {kubectl} get pods -A -w\n  \
               {kubectl} logs -f -n {namespace} {pod}\n\n  \
               curl --cacert {} -H @{} {}/api/v1/nodes\n\n\
             Ctrl-C ends it and removes the folder.",
            self.certificate.display(),
            self.header.display(),
            stage.cluster_url(),
        )
    }
}

fn private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
