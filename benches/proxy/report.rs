//! The figures as Markdown.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::body::Content;
use crate::common::program::Kind;
use crate::load::{Cell, Form, Target};
use crate::measure::{Figures, Start};
use crate::streams;

/// A cell and what each agent made of it.
pub(crate) type Row = (Cell, Vec<Figures>);

/// Bytes, how many at once, and what each agent made of it.
type Line<'a> = (usize, usize, &'a [Figures]);

/// What a table's columns are called.
const REQUESTS: [&str; 3] = ["Body", "req/s", "request"];
const MESSAGES: [&str; 3] = ["Message", "messages/s", "message"];

/// Everything that was measured.
pub(crate) struct Report<'a> {
    pub(crate) starts: &'a [Start],
    pub(crate) rows: &'a [Row],
    /// Application WebSockets.
    pub(crate) streams: &'a [(streams::Cell, Vec<Figures>)],
    /// CPU time of the load, control plane and cluster together.
    pub(crate) load_cpu: Duration,
    pub(crate) took: Duration,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## Start and rest\n")?;
        self.start_table(f)?;
        for (title, target, form, content) in SECTIONS {
            let rows: Vec<Line<'_>> = self
                .rows
                .iter()
                .filter(|(cell, _)| {
                    (cell.target, cell.form, cell.content) == (target, form, content)
                })
                .map(|(cell, figures)| (cell.size, cell.at_once, figures.as_slice()))
                .collect();
            if !rows.is_empty() {
                writeln!(f, "\n## {title}\n")?;
                self.load_table(f, REQUESTS, &rows)?;
            }
        }
        if !self.streams.is_empty() {
            writeln!(f, "\n## Application WebSockets: an echo\n")?;
            let rows: Vec<Line<'_>> = self
                .streams
                .iter()
                .map(|(cell, figures)| (cell.size, cell.at_once, figures.as_slice()))
                .collect();
            self.load_table(f, MESSAGES, &rows)?;
        }
        let rows = self.rows.iter().map(|(_, figures)| figures);
        let streams = self.streams.iter().map(|(_, figures)| figures);
        let cpu: Duration = rows.chain(streams).flatten().map(|f| f.cpu).sum();
        writeln!(
            f,
            "\nAll in all {:.0} s; CPU of the agents {:.1} s, of load, gateway and API server {:.1} s.",
            self.took.as_secs_f64(),
            cpu.as_secs_f64(),
            self.load_cpu.as_secs_f64()
        )
    }
}

impl Report<'_> {
    fn start_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut head = String::from("| |");
        let mut rule = String::from("|---|");
        for start in self.starts {
            let _ = write!(head, " {} |", start.kind.name());
            rule.push_str("---:|");
        }
        writeln!(f, "{head}\n{rule}")?;
        let mut line = |name: &str, value: &dyn Fn(&Start) -> String| {
            write!(f, "| {name} |")?;
            for start in self.starts {
                write!(f, " {} |", value(start))?;
            }
            writeln!(f)
        };
        line("binary, MB", &|s| format!("{:.2}", s.binary as f64 / 1e6))?;
        line("exec → `register` read, ms", &|s| ms(s.registered))?;
        line("exec → first heartbeat read, ms", &|s| ms(s.heartbeat))?;
        line("RSS idle, MiB", &|s| mib(s.idle.resident))?;
        line("RSS at most until then, MiB", &|s| mib(s.idle.peak))?;
        line("threads idle", &|s| s.idle.threads.to_string())
    }

    fn load_table(
        &self,
        f: &mut fmt::Formatter<'_>,
        [body, rate, each_of]: [&str; 3],
        rows: &[Line<'_>],
    ) -> fmt::Result {
        let ours = self.place(Kind::Ours);
        let go = self.place(Kind::Go);
        let names: Vec<&str> = self.starts.iter().map(|start| start.kind.name()).collect();
        writeln!(f, "Figures are {}.\n", names.join(" / "))?;
        writeln!(
            f,
            "| {body} | At once | {rate} | p50 ms | p99 ms | CPU ms per {each_of} | of the Go agent's | peak RSS MiB |\n\
             |---:|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        let mut ratios = Vec::new();
        for (size, at_once, figures) in rows {
            let each = |value: &dyn Fn(&Figures) -> String| {
                let values: Vec<String> = figures.iter().map(value).collect();
                values.join(" / ")
            };
            let ratio = match (ours, go) {
                (Some(ours), Some(go)) => {
                    let ratio = figures[ours].cpu_ms() / figures[go].cpu_ms();
                    ratios.push(ratio);
                    format!("{ratio:.2}")
                }
                _ => "–".into(),
            };
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                bytes(*size),
                at_once,
                each(&|f| format!("{:.0}", f.per_second())),
                each(&|f| short(f.latency_ms(0.5))),
                each(&|f| short(f.latency_ms(0.99))),
                each(&|f| short(f.cpu_ms())),
                ratio,
                each(&|f| mib(f.peak)),
            )?;
        }
        if !ratios.is_empty() {
            let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
            writeln!(
                f,
                "\nCPU per {each_of}, geometric mean: {:.2} of the Go agent's.",
                mean.exp()
            )?;
        }
        Ok(())
    }

    fn place(&self, kind: Kind) -> Option<usize> {
        self.starts.iter().position(|start| start.kind == kind)
    }
}

fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value {
        v if v < 1.0 => format!("{v:.3}"),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn bytes(size: usize) -> String {
    match size {
        size if size >= 1024 * 1024 => format!("{} MiB", size / 1024 / 1024),
        size if size >= 1024 => format!("{} KiB", size / 1024),
        size => format!("{size} B"),
    }
}

const SECTIONS: [(&str, Target, Form, Content); 4] = [
    ("Form S (streamed)", Target::Api, Form::S, Content::Json),
    (
        "Form B (buffered), JSON: gzipped by the rules of the wire",
        Target::Api,
        Form::B,
        Content::Json,
    ),
    (
        "Form B (buffered), octet-stream: not gzipped",
        Target::Api,
        Form::B,
        Content::Octets,
    ),
    (
        "A Service over plain HTTP, form S",
        Target::Service,
        Form::S,
        Content::Json,
    ),
];
