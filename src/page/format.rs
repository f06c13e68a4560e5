//! Numbers, spans and times as people read them: types that a template shows as they are.

use std::fmt;

use chrono::{DateTime, SecondsFormat};

use crate::store::Millis;

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number in groups of three digits: `1 234 567`, with spaces that do not break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.chars().enumerate() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_str("\u{202F}")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// Bytes in the largest unit of which there is one: `1.5 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut whole, mut rest, mut name) = (self.0, 0, "B");
        for unit in UNITS.iter().skip(1) {
            if whole < 1024 {
                break;
            }
            (whole, rest, name) = (whole / 1024, whole % 1024 * 10 / 1024, unit);
        }
        if self.0 < 1024 || whole >= 100 {
            write!(f, "{whole} {name}")
        } else {
            write!(f, "{whole}.{rest} {name}")
        }
    }
}

/// A span of milliseconds as R4 shows it: in ms, s, m or h, with a digit after the point from a
/// second on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Millis);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.max(0);
        let (unit, name) = match ms {
            0..1000 => return write!(f, "{ms} ms"),
            1000..60_000 => (1000, "s"),
            60_000..3_600_000 => (60_000, "m"),
            _ => (3_600_000, "h"),
        };
        write!(f, "{}.{} {name}", ms / unit, ms % unit * 10 / unit)
    }
}

/// Milliseconds since 1970 as RFC 3339 has them, in UTC; nothing for what no calendar holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub Millis);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = DateTime::from_timestamp_millis(self.0);
        f.write_str(
            &at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)).unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_in_groups() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1\u{202F}000"), (1_234_567, "1\u{202F}234\u{202F}567")]
        {
            assert_eq!(Count(number).to_string(), text);
        }
    }

    #[test]
    fn bytes_have_the_largest_unit_that_fits() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (200 << 20, "200 MiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(Bytes(number).to_string(), text);
        }
    }

    #[test]
    fn a_span_is_in_the_unit_that_people_would_choose() {
        for (ms, text) in [
            (-5, "0 ms"),
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1.0 s"),
            (59_999, "59.9 s"),
            (90_000, "1.5 m"),
            (3_600_000, "1.0 h"),
            (360_000_000, "100.0 h"),
        ] {
            assert_eq!(Span(ms).to_string(), text);
        }
    }

    #[test]
    fn a_moment_is_exact_to_the_millisecond() {
        assert_eq!(Moment(1_795_332_600_250).to_string(), "2026-11-22T07:30:00.250Z");
        assert_eq!(Moment(Millis::MAX).to_string(), "");
    }
}
