//! The timestamp of an entry, as RFC 3339 writes it, in unix seconds.

use chrono::{DateTime, Datelike, NaiveDate, Utc};

use super::entry::Wrong;

/// Reads a timestamp.
///
/// # Errors
/// It is none.
pub(super) fn unix_seconds(text: &str) -> Result<i64, Wrong> {
    if let Some(read) = usual(text) {
        return Ok(read);
    }
    let wrong = || Wrong::Timestamp(format!("{:?}", text.chars().take(64).collect::<String>()));
    // The parser also takes U+2212 for a minus sign, as ISO 8601 does; RFC 3339 is ASCII.
    if !text.is_ascii() {
        return Err(wrong());
    }
    let timestamp = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
    // RFC 3339, 5.7: a 60th second is inserted at the end of a month, at 23:59:60 UTC.
    let is_leap_second = timestamp.timestamp_subsec_nanos() >= 1_000_000_000;
    if is_leap_second && !ends_a_month(timestamp.to_utc()) {
        return Err(wrong());
    }
    Ok(timestamp.timestamp())
}

/// Whole seconds in UTC, as `2026-11-22T07:30:00Z`, are what nearly everybody sends, and read in a
/// fraction of the time that the parser of all shapes takes. `None` for any other shape.
pub(super) fn usual(text: &str) -> Option<i64> {
    let (date, time) = text.as_bytes().split_first_chunk()?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T'] = *date else { return None };
    let [h0, h1, b':', n0, n1, b':', s0, s1, b'Z'] = *time else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(10);
    let pair = |tens, ones| Some(10 * digit(tens)? + digit(ones)?);
    let year = i32::try_from(100 * pair(y0, y1)? + pair(y2, y3)?).ok()?;
    let day = NaiveDate::from_ymd_opt(year, pair(m0, m1)?, pair(d0, d1)?)?;
    let time = day.and_hms_opt(pair(h0, h1)?, pair(n0, n1)?, pair(s0, s1)?)?;
    Some(time.and_utc().timestamp())
}

fn ends_a_month(at: DateTime<Utc>) -> bool {
    let tomorrow = at.date_naive().succ_opt();
    at.timestamp().rem_euclid(86_400) == 86_399
        && tomorrow.as_ref().is_some_and(|day: &NaiveDate| day.day() == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_and_have_a_shard_in_every_year() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00.123456789z", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:59:59.5-00:00", -1),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
            ("0000-01-01T00:00:00+23:59", -62_167_305_540),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139),
            ("2016-12-31T23:59:60Z", 1_483_228_799),
            ("2017-01-01T00:59:60.5+01:00", 1_483_228_799),
            ("2000-02-29T00:00:00Z", 951_782_400),
        ] {
            assert_eq!(unix_seconds(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_timestamp_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-22",
            "2026-11-22T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:60:00Z",
            "2026-11-22T00:00:61Z",
            "2026-11-22T12:30:60Z",
            "2026-11-22T23:59:60Z",
            "2026-11-22T00:00:00+24:00",
            "10000-01-01T00:00:00Z",
            "-0001-01-01T00:00:00Z",
            "2026-11-22T00:00:00.Z",
            " 2026-11-22T00:00:00Z",
            "2026-11-22T00:00:00Z ",
            "2026-11-22T00:00Z",
            "20261122T000000Z",
            "1763769600",
            "2026-11-22T00:00:00+0100",
            "2026-11-22T00:00:00\u{2212}01:00",
        ] {
            assert!(matches!(unix_seconds(text), Err(Wrong::Timestamp(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_usual_timestamps_are_read_as_the_parser_of_all_shapes_reads_them(
            text in "[0-9]{3}[0-9.][-/][0-3][0-9]-[0-3][0-9][Tt][0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z",
        ) {
            if let Some(unix_seconds) = usual(&text) {
                let parsed = DateTime::parse_from_rfc3339(&text).map(|at| at.timestamp());
                prop_assert_eq!(parsed, Ok(unix_seconds));
            }
        }
    }

    #[test]
    fn the_usual_shape_takes_the_quick_road() {
        assert_eq!(usual("2026-11-22T07:30:00Z"), Some(1_795_332_600));
        assert_eq!(usual("2026-11-22T07:30:00.5Z"), None);
    }
}
