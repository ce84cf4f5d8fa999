//! A program that is measured, as a process of its own.

use std::fs::{self, File};
use std::io;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::process::Process;

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

/// A running agent with a folder of its own. Dropped, it is killed.
pub(crate) struct Program {
    kind: Kind,
    child: Child,
    folder: TempDir,
}

impl Program {
    /// Starts `command` as an operator would: nothing around it but a home and a
    /// token. What it logs goes into a file of `folder`.
    pub(crate) fn start(
        kind: Kind,
        mut command: Command,
        token: &str,
        folder: TempDir,
    ) -> io::Result<Self> {
        let log = File::create(folder.path().join(LOG))?;
        let child = command
            .env_clear()
            .env("HOME", folder.path())
            .env("PIPEOPS_TOKEN", token)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self {
            kind,
            child,
            folder,
        })
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default()
    }

    /// An error with the end of what it has logged.
    pub(crate) fn explain(&self, error: &str) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        let name = self.kind.name();
        format!("{name} agent: {error}; its log ends:\n{}", last.join("\n"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LOG: &str = "agent.log";
const LOG_LINES: usize = 15;
