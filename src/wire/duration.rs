//! Durations as Go writes them: `45s`, `1m30s`, `1.5h`, `500ms`.

use std::time::Duration;

/// Parses the grammar of config-and-state.md §2.4: one or more of a decimal number
/// and a unit (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`), or `0`. A leading `+` is
/// allowed; what is negative, overflows or has no unit is `None`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos: f64 = 0.0;
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number * scale;
        any = true;
        rest = tail;
    }
    // i64 nanoseconds, as in Go: 292 years.
    (any && nanos <= i64::MAX as f64).then(|| Duration::from_nanos(nanos.round() as u64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_grammar() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("45s", Some(ms(45_000))),
            ("1m30s", Some(ms(90_000))),
            ("500ms", Some(ms(500))),
            ("2.5s", Some(ms(2_500))),
            ("1h0m0.5s", Some(ms(3_600_500))),
            ("0", Some(ms(0))),
            ("1µs", Some(Duration::from_micros(1))),
            ("", None),
            ("5", None),
            ("-5s", None),
            ("5 s", None),
            ("s", None),
            ("1d", None),
            ("..s", None),
            ("999999999h", None),
        ] {
            assert_eq!(parse_duration(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = parse_duration(&text);
        }
    }
}
