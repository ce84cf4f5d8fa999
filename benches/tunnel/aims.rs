//! What was aimed at, and whether a run reaches it.

use std::fmt;

use crate::bulk::{Carrier, Direction, Figure};
use crate::cells::End;
use crate::report::Row;
use crate::times::Times;

/// An aim that the run has something to say about.
pub(crate) struct Aim {
    text: String,
    figure: String,
    met: bool,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = if self.met { "yes" } else { "**no**" };
        write!(f, "| {} | {} | {met} |", self.text, self.figure)
    }
}

/// In the order of the tables.
pub(crate) fn judge(rows: &[Row]) -> Vec<Aim> {
    let mut aims: Vec<Aim> = rows.iter().filter_map(cpu).collect();
    for (direction, share) in [(Direction::Down, 0.6), (Direction::Up, 0.7)] {
        aims.extend(rate(rows, direction, share));
    }
    aims.extend(rows.iter().flat_map(small));
    aims.extend(rows.iter().flat_map(idle));
    aims
}

/// One stream over TLS, against the Go agent.
fn cpu(row: &Row) -> Option<Aim> {
    let Row::Bulk(cell, figures) = row else {
        return None;
    };
    let [Some(ours), Some(go), ..] = figures[..] else {
        return None;
    };
    if cell.streams != 1 || cell.carrier != Carrier::Tls {
        return None;
    }
    let ratio = ours.cpu_per_gb / go.cpu_per_gb;
    Some(Aim {
        text: format!(
            "one stream {} over TLS: at most a third of the Go agent's CPU per byte",
            cell.direction.name()
        ),
        figure: format!("{ratio:.2}"),
        met: ratio <= 1.0 / 3.0,
    })
}

/// Against the plane, for all numbers of streams.
fn rate(rows: &[Row], direction: Direction, share: f64) -> Option<Aim> {
    let of = |of: usize| {
        let ratios = rows.iter().filter_map(move |row| match row {
            Row::Bulk(cell, figures)
                if (cell.carrier, cell.direction) == (Carrier::Plane, direction) =>
            {
                let rate = |figure: Option<Figure>| figure.map(|figure| figure.gb_per_second);
                Some((cell.streams, rate(figures[0])? / rate(figures[of])?))
            }
            _ => None,
        });
        ratios.collect::<Vec<_>>()
    };
    let (ratios, clients) = (of(1), of(2));
    if ratios.is_empty() {
        return None;
    }
    let list = |ratios: &[(usize, f64)]| {
        let each = ratios
            .iter()
            .map(|(streams, ratio)| format!("{ratio:.2} ({streams})"));
        each.collect::<Vec<_>>().join(", ")
    };
    Some(Aim {
        text: format!(
            "against the plane, {}: {:.0} % of the roofline's rate, at 1, 8 and 64 streams",
            direction.name(),
            share * 100.0
        ),
        figure: format!(
            "{}; of the roofline with clients {}",
            list(&ratios),
            list(&clients)
        ),
        met: ratios.iter().all(|(_, ratio)| *ratio >= share),
    })
}

/// Beside bulk streams, ours.
fn small(row: &Row) -> Vec<Aim> {
    let aim = |what: &str, end: End, beside: Direction, times: Times, quiet: Times| {
        let ratio = times.p99 / quiet.p99;
        Aim {
            text: format!(
                "p99 of {what} beside 16 bulk streams {}, against {}: 1.5 ms, 3 × the quiet pair's",
                beside.name(),
                end.name()
            ),
            figure: format!("{:.2} ms, {ratio:.1} ×", times.p99),
            met: times.p99 <= 1.5 && ratio <= 3.0,
        }
    };
    match row {
        Row::Trips((end, Some(beside)), figures) => {
            let Some(Some(trips)) = figures.first() else {
                return Vec::new();
            };
            let echo = aim("an echo", *end, *beside, trips.echo, trips.quiet);
            let ping = trips
                .ping
                .map(|ping| aim("a ping", *end, *beside, ping, trips.quiet));
            [Some(echo), ping].into_iter().flatten().collect()
        }
        Row::Beats((end, Some(beside)), figures) => {
            let Some(Some(beats)) = figures.first() else {
                return Vec::new();
            };
            let what = "a heartbeat and its ack";
            vec![aim(what, *end, *beside, beats.beat, beats.quiet)]
        }
        _ => Vec::new(),
    }
}

fn idle(row: &Row) -> Vec<Aim> {
    let Row::Idle(streams, figures) = row else {
        return Vec::new();
    };
    let Some(Some(idle)) = figures.first() else {
        return Vec::new();
    };
    let (each, back) = (idle.per_stream(), idle.given_back());
    vec![
        Aim {
            text: format!("{streams} idle streams: at most 16 KiB RSS each"),
            figure: format!("{each:.1} KiB"),
            met: each <= 16.0,
        },
        Aim {
            text: format!("given back 5 s after {streams} are closed: most of it"),
            figure: format!("{:.0} %", back * 100.0),
            met: back >= MOST,
        },
    ]
}

/// The issue says "given back" and no figure.
const MOST: f64 = 0.8;
