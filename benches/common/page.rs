//! Sections of `docs/benchmark.md` that programs write. What stands outside of their
//! marks is written by hand, and stays.

use std::fs;
use std::io;
use std::path::Path;

/// Replaces the section of that name, or puts it at the end.
pub(crate) fn write_section(file: &Path, name: &str, text: &str) -> io::Result<()> {
    let (begin, end) = (
        format!("<!-- written by benches/run: {name} -->"),
        format!("<!-- end: {name} -->"),
    );
    let page = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let (before, after) = match page.split_once(&begin) {
        Some((before, rest)) => (before, rest.split_once(&end).map_or("", |(_, after)| after)),
        None => (page.as_str(), "\n"),
    };
    let gap = if before.is_empty() || before.ends_with("\n\n") {
        ""
    } else {
        "\n"
    };
    fs::write(
        file,
        format!("{before}{gap}{begin}\n{}\n{end}{after}", text.trim_end()),
    )
}
