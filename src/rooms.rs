//! The README's table of rooms, held against what the rooms use.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// One row: the room, and the rooms that it knows.
type Row = (String, BTreeSet<String>);

/// The texts in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn is_folder(name: &str) -> bool {
    Path::new(SOURCES).join(name).is_dir()
}

fn table() -> Vec<Row> {
    let readme = include_str!("../README.md");
    let mut lines = readme.lines();
    lines.by_ref().find(|line| line.starts_with("| Room |"));
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let [_, room, _, knows, _] = cells[..] else {
            panic!("not three cells: {row}");
        };
        let room = quoted(room).next().expect("a name").to_owned();
        // Beside a room's name there may be one of its types.
        let knows = quoted(knows).filter(|name| is_folder(name));
        (room, knows.map(str::to_owned).collect())
    })
    .collect()
}

/// The names behind each `crate::` of a room's files, tests included.
fn used(path: &Path, names: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            used(&entry.expect("an entry").path(), names);
        }
        return;
    }
    let text = fs::read_to_string(path).expect("a file");
    for rest in text.split("crate::").skip(1) {
        assert!(!rest.starts_with('{'), "{}: one use each", path.display());
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        names.insert(rest[..end.unwrap_or(rest.len())].to_owned());
    }
}

#[test]
fn rooms_know_what_the_readme_says_and_nothing_below_them() {
    let table = table();
    assert!(table.len() > 10, "{table:?}");
    let mut above = BTreeSet::new();
    for (room, knows) in &table {
        assert!(is_folder(room), "{room} is no room");
        let mut uses = BTreeSet::new();
        used(&Path::new(SOURCES).join(room), &mut uses);
        uses.retain(|name| table.iter().any(|(other, _)| other == name));
        uses.remove(room);
        assert_eq!(&uses, knows, "{room} knows other rooms than README.md says");
        assert!(
            knows.is_subset(&above),
            "{room} knows rooms below its row: {:?}",
            knows - &above
        );
        above.insert(room.clone());
    }
    // Folders that are no rows are for any room.
    let folders = fs::read_dir(SOURCES).expect("a folder").flatten();
    let rest: BTreeSet<String> = folders
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !above.contains(name))
        .collect();
    let free = ["config", "telemetry", "threads"].map(str::to_owned);
    assert_eq!(rest, BTreeSet::from(free), "a room without a row");
}
