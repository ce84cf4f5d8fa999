//! The figures as Markdown.

use std::fmt;
use std::time::Duration;

use crate::aims;
use crate::bulk::{self, Carrier, Direction, Figure};
use crate::cells::End;
use crate::common::program::Kind;
use crate::latency::{BESIDE, Beats, Opens, Trips};
use crate::memory::{Held, Idle};
use crate::times::Times;

/// What our agent and the Go agent made of a cell; against the plane ours alone. For
/// bulk come the rooflines after them.
pub(crate) enum Row {
    Bulk(bulk::Cell, Vec<Option<Figure>>),
    Opens((End, usize), Vec<Option<Opens>>),
    Trips((End, Option<Direction>), Vec<Option<Trips>>),
    Beats((End, Option<Direction>), Vec<Option<Beats>>),
    Idle(usize, Vec<Option<Idle>>),
}

/// Everything that was measured.
pub(crate) struct Report<'a> {
    pub(crate) rows: &'a [Row],
    pub(crate) tls: String,
    /// Before and after.
    pub(crate) load: (String, String),
    pub(crate) took: Duration,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "* TLS of our agent, the plane and the roofline: {}, two halves without a lock, records encrypted and\n  \
             decrypted in place (`src/net/stream/tls`)\n\
             * load before {}, after {}; all in all {:.0} s\n",
            self.tls,
            self.load.0,
            self.load.1,
            self.took.as_secs_f64()
        )?;
        let aims: Vec<String> = aims::judge(self.rows)
            .iter()
            .map(ToString::to_string)
            .collect();
        table(f, "### Aims", AIMS, &aims)?;
        self.table(f, "### Bulk, against the Go gateway", BULK, bulk_line)?;
        self.table(f, "### Bulk, against our plane", PLANE, plane_line)?;
        self.table(f, "### Opening", OPENS, opens_line)?;
        self.table(f, "### Small round trips, ms", TRIPS, trips_line)?;
        self.table(f, "### Heartbeats, ms", BEATS, beats_line)?;
        self.table(f, "### Idle streams", IDLE, idle_line)
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
        table(f, title, head, &lines)
    }
}

fn table(f: &mut fmt::Formatter<'_>, title: &str, head: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}\n\n{head}\n{}\n", lines.join("\n"))
}

fn bulk_line(row: &Row) -> Vec<String> {
    let Row::Bulk(cell, figures) = row else {
        return Vec::new();
    };
    let carrier = match cell.carrier {
        Carrier::Tls => "TLS",
        Carrier::Plain => "plain",
        Carrier::Plane => return Vec::new(),
    };
    vec![format!(
        "| {}, {carrier} | {} | {} | {} | {} | {} |",
        cell.direction.name(),
        cell.streams,
        each(figures),
        ratio(figures, 1, |figure| figure.cpu_per_gb),
        ratio(figures, 2, |figure| figure.gb_per_second),
        ratio(figures, 2, |figure| figure.cpu_per_gb),
    )]
}

fn plane_line(row: &Row) -> Vec<String> {
    let Row::Bulk(cell, figures) = row else {
        return Vec::new();
    };
    if cell.carrier != Carrier::Plane {
        return Vec::new();
    }
    vec![format!(
        "| {} | {} | {} | {} | {} | {} |",
        cell.direction.name(),
        cell.streams,
        each(figures),
        ratio(figures, 1, |figure| figure.gb_per_second),
        ratio(figures, 2, |figure| figure.gb_per_second),
        ratio(figures, 1, |figure| figure.cpu_per_gb),
    )]
}

fn each(figures: &[Option<Figure>]) -> String {
    let each = figures.iter().map(|figure| match figure {
        Some(figure) => format!("{:.2} · {:.2}", figure.gb_per_second, figure.cpu_per_gb),
        None => ABSENT.into(),
    });
    each.collect::<Vec<String>>().join(" | ")
}

/// Ours to another one's.
fn ratio(figures: &[Option<Figure>], of: usize, pick: fn(&Figure) -> f64) -> String {
    match (&figures[0], &figures[of]) {
        (Some(ours), Some(other)) => format!("{:.2}", pick(ours) / pick(other)),
        _ => "–".into(),
    }
}

fn opens_line(row: &Row) -> Vec<String> {
    let Row::Opens((end, at_once), figures) = row else {
        return Vec::new();
    };
    by_agent(figures, |name, opens| match opens {
        Some(o) => format!(
            "| {} | {at_once} | {name} | {:.0} | {:.2} | {:.2} | {:.2} |",
            end.name(),
            o.per_second,
            o.cpu_ms,
            o.times.p50,
            o.times.p99
        ),
        None => format!("| {} | {at_once} | {name} | {ABSENT} | | | |", end.name()),
    })
}

fn trips_line(row: &Row) -> Vec<String> {
    let Row::Trips((end, beside), figures) = row else {
        return Vec::new();
    };
    let place = place(*end, *beside);
    by_agent(figures, |name, trips| match trips {
        Some(t) => format!(
            "| {place} | {name} | {} | {} | {} | {:.1} |",
            pair(t.echo),
            t.ping.map_or_else(|| "–".to_owned(), pair),
            pair(t.quiet),
            t.echo.p99 / t.quiet.p99
        ),
        None => format!("| {place} | {name} | {ABSENT} | | | |"),
    })
}

fn beats_line(row: &Row) -> Vec<String> {
    let Row::Beats((end, beside), figures) = row else {
        return Vec::new();
    };
    let place = place(*end, *beside);
    by_agent(figures, |name, beats| match beats {
        Some(b) => format!(
            "| {place} | {name} | {} | {} | {} | {:.1} |",
            pair(b.beat),
            b.beat.count,
            pair(b.quiet),
            b.beat.p99 / b.quiet.p99
        ),
        None => format!("| {place} | {name} | {ABSENT} | | | |"),
    })
}

fn place(end: End, beside: Option<Direction>) -> String {
    let beside = match beside {
        None => "alone".to_owned(),
        Some(direction) => format!("beside {BESIDE} streams {}", direction.name()),
    };
    format!("{} | {beside}", end.name())
}

fn pair(times: Times) -> String {
    format!("{:.2} · {:.2}", times.p50, times.p99)
}

fn idle_line(row: &Row) -> Vec<String> {
    let Row::Idle(streams, figures) = row else {
        return Vec::new();
    };
    by_agent(figures, |name, idle| match idle {
        Some(i) => format!(
            "| {} | {name} | {} | {} | {} | {:.1} | {:.0} |",
            i.streams,
            held(i.before),
            held(i.open),
            held(i.later),
            i.per_stream(),
            i.given_back() * 100.0
        ),
        None => format!("| {streams} | {name} | {ABSENT} | | | | |"),
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

const ABSENT: &str = "not available";

const BULK: &str = "\
GB/s · CPU-seconds of the agent's process per GB.

| | Streams | ours | Go | roofline | CPU, ours / Go | GB/s, ours / roofline | CPU, ours / roofline |
|---|---:|---:|---:|---:|---:|---:|---:|";

const PLANE: &str = "\
GB/s · CPU-seconds of the agent's process per GB. The plane leads to clients with TCP connections of their own: the
second roofline has that hop too.

| | Streams | ours | roofline | roofline with clients | GB/s, ours / roofline | GB/s, ours / with clients | CPU, ours / roofline |
|---|---:|---:|---:|---:|---:|---:|---:|";

const OPENS: &str = "\
Open, one byte there and back, close.

| Against | At once | Agent | per second | CPU ms each | p50 ms | p99 ms |
|---|---:|---|---:|---:|---:|---:|";

const TRIPS: &str = "\
p50 · p99 of 64 bytes there and back on a stream, of a ping of the session, and of a quiet TCP pair in the same time.

| Against | | Agent | echo | ping | quiet pair | echo p99 / quiet p99 |
|---|---|---|---:|---:|---:|---:|";

const BEATS: &str = "\
p50 · p99 from a heartbeat until its ack is read, one every 50 ms, and of a quiet TCP pair in the same time.

| Against | | Agent | heartbeat | acks | quiet pair | heartbeat p99 / quiet p99 |
|---|---|---|---:|---:|---:|---:|";

const IDLE: &str = "\
RSS MiB · control group MiB · threads: before, with idle streams that have moved 1 MiB each way, 5 s after all are closed.

| Streams | Agent | before | idle | closed | RSS KiB per stream | of it given back, % |
|---:|---|---:|---:|---:|---:|---:|";

const AIMS: &str = "\
| Aim | This run | met |
|---|---|---|";

pub(crate) const INTRODUCTION: &str = "\
## Tunnels, in one run

Streams through our agent, through one in Go made of the original's parts (gorilla/websocket, hashicorp/yamux, io.Copy;
`benches/go-agent --tunnels`), and the roofline: the same copying without WebSocket and yamux, a TLS connection per
stream. Down is from the service to the other end, up is the way back; the other end is a Go gateway, or our own plane
with clients at exposed ports. How it is measured, and what not to read into it: `benches/README.md`.

";
