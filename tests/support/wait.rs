//! Waiting for conditions, and writing figures down.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use pipeops_agent::net::Deadline;

/// Only a test that hangs reaches it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// [`LIMIT`] from now on.
pub(crate) fn far() -> Deadline {
    Deadline::after(LIMIT)
}

/// Waits until `condition` holds; says how long that took.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "it never came true: {what}");
        // What is waited for is often in another process, which can't wake us.
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}

/// Shows a measured figure (with `--nocapture`), and adds it to the file that
/// `PIPEOPS_TEST_FIGURES` names.
#[allow(clippy::print_stdout)] // the test's own output
pub(crate) fn figure(name: &str, value: impl Display) {
    println!("figure: {name}: {value}");
    if let Ok(path) = std::env::var("PIPEOPS_TEST_FIGURES") {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{name}: {value}"));
        written.expect("the file of figures can be written");
    }
}
