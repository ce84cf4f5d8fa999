//! The API server behind the tests.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use pipeops_agent::config::Secret;
use pipeops_agent::kube::{Auth, Credentials, Material, Search, ServerUrl};
use serde::Deserialize;
use serde_json::Value;

use crate::http::Http;

/// One `tests/cluster up`. It ends when our end of its standard input closes, so
/// also when this process dies.
pub(crate) struct ApiServer {
    pub(crate) facts: Facts,
    ready_file: PathBuf,
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

/// The ready file, as far as tests use it.
#[derive(Deserialize)]
pub(crate) struct Facts {
    pub(crate) server: String,
    pub(crate) version: String,
    pub(crate) ca_file: PathBuf,
    pub(crate) admin_kubeconfig: PathBuf,
    pub(crate) admin_cert_file: PathBuf,
    pub(crate) admin_key_file: PathBuf,
    pub(crate) agent_token: String,
    pub(crate) reader_token: String,
    pub(crate) nobody_token: String,
    pub(crate) audit_log: PathBuf,
    pub(crate) kubelet_log: PathBuf,
    pub(crate) dir: PathBuf,
    /// The program that is kubectl, too.
    pub(crate) kube: PathBuf,
}

/// The API server that the tests of this process share.
pub(crate) fn shared() -> &'static ApiServer {
    static SHARED: LazyLock<ApiServer> = LazyLock::new(ApiServer::start);
    &SHARED
}

impl ApiServer {
    /// Starts another one, for a test that disturbs it.
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("cluster-{}-{number}.json", std::process::id());
        let ready_file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut child = Command::new(script())
            .args(["up", "--while-stdin", "--ready-file"])
            .arg(&ready_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/cluster runs");
        // It says something when it is ready; before that, only its end is heard.
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        assert!(!line.is_empty(), "no API server; its reason stands above");
        let text = std::fs::read(&ready_file).expect("the ready file");
        Self {
            facts: serde_json::from_slice(&text).expect("JSON"),
            ready_file,
            child,
            _stdout: stdout,
        }
    }

    /// Restarts it, on the same port; returns when it is ready again. `kill`: every
    /// connection breaks; otherwise watches are ended in order.
    pub(crate) fn restart(&self, kill: bool) {
        let mut command = Command::new(script());
        command
            .args(["restart", "--ready-file"])
            .arg(&self.ready_file);
        if kill {
            command.arg("--kill");
        }
        let done = command.status().expect("tests/cluster runs");
        assert!(done.success(), "the API server came back");
    }

    /// Stops its process, until the answer is dropped: it is there and says nothing.
    pub(crate) fn freeze(&self) -> Frozen {
        // It changes with each restart.
        let text = std::fs::read(&self.ready_file).expect("the ready file");
        let facts: Value = serde_json::from_slice(&text).expect("JSON");
        let frozen = Frozen(facts["apiserver_pid"].to_string());
        frozen.signal("-STOP");
        frozen
    }

    /// The administrator's client certificate.
    pub(crate) fn admin(&self) -> Credentials {
        Credentials {
            client: Some((
                Material::File(self.facts.admin_cert_file.clone()),
                Material::File(self.facts.admin_key_file.clone()),
            )),
            ..self.anonymous()
        }
    }

    pub(crate) fn bearer(&self, token: &str) -> Credentials {
        Credentials {
            auth: Auth::Token(Secret::new(token)),
            ..self.anonymous()
        }
    }

    pub(crate) fn anonymous(&self) -> Credentials {
        Credentials {
            server: ServerUrl::parse(&self.facts.server).expect("a URL"),
            ca: Some(Material::File(self.facts.ca_file.clone())),
            insecure: false,
            server_name: None,
            proxy: None,
            client: None,
            auth: Auth::None,
        }
    }

    /// Straight to it, as the administrator.
    pub(crate) fn as_admin(&self) -> Http {
        Http::direct(self, true, None)
    }

    /// Straight to it, with a token; without one as anonymous.
    pub(crate) fn with_token(&self, token: Option<&str>) -> Http {
        Http::direct(self, false, token)
    }

    /// A new namespace, with nothing in it.
    pub(crate) fn namespace(&self, name: &str) -> String {
        let body = serde_json::json!({"metadata": {"name": name}});
        let made = self.as_admin().post("/api/v1/namespaces", &body);
        assert_eq!(made.status, 201, "{}", made.text());
        name.to_owned()
    }

    /// A new pod, with the containers `app` and `sidecar`, that runs on the node. It
    /// gets the namespace's `default` ServiceAccount made before.
    pub(crate) fn pod(&self, namespace: &str, name: &str) {
        let admin = self.as_admin();
        let base = format!("/api/v1/namespaces/{namespace}");
        let account = serde_json::json!({"metadata": {"name": "default"}});
        let account = admin.post(&format!("{base}/serviceaccounts"), &account);
        assert!([201, 409].contains(&account.status), "{}", account.text());
        let container =
            |name| serde_json::json!({"name": name, "image": "example.test/box:1", "stdin": true});
        // Else kubectl says which one it took.
        let annotations = serde_json::json!({"kubectl.kubernetes.io/default-container": "app"});
        let pod = serde_json::json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"nodeName": "node-1", "containers": [container("app"), container("sidecar")]},
        });
        let made = admin.post(&format!("{base}/pods"), &pod);
        assert_eq!(made.status, 201, "{}", made.text());
        let status = serde_json::json!({"status": {"phase": "Running"}}).to_string();
        let path = format!("{base}/pods/{name}/status");
        let merge = [("Content-Type", "application/merge-patch+json")];
        let runs = admin.ask("PATCH", &path, &merge, status.into_bytes());
        assert_eq!(runs.status, 200, "{}", runs.text());
    }

    /// A new ServiceAccount, with these rights in the whole cluster.
    pub(crate) fn service_account(&self, namespace: &str, name: &str, rules: &Value) {
        let admin = self.as_admin();
        let account = serde_json::json!({"metadata": {"name": name}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        assert_eq!(admin.post(&path, &account).status, 201);
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let full = format!("{namespace}-{name}");
        let role = serde_json::json!({"metadata": {"name": full}, "rules": rules});
        let role = admin.post(&format!("{rbac}/clusterroles"), &role);
        let binding = serde_json::json!({
            "metadata": {"name": full},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": full},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
        });
        let binding = admin.post(&format!("{rbac}/clusterrolebindings"), &binding);
        // They are by name, and stay when an account is made anew.
        for made in [role, binding] {
            assert!([201, 409].contains(&made.status), "{}", made.text());
        }
    }

    /// A token of a ServiceAccount.
    pub(crate) fn token(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = serde_json::json!({"spec": {"expirationSeconds": 3600}});
        let made = self.as_admin().post(&path, &body).json();
        made["status"]["token"]
            .as_str()
            .expect("a token")
            .to_owned()
    }

    /// What the API server was asked, the lines that `wanted` says.
    pub(crate) fn audit(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let log = std::fs::read_to_string(&self.facts.audit_log).expect("a log");
        // The last line may be half written.
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(wanted).collect()
    }

    /// What reached the node.
    pub(crate) fn kubelet_log(&self) -> String {
        std::fs::read_to_string(&self.facts.kubelet_log).expect("a log")
    }
}

/// Goes on when it is dropped.
pub(crate) struct Frozen(String);

impl Frozen {
    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.0]).status();
        assert!(done.expect("kill runs").success());
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Whether it ended well says nothing about the test.
        let _ = self.child.wait();
    }
}

/// The credentials of a kubeconfig file.
pub(crate) fn kubeconfig(path: &Path, context: Option<&str>) -> Credentials {
    Search {
        explicit: Some(path.to_owned()),
        context: context.map(str::to_owned),
        ..Search::default()
    }
    .load()
    .expect("valid")
    .expect("there is one")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster")
}
