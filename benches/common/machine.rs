//! What figures were taken on.

use std::fs;

/// As a Markdown list. `sharing`: who works on it at the same time.
pub(crate) fn describe(sharing: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    format!(
        "* date: {}\n* machine: {cores} × {model}, {} GiB; {sharing} share it, over loopback\n\
         * kernel: Linux {}\n",
        jiff::Zoned::now().date(),
        memory / 1024 / 1024,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    load.join(" ")
}
