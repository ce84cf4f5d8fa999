//! A real kubectl.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::Process;

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

    fn command(&self, line: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.kube);
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
        let output = self.command(line).output().expect("kubectl runs");
        Ended {
            good: output.status.success(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
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
}

pub(crate) struct Ended {
    pub(crate) good: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}
