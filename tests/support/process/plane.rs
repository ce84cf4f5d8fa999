//! A plane as a process, and what is asked of it by its command line.

use std::fmt::Display;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{AgentSettings, Process, command, port};
use crate::support::front::Front;
use crate::support::wait::until;

/// A plane as a process. The address stays the same when it is started again.
pub(crate) struct PlaneProcess {
    pub(crate) process: Process,
    address: SocketAddr,
    /// Of hosts that are exposed.
    hosts: SocketAddr,
    folder: TempDir,
}

impl PlaneProcess {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let [address, hosts] = [port(), port()].map(|port| ([127, 0, 0, 1], port).into());
        let process = Self::run(folder.path(), address, hosts);
        Self {
            process,
            address,
            hosts,
            folder,
        }
    }

    fn run(folder: &Path, address: SocketAddr, hosts: SocketAddr) -> Process {
        let mut command = command(folder);
        command
            .args(["plane", "--listen", &address.to_string()])
            .args(["--http", &hosts.to_string(), "--data"])
            .arg(folder.join("data"));
        let mut process = Process::start(&mut command, folder.join("plane.log"));
        until("the plane listens", || {
            assert!(process.is_running(), "it has ended:\n{}", process.log());
            TcpStream::connect(address).is_ok()
        });
        process
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// After [`kill`](Self::kill).
    pub(crate) fn start_again(&mut self) {
        self.process = Self::run(self.folder.path(), self.address, self.hosts);
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("data").join("tls-cert.pem")
    }

    /// `plane token create` with these arguments, beside the running plane.
    pub(crate) fn token(&self, arguments: &[&str]) -> String {
        let text = self.command(&["token", "create"], arguments);
        text.trim().to_owned()
    }

    /// The table of `plane clusters`.
    pub(crate) fn clusters(&self) -> String {
        self.command(&["clusters"], &[])
    }

    /// The row of a cluster, cell by cell.
    pub(crate) fn cluster(&self, name: &str) -> Option<Vec<String>> {
        row(&self.clusters(), name)
    }

    /// Has a port lead to a service of `edge`.
    pub(crate) fn expose(&self, kind: &str, service: &str) -> SocketAddr {
        let address = SocketAddr::from(([127, 0, 0, 1], port()));
        self.expose_at(kind, &address.to_string(), service);
        address
    }

    /// Has a host lead to a service of `edge`; where it is.
    pub(crate) fn expose_host(&self, host: &str, service: &str) -> SocketAddr {
        self.expose_at("http", host, service);
        self.hosts
    }

    fn expose_at(&self, kind: &str, entry: &str, service: &str) {
        let arguments = ["--cluster", "edge", "--service", service];
        self.command(&["expose", kind, entry], &arguments);
        until("it is open", || {
            let row = self.tunnel(kind, entry);
            row.is_some_and(|row| row.last().is_some_and(|state| state == "open"))
        });
    }

    /// The row of `plane tunnels`, cell by cell.
    pub(crate) fn tunnel(&self, kind: &str, entry: impl Display) -> Option<Vec<String>> {
        row(&self.command(&["tunnels"], &[]), &format!("{kind} {entry}"))
    }

    /// Clients of an entry now.
    pub(crate) fn clients(&self, kind: &str, entry: SocketAddr) -> usize {
        let row = self.tunnel(kind, entry).expect("exposed");
        row[3].parse().expect("a number")
    }

    fn command(&self, what: &[&str], arguments: &[&str]) -> String {
        let output = command(self.folder.path())
            .arg("plane")
            .args(what)
            .arg("--data")
            .arg(self.folder.path().join("data"))
            .args(arguments)
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits until requests go to the cluster's agent: a moment after the agent is
    /// ready, because the plane waits for its answer to a hello.
    pub(crate) fn attached(&self, cluster: &str) {
        until("the agent is connected", || {
            let row = self.cluster(cluster);
            row.is_some_and(|cells| cells[1].starts_with("for "))
        });
    }

    /// What an agent of the cluster `edge` is started with.
    pub(crate) fn settings(&self) -> AgentSettings<'static> {
        let token = self.token(&["--role", "agent", "--cluster", "edge"]);
        AgentSettings::new(&self.address, &self.certificate(), token)
    }

    /// Somebody who may do everything, at this cluster's door.
    pub(crate) fn front(&self, cluster: &str) -> Front {
        let token = self.token(&["--role", "user", "--all"]);
        let ca = fs::read_to_string(self.certificate()).expect("the certificate");
        Front::new(self.address, &ca, &token, cluster)
    }
}

/// The row of a table that begins with this cell.
fn row(table: &str, first: &str) -> Option<Vec<String>> {
    let mut rows = table.lines().map(|row| {
        let cells = row.split("  ").map(str::trim);
        let cells = cells.filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect::<Vec<_>>()
    });
    rows.find(|row| row[0] == first)
}
