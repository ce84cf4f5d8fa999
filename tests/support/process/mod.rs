//! Planes and agents as processes: to be measured, and to be killed.

mod agent;
mod plane;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) use agent::{AgentProcess, AgentSettings};
pub(crate) use plane::PlaneProcess;

use super::wait::until;

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
