//! What can be measured, and how it is called on the command line.

use crate::bulk::{self, Direction};

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Bulk(bulk::Cell),
    /// Streams that are opened at once.
    Opens(usize),
    /// Alone, or beside bulk streams.
    Trips(Option<Direction>),
    /// So many streams.
    Idle(usize),
}

pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for plain in [false, true] {
        for direction in [Direction::Down, Direction::Up] {
            for streams in [1, 8, 64] {
                cells.push(Cell::Bulk(bulk::Cell {
                    direction,
                    streams,
                    plain,
                }));
            }
        }
    }
    cells.extend([1, 16, 64].map(Cell::Opens));
    cells.extend([None, Some(Direction::Down), Some(Direction::Up)].map(Cell::Trips));
    cells.extend([1000, 4000].map(Cell::Idle));
    cells
}

/// One of each.
pub(crate) fn quick() -> Vec<Cell> {
    let bulk = |direction| {
        Cell::Bulk(bulk::Cell {
            direction,
            streams: 8,
            plain: false,
        })
    };
    vec![
        bulk(Direction::Down),
        bulk(Direction::Up),
        Cell::Opens(16),
        Cell::Trips(None),
        Cell::Trips(Some(Direction::Down)),
        Cell::Idle(100),
    ]
}

/// `down/8/tls`, `up/1/plain`, `opens/16`, `echo/alone`, `echo/down`, `idle/1000`.
pub(crate) fn parse(text: &str) -> Result<Cell, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let number = |text: &str, most: usize| {
        let number = text.parse().ok().filter(|n| (1..=most).contains(n));
        number.ok_or_else(|| format!("a number from 1 to {most}, not {text}"))
    };
    match parts[..] {
        ["opens", at_once] => Ok(Cell::Opens(number(at_once, 256)?)),
        ["echo", "alone"] => Ok(Cell::Trips(None)),
        ["echo", beside] => Ok(Cell::Trips(Some(Direction::parse(beside)?))),
        ["idle", streams] => Ok(Cell::Idle(number(streams, 8000)?)),
        [direction, streams, carrier @ ("tls" | "plain")] => Ok(Cell::Bulk(bulk::Cell {
            direction: Direction::parse(direction)?,
            streams: number(streams, 256)?,
            plain: carrier == "plain",
        })),
        _ => Err("as in down/8/tls, up/1/plain, opens/16, echo/alone, echo/down, idle/1000".into()),
    }
}
