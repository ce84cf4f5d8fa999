//! Tables for people at a terminal.

use std::fmt::Write;

/// Lays rows out in columns; the last column isn't padded. The first row is the head.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let width = if i + 1 == N { 0 } else { widths[i] + 3 };
            // Writing to a String can't fail.
            let _ = write!(line, "{cell:width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How long ago, roughly: `12s`, `5m`, `3h`, `9d`. A time to come is `0s`.
pub(crate) fn ago(then: i64, now: i64) -> String {
    let seconds = now.saturating_sub(then).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How much, roughly: `812 B`, `3.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    let mut size = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        format!("{size:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let text = table(&[row("NAME", "ID"), row("ä", "1"), row("long-name", "")]);
        assert_eq!(text, "NAME        ID\nä           1\nlong-name\n");
    }

    #[test]
    fn sizes() {
        for (count, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(count), want);
        }
    }

    #[test]
    fn ages() {
        for (then, want) in [
            (100, "0s"),
            (10, "90s"),
            (-200, "5m"),
            (-9_000, "2h"),
            (-864_000, "10d"),
        ] {
            assert_eq!(ago(then, 100), want);
        }
        assert_eq!(ago(200, 100), "0s");
        assert_eq!(ago(i64::MIN, i64::MAX), "106751991167300d");
    }
}
