//! Durations as people write them: `250ms`, `1.5s`, `10m`, `2h`.

use std::time::Duration;

/// Units, longest suffix first so that `ms` is not taken for `s`.
const UNITS: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// A year: what is longer is a slip of the finger, and it keeps the arithmetic far from overflow.
const LONGEST_SECONDS: f64 = 366.0 * 86400.0;

/// Reads a number with one unit (`ms`, `s`, `m`, `h`). `None` when it is anything else.
pub fn parse(text: &str) -> Option<Duration> {
    let (unit, scale) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?.trim_end();
    let plain = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let seconds = if plain {
        number.parse::<f64>().ok()? * scale
    } else {
        return None;
    };
    // To the microsecond: 0.1 in floating point is not a tenth.
    let micros = (seconds * 1e6).round() as u64;
    (seconds <= LONGEST_SECONDS).then(|| Duration::from_micros(micros))
}

/// A limit as it is typed: a time that is not nothing.
///
/// # Errors
/// Shows how one looks.
pub fn limit(text: &str) -> Result<Duration, String> {
    let limit = parse(text).filter(|limit| limit.as_secs() > 0);
    limit.ok_or_else(|| "a time looks like 30m or 2h".to_owned())
}

/// Writes a duration so that `parse` reads it back, in the unit that makes it shortest.
pub fn show(d: Duration) -> String {
    let millis = d.as_micros() as f64 / 1000.0;
    let whole = d.subsec_nanos() == 0;
    match d.as_secs() {
        s if whole && s >= 3600 && s.is_multiple_of(3600) => format!("{}h", s / 3600),
        s if whole && s >= 60 && s.is_multiple_of(60) => format!("{}m", s / 60),
        0 => format!("{millis}ms"),
        _ => format!("{}s", millis / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_written_back() {
        for text in ["250ms", "1.5s", "5s", "10m", "2h", "90s", "1ms"] {
            let d = parse(text).expect(text);
            assert_eq!(parse(&show(d)), Some(d), "{text}");
        }
        assert_eq!(parse("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(show(Duration::from_millis(1500)), "1.5s");
        assert_eq!(show(Duration::from_secs(600)), "10m");
    }

    #[test]
    fn a_limit_is_a_time_and_not_none() {
        assert_eq!(limit("90m"), Ok(Duration::from_secs(5400)));
        assert!(limit("0s").is_err() && limit("2 days").unwrap_err().contains("2h"));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "s", "-5s", "5 days", "1e9s", "inf s", "NaNs", "1.2.3s", "99999999h"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
