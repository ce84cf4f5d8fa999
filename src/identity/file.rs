//! The state file (config-and-state.md §7.4): one process, one file, never half
//! written.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::import::import;
use super::record::Record;
use super::{Identity, Store, StoreError};

/// An [`Identity`] in a file of mode 0600. While the store lives it holds an
/// exclusive lock on `PATH.lock`.
#[derive(Debug)]
pub struct FileStore {
    /// As given; what logs show.
    path: PathBuf,
    /// Where a link inside the folder leads.
    target: PathBuf,
    record: Mutex<Record>,
    _lock: File,
}

impl FileStore {
    /// Opens or begins the state at `path`. A corrupt file is put aside and the
    /// agent goes on as in its first run; a missing one is imported once from the
    /// places of earlier versions (config-and-state.md §7.3).
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_importing(path, Path::new("/"), Path::new("."))
    }

    fn open_importing(path: &Path, root: &Path, working: &Path) -> Result<Self, StoreError> {
        let folder = folder(path);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|cause| failed(folder, "create the folder", cause))?;
        let lock = lock(path)?;
        let target = resolve(path)?;
        let store = |record, target| Self {
            path: path.to_owned(),
            target,
            record: Mutex::new(record),
            _lock: lock,
        };
        let Some(file) = open_existing(&target)? else {
            let imported = import(root, working);
            let store = store(Record::default(), target);
            if let Some((identity, from)) = imported {
                log::info!("state imported from {}", from.display());
                if let Err(error) = store.save(&identity) {
                    log::error!("the imported state could not be written: {error}");
                }
            }
            return Ok(store);
        };
        let text = match limited(file) {
            Ok(text) => Record::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
            Err(cause) => return Err(failed(&target, "read", cause)),
        };
        let record = match text {
            Ok(record) => record,
            Err(error) => {
                put_aside(&target, &error)?;
                Record::default()
            }
        };
        Ok(store(record, target))
    }
}

impl Store for FileStore {
    fn identity(&self) -> Identity {
        self.record.lock().identity()
    }

    fn save(&self, identity: &Identity) -> Result<(), StoreError> {
        let mut record = self.record.lock();
        record.set_identity(identity);
        let text = record.to_yaml().map_err(StoreError::Encode)?;
        replace(&self.target, text.as_bytes())
    }

    fn location(&self) -> String {
        format!("file:{}", self.path.display())
    }
}

/// A small text file of ours, whole.
pub(super) fn read_limited(path: &Path) -> io::Result<String> {
    limited(File::open(path)?)
}

fn limited(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = beside(path, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|cause| failed(&lock_path, "open the lock file", cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(cause)) => Err(failed(&lock_path, "lock", cause)),
    }
}

/// Follows a link, but only to a place inside the same folder.
fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {}
        _ => return Ok(path.to_owned()),
    }
    let foreign = || StoreError::ForeignLink {
        path: path.to_owned(),
    };
    // A dangling link counts as foreign: nobody knows where it would lead.
    let target = path.canonicalize().map_err(|_| foreign())?;
    let home = folder(path)
        .canonicalize()
        .map_err(|cause| failed(path, "resolve", cause))?;
    if target.parent() == Some(&home) {
        Ok(target)
    } else {
        Err(foreign())
    }
}

fn open_existing(path: &Path) -> Result<Option<File>, StoreError> {
    let file = match OpenOptions::new()
        .read(true)
        // A FIFO must not hang the start.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed(path, "open", cause)),
    };
    let metadata = file
        .metadata()
        .map_err(|cause| failed(path, "inspect", cause))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile {
            path: path.to_owned(),
        });
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(StoreError::ForeignOwner {
            path: path.to_owned(),
        });
    }
    if metadata.mode() & 0o077 != 0 {
        log::warn!(
            "{}: others could read the state file (mode {:o}); now they can't",
            path.display(),
            metadata.mode() & 0o777
        );
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(|cause| failed(path, "change the mode of", cause))?;
    }
    Ok(Some(file))
}

fn put_aside(path: &Path, error: &str) -> Result<(), StoreError> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let aside = beside(path, &format!(".corrupt-{seconds}"));
    fs::rename(path, &aside).map_err(|cause| failed(path, "put aside", cause))?;
    log::error!(
        "{}: the state file is corrupt ({error}); it is now {}, and the agent starts as if for the first time",
        path.display(),
        aside.display()
    );
    Ok(())
}

/// Unique name, mode at creation, fsync, rename, fsync of the folder: whoever
/// looks sees the old file or the new one, also after a power cut.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = beside(path, &format!(".{:016x}.tmp", fastrand::u64(..)));
    let written = (|| {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(cause) = written {
        // Nothing more can be done about a leftover.
        let _ = fs::remove_file(&temporary);
        return Err(failed(path, "write", cause));
    }
    File::open(folder(path))
        .and_then(|folder| folder.sync_all())
        .map_err(|cause| failed(path, "sync the folder of", cause))
}

fn failed(path: &Path, what: &'static str, cause: io::Error) -> StoreError {
    StoreError::Io {
        path: path.to_owned(),
        what,
        cause,
    }
}

/// A state file has some hundred bytes; a certificate in it some thousand.
const MAX_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
