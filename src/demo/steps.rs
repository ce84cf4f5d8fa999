//! What the demo prints, step by step, with times.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::Options;

/// Prints steps as they are done; colour only on a terminal.
pub(super) struct Steps {
    begun: Instant,
    last: Instant,
    /// Progress is shown again from then on.
    next: Instant,
    terminal: bool,
    colour: bool,
}

impl Steps {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        let terminal = io::stdout().is_terminal();
        Self {
            begun: now,
            last: now,
            next: now,
            terminal,
            colour: terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    pub(super) fn headline(options: &Options) {
        let cluster = if options.kubeconfig.is_none() && options.context.is_none() {
            "a sample cluster"
        } else {
            "the cluster that you named"
        };
        say(&format!(
            "A control plane and an agent in one process, over TLS on loopback; behind the agent {cluster}.\n"
        ));
        say("   since start    step");
    }

    /// One step that is done.
    pub(super) fn done(&mut self, what: &str) {
        let now = Instant::now();
        let (since, took) = (now - self.begun, now - self.last);
        (self.last, self.next) = (now, now);
        self.clear();
        let tick = self.paint("32", "ok");
        let took = took.as_secs_f64() * 1e3;
        say(&format!(
            "{tick} {:8.1} ms {took:7.1} ms  {what}",
            since.as_secs_f64() * 1e3
        ));
    }

    /// How far a long step is, in bytes: a line that is written over on a terminal,
    /// one now and then elsewhere.
    pub(super) fn progress(&mut self, what: &str, done: u64, of: u64) {
        let now = Instant::now();
        let (every, end) = if self.terminal {
            (Duration::from_millis(100), "")
        } else {
            (Duration::from_secs(5), "\n")
        };
        // The first is due when it has taken that long.
        if now < self.next.max(self.last + every) {
            return;
        }
        self.next = now + every;
        self.clear();
        let took = (now - self.last).as_secs_f64().max(1e-3);
        write(&format!(
            "   {:3} %  {} of {} {what}, {:.0} MB/s{end}",
            done * 100 / of.max(1),
            mebibytes(done),
            mebibytes(of),
            done as f64 / took / 1e6,
        ));
    }

    /// Takes the line of progress away.
    fn clear(&self) {
        if self.terminal {
            write("\r\x1b[K");
        }
    }

    pub(super) fn failed(&self) {
        self.clear();
        say(&format!(
            "{} the steps end here",
            self.paint("31", "failed")
        ));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

pub(super) fn say(text: &str) {
    write(&format!("{text}\n"));
}

fn write(text: &str) {
    // Who closed the pipe doesn't want to read on; the steps go on.
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// `256 MiB`; with a place where there is less than ten.
pub(super) fn mebibytes(count: u64) -> String {
    let size = count as f64 / f64::from(1 << 20);
    let places = usize::from(size < 10.0 && size.fract() != 0.0);
    format!("{size:.places$} MiB")
}
