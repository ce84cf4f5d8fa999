//! All metrics at one moment, to be looked at or written out in Prometheus' text
//! format (version 0.0.4; why not OpenMetrics: local-server.md §10.5).

use std::fmt;

use super::FAMILIES;
use super::kinds::{Buckets, Counter, Gauge, GaugeEach};

/// One name of the table.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) metric: Metric,
}

pub(super) enum Metric {
    Counter(&'static Counter),
    /// A label, and its values.
    Counters(&'static str, &'static [(&'static str, &'static Counter)]),
    /// Two labels, and their values.
    CountersOfTwo(
        [&'static str; 2],
        &'static [([&'static str; 2], &'static Counter)],
    ),
    Gauge(&'static Gauge),
    /// A label, and a gauge for each of its values.
    Gauges(&'static str, &'static GaugeEach),
    /// Looked up when somebody asks.
    Read(fn() -> u64),
    Histogram(&'static dyn Buckets),
}

impl Metric {
    fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) | Self::Counters(..) | Self::CountersOfTwo(..) => "counter",
            Self::Gauge(_) | Self::Gauges(..) | Self::Read(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    fn series(&self, name: &str) -> Vec<(String, f64)> {
        match self {
            Self::Counter(counter) => vec![(name.to_owned(), counter.value() as f64)],
            Self::Counters(label, counters) => counters
                .iter()
                .map(|(value, counter)| (labelled(name, label, value), counter.value() as f64))
                .collect(),
            Self::CountersOfTwo([one, two], counters) => counters
                .iter()
                .map(|([first, second], counter)| {
                    let name = format!("{name}{{{one}=\"{first}\",{two}=\"{second}\"}}");
                    (name, counter.value() as f64)
                })
                .collect(),
            Self::Gauge(gauge) => vec![(name.to_owned(), gauge.value() as f64)],
            Self::Gauges(label, gauges) => gauges
                .values()
                .into_iter()
                .map(|(value, gauge)| (labelled(name, label, &value), gauge as f64))
                .collect(),
            Self::Read(read) => vec![(name.to_owned(), read() as f64)],
            Self::Histogram(histogram) => {
                let buckets = histogram.cumulated();
                let count = buckets.last().map_or(0, |(_, count)| *count);
                let bucket = format!("{name}_bucket");
                buckets
                    .into_iter()
                    .map(|(bound, count)| {
                        let bound = number(bound);
                        (labelled(&bucket, "le", &bound), count as f64)
                    })
                    .chain([
                        (format!("{name}_sum"), histogram.sum()),
                        (format!("{name}_count"), count as f64),
                    ])
                    .collect()
            }
        }
    }
}

/// All metrics at one moment. Shown, it is what `/metrics` answers.
#[derive(Clone, Debug)]
pub struct Snapshot(Vec<Seen>);

#[derive(Clone, Debug)]
struct Seen {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    /// As written out, labels included.
    series: Vec<(String, f64)>,
}

/// Looks at every metric.
pub fn snapshot() -> Snapshot {
    Snapshot(FAMILIES.iter().map(Seen::of).collect())
}

impl Seen {
    fn of(family: &Family) -> Self {
        Self {
            name: family.name,
            help: family.help,
            kind: family.metric.kind(),
            series: family.metric.series(family.name),
        }
    }
}

/// One number, as it is written out.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// With its labels.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub value: f64,
}

impl Snapshot {
    /// All of them, in order.
    pub fn series(&self) -> Vec<Series> {
        let all = self.0.iter().flat_map(|seen| {
            seen.series.iter().map(|(name, value)| Series {
                name: name.clone(),
                kind: seen.kind,
                value: *value,
            })
        });
        all.collect()
    }

    /// By the name that is written out, with the labels if it has any:
    /// `pipeops_agent_yamux_bytes_total{direction="in"}`.
    pub fn value(&self, series: &str) -> Option<f64> {
        let all = self.0.iter().flat_map(|seen| &seen.series);
        all.into_iter()
            .find_map(|(name, value)| (name == series).then_some(*value))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A family without any series is left out.
        for seen in self.0.iter().filter(|seen| !seen.series.is_empty()) {
            writeln!(f, "# HELP {} {}", seen.name, seen.help)?;
            writeln!(f, "# TYPE {} {}", seen.name, seen.kind)?;
            for (name, value) in &seen.series {
                writeln!(f, "{name} {}", number(*value))?;
            }
        }
        Ok(())
    }
}

fn labelled(name: &str, label: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}{{{label}=\"{value}\"}}")
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        return "+Inf".to_owned();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::kinds::Histogram;
    use super::*;

    /// Each kind, as Prometheus' own documentation of the format wants it.
    #[test]
    fn the_text_is_prometheus_text_format() {
        static PLAIN: Counter = Counter::new();
        static IN: Counter = Counter::new();
        static OUT: Counter = Counter::new();
        static EACH: GaugeEach = GaugeEach::new();
        static NONE: GaugeEach = GaugeEach::new();
        static DIRECTIONS: &[(&str, &Counter)] = &[("in", &IN), ("out", &OUT)];
        static TIMES: Histogram<2> = Histogram::doubling(Duration::from_millis(100));
        let family = |name, metric| {
            Seen::of(&Family {
                name,
                help: "What it is.",
                metric,
            })
        };
        PLAIN.add(12_345_678_901);
        OUT.increment();
        let gauge = EACH.begin("a \"b\"\\\n");
        gauge.set(-2);
        TIMES.observe(Duration::from_millis(150));
        let snapshot = Snapshot(vec![
            family("a_total", Metric::Counter(&PLAIN)),
            family("b_total", Metric::Counters("direction", DIRECTIONS)),
            family("c", Metric::Gauges("session", &EACH)),
            family("d", Metric::Gauges("session", &NONE)),
            family("e_seconds", Metric::Histogram(&TIMES)),
            family("f", Metric::Read(|| 7)),
        ]);
        assert_eq!(
            snapshot.to_string(),
            r#"# HELP a_total What it is.
# TYPE a_total counter
a_total 12345678901
# HELP b_total What it is.
# TYPE b_total counter
b_total{direction="in"} 0
b_total{direction="out"} 1
# HELP c What it is.
# TYPE c gauge
c{session="a \"b\"\\\n"} -2
# HELP e_seconds What it is.
# TYPE e_seconds histogram
e_seconds_bucket{le="0.1"} 0
e_seconds_bucket{le="0.2"} 1
e_seconds_bucket{le="+Inf"} 1
e_seconds_sum 0.15
e_seconds_count 1
# HELP f What it is.
# TYPE f gauge
f 7
"#
        );
        assert_eq!(snapshot.value("b_total{direction=\"out\"}"), Some(1.0));
        assert_eq!(snapshot.value("e_seconds_count"), Some(1.0));
        assert_eq!(snapshot.value("d"), None);
    }
}
