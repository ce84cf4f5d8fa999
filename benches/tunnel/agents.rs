//! The agents, each with a gateway of its own, over TLS and without.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::peer::Peer;
use crate::process::Process;
use crate::service::{Part, Service};

/// Which agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Go,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "Go",
        }
    }
}

/// The programs to run.
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) agents: Vec<(Kind, PathBuf)>,
}

/// A running agent, or why there is none. Dropped, it is killed.
pub(crate) struct Agent {
    pub(crate) peer: Peer,
    pub(crate) cgroup: Option<Cgroup>,
    child: Child,
    folder: TempDir,
}

/// The original's and the largest window.
pub(crate) const SMALL_WINDOW: u32 = 256 * 1024;

impl Agent {
    /// Starts it and offers yamux. `None`: it doesn't take that up.
    pub(crate) fn start(
        kind: Kind,
        programs: &Programs,
        service: &Service,
        plain: bool,
    ) -> Result<Option<Self>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{} agent: {error}", kind.name());
        let Some((_, program)) = programs.agents.iter().find(|(other, _)| *other == kind) else {
            return Ok(None);
        };
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        certificate(folder.path()).map_err(|error| failed(&error))?;
        let mut peer = Peer::start(&programs.gateway, folder.path(), plain)?;
        let cgroup = Cgroup::create();
        let mut command = match &cgroup {
            Some(cgroup) => cgroup.enter(program),
            None => Command::new(program),
        };
        configure(&mut command, kind, folder.path(), &peer, service)
            .map_err(|error| failed(&error))?;
        let child = command.spawn().map_err(|error| failed(&error))?;
        let arrived = peer.arrived();
        let mut agent = Self {
            peer,
            cgroup,
            child,
            folder,
        };
        arrived.map_err(|error| agent.explain(kind, &error))?;
        Ok(agent.peer.offer_yamux(SMALL_WINDOW).then_some(agent))
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// An error with the end of what the agent has logged.
    pub(crate) fn explain(&self, kind: Kind, error: &str) -> String {
        let log = fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!(
            "{} agent: {error}; its log ends:\n{}",
            kind.name(),
            last.join("\n")
        )
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for loopback that is its own authority.
fn certificate(folder: &Path) -> Result<(), String> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])
        .map_err(|error| error.to_string())?;
    let write = |name: &str, text: String| {
        fs::write(folder.join(name), text).map_err(|error| error.to_string())
    };
    write("cert.pem", made.cert.pem())?;
    write("key.pem", made.signing_key.serialize_pem())
}

fn configure(
    command: &mut Command,
    kind: Kind,
    home: &Path,
    peer: &Peer,
    service: &Service,
) -> std::io::Result<()> {
    let ca = home.join("cert.pem");
    let log = File::create(home.join(LOG))?;
    match kind {
        Kind::Ours => {
            let config = home.join("config.yaml");
            fs::write(&config, settings(&peer.controller_url, &ca, home, service))?;
            command.arg("run").arg("--config").arg(config);
        }
        Kind::Go => {
            command.args(["--api-url", &peer.controller_url, "--tunnels"]);
            // It has no use for a cluster here.
            command.args(["--kube-url", "https://127.0.0.1:1"]);
            command.arg("--ca-file").arg(&ca);
        }
    }
    command
        .env_clear()
        .env("HOME", home)
        .env("PIPEOPS_TOKEN", "bench")
        .env("PATH", "/usr/bin:/bin")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(())
}

/// A plain machine whose origins are the service's ports: naming them allows them.
fn settings(api_url: &str, ca: &Path, home: &Path, service: &Service) -> String {
    let route = |part: Part| format!("    {}: 127.0.0.1:{}\n", part.name(), service.port(part));
    format!(
        "pipeops:\n  api_url: {api_url}\n  tls:\n    ca_file: {}\n\
         agent:\n  cluster_name: bench\n  port: 0\n\
         daemon:\n  enabled: true\n  routes:\n{}{}{}\
         state:\n  file: {}\n",
        ca.display(),
        route(Part::Source),
        route(Part::Sink),
        route(Part::Echo),
        home.join("state.yaml").display()
    )
}

const LOG: &str = "agent.log";
const LOG_LINES: usize = 15;
