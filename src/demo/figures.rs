//! The closing table: what was counted while the demo ran.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::plane::table::{bytes, table};
use crate::telemetry::metrics::{Series, snapshot};

/// The metrics as they were looked at now and then.
pub(super) struct Figures {
    /// The most that was seen of what goes up and down.
    most: BTreeMap<String, f64>,
    next: Instant,
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            most: BTreeMap::new(),
            next: Instant::now(),
        }
    }

    /// Looks, if it is time.
    pub(super) fn sample(&mut self) {
        let now = Instant::now();
        if self.next <= now {
            self.next = now + EVERY;
            self.look();
        }
    }

    fn look(&mut self) -> Vec<Series> {
        let all = snapshot().series();
        for series in all.iter().filter(|series| series.kind == "gauge") {
            let most = self.most.entry(series.name.clone()).or_default();
            *most = most.max(series.value);
        }
        all
    }

    /// Every metric, now and at its highest. Buckets of histograms are left out.
    pub(super) fn table(&mut self) -> String {
        let now = self.look();
        let mut rows = vec![["METRIC", "NOW", "AT MOST"].map(str::to_owned)];
        let shown = |name: &str, value: f64| {
            if name.contains("_bytes") {
                bytes(value.max(0.0) as u64)
            } else {
                // Two places for seconds, none for what is counted.
                let places = if value.fract() == 0.0 { 0 } else { 2 };
                format!("{value:.places$}")
            }
        };
        let listed: Vec<&Series> = now
            .iter()
            .filter(|series| !series.name.contains("_bucket{"))
            .collect();
        // Families of which nothing was counted have one row.
        for family in listed.chunk_by(|a, b| base(&a.name) == base(&b.name)) {
            let all = if family.iter().all(|series| series.value == 0.0) {
                &family[..1]
            } else {
                family
            };
            for Series { name, value, .. } in all {
                let label = if all.len() < family.len() {
                    base(name)
                } else {
                    name
                };
                let most = self.most.get(name).map(|most| shown(name, *most));
                rows.push([
                    label.to_owned(),
                    shown(name, *value),
                    most.unwrap_or_default(),
                ]);
            }
        }
        format!(
            "\nWhat was counted (plane and agent are one process here):\n\n{}",
            table(&rows)
        )
    }
}

/// A name without its labels.
fn base(name: &str) -> &str {
    name.split('{').next().unwrap_or(name)
}

const EVERY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_row_and_what_goes_up_and_down_its_highest() {
        let mut figures = Figures::new();
        figures.sample();
        let text = figures.table();
        let row = |name: &str| {
            let row = text.lines().find(|line| line.starts_with(name));
            row.unwrap_or_else(|| panic!("{name} in {text}"))
                .split_whitespace()
                .count()
        };
        assert_eq!(row("pipeops_agent_yamux_streams_accepted_total"), 2);
        assert_eq!(row("pipeops_agent_threads"), 3);
        // A size has a unit.
        assert_eq!(row("pipeops_agent_link_queue_bytes"), 5);
        assert!(!text.contains("_bucket"), "{text}");
        assert!(text.contains("pipeops_agent_yamux_stream_duration_seconds_count"));
    }
}
