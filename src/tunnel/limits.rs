//! How many streams this machine can carry (decisions.md §6.6 "Limit of streams").
//! Each takes a descriptor and three threads: two that copy, and the one that opened it
//! waits a few seconds for another to open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};

use crate::config::Tunnels;

/// The limit of streams: `tunnels.max_streams`, or less where the machine
/// grants less, which is said in one line. Raises the limit of open files to what
/// may be had. For the start of the process.
pub fn grant(tunnels: &Tunnels) -> usize {
    let wanted = tunnels.max_streams;
    let beside = Beside::of(tunnels);
    let mut bounds = threads(Path::new("/"), &beside);
    bounds.extend(files(&beside));
    let (streams, why) = lower(wanted, &bounds);
    if let Some(why) = why {
        log::warn!("tunnels.max_streams is lowered from {wanted} to {streams}: {why}");
    }
    streams
}

/// What tunnels in JSON messages may take at most.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    threads: u64,
    files: u64,
}

impl Beside {
    fn of(tunnels: &Tunnels) -> Self {
        let (tcp, udp) = (tunnels.tcp.max_connections, tunnels.udp.max_sessions);
        Self {
            // One that writes, one that reads; of UDP one that does both.
            threads: (2 * tcp + udp) as u64,
            files: (tcp + udp) as u64,
        }
    }
}

/// Something of which there is only so much.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    what: &'static str,
    /// What is left for us now.
    left: u64,
    /// What the rest of the agent may need of it.
    reserve: u64,
    per_stream: u64,
}

impl Bound {
    fn threads(what: &'static str, max: u64, used: u64, beside: &Beside) -> Self {
        let left = max.saturating_sub(used);
        Self {
            what,
            left,
            reserve: 128 + share(left, beside.threads),
            per_stream: 3,
        }
    }

    fn streams(&self) -> u64 {
        self.left.saturating_sub(self.reserve) / self.per_stream
    }
}

/// A gateway has its tunnels in one form or the other, hardly in both: where there is
/// little, those in JSON get a quarter.
fn share(left: u64, beside: u64) -> u64 {
    beside.min(left / 4)
}

/// The limit, and what lowered it.
fn lower(wanted: usize, bounds: &[Bound]) -> (usize, Option<String>) {
    let tightest = bounds.iter().min_by_key(|bound| bound.streams());
    match tightest {
        Some(bound) if bound.streams() < wanted as u64 => (
            // None at all would look like a fault of the gateway's.
            bound.streams().max(1) as usize,
            Some(format!("{} leaves {}", bound.what, bound.left)),
        ),
        _ => (wanted, None),
    }
}

/// What bounds the threads. What can't be read bounds nothing.
fn threads(root: &Path, beside: &Beside) -> Vec<Bound> {
    let mut bounds = Vec::new();
    let mut add = |what, max, used| bounds.push(Bound::threads(what, max, used, beside));
    if let Some(max) = number(&root.join("proc/sys/kernel/threads-max")) {
        let used = fs::read_to_string(root.join("proc/loadavg"))
            .ok()
            .and_then(|text| all_threads(&text))
            .unwrap_or(0);
        add("kernel.threads-max", max, used);
    }
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for folder in pids_folders(&groups) {
        let folder = root.join("sys/fs/cgroup").join(folder);
        // "max" is no number, and no bound.
        if let Some(max) = number(&folder.join("pids.max")) {
            let used = number(&folder.join("pids.current")).unwrap_or(0);
            add("pids.max of the cgroup", max, used);
        }
    }
    // It doesn't bind root.
    let user = getuid();
    if let Some(max) = getrlimit(Resource::Nproc).current
        && !user.is_root()
    {
        let used = threads_of(user.as_raw(), &root.join("proc"));
        add("the limit of processes of this user", max, used);
    }
    bounds
}

/// Threads of a user, as far as we may see them.
fn threads_of(user: u32, proc: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(proc) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes()
                .first()
                .is_some_and(u8::is_ascii_digit)
        })
        .filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == user))
        .filter_map(|entry| {
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let count = status
                .lines()
                .find_map(|line| line.strip_prefix("Threads:"))?;
            count.trim().parse::<u64>().ok()
        })
        .sum()
}

/// All threads of the machine: `0.1 0.2 0.3 1/432 17` has 432.
fn all_threads(loadavg: &str) -> Option<u64> {
    let (_, all) = loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// The cgroups whose limit of pids counts for us, below the mount point: our own and
/// all above it, in either hierarchy. In a container the own path may not be there,
/// but then the top is what is its own.
fn pids_folders(groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let mount = match controllers {
            "" => "",
            some if some.split(',').any(|name| name == "pids") => "pids",
            _ => continue,
        };
        let path = path.trim_start_matches('/');
        if Path::new(path)
            .components()
            .any(|part| part == std::path::Component::ParentDir)
        {
            // A cgroup outside of what we see.
            folders.push(mount.into());
            continue;
        }
        let own = Path::new(mount).join(path);
        folders.extend(
            own.ancestors()
                .filter(|folder| folder.starts_with(mount))
                .map(Path::to_owned),
        );
    }
    folders
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Raises the soft limit of open files to the hard one; what there is then.
fn files(beside: &Beside) -> Option<Bound> {
    let limit = raise_files();
    let used = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let left = limit.current?.saturating_sub(used as u64);
    Some(Bound {
        what: "the limit of open files",
        left,
        reserve: 256 + share(left, beside.files),
        per_stream: 1,
    })
}

/// Raises the soft limit of open files to the hard one: the soft one is low for
/// programs that use `select`.
pub(crate) fn raise_files() -> Rlimit {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some() && limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.current = limit.maximum,
            Err(error) => log::warn!("the limit of open files can't be raised: {error}"),
        }
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("written");
    }

    const ALONE: Beside = Beside {
        threads: 0,
        files: 0,
    };

    #[test]
    fn tt12_the_tightest_bound_lowers_the_limit() {
        let wide = Bound::threads("threads", 100_000, 500, &ALONE);
        let files = Bound {
            what: "files",
            left: 1_000,
            reserve: 256,
            per_stream: 1,
        };
        assert_eq!(lower(4096, &[]), (4096, None));
        assert_eq!(lower(4096, std::slice::from_ref(&wide)), (4096, None));
        let (streams, why) = lower(4096, &[wide, files]);
        assert_eq!((streams, why.as_deref()), (744, Some("files leaves 1000")));
        let narrow = Bound::threads("threads", 100, 90, &ALONE);
        assert_eq!(lower(4096, &[narrow]).0, 1);
    }

    #[test]
    fn threads_that_wait_and_those_of_tunnels_in_json_are_counted() {
        let streams = |max, threads| {
            let beside = Beside { threads, files: 0 };
            Bound::threads("threads", max, 100, &beside).streams()
        };
        assert_eq!(streams(100 + 128 + 3 * 1000, 0), 1000);
        assert_eq!(streams(100 + 128 + 3 * 1000 + 300, 300), 1000);
        // A quarter of what there is.
        assert_eq!(streams(100 + 4000, 3000), (4000 - 128 - 1000) / 3);
        let mut tunnels = Config::defaults().tunnels;
        tunnels.tcp.max_connections = 70;
        tunnels.udp.max_sessions = 7;
        let beside = Beside::of(&tunnels);
        assert_eq!((beside.threads, beside.files), (147, 77));
    }

    #[test]
    fn threads_of_a_user_are_found() {
        let root = tempfile::tempdir().expect("folder");
        let root = root.path();
        let user = fs::metadata(root).expect("found").uid();
        write(root, "1/status", "Name:\ta\nThreads:\t4\n");
        write(root, "20/status", "Name:\tb\nThreads:\t3\n");
        write(root, "21/status", "gone");
        write(root, "self/status", "Threads:\t4\n");
        assert_eq!(threads_of(user, root), 7);
        assert_eq!(threads_of(user + 1, root), 0);
        assert_eq!(threads_of(user, &root.join("missing")), 0);
    }

    #[test]
    fn bounds_of_threads_are_read_where_they_are() {
        let root = tempfile::tempdir().expect("folder");
        let root = root.path();
        let found = |root| {
            let mut bounds = threads(root, &ALONE);
            // Of whoever runs this.
            bounds.retain(|bound| !bound.what.contains("user"));
            bounds
        };
        assert_eq!(found(root), []);
        write(root, "proc/sys/kernel/threads-max", "1000\n");
        write(root, "proc/loadavg", "0.00 0.01 0.05 1/400 4711\n");
        write(root, "proc/self/cgroup", "0::/kubepods/pod7/c1\n");
        write(root, "sys/fs/cgroup/kubepods/pod7/c1/pids.max", "max\n");
        write(root, "sys/fs/cgroup/kubepods/pod7/pids.max", "500\n");
        write(root, "sys/fs/cgroup/kubepods/pod7/pids.current", "20\n");
        assert_eq!(
            found(root),
            [
                Bound::threads("kernel.threads-max", 1000, 400, &ALONE),
                Bound::threads("pids.max of the cgroup", 500, 20, &ALONE),
            ]
        );
    }

    #[test]
    fn cgroups_of_both_hierarchies() {
        let folders = |groups| -> Vec<String> {
            let folders = pids_folders(groups).into_iter();
            folders.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(folders("0::/"), [""]);
        assert_eq!(folders("0::/a/b\n"), ["a/b", "a", ""]);
        assert_eq!(
            folders("12:cpu,cpuacct:/x\n8:pids:/docker/7\n1:name=systemd:/y\n"),
            ["pids/docker/7", "pids/docker", "pids"]
        );
        assert_eq!(folders("0::/../../other"), [""]);
        assert!(folders("rubbish\n\n").is_empty());
    }

    #[test]
    fn this_machine_grants_something() {
        let mut tunnels = Config::defaults().tunnels;
        tunnels.max_streams = 4;
        let streams = grant(&tunnels);
        assert!((1..=4).contains(&streams));
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
