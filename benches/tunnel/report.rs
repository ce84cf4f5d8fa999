//! The figures as Markdown.

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::agents::Kind;
use crate::bulk::{self, Direction, Figure};
use crate::latency::{BESIDE, Opens, Times, Trips};
use crate::memory::{Held, Idle};

/// What each of our agent, the Go agent (and the roofline, for bulk) made of a cell.
pub(crate) enum Row {
    Bulk(bulk::Cell, Vec<Option<Figure>>),
    Opens(usize, Vec<Option<Opens>>),
    Trips(Option<Direction>, Vec<Option<Trips>>),
    Idle(usize, Vec<Option<Idle>>),
}

/// Everything that was measured.
pub(crate) struct Report<'a> {
    pub(crate) rows: &'a [Row],
    pub(crate) took: Duration,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(f, "### Bulk, against the Go gateway", BULK, bulk_line)?;
        self.table(f, "### Opening", OPENS, opens_line)?;
        self.table(f, "### Small round trips, ms", TRIPS, trips_line)?;
        self.table(f, "### Idle streams", IDLE, idle_line)?;
        writeln!(
            f,
            "Against our own plane: not available yet.\n\nAll in all {:.0} s.",
            self.took.as_secs_f64()
        )
    }
}

impl Report<'_> {
    /// A table of the rows that `lines` has something to say about.
    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        head: &str,
        lines: fn(&Row) -> Vec<String>,
    ) -> fmt::Result {
        let lines: Vec<String> = self.rows.iter().flat_map(lines).collect();
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(f, "{title}\n\n{head}\n{}\n", lines.join("\n"))
    }
}

fn bulk_line(row: &Row) -> Vec<String> {
    let Row::Bulk(cell, figures) = row else {
        return Vec::new();
    };
    let each = figures.iter().map(|figure| match figure {
        Some(figure) => format!("{:.2} · {:.2}", figure.gb_per_second, figure.cpu_per_gb),
        None => ABSENT.into(),
    });
    let each: Vec<String> = each.collect();
    let ratio = |of: usize, pick: fn(&Figure) -> f64| match (&figures[0], &figures[of]) {
        (Some(ours), Some(other)) => format!("{:.2}", pick(ours) / pick(other)),
        _ => "–".into(),
    };
    vec![format!(
        "| {}, {} | {} | {} | {} | {} | {} |",
        cell.direction.name(),
        if cell.plain { "plain" } else { "TLS" },
        cell.streams,
        each.join(" | "),
        ratio(1, |figure| figure.cpu_per_gb),
        ratio(2, |figure| figure.gb_per_second),
        ratio(2, |figure| figure.cpu_per_gb),
    )]
}

fn opens_line(row: &Row) -> Vec<String> {
    let Row::Opens(at_once, figures) = row else {
        return Vec::new();
    };
    by_agent(figures, |name, opens| match opens {
        Some(o) => format!(
            "| {} | {name} | {:.0} | {:.2} | {:.2} | {:.2} |",
            o.at_once, o.per_second, o.cpu_ms, o.p50, o.p99
        ),
        None => format!("| {at_once} | {name} | {ABSENT} | | | |"),
    })
}

fn trips_line(row: &Row) -> Vec<String> {
    let Row::Trips(beside, figures) = row else {
        return Vec::new();
    };
    let beside = match beside {
        None => "alone".to_owned(),
        Some(direction) => format!("beside {BESIDE} streams {}", direction.name()),
    };
    let pair = |times: Times| format!("{:.2} · {:.2}", times.p50, times.p99);
    by_agent(figures, |name, trips| match trips {
        Some(t) => format!(
            "| {beside} | {name} | {} | {} | {} | {:.1} |",
            pair(t.echo),
            pair(t.ping),
            pair(t.quiet),
            t.echo.p99 / t.quiet.p99
        ),
        None => format!("| {beside} | {name} | {ABSENT} | | | |"),
    })
}

fn idle_line(row: &Row) -> Vec<String> {
    let Row::Idle(streams, figures) = row else {
        return Vec::new();
    };
    by_agent(figures, |name, idle| match idle {
        Some(i) => {
            let per_stream = i.open.resident.saturating_sub(i.before.resident) as f64;
            format!(
                "| {} | {name} | {} | {} | {} | {:.1} |",
                i.streams,
                held(i.before),
                held(i.open),
                held(i.later),
                per_stream / i.streams as f64
            )
        }
        None => format!("| {streams} | {name} | {ABSENT} | | | |"),
    })
}

fn held(held: Held) -> String {
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let cgroup = held.cgroup.map_or_else(|| "not available".into(), mib);
    format!("{} · {cgroup} · {}", mib(held.resident), held.threads)
}

fn by_agent<T>(figures: &[Option<T>], line: impl Fn(&str, Option<&T>) -> String) -> Vec<String> {
    let kinds = [Kind::Ours, Kind::Go].into_iter().zip(figures);
    kinds
        .map(|(kind, figure)| line(kind.name(), figure.as_ref()))
        .collect()
}

/// What the figures were taken on, as a Markdown list.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = thread_count();
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "* machine: {cores} × {model}; agents, gateway and service share it, over loopback; load at the end {}\n\
         * kernel: Linux {}\n",
        load.join(" "),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn thread_count() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

const ABSENT: &str = "not available";

const BULK: &str = "\
GB/s · CPU-seconds of the agent's process per GB.

| | Streams | ours | Go | roofline | CPU, ours / Go | GB/s, ours / roofline | CPU, ours / roofline |
|---|---:|---:|---:|---:|---:|---:|---:|";

const OPENS: &str = "\
Open, one byte there and back, close.

| At once | Agent | per second | CPU ms each | p50 ms | p99 ms |
|---:|---|---:|---:|---:|---:|";

const TRIPS: &str = "\
p50 · p99 of 64 bytes there and back on a stream, of a ping of the session, and of a quiet TCP pair in the same time.

| | Agent | echo | ping | quiet pair | echo p99 / quiet p99 |
|---|---|---:|---:|---:|---:|";

const IDLE: &str = "\
RSS MiB · control group MiB · threads: before, with idle streams that have moved 1 MiB each way, 5 s after all are closed.

| Streams | Agent | before | idle | closed | RSS KiB per stream |
|---:|---|---:|---:|---:|---:|";

pub(crate) const INTRODUCTION: &str = "\
## Tunnels

Streams through our agent, through one in Go made of the original's parts (gorilla/websocket, hashicorp/yamux, io.Copy;
`benches/go-agent --tunnels`), and the roofline: the same copying without WebSocket and yamux, a TLS connection per
stream. Down is from the service to the gateway, up is from the gateway to the service; the gateway is Go. How it is
measured: `benches/README.md`.

";
