//! The agents, each with another end of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cgroup::Cgroup;
use crate::common::process::Process;
use crate::common::program::{Kind, Program};
use crate::far::{Address, Far};
use crate::heartbeats;
use crate::service::{Part, Service};

/// The programs to run.
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) agents: Vec<(Kind, PathBuf)>,
}

/// What an agent is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// As it ships.
    Streams,
    /// Many heartbeats, and a line in its log for each ack.
    Heartbeats,
}

/// A running agent and its other end.
pub(crate) struct Agent<F> {
    program: Program,
    pub(crate) far: F,
    pub(crate) cgroup: Option<Cgroup>,
}

impl<F: Far> Agent<F> {
    /// Starts it with what `far` makes. `None`: there is no such program, or it
    /// doesn't take up tunnels.
    pub(crate) fn start(
        (kind, what): (Kind, For),
        programs: &Programs,
        service: &Service,
        far: impl FnOnce() -> Result<F, String>,
    ) -> Result<Option<Self>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("{} agent: {error}", kind.name());
        let Some((_, binary)) = programs.agents.iter().find(|(other, _)| *other == kind) else {
            return Ok(None);
        };
        let far = far()?;
        let folder = tempfile::tempdir().map_err(|error| failed(&error))?;
        let own = std::env::current_exe().map_err(|error| failed(&error))?;
        let binary = match (kind, what) {
            (Kind::Ours, For::Heartbeats) => &own,
            _ => binary,
        };
        let cgroup = Cgroup::create();
        let mut command = match &cgroup {
            Some(cgroup) => cgroup.enter(binary),
            None => Command::new(binary),
        };
        let address = far.address();
        configure(&mut command, kind, what, folder.path(), &address, service)
            .map_err(|error| failed(&error))?;
        let program = Program::start(kind, command, &address.token, folder)
            .map_err(|error| failed(&error))?;
        let mut agent = Self {
            program,
            far,
            cgroup,
        };
        let met = agent.far.meet(service);
        let met = met.map_err(|error| agent.explain(&error))?;
        Ok(met.then_some(agent))
    }
}

impl<F> Agent<F> {
    pub(crate) fn process(&self) -> Process {
        self.program.process()
    }

    pub(crate) fn log(&self) -> String {
        self.program.log()
    }

    pub(crate) fn explain(&self, error: &str) -> String {
        self.program.explain(error)
    }
}

fn configure(
    command: &mut Command,
    kind: Kind,
    what: For,
    home: &Path,
    address: &Address,
    service: &Service,
) -> std::io::Result<()> {
    match kind {
        Kind::Ours => {
            let config = home.join("config.yaml");
            fs::write(&config, settings(address, home, service))?;
            match what {
                For::Streams => command.args(["run", "--config"]).arg(config),
                For::Heartbeats => command.arg(heartbeats::COMMAND).arg(config),
            };
        }
        Kind::Go => {
            command.args(["--api-url", &address.url, "--tunnels"]);
            // It has no use for a cluster here.
            command.args(["--kube-url", "https://127.0.0.1:1"]);
            command.arg("--ca-file").arg(&address.ca);
            if what == For::Heartbeats {
                let interval = format!("{}ms", heartbeats::INTERVAL.as_millis());
                command.args(["--log-acks", "--heartbeat-interval", &interval]);
            }
        }
    }
    Ok(())
}

/// A plain machine whose origins are the service's ports: naming them allows them.
fn settings(address: &Address, home: &Path, service: &Service) -> String {
    let route = |part: Part| format!("    {}: 127.0.0.1:{}\n", part.name(), service.port(part));
    format!(
        "pipeops:\n  api_url: {}\n  tls:\n    ca_file: {}\n\
         agent:\n  cluster_name: bench\n  port: 0\n\
         daemon:\n  enabled: true\n  routes:\n{}{}{}\
         state:\n  file: {}\n",
        address.url,
        address.ca.display(),
        route(Part::Source),
        route(Part::Sink),
        route(Part::Echo),
        home.join("state.yaml").display()
    )
}
