//! Plane and agent as processes, as a newcomer starts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::api_server::ApiServer;
use crate::end_to_end::command;
use crate::http::Http;
use crate::kubectl::Kubectl;
use crate::process::Process;
use crate::wait_until;

pub(crate) struct Installed {
    pub(crate) plane: Process,
    pub(crate) agent: Process,
    /// What a client takes for the URL of an API server.
    pub(crate) server: String,
    pub(crate) ca: PathBuf,
    /// A user's.
    pub(crate) token: String,
    home: TempDir,
}

impl Installed {
    /// The agent has the administrator's rights and lends them. Returns when it is
    /// connected.
    pub(crate) fn start(api: &ApiServer) -> Self {
        let kubernetes = format!(
            "kubernetes:\n  kubeconfig: {}\n  impersonate_agent: true\n",
            api.facts.admin_kubeconfig.display()
        );
        Self::with(&[], &kubernetes, |home, config| {
            command(home, &["--config", config.to_str().expect("text")])
        })
    }

    /// More arguments of the plane's, more of the agent's configuration, and what
    /// starts it in this home with this file.
    pub(crate) fn with(
        more: &[&str],
        config: &str,
        agent: impl FnOnce(&Path, &Path) -> Command,
    ) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let data = data(&home);
        let listen = ["plane", "--listen", "127.0.0.1:0", "--data", &data];
        let mut plane = Process::start(&mut command(home.path(), &[&listen, more].concat()));
        let mut said = |what: &str| {
            let line = plane.line_with(what);
            line.split_whitespace().last().expect("a value").to_owned()
        };
        let url = said("api_url:");
        let ca = PathBuf::from(said("ca_file:"));
        let token = |role: &[&str]| {
            let made = ask(
                &home,
                &[&["plane", "token", "create", "--role"], role].concat(),
            );
            made.trim().to_owned()
        };
        let config = format!(
            "pipeops:\n  api_url: {url}\n  token: {}\n  tls:\n    ca_file: {}\n\
             agent:\n  cluster_name: home\n  port: 0\n\
             state:\n  backend: file\n  file: {}\n{config}",
            token(&["agent", "--cluster", "home"]),
            ca.display(),
            home.path().join("state.yaml").display(),
        );
        let file = home.path().join("agent.yaml");
        fs::write(&file, config).expect("written");
        let agent = Process::start(&mut agent(home.path(), &file));
        let token = token(&["user", "--all"]);
        let installed = Self {
            plane,
            agent,
            server: format!("{url}/clusters/home"),
            ca,
            token,
            home,
        };
        wait_until("the cluster is connected", || {
            installed.clusters().contains("for ")
        });
        installed
    }

    pub(crate) fn kubectl(&self, kube: &Path) -> Kubectl {
        Kubectl::at(kube, &self.server, &self.ca, &self.token)
    }

    /// A raw client of the plane, with a user's token.
    pub(crate) fn http(&self) -> Http {
        let url = self.server.trim_start_matches("https://");
        let (address, _) = url.split_once('/').expect("a path");
        let ca = fs::read_to_string(&self.ca).expect("the certificate");
        Http::front(address, &ca, "home", &self.token)
    }

    /// Exposes a Service, and waits until it is open.
    pub(crate) fn expose(&self, kind: &str, entry: &str, service: &str) {
        let line = [
            "plane",
            "expose",
            kind,
            entry,
            "--cluster",
            "home",
            "--service",
            service,
        ];
        ask(&self.home, &line);
        wait_until("it is open", || {
            let table = ask(&self.home, &["plane", "tunnels"]);
            let row = table.lines().find(|row| row.contains(entry));
            row.is_some_and(|row| row.ends_with(" open"))
        });
    }

    /// What `plane clusters` prints.
    pub(crate) fn clusters(&self) -> String {
        ask(&self.home, &["plane", "clusters"])
    }
}

fn data(home: &TempDir) -> String {
    let path: &Path = &home.path().join("plane");
    path.to_str().expect("text").to_owned()
}

fn ask(home: &TempDir, line: &[&str]) -> String {
    let data = data(home);
    let line = [line, &["--data", &data]].concat();
    let output = command(home.path(), &line).output().expect("it runs");
    assert!(output.status.success(), "{line:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
