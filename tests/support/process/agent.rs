//! An agent as a process.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, command};
use crate::support::upstream::Upstream;
use crate::support::wait::{LIMIT, until};

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
