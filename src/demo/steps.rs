//! What the demo prints, step by step, with times.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use super::Options;

/// Prints steps as they are done; colour only on a terminal.
pub(super) struct Steps {
    begun: Instant,
    last: Instant,
    colour: bool,
}

impl Steps {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            begun: now,
            last: now,
            colour,
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
        self.last = now;
        let tick = self.paint("32", "ok");
        let took = took.as_secs_f64() * 1e3;
        say(&format!(
            "{tick} {:8.1} ms {took:7.1} ms  {what}",
            since.as_secs_f64() * 1e3
        ));
    }

    pub(super) fn failed(&self) {
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
    // Who closed the pipe doesn't want to read on; the steps go on.
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
