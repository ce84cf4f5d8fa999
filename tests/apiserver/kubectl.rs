//! A real kubectl.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::Process;
use crate::terminal::Terminal;

pub(crate) struct Kubectl {
    kube: PathBuf,
    kubeconfig: PathBuf,
    /// Its home, and what it caches.
    folder: TempDir,
}

impl Kubectl {
    /// With a kubeconfig that leads to `server`.
    pub(crate) fn at(kube: &Path, server: &str, ca: &Path, token: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kubeconfig");
        let mut text = String::from("apiVersion: v1\nkind: Config\ncurrent-context: here\n");
        let _ = write!(
            text,
            "clusters: [{{name: here, cluster: {{server: '{server}', certificate-authority: '{}'}}}}]\n\
             users: [{{name: me, user: {{token: '{token}'}}}}]\n\
             contexts: [{{name: here, context: {{cluster: here, user: me}}}}]\n",
            ca.display()
        );
        std::fs::write(&path, text).expect("written");
        Self {
            kube: kube.to_owned(),
            kubeconfig: path,
            folder,
        }
    }

    /// With a kubeconfig that somebody else wrote.
    pub(crate) fn with(kube: &Path, kubeconfig: &Path) -> Self {
        Self {
            kube: kube.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Its commands are for this namespace, where they don't name one.
    pub(crate) fn within(self, namespace: &str) -> Self {
        let text = std::fs::read_to_string(&self.kubeconfig).expect("written by us");
        let text = text.replace(
            "user: me}}",
            &format!("user: me, namespace: {namespace}}}}}"),
        );
        std::fs::write(&self.kubeconfig, text).expect("written");
        self
    }

    pub(crate) fn command(&self, line: &[impl AsRef<OsStr>]) -> Command {
        self.prepare(Command::new(&self.kube), line)
    }

    /// In a terminal that it is told the size of.
    pub(crate) fn on_terminal(&self, line: &[&str], columns: u16, rows: u16) -> Terminal {
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(&self.kube);
        Terminal::start(self.prepare(command, line), columns, rows)
    }

    fn prepare(&self, mut command: Command, line: &[impl AsRef<OsStr>]) -> Command {
        command
            .arg("kubectl")
            .args(line)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Runs to its end.
    pub(crate) fn run(&self, line: &[&str]) -> Ended {
        Ended::of(&mut self.command(line))
    }

    /// Runs to its end, with this as its standard input.
    pub(crate) fn run_with(&self, input: &Path, line: &[&str]) -> Ended {
        let input = File::open(input).expect("a file");
        Ended::of(self.command(line).stdin(input))
    }

    /// Runs to its good end; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, line: &[&str]) -> String {
        let ended = self.run(line);
        assert!(ended.good, "kubectl {line:?}: {}", ended.err);
        ended.out
    }

    /// Runs to its bad end; what it complained of.
    #[track_caller]
    pub(crate) fn fails(&self, line: &[&str]) -> String {
        let ended = self.run(line);
        assert!(!ended.good, "kubectl {line:?}: {}", ended.out);
        ended.err
    }

    /// Writes a manifest and applies it by the server.
    pub(crate) fn apply(&self, manifest: &str, more: &[&str]) -> Ended {
        let path = self.folder.path().join("manifest.yaml");
        std::fs::write(&path, manifest).expect("written");
        let path = path.to_str().expect("text");
        let mut line = vec!["apply", "--server-side", "-f", path];
        line.extend(more);
        self.run(&line)
    }

    /// Runs on; what it prints is read line by line.
    pub(crate) fn start(&self, line: &[&str]) -> Process {
        Process::start(&mut self.command(line))
    }

    /// Runs on, and listens to what [`Process::say`] says.
    pub(crate) fn start_listening(&self, line: &[&str]) -> Process {
        Process::start(self.command(line).stdin(Stdio::piped()))
    }
}

pub(crate) struct Ended {
    pub(crate) good: bool,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Runs it to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().expect("kubectl runs");
        Self {
            good: output.status.success(),
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}
