//! Memory as a pod's limit counts it: a control group for one process, where the
//! machine lets us make one (version 1 or 2).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group of ours. Dropped, it is removed, if its process has ended.
pub(crate) struct Cgroup {
    folder: PathBuf,
    current: PathBuf,
}

impl Cgroup {
    pub(crate) fn create() -> Option<Self> {
        let name = format!("{PREFIX}{:08x}", fastrand::u32(..));
        let roots = [
            ("/sys/fs/cgroup", "memory.current"),
            ("/sys/fs/cgroup/memory", "memory.usage_in_bytes"),
        ];
        for (root, file) in roots {
            sweep(Path::new(root));
            let folder = Path::new(root).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let current = folder.join(file);
            if fs::read_to_string(&current).is_ok() {
                return Some(Self { folder, current });
            }
            // It was empty.
            let _ = fs::remove_dir(&folder);
        }
        None
    }

    /// The program, started in here.
    pub(crate) fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo $$ > "$1" && shift && exec "$@""#, "sh"])
            .arg(self.folder.join("cgroup.procs"))
            .arg(program);
        command
    }

    /// KiB.
    pub(crate) fn memory(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.current).ok()?;
        text.trim().parse::<u64>().ok().map(|bytes| bytes / 1024)
    }
}

/// Removes groups that interrupted runs have left. One with a process in it stays.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

const PREFIX: &str = "pipeops-bench-";

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The process may take a moment to go; an empty group costs nothing.
        for _ in 0..20 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
