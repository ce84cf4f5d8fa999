//! Where lines go: one `write` per line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::LogOutput;

/// The open output. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Mutex<Output>>);

#[derive(Debug)]
enum Output {
    Stdout,
    Stderr,
    File { path: PathBuf, file: File },
}

impl Sink {
    pub(super) fn open(output: &LogOutput) -> io::Result<Self> {
        let output = match output {
            LogOutput::Stdout => Output::Stdout,
            LogOutput::Stderr => Output::Stderr,
            LogOutput::File(path) => Output::File {
                file: append(path)?,
                path: path.clone(),
            },
        };
        Ok(Self(Arc::new(Mutex::new(output))))
    }

    /// Opens a file anew, after log rotation. On failure the old one stays in use.
    pub(super) fn reopen(&self) -> io::Result<()> {
        if let Output::File { path, file } = &mut *self.0.lock() {
            *file = append(path)?;
        }
        Ok(())
    }
}

impl Write for Sink {
    /// `text` is a whole line. Errors are dropped: a log that can't be written (a
    /// closed pipe, a full disk) must not end what it reports on.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = match &mut *self.0.lock() {
            Output::Stdout => io::stdout().lock().write_all(text),
            Output::Stderr => io::stderr().lock().write_all(text),
            Output::File { file, .. } => file.write_all(text),
        };
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("agent.log");
        let mut sink = Sink::open(&LogOutput::File(path.clone())).expect("opened");
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
