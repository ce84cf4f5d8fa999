//! Environment and file system, so that tests bring their own.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What configuration is read from.
pub trait Surroundings {
    /// An environment variable; bytes that are no text come out replaced.
    fn var(&self, name: &str) -> Option<String>;

    /// A whole file of at most `limit` bytes; a larger one is an error.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;

    fn exists(&self, path: &Path) -> bool;
}

/// This process's own environment and files.
#[derive(Clone, Copy, Debug)]
pub struct Process;

impl Surroundings for Process {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        // Opening a pipe would block, reading a device might never end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

#[cfg(test)]
pub(super) mod fake {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    /// A world made of two maps.
    #[derive(Clone, Debug, Default)]
    pub(in crate::config) struct Fake {
        pub vars: BTreeMap<String, String>,
        pub files: BTreeMap<PathBuf, Vec<u8>>,
    }

    impl Fake {
        pub(in crate::config) fn var(mut self, name: &str, value: &str) -> Self {
            self.vars.insert(name.to_owned(), value.to_owned());
            self
        }

        pub(in crate::config) fn file(mut self, path: &str, text: &str) -> Self {
            self.files.insert(path.into(), text.as_bytes().to_vec());
            self
        }
    }

    impl Surroundings for Fake {
        fn var(&self, name: &str) -> Option<String> {
            self.vars.get(name).cloned()
        }

        fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
            let bytes = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
            if bytes.len() > limit {
                return Err(io::Error::other("too large"));
            }
            Ok(bytes.clone())
        }

        fn exists(&self, path: &Path) -> bool {
            self.files.contains_key(path)
        }
    }
}
