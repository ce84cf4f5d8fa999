//! A program that runs while a test looks at what it prints.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};

use crate::LIMIT;

pub(crate) struct Process {
    child: Child,
    /// Both of its streams.
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Its standard input is as the command says.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The next line that fits.
    #[track_caller]
    pub(crate) fn line(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(LIMIT) else {
                panic!("the line never came; these did: {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if fits(&line) {
                return line;
            }
        }
    }

    #[track_caller]
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        self.line(|line| line.contains(part))
    }

    /// A line to its standard input, which is a pipe.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        writeln!(input, "{line}").expect("it listens");
    }

    /// In bytes, the most that it ever had in memory.
    pub(crate) fn most_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("a size").parse::<u64>().expect("a number") * 1024
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let done = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status()
            .expect("kill runs");
        assert!(done.success());
    }

    /// Its end, and all that it printed.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("it ends");
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(self.lines.iter());
        (status, seen.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary of this package: the one that ships, where it was built.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PIPEOPS_TEST_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_pipeops-agent")),
        PathBuf::from,
    )
}
