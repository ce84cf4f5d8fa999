//! A file of lines that doesn't grow beyond its size.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Lines go to PATH; when it is full it becomes PATH.1, that one PATH.2, and so on.
/// Somebody else may move or remove it at any time.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    /// In bytes, for each of the files.
    max_size: u64,
    /// Full files that stay.
    keep: usize,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// Tells whether PATH still leads here.
    inode: (u64, u64),
    /// The last line is not whole: the disk was full, or the process killed.
    torn: bool,
}

impl RotatedFile {
    /// Opens the file, or makes it: mode 0600, never through a link, never a pipe.
    pub(super) fn open(path: &Path, max_size: u64, keep: usize) -> io::Result<Self> {
        let open = Open::at(path)?;
        Ok(Self {
            path: path.to_owned(),
            max_size,
            keep,
            open: Some(open),
        })
    }

    /// Appends a line, whole or (then it is an error) not. A later one is tried anew.
    pub(super) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if !self
            .open
            .as_ref()
            .is_some_and(|open| open.is_at(&self.path))
        {
            self.open = None;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::at(&self.path)?,
        };
        if open.size > 0 && open.size + line.len() as u64 > self.max_size {
            self.rotate()?;
            open = Open::at(&self.path)?;
        }
        let result = open.write(line);
        self.open = Some(open);
        result
    }

    fn rotate(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags.bits() as i32)
            .open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        if about.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        let size = about.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        Ok(Self {
            file,
            size,
            inode: (about.dev(), about.ino()),
            torn: last != [b'\n'],
        })
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|about| (about.dev(), about.ino()) == self.inode)
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let mut text = Vec::with_capacity(line.len() + 2);
        if self.torn {
            text.push(b'\n');
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        let result = self.file.write_all(&text);
        self.torn = result.is_err();
        // What was really written, also of half a line.
        self.size = self.file.metadata().map_or(self.size, |about| about.len());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn beside(path: &Path, number: usize) -> PathBuf {
        PathBuf::from(format!("{}.{number}", path.display()))
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.jsonl");
        let mut file = RotatedFile::open(&path, 10, 2).expect("opened");
        for line in [
            "one1",
            "two2",
            "three",
            "four",
            "five5",
            "a line too long",
            "six",
        ] {
            file.write_line(line.as_bytes()).expect("written");
        }
        assert_eq!(lines(&path), ["six"]);
        assert_eq!(lines(&beside(&path, 1)), ["a line too long"]);
        assert_eq!(lines(&beside(&path, 2)), ["five5"]);
        assert!(!beside(&path, 3).exists());
        for path in [path.clone(), beside(&path, 1)] {
            let mode = fs::metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let mut alone = RotatedFile::open(&path, 5, 0).expect("opened");
        alone.write_line(b"new").expect("written");
        assert_eq!(lines(&path), ["new"]);
    }

    #[test]
    fn the_size_counts_over_restarts_and_a_torn_line_stays_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, "old\nhalf").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("mode");
        let mut file = RotatedFile::open(&path, 16, 1).expect("opened");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "not for others");
        file.write_line(b"new").expect("written");
        assert_eq!(lines(&path), ["old", "half", "new"]);
        file.write_line(b"more").expect("written");
        assert_eq!(lines(&path), ["more"]);
        assert_eq!(lines(&beside(&path, 1)), ["old", "half", "new"]);
    }

    #[test]
    fn a_file_that_was_moved_or_removed_is_made_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("audit.jsonl");
        let mut file = RotatedFile::open(&path, 1000, 1).expect("opened");
        file.write_line(b"one").expect("written");
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).expect("moved");
        file.write_line(b"two").expect("written");
        fs::remove_file(&path).expect("removed");
        file.write_line(b"three").expect("written");
        assert_eq!(lines(&moved), ["one"]);
        assert_eq!(lines(&path), ["three"]);
    }

    #[test]
    fn a_link_a_folder_and_a_pipe_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let target = folder.path().join("target");
        fs::write(&target, "precious").expect("written");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        RotatedFile::open(&link, 1, 1).expect_err("a link");
        RotatedFile::open(folder.path(), 1, 1).expect_err("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
            .expect("pipe");
        RotatedFile::open(&pipe, 1, 1).expect_err("a pipe");
        // The place of the file is taken by a link later.
        let path = folder.path().join("audit.jsonl");
        let mut file = RotatedFile::open(&path, 1000, 1).expect("opened");
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&target, &path).expect("link");
        file.write_line(b"one").expect_err("through a link");
        fs::remove_file(&path).expect("removed");
        file.write_line(b"two").expect("written");
        assert_eq!(lines(&path), ["two"]);
        assert_eq!(fs::read_to_string(&target).expect("read"), "precious");
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_next_line_is_whole() {
        // The kernel's own full disk.
        let file = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("open");
        let mut open = Open {
            file,
            size: 0,
            inode: (0, 0),
            torn: false,
        };
        let error = open.write(b"line").expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("f");
        open.file = File::create(&path).expect("created");
        open.write(b"line").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "\nline\n");
    }
}
