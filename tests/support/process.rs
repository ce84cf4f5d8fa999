//! Planes and agents as processes: to be measured, and to be killed.

use std::fmt::Display;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::front::Front;
use super::upstream::Upstream;
use super::wait::{LIMIT, until};

/// The binary that ships where `PIPEOPS_TEST_BINARY` names it, else the one that was
/// built with the tests.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PIPEOPS_TEST_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_pipeops-agent")),
        PathBuf::from,
    )
}

/// True for the binary that ships: figures are of interest then.
pub(crate) fn is_release() -> bool {
    std::env::var_os("PIPEOPS_TEST_BINARY").is_some()
}

/// A process that is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a handle"))
            .stderr(file)
            .spawn()
            .expect("it starts");
        Self { child, log }
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Asks for an orderly end and waits for it; its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends").code()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// All that it and its predecessors have written, up to the last line that is
    /// whole: the next may be written just now.
    pub(crate) fn log(&self) -> String {
        let mut log = fs::read(&self.log).expect("a log");
        let whole = log.iter().rposition(|byte| *byte == b'\n');
        log.truncate(whole.map_or(0, |end| end + 1));
        String::from_utf8(log).expect("text")
    }

    /// Waits until a line of its log satisfies `wanted`.
    pub(crate) fn logged(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut found = None;
        until(what, || {
            let log = self.log();
            found = log.lines().find(|line| wanted(line)).map(str::to_owned);
            assert!(
                found.is_some() || self.is_running(),
                "it has ended without {what}:\n{log}"
            );
            found.is_some()
        });
        found.expect("found")
    }

    pub(crate) fn threads(&self) -> usize {
        self.count("task")
    }

    /// What its threads are called, in order.
    pub(crate) fn thread_names(&self) -> Vec<String> {
        let path = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(path).expect("it runs").flatten();
        // One may end while it is looked at.
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.count("fd")
    }

    /// Memory that is resident now, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that was resident at any time, in KiB.
    pub(crate) fn peak(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn count(&self, what: &str) -> usize {
        let path = format!("/proc/{}/{what}", self.child.id());
        fs::read_dir(path).expect("it runs").count()
    }

    fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        value.expect("the kernel says it")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[allow(clippy::print_stderr)] // for whoever looks for the reason
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("the end of {}:\n{last}", self.log.display());
        }
    }
}

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

/// An agent as a process.
pub(crate) struct AgentProcess {
    pub(crate) process: Process,
    folder: TempDir,
    environment: Vec<(String, String)>,
    starts: usize,
}

/// What an agent is started with.
pub(crate) struct AgentSettings<'a> {
    /// Its control plane: `host:port`, as it is dialled.
    pub(crate) address: String,
    pub(crate) ca: PathBuf,
    pub(crate) token: String,
    pub(crate) upstream: Option<&'a Upstream>,
    /// More of the configuration file, key by key: `timeouts.websocket_read`.
    pub(crate) more: &'a [(&'a str, &'a str)],
    pub(crate) environment: &'a [(&'a str, &'a str)],
    /// Targets of tunnels, by the names that they are exposed by.
    pub(crate) forwards: &'a [(&'a str, SocketAddr)],
}

impl AgentSettings<'_> {
    /// The defaults, without an API server.
    pub(crate) fn new(address: &impl ToString, ca: &Path, token: impl Into<String>) -> Self {
        Self {
            address: address.to_string(),
            ca: ca.to_owned(),
            token: token.into(),
            upstream: None,
            more: &[],
            environment: &[],
            forwards: &[],
        }
    }
}

impl AgentProcess {
    pub(crate) fn start(settings: &AgentSettings<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let state = folder.path().join("state.yaml").display().to_string();
        let ca = settings.ca.display().to_string();
        let api_url = format!("https://{}", settings.address);
        let mut keys = vec![
            ("pipeops.api_url", api_url.as_str()),
            ("pipeops.tls.ca_file", ca.as_str()),
            ("agent.cluster_name", "edge"),
            ("agent.port", "0"),
            ("agent.truthful_readiness_probe", "true"),
            ("state.file", state.as_str()),
            ("logging.level", "debug"),
        ];
        let kubeconfig = settings
            .upstream
            .map(|upstream| file("kubeconfig", &upstream.kubeconfig()));
        keys.extend(
            kubeconfig
                .as_deref()
                .map(|path| ("kubernetes.kubeconfig", path)),
        );
        for (name, value) in settings.more {
            keys.retain(|(known, _)| known != name);
            keys.push((name, value));
        }
        file("config.yaml", &yaml(&keys, settings.forwards));
        let mut environment = vec![("PIPEOPS_TOKEN".to_owned(), settings.token.clone())];
        environment.extend(
            settings
                .environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let process = Self::run(folder.path(), &environment);
        Self {
            process,
            folder,
            environment,
            starts: 1,
        }
    }

    fn run(folder: &Path, environment: &[(String, String)]) -> Process {
        let mut command = command(folder);
        command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .args(["run", "--config"])
            .arg(folder.join("config.yaml"));
        Process::start(&mut command, folder.join("agent.log"))
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// After [`kill`](Self::kill).
    pub(crate) fn start_again(&mut self) {
        self.process = Self::run(self.folder.path(), &self.environment);
        self.starts += 1;
    }

    /// The text of the state file.
    pub(crate) fn state(&self) -> String {
        fs::read_to_string(self.folder.path().join("state.yaml")).expect("a state file")
    }

    /// Started, and ready.
    pub(crate) fn ready_with(settings: &AgentSettings<'_>) -> Self {
        let mut agent = Self::start(settings);
        until("it is ready", || agent.ready() == 200);
        agent
    }

    /// The status of `/ready` now.
    pub(crate) fn ready(&mut self) -> u16 {
        let address = self.local_address();
        let answer = get(address, "/ready");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        status.expect("a status")
    }

    fn local_address(&mut self) -> SocketAddr {
        let mut found = None;
        until("the local server listens", || {
            let log = self.process.log();
            let mut lines = log
                .lines()
                .filter(|line| line.contains("local server is listening"));
            found = lines.nth(self.starts - 1).map(str::to_owned);
            assert!(found.is_some() || self.process.is_running(), "{log}");
            found.is_some()
        });
        let line = found.expect("found");
        let record: Value = serde_json::from_str(&line).expect("JSON");
        let address = record["address"].as_str().expect("an address");
        address.parse().expect("an address")
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

fn get(address: SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("set");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

/// Sections of a YAML file from dotted names, three parts at most, and forwards.
fn yaml(keys: &[(&str, &str)], forwards: &[(&str, SocketAddr)]) -> String {
    let mut root = serde_json::Map::new();
    for (name, value) in keys {
        let mut parts: Vec<&str> = name.split('.').collect();
        let last = parts.pop().expect("a name");
        let mut section = &mut root;
        for part in parts {
            let entry = section
                .entry(part)
                .or_insert_with(|| Value::Object(serde_json::Map::new()));
            section = entry.as_object_mut().expect("a section");
        }
        section.insert(last.to_owned(), Value::from(*value));
    }
    let forward = |(name, address): &(&str, SocketAddr)| json!({"name": name, "local_addr": address.to_string()});
    let forwards: Vec<Value> = forwards.iter().map(forward).collect();
    if !forwards.is_empty() {
        root.insert("tunnel".to_owned(), json!({"forwards": forwards}));
    }
    // JSON is YAML.
    Value::Object(root).to_string()
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.env_clear().env("HOME", folder).current_dir(folder);
    command
}

/// A port that is free and, being none that the system hands out by itself, stays
/// free while nobody listens on it for a moment.
fn port() -> u16 {
    loop {
        let port = fastrand::u16(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
