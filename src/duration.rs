//! The duration grammar of config-and-state.md §2.4, in and out.

use std::time::Duration;

/// A parsed duration. `bare` says that the text was a number without a unit,
/// which is read as seconds and deserves a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub value: Duration,
    pub bare: bool,
}

/// Reads `30s`, `1h30m`, `500ms`, `2.5s`, `0`, or a bare number of seconds.
/// Negative durations are refused: nothing here can mean one.
pub fn parse(text: &str) -> Result<Parsed, String> {
    let text = text.trim();
    let refuse = || format!("{text:?} is not a duration (write 30s, 1h30m, 500ms)");
    if text.is_empty() || text.len() > MAX_TEXT {
        return Err("not a duration (write 30s, 1h30m, 500ms)".to_owned());
    }
    if text.starts_with('-') {
        return Err(format!("{text:?} is negative"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if let Some(nanos) = number(rest).and_then(|n| n.nanos(SECOND)) {
        return Ok(Parsed {
            value: from_nanos(nanos).ok_or_else(refuse)?,
            bare: rest.bytes().any(|byte| matches!(byte, b'1'..=b'9')),
        });
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(refuse)?;
        let amount = number(&rest[..digits]).ok_or_else(refuse)?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3_600 * SECOND,
            _ => return Err(refuse()),
        };
        rest = &rest[end..];
        total = amount
            .nanos(unit)
            .and_then(|nanos| total.checked_add(nanos))
            .ok_or_else(refuse)?;
    }
    Ok(Parsed {
        value: from_nanos(total).ok_or_else(refuse)?,
        bare: false,
    })
}

/// Writes a duration as the original's JSON does: `1h2m3.5s`, `45.25s`, `350ms`,
/// `1.5µs`, `0s` (local-server.md §2.1).
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < SECOND {
        let (unit, name) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{name}", decimal(nanos / unit, nanos % unit, unit));
    }
    let (hours, minutes) = (nanos / (3_600 * SECOND), nanos / (60 * SECOND) % 60);
    let seconds = decimal(nanos / SECOND % 60, nanos % SECOND, SECOND);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `whole.fraction/scale` without trailing zeros.
fn decimal(whole: u128, fraction: u128, scale: u128) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = scale.ilog10() as usize;
    let fraction = format!("{fraction:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

/// A non-negative decimal number, kept exact.
struct Number {
    whole: u128,
    fraction: u128,
    /// What `fraction` is divided by: a power of ten.
    scale: u128,
}

impl Number {
    fn nanos(&self, unit: u128) -> Option<u128> {
        let whole = self.whole.checked_mul(unit)?;
        whole.checked_add(self.fraction.checked_mul(unit)? / self.scale)
    }
}

fn number(text: &str) -> Option<Number> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if !(whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than nine digits are below a nanosecond for every unit but the hour.
    let fraction = &fraction[..fraction.len().min(12)];
    let parse = |digits: &str| match digits {
        "" => Some(0),
        digits => digits.parse::<u128>().ok(),
    };
    Some(Number {
        whole: parse(whole)?,
        fraction: parse(fraction)?,
        scale: 10u128.pow(fraction.len() as u32),
    })
}

fn from_nanos(nanos: u128) -> Option<Duration> {
    let nanos = u64::try_from(nanos).ok()?;
    (nanos <= MAX_NANOS).then(|| Duration::from_nanos(nanos))
}

const SECOND: u128 = 1_000_000_000;

/// The largest value of the original's durations (about 292 years).
const MAX_NANOS: u64 = i64::MAX as u64;

/// Longer text is not a duration that anybody wrote on purpose.
const MAX_TEXT: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_grammar() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("2.5s", 2_500),
            (".5s", 500),
            ("1.s", 1_000),
            ("+3s", 3_000),
            ("0", 0),
            ("1h1m1s1ms", 3_661_001),
            ("2000us", 2),
            ("2000µs", 2),
        ] {
            let parsed = parse(text).expect(text);
            assert_eq!(parsed.value, Duration::from_millis(millis), "{text}");
            assert!(!parsed.bare, "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_seconds_and_not_nanoseconds() {
        let parsed = parse("30").expect("parsed");
        assert_eq!(parsed.value, Duration::from_secs(30));
        assert!(parsed.bare);
        assert_eq!(
            parse("1.5").expect("parsed").value,
            Duration::from_millis(1_500)
        );
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            " ",
            "s",
            "-5s",
            "5 s",
            "5x",
            "1d",
            "1h30",
            ".",
            ".s",
            "1..5s",
            "99999999h",
            "1e3s",
            "∞",
            "5s5",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_written_form() {
        for (millis, text) in [
            (0, "0s"),
            (350, "350ms"),
            (45_250, "45.25s"),
            (120_000, "2m0s"),
            (3_600_000, "1h0m0s"),
            (3_723_500, "1h2m3.5s"),
        ] {
            assert_eq!(format(Duration::from_millis(millis)), text);
        }
        assert_eq!(format(Duration::from_nanos(1_500)), "1.5µs");
        assert_eq!(format(Duration::from_nanos(7)), "7ns");
        assert_eq!(
            format(Duration::from_nanos(MAX_NANOS)),
            "2562047h47m16.854775807s"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in 0..=MAX_NANOS) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)).expect("parsed").value, duration);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
