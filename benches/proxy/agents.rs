//! The two agents, started as an operator would start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use pipeops_agent::net::ServerTls;

use crate::common::process::Process;
use crate::common::program::{Kind, Program};
use crate::gateway::{Event, Gateway};
use crate::load::Target;

/// What an agent is started against.
pub(crate) struct Surroundings {
    /// The certificate of control plane and cluster is of this authority.
    pub(crate) ca_pem: String,
    pub(crate) tls: ServerTls,
    pub(crate) target: Target,
    /// `http://…` or `https://…` of the target.
    pub(crate) url: String,
}

/// A running agent with a control plane of its own.
pub(crate) struct Agent {
    /// First, so that it ends first.
    program: Program,
    pub(crate) gateway: Gateway,
    /// From exec to its `register` being read.
    pub(crate) registered: Duration,
    /// From exec to its first heartbeat being read.
    pub(crate) heartbeat: Duration,
}

impl Agent {
    /// Starts it and waits for its first heartbeat.
    pub(crate) fn start(kind: Kind, binary: &Path, around: &Surroundings) -> Result<Self, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            format!("{} agent: {what}: {error}", kind.name())
        };
        let folder = tempfile::tempdir().map_err(|error| failed("directory", &error))?;
        let gateway = Gateway::start(around.tls.clone()).map_err(|error| failed("port", &error))?;
        let command = command(kind, binary, around, &gateway, folder.path())
            .map_err(|error| failed("files", &error))?;
        let started = Instant::now();
        let program = Program::start(kind, command, "bench", folder)
            .map_err(|error| failed("start", &error))?;
        let mut agent = Self {
            program,
            gateway,
            registered: Duration::ZERO,
            heartbeat: Duration::ZERO,
        };
        loop {
            match agent.gateway.events.recv_timeout(START_LIMIT) {
                Ok(Event::Registered(at)) => agent.registered = at.duration_since(started),
                Ok(Event::Heartbeat(at)) => {
                    agent.heartbeat = at.duration_since(started);
                    return Ok(agent);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(agent.explain("no heartbeat"));
                }
            }
        }
    }

    pub(crate) fn process(&self) -> Process {
        self.program.process()
    }

    pub(crate) fn explain(&self, error: &str) -> String {
        self.program.explain(error)
    }
}

fn command(
    kind: Kind,
    binary: &Path,
    around: &Surroundings,
    gateway: &Gateway,
    home: &Path,
) -> std::io::Result<Command> {
    let file = |name: &str, content: &str| -> std::io::Result<PathBuf> {
        let path = home.join(name);
        fs::write(&path, content)?;
        Ok(path)
    };
    let ca = file("ca.pem", &around.ca_pem)?;
    let api_url = format!("https://{}", gateway.address());
    let mut command = Command::new(binary);
    match kind {
        Kind::Ours => {
            let target = match around.target {
                Target::Api => {
                    let kubeconfig = file("kubeconfig", &kubeconfig(&around.url, &ca))?;
                    format!("kubernetes:\n  kubeconfig: {}\n", kubeconfig.display())
                }
                // A plain machine, whose one origin stands for a Service: the same
                // way but for the look-up of its name.
                Target::Service => {
                    format!(
                        "daemon:\n  enabled: true\n  default_origin: {}\n",
                        around.url
                    )
                }
            };
            let state = home.join("state.yaml");
            let config = file("config.yaml", &config(&api_url, &ca, &target, &state))?;
            command.arg("run").arg("--config").arg(config);
        }
        Kind::Go => {
            command
                .args(["--api-url", &api_url, "--kube-url", &around.url])
                .arg("--ca-file")
                .arg(&ca)
                .arg("--kube-ca")
                .arg(&ca);
        }
    }
    Ok(command)
}

fn config(api_url: &str, ca: &Path, target: &str, state: &Path) -> String {
    format!(
        "pipeops:\n  api_url: {api_url}\n  tls:\n    ca_file: {}\n\
         agent:\n  cluster_name: bench\n  port: 0\n\
         {target}\
         state:\n  file: {}\n",
        ca.display(),
        state.display()
    )
}

fn kubeconfig(url: &str, ca: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
         clusters: [{{name: bench, cluster: {{server: '{url}', certificate-authority: {}}}}}]\n\
         users: [{{name: bench, user: {{token: agent}}}}]\n\
         contexts: [{{name: bench, context: {{cluster: bench, user: bench}}}}]\n",
        ca.display()
    )
}

/// From exec to the first heartbeat, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(30);
