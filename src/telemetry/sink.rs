//! Where lines go: one `write` per line, by one thread.
//!
//! Whoever logs only queues, so that a log that nobody reads (a full pipe, a terminal
//! that was stopped) holds up no other thread: the link's reader and clock log too. What
//! finds no room is counted, and said where it is missing. Until the thread is there,
//! lines are written by whoever logs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;

use crate::config::LogOutput;
use crate::threads::{self, SpawnError, Stack};

/// The open output and the lines on their way there. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    output: Output,
    /// Makes the line that says how many are missing.
    missing: fn(u64) -> String,
    state: Mutex<State>,
    /// There is something to be written.
    queued: Condvar,
    /// All of it has been.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: a line without its text, which is how many are missing.
    lines: VecDeque<Queued>,
    bytes: usize,
    missing: u64,
    /// The writer is there.
    has_writer: bool,
    /// It writes something that is not in the queue any more.
    writing: bool,
}

#[derive(Debug)]
enum Queued {
    Line(Box<[u8]>),
    Missing(u64),
}

#[derive(Debug)]
enum Output {
    Stdout,
    Stderr,
    File {
        path: PathBuf,
        file: Mutex<Arc<File>>,
    },
}

impl Sink {
    /// `missing` makes the line for so many that were lost.
    pub(super) fn open(output: &LogOutput, missing: fn(u64) -> String) -> io::Result<Self> {
        let output = match output {
            LogOutput::Stdout => Output::Stdout,
            LogOutput::Stderr => Output::Stderr,
            LogOutput::File(path) => Output::File {
                file: Mutex::new(append(path)?.into()),
                path: path.clone(),
            },
        };
        Ok(Self(Arc::new(Shared {
            output,
            missing,
            state: Mutex::default(),
            queued: Condvar::new(),
            written: Condvar::new(),
        })))
    }

    /// From now on a thread writes, until the process ends.
    pub(super) fn start_writer(&self) -> Result<(), SpawnError> {
        let shared = self.0.clone();
        self.0.state.lock().has_writer = true;
        let started = threads::spawn("log", Stack::Work, move || shared.write_all());
        if started.is_err() {
            self.0.state.lock().has_writer = false;
        }
        started.map(drop)
    }

    /// Waits until what was logged before is written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.0.state.lock();
        while state.writing || !state.lines.is_empty() || state.missing > 0 {
            if !state.has_writer || self.0.written.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Opens a file anew, after log rotation. On failure the old one stays in use.
    pub(super) fn reopen(&self) -> io::Result<()> {
        if let Output::File { path, file } = &self.0.output {
            let opened = Arc::new(append(path)?);
            *file.lock() = opened;
        }
        Ok(())
    }
}

impl Write for Sink {
    /// `text` is a whole line.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state.lock();
        if !state.has_writer {
            drop(state);
            self.0.output.write(text);
        } else if state.take_in(text) {
            drop(state);
            self.0.queued.notify_one();
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// False: there is no room.
    fn take_in(&mut self, text: &[u8]) -> bool {
        let fits = self.lines.is_empty() || self.bytes + text.len() <= QUEUE;
        if !fits {
            self.missing += 1;
            return false;
        }
        self.say_what_is_missing();
        self.bytes += text.len();
        self.lines.push_back(Queued::Line(text.into()));
        true
    }

    /// Behind what came before.
    fn say_what_is_missing(&mut self) {
        if self.missing > 0 {
            let missing = std::mem::take(&mut self.missing);
            self.lines.push_back(Queued::Missing(missing));
        }
    }

    fn next(&mut self) -> Option<Queued> {
        if self.lines.is_empty() {
            self.say_what_is_missing();
        }
        let next = self.lines.pop_front();
        if let Some(Queued::Line(text)) = &next {
            self.bytes -= text.len();
        }
        next
    }
}

impl Shared {
    fn write_all(&self) {
        let mut state = self.state.lock();
        loop {
            let Some(next) = state.next() else {
                self.written.notify_all();
                self.queued.wait(&mut state);
                continue;
            };
            state.writing = true;
            MutexGuard::unlocked(&mut state, || match next {
                Queued::Line(text) => self.output.write(&text),
                Queued::Missing(count) => self.output.write((self.missing)(count).as_bytes()),
            });
            state.writing = false;
        }
    }
}

impl Output {
    /// Errors are dropped: a log that can't be written (a closed pipe, a full disk)
    /// must not end what it reports on.
    fn write(&self, text: &[u8]) {
        // Not by the standard library's handles: whoever else prints would wait for
        // their locks.
        match self {
            Self::Stdout => write(io::stdout().as_fd(), text),
            Self::Stderr => write(io::stderr().as_fd(), text),
            Self::File { file, .. } => {
                let file = file.lock().clone();
                write(file.as_fd(), text);
            }
        }
    }
}

fn write(to: BorrowedFd<'_>, mut text: &[u8]) {
    while !text.is_empty() {
        match rustix::io::write(to, text) {
            Ok(written @ 1..) => text = &text[written..],
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Bytes of lines that wait at most. A longer line waits alone.
const QUEUE: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn missing(count: u64) -> String {
        format!("{count} are missing\n")
    }

    /// A pipe that nobody reads yet, as a file.
    fn stuck(folder: &Path) -> (Sink, PathBuf) {
        let path = folder.join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .expect("a pipe");
        // Linux: who may read too doesn't wait for a reader.
        let both = OpenOptions::new().read(true).write(true).open(&path);
        let sink = Sink(Arc::new(Shared {
            output: Output::File {
                path: path.clone(),
                file: Mutex::new(both.expect("opened").into()),
            },
            missing,
            state: Mutex::default(),
            queued: Condvar::new(),
            written: Condvar::new(),
        }));
        sink.start_writer().expect("a thread");
        (sink, path)
    }

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up_and_says_what_is_missing() {
        let folder = tempfile::tempdir().expect("folder");
        let (mut sink, path) = stuck(folder.path());
        let text = [b'x'; 1023];
        let mut sent = 0_u64;
        // Were one of these to wait, it would do so for ever.
        while sink.0.state.lock().missing < 100 {
            sink.write_all(&[&text[..], b"\n"].concat()).expect("never");
            sent += 1;
        }
        sink.flush(Duration::from_millis(1));
        assert!(sink.0.state.lock().bytes <= QUEUE);
        let mut reader = io::BufReader::new(File::open(&path).expect("opened"));
        let mut lines = 0_u64;
        let mut next = || {
            let mut line = String::new();
            io::BufRead::read_line(&mut reader, &mut line).expect("read");
            line
        };
        // The writer may have made room for a few in between.
        let mut lost = 0_u64;
        while lines + lost < sent {
            let line = next();
            if line.starts_with('x') {
                assert_eq!(line.len(), 1024);
                lines += 1;
            } else {
                let count = line.split(' ').next().map(str::parse::<u64>);
                lost += count.expect("a word").expect("a number");
            }
        }
        assert_eq!(lines + lost, sent);
        assert!(lost >= 100, "{lost}");
        sink.write_all(b"after\n").expect("never");
        assert_eq!(next(), "after\n");
    }

    #[test]
    fn what_was_logged_is_written_once_it_is_flushed_and_in_order() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("agent.log");
        let mut sink = Sink::open(&LogOutput::File(path.clone()), missing).expect("opened");
        let mut want = String::new();
        for number in 0..1000 {
            // The first few by whoever logs.
            if number == 10 {
                sink.start_writer().expect("a thread");
            }
            let line = format!("{number}\n");
            sink.write_all(line.as_bytes()).expect("never");
            want += &line;
            if number % 100 == 0 {
                sink.flush(Duration::from_mins(1));
                assert_eq!(std::fs::read_to_string(&path).expect("log"), want);
            }
        }
    }

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("agent.log");
        let mut sink = Sink::open(&LogOutput::File(path.clone()), missing).expect("opened");
        sink.write_all(b"one\n").expect("written");
        let mode = std::fs::metadata(&path).expect("metadata").permissions();
        assert_eq!(mode.mode() & 0o137, 0, "not for others: {:o}", mode.mode());
        std::fs::rename(&path, folder.path().join("old")).expect("renamed");
        sink.write_all(b"two\n").expect("written");
        sink.reopen().expect("reopened");
        sink.write_all(b"three\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("new"), "three\n");
        let old = std::fs::read_to_string(folder.path().join("old")).expect("old");
        assert_eq!(old, "one\ntwo\n");
    }
}
