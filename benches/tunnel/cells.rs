//! What can be measured, and how it is called on the command line.

use crate::bulk::{self, Carrier, Direction};

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Bulk(bulk::Cell),
    /// Streams that are opened at once.
    Opens(End, usize),
    /// Alone, or beside bulk streams.
    Trips(End, Option<Direction>),
    Beats(End, Option<Direction>),
    /// So many streams.
    Idle(usize),
}

/// What the agents are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Gateway,
    Plane,
}

impl End {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "Go gateway",
            Self::Plane => "our plane",
        }
    }
}

const ENDS: [End; 2] = [End::Gateway, End::Plane];
const DIRECTIONS: [Direction; 2] = [Direction::Down, Direction::Up];

pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for carrier in [Carrier::Tls, Carrier::Plain, Carrier::Plane] {
        for direction in DIRECTIONS {
            for streams in [1, 8, 64] {
                cells.push(Cell::Bulk(bulk::Cell {
                    direction,
                    streams,
                    carrier,
                }));
            }
        }
    }
    let beside = || [None].into_iter().chain(DIRECTIONS.map(Some));
    for end in ENDS {
        cells.extend([1, 16, 64].map(|at_once| Cell::Opens(end, at_once)));
    }
    for end in ENDS {
        cells.extend(beside().map(|beside| Cell::Trips(end, beside)));
    }
    for end in ENDS {
        cells.extend(beside().map(|beside| Cell::Beats(end, beside)));
    }
    cells.extend([1000, 4000].map(Cell::Idle));
    cells
}

/// One of each.
pub(crate) fn quick() -> Vec<Cell> {
    let bulk = |direction, carrier| {
        Cell::Bulk(bulk::Cell {
            direction,
            streams: 8,
            carrier,
        })
    };
    let mut cells = vec![bulk(Direction::Down, Carrier::Plain)];
    for carrier in [Carrier::Tls, Carrier::Plane] {
        cells.extend(DIRECTIONS.map(|direction| bulk(direction, carrier)));
    }
    for end in ENDS {
        cells.push(Cell::Opens(end, 16));
        cells.push(Cell::Trips(end, None));
        cells.push(Cell::Trips(end, Some(Direction::Down)));
        cells.push(Cell::Beats(end, Some(Direction::Down)));
    }
    cells.push(Cell::Idle(100));
    cells
}

/// As in [`EXAMPLES`].
pub(crate) fn parse(text: &str) -> Result<Cell, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let number = |text: &str, most: usize| {
        let number = text.parse().ok().filter(|n| (1..=most).contains(n));
        number.ok_or_else(|| format!("a number from 1 to {most}, not {text}"))
    };
    let beside = |text| match text {
        "alone" => Ok(None),
        beside => Direction::parse(beside).map(Some),
    };
    let end = |end: &[&str]| match end {
        [] => Ok(End::Gateway),
        ["plane"] => Ok(End::Plane),
        _ => Err(format!("as in {EXAMPLES}")),
    };
    match parts[..] {
        ["opens", at_once, ref far @ ..] => Ok(Cell::Opens(end(far)?, number(at_once, 256)?)),
        ["echo", text, ref far @ ..] => Ok(Cell::Trips(end(far)?, beside(text)?)),
        ["heartbeat", text, ref far @ ..] => Ok(Cell::Beats(end(far)?, beside(text)?)),
        ["idle", streams] => Ok(Cell::Idle(number(streams, 8000)?)),
        [direction, streams, carrier] => Ok(Cell::Bulk(bulk::Cell {
            direction: Direction::parse(direction)?,
            streams: number(streams, 256)?,
            carrier: match carrier {
                "tls" => Carrier::Tls,
                "plain" => Carrier::Plain,
                "plane" => Carrier::Plane,
                _ => return Err(format!("as in {EXAMPLES}")),
            },
        })),
        _ => Err(format!("as in {EXAMPLES}")),
    }
}

pub(crate) const EXAMPLES: &str = "down/8/tls, up/1/plain, down/1/plane, opens/16, \
                                   opens/16/plane, echo/alone, echo/down, echo/up/plane, \
                                   heartbeat/down, heartbeat/down/plane, idle/1000";
