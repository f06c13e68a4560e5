//! Reading a stored line: what ship, when, how much.
//!
//! Lines that our ships send are of one form, and are read by comparing with it, some ten times as
//! fast as JSON in general. Whatever deviates from the form in any byte is read as JSON.

use chrono::{NaiveDate, NaiveTime};

use crate::rooms::telemetry::datagram::{self, DESCRIPTION, UNIT};
use crate::rooms::telemetry::ship::ShipName;

/// What is read of a line, but for its ship.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Read {
    /// When it was measured, in microseconds since 1970.
    pub(super) at_us: i64,
    /// What was measured; finite.
    pub(super) value: f64,
}

/// Reads a line as JSON.
pub(super) fn read(line: &[u8]) -> Option<(ShipName, Read)> {
    let (ship, reading) = datagram::read_line(line)?;
    Some((ship, Read { at_us: reading.at.timestamp_micros(), value: reading.value }))
}

const SECOND_BYTES: usize = "2026-11-22T07:30:00".len();

/// Reads lines of the common form; remembers the last second, since the next is mostly the same.
#[derive(Debug)]
pub(super) struct CommonForm {
    /// What stands between timestamp and value.
    middle: Vec<u8>,
    /// What stands between value and sequence number, and where there is none.
    tail: Vec<u8>,
    end: Vec<u8>,
    second: [u8; SECOND_BYTES],
    second_us: i64,
}

impl CommonForm {
    pub(super) fn new() -> Self {
        let middle = format!("Z\",\"description\":\"{DESCRIPTION}\",\"value\":");
        let end = format!(",\"unit\":\"{UNIT}\"}}");
        let tail = format!(",\"unit\":\"{UNIT}\",\"sequence\":");
        Self {
            middle: middle.into_bytes(),
            tail: tail.into_bytes(),
            end: end.into_bytes(),
            second: [0; SECOND_BYTES],
            second_us: 0,
        }
    }

    /// Reads a line, without its end, that begins with the `head` of a ship; `None` if it has not
    /// the common form.
    pub(super) fn read(&mut self, line: &[u8], head: &[u8]) -> Option<Read> {
        let rest = line.strip_prefix(head)?.strip_prefix(b"\"timestamp\":\"")?;
        let (second, rest) = rest.split_first_chunk::<SECOND_BYTES>()?;
        let (micros, rest) = rest.strip_prefix(b".")?.split_first_chunk::<6>()?;
        let micros = number(micros)?;
        let rest = rest.strip_prefix(self.middle.as_slice())?;
        let (value, rest) = whole_number(rest, 9)?;
        if rest != self.end {
            let (_, rest) = whole_number(rest.strip_prefix(self.tail.as_slice())?, 18)?;
            if rest != b"}" {
                return None;
            }
        }
        if *second != self.second {
            self.second_us = unix_us(second)?;
            self.second = *second;
        }
        let value = i32::try_from(value).ok()?.into();
        Some(Read { at_us: self.second_us + i64::try_from(micros).ok()?, value })
    }
}

/// A number in JSON, without sign or fraction, of so many digits at most; and what follows it.
fn whole_number(bytes: &[u8], digits_max: usize) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = bytes.split_at(digits);
    let is_sound = digits.len() <= digits_max && (digits.len() == 1 || !digits.starts_with(b"0"));
    Some((number(digits)?, rest)).filter(|_| is_sound && !digits.is_empty())
}

/// The value of digits, few enough to fit.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// Microseconds since 1970 of `2026-11-22T07:30:00`.
fn unix_us(second: &[u8; SECOND_BYTES]) -> Option<i64> {
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', rest @ ..] = second else {
        return None;
    };
    let [h0, h1, b':', n0, n1, b':', s0, s1] = rest else { return None };
    let part = |digits: &[u8]| u32::try_from(number(digits)?).ok();
    let year = i32::try_from(part(&[*y0, *y1, *y2, *y3])?).ok()?;
    let date = NaiveDate::from_ymd_opt(year, part(&[*m0, *m1])?, part(&[*d0, *d1])?)?;
    // No leap second: it is read as JSON.
    let time = NaiveTime::from_hms_opt(part(&[*h0, *h1])?, part(&[*n0, *n1])?, part(&[*s0, *s1])?)?;
    Some(date.and_time(time).and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn both(line: &[u8], ship: &str) -> (Option<Read>, Option<Read>) {
        let head = datagram::line_head(&ship.parse().unwrap());
        let fast = CommonForm::new().read(line, head.as_bytes());
        let slow = read(line).filter(|(found, _)| found.as_str() == ship);
        (fast, slow.map(|(_, read)| read))
    }

    #[test]
    fn what_our_ships_send_has_the_common_form() {
        let at = DateTime::parse_from_rfc3339("2026-11-22T07:30:00.000123Z").unwrap();
        let mut datagram = String::new();
        datagram::write(&mut datagram, at.to_utc(), 17, 42);
        let mut line = Vec::new();
        let ship = "The \"E\"";
        datagram::append_line(
            &mut line,
            &datagram::line_head(&ship.parse().unwrap()),
            datagram.as_bytes(),
        );
        let (fast, slow) = both(line.trim_ascii_end(), ship);
        assert_eq!(fast, Some(Read { at_us: at.timestamp_micros(), value: 17.0 }));
        assert_eq!(fast, slow);
    }

    proptest! {
        /// Of the common form or not: what is read by it, JSON reads in the same way.
        #[test]
        fn the_common_form_reads_as_json_does(
            year in "(19|20)[0-9]{2}|0000|9999",
            rest in "[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]",
            micros in "\\.[0-9]{5,7}|\\.[0-9]{6}",
            value in "-?[0-9]{1,11}|[1-9][0-9]?|1e3|0\\.5",
            tail in prop_oneof![
                Just(String::new()),
                "[0-9]{1,20}".prop_map(|number| format!(",\"sequence\":{number}")),
                Just(",\"sequence\":1,\"value\":2".to_owned()),
            ],
            cut in prop::option::of(0_usize..150),
            byte in any::<u8>(),
        ) {
            let mut line = format!(
                "{{\"ship\":\"TARDIS\",\"timestamp\":\"{year}-{rest}{micros}Z\",\
                 \"description\":\"{DESCRIPTION}\",\"value\":{value},\"unit\":\"{UNIT}\"{tail}}}"
            ).into_bytes();
            if let Some(place) = cut.and_then(|cut| line.get_mut(cut)) {
                *place = byte;
            }
            let (fast, slow) = both(&line, "TARDIS");
            if fast.is_some() {
                prop_assert_eq!(fast, slow, "{}", String::from_utf8_lossy(&line));
            }
        }
    }

    #[test]
    fn a_second_is_not_taken_for_the_one_before() {
        let mut form = CommonForm::new();
        let head = b"{\"ship\":\"a\",";
        let mut at = |second: u32| {
            let line = format!(
                "{{\"ship\":\"a\",\"timestamp\":\"2026-11-22T07:30:{second:02}.000001Z\",\
                 \"description\":\"{DESCRIPTION}\",\"value\":5,\"unit\":\"{UNIT}\"}}"
            );
            form.read(line.as_bytes(), head).map(|read| read.at_us)
        };
        let first = at(0).unwrap();
        assert_eq!(
            [at(1), at(60), at(1), at(0)],
            [Some(first + 1_000_000), None, Some(first + 1_000_000), Some(first),]
        );
    }
}
