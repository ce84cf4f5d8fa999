//! What the kernel says about a process.

use std::fs;
use std::io;
use std::time::Duration;

/// A process, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(pub(crate) u32);

/// Memory and threads, from `/proc/<pid>/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// KiB resident now.
    pub(crate) resident: u64,
    /// KiB resident at most, since the start or the last
    /// [`Process::reset_peak`].
    pub(crate) peak: u64,
    pub(crate) threads: u64,
}

impl Process {
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// User and system time of all its threads, ended ones included, in steps of
    /// 10 ms (`USER_HZ` is 100 on Linux, whatever the kernel's own tick is).
    pub(crate) fn cpu(self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The name, in parentheses, may contain anything.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest);
        let mut fields = fields.unwrap_or_default().split_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
        match (ticks(), ticks()) {
            (Some(user), Some(system)) => Ok(Duration::from_millis(10 * (user + system))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    pub(crate) fn memory(self) -> io::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Ok(Memory {
            resident: field("VmRSS:"),
            peak: field("VmHWM:"),
            threads: field("Threads:"),
        })
    }

    /// Lets the peak begin again at what is resident now.
    pub(crate) fn reset_peak(self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.0), "5")
    }
}
