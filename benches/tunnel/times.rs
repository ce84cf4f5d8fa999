//! Round trips, and what they come to.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Of so many; without any the others are no numbers.
    pub(crate) count: usize,
}

impl Times {
    pub(crate) fn of(mut ms: Vec<f64>) -> Self {
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (ms.len() as f64 * share) as usize;
            let last = ms.len().saturating_sub(1);
            ms.get(index.min(last)).copied().unwrap_or(f64::NAN)
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            count: ms.len(),
        }
    }
}

/// Sends [`BYTES`] to who sends them back, one trip after the other, until told to
/// stop. Milliseconds of each.
pub(crate) fn trips(
    socket: &mut TcpStream,
    pause: Duration,
    stop: &AtomicBool,
) -> io::Result<Vec<f64>> {
    socket.set_nodelay(true)?;
    let mut times = Vec::new();
    let mut bytes = [0; BYTES];
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        socket.write_all(&bytes)?;
        socket.read_exact(&mut bytes)?;
        times.push(milliseconds(begun.elapsed()));
        thread::sleep(pause);
    }
    Ok(times)
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// There and back.
pub(crate) const BYTES: usize = 64;
