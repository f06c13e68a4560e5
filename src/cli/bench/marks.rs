//! How the messages of a run are told from all others, and from each other, in 51 bytes.
//!
//! ```text
//! {"timestamp":"1987-03-09T14:22:07Z","value":"0aF_"}
//!               run's window, a second of it   counter, 64 signs a digit; dots fill what is left
//! ```
//!
//! A run draws a window of seconds between 1970 and 2008 at random: with a minute, two runs share a
//! second once in ten million. Message number n has the second `n % spread` of the window, so that
//! all shards get the same load, and the counter `n / spread`.

use std::io;

use chrono::{DateTime, SecondsFormat};

const HEAD: &[u8] = b"{\"timestamp\":\"";
const MIDDLE: &[u8] = b"\",\"value\":\"";
const TAIL: &[u8] = b"\"}";
const TIMESTAMP_BYTES: usize = 20;
const DATE_BYTES: usize = 11;
const TIMESTAMP_AT: usize = HEAD.len();
const VALUE_AT: usize = TIMESTAMP_AT + TIMESTAMP_BYTES + MIDDLE.len();
/// More are never needed: 64^8 times a second.
const DIGITS_MAX: usize = 8;
const SIGNS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
/// Days from 1970 to 2008.
const DAYS: u64 = 14_000;
const DAY_SECONDS: u32 = 24 * 60 * 60;

/// The least bytes of an entry: a counter of four digits.
pub(super) const ENTRY_BYTES_MIN: usize = VALUE_AT + 4 + TAIL.len();
/// The most seconds of a window: a day has them all.
pub(super) const SPREAD_SECONDS_MAX: u32 = DAY_SECONDS / 2;

/// The marks of one run.
#[derive(Debug, Clone)]
pub(super) struct Marks {
    entry_bytes: usize,
    digits: usize,
    /// The date and its `T`, which all seconds of the window share.
    date: Vec<u8>,
    first_second: u32,
    /// The timestamps of the window, in order.
    timestamps: Vec<Vec<u8>>,
}

impl Marks {
    /// Marks of a run that nothing else shares.
    ///
    /// # Errors
    /// The kernel gives no random bits.
    pub(super) fn random(spread_seconds: u32, entry_bytes: usize) -> io::Result<Self> {
        let mut bits = [0; 8];
        rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self::new(u64::from_ne_bytes(bits), spread_seconds, entry_bytes))
    }

    /// Marks drawn by `random`: from 1 to [`SPREAD_SECONDS_MAX`] seconds, at least
    /// [`ENTRY_BYTES_MIN`] bytes an entry.
    fn new(random: u64, spread_seconds: u32, entry_bytes: usize) -> Self {
        let spread = spread_seconds.clamp(1, SPREAD_SECONDS_MAX);
        let day = random % DAYS;
        let starts = u64::from(DAY_SECONDS - spread) + 1;
        let first_second = u32::try_from(random / DAYS % starts).unwrap_or(0);
        let timestamp = |second: u32| {
            let unix = day * u64::from(DAY_SECONDS) + u64::from(second);
            let at = i64::try_from(unix).ok().and_then(|unix| DateTime::from_timestamp(unix, 0));
            at.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true).into_bytes()
        };
        let timestamps: Vec<_> = (first_second..first_second + spread).map(timestamp).collect();
        let date = timestamps.first().and_then(|first| first.get(..DATE_BYTES));
        let entry_bytes = entry_bytes.max(ENTRY_BYTES_MIN);
        Self {
            entry_bytes,
            digits: (entry_bytes - VALUE_AT - TAIL.len()).min(DIGITS_MAX),
            date: date.unwrap_or_default().to_vec(),
            first_second,
            timestamps,
        }
    }

    /// How many messages can be told apart.
    pub(super) fn capacity(&self) -> u64 {
        let counters = 1_u64 << (6 * self.digits);
        counters.saturating_mul(self.timestamps.len() as u64)
    }

    /// The first timestamp of the window, which names the run.
    pub(super) fn name(&self) -> String {
        let first = self.timestamps.first().map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(first).into_owned()
    }

    /// An entry whose marks are still to be written.
    pub(super) fn blank(&self) -> Vec<u8> {
        let mut entry = HEAD.to_vec();
        entry.resize(TIMESTAMP_AT + TIMESTAMP_BYTES, b'0');
        entry.extend_from_slice(MIDDLE);
        entry.resize(self.entry_bytes - TAIL.len(), b'.');
        entry.extend_from_slice(TAIL);
        entry
    }

    /// Makes `entry`, once [`Self::blank`], message number `number`.
    pub(super) fn write(&self, entry: &mut [u8], number: u64) {
        let spread = self.timestamps.len().max(1) as u64;
        let second = usize::try_from(number % spread).unwrap_or(0);
        let place = entry.get_mut(TIMESTAMP_AT..TIMESTAMP_AT + TIMESTAMP_BYTES);
        if let (Some(place), Some(timestamp)) = (place, self.timestamps.get(second)) {
            place.copy_from_slice(timestamp);
        }
        let mut counter = number / spread;
        let place = entry.get_mut(VALUE_AT..VALUE_AT + self.digits).unwrap_or_default();
        for digit in place.iter_mut().rev() {
            let sign = usize::try_from(counter % 64).unwrap_or(0);
            *digit = SIGNS.get(sign).copied().unwrap_or(b'0');
            counter /= 64;
        }
    }

    /// The number of the message that `line` is; `None` if it is not of this run.
    pub(super) fn read(&self, line: &[u8]) -> Option<u64> {
        let rest = line.strip_prefix(HEAD)?.strip_prefix(self.date.as_slice())?;
        let (time, rest) = rest.split_at_checked(TIMESTAMP_BYTES - DATE_BYTES)?;
        let [h1, h2, b':', m1, m2, b':', s1, s2, b'Z'] = *time else { return None };
        let two = |tens: u8, ones: u8| {
            let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
            digits.then(|| u32::from(tens - b'0') * 10 + u32::from(ones - b'0'))
        };
        let second = two(h1, h2)? * 3600 + two(m1, m2)? * 60 + two(s1, s2)?;
        let second = u64::from(second.checked_sub(self.first_second)?);
        let spread = self.timestamps.len() as u64;
        if second >= spread || line.len() != self.entry_bytes {
            return None;
        }
        let digits = rest.strip_prefix(MIDDLE)?.get(..self.digits)?;
        let mut counter = 0_u64;
        for digit in digits {
            counter = counter << 6 | u64::from(value(*digit)?);
        }
        counter.checked_mul(spread)?.checked_add(second)
    }
}

const fn value(sign: u8) -> Option<u8> {
    match sign {
        b'0'..=b'9' => Some(sign - b'0'),
        b'A'..=b'Z' => Some(sign - b'A' + 10),
        b'a'..=b'z' => Some(sign - b'a' + 36),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::rooms::messages::entry::read_array;

    #[test]
    fn the_smallest_entry_has_51_bytes_and_is_taken() {
        let marks = Marks::new(7, 60, 0);
        assert_eq!((marks.entry_bytes, ENTRY_BYTES_MIN), (51, 51));
        assert_eq!(marks.capacity(), 60 << 24);
        let mut entry = marks.blank();
        marks.write(&mut entry, marks.capacity() - 1);
        let body = [b"[", entry.as_slice(), b"]"].concat();
        assert_eq!(read_array(&body, NonZeroU16::MIN).unwrap().count(), 1);
    }

    #[test]
    fn all_shards_get_the_same_load() {
        let marks = Marks::new(99, 60, 51);
        let entries: Vec<_> = (0..120)
            .map(|number| {
                let mut entry = marks.blank();
                marks.write(&mut entry, number);
                String::from_utf8(entry).unwrap()
            })
            .collect();
        let body = format!("[{}]", entries.join(","));
        let parts = read_array(body.as_bytes(), NonZeroU16::new(5).unwrap()).unwrap().into_parts();
        assert!(parts.len() == 5 && parts.iter().all(|(_, lines)| lines.count == 24));
    }

    #[test]
    fn what_others_write_is_not_of_the_run() {
        let marks = Marks::new(7, 60, 51);
        let other = Marks::new(8, 60, 51);
        let mut line = other.blank();
        other.write(&mut line, 3);
        assert_eq!((marks.read(&line), other.read(&line)), (None, Some(3)));
        for line in [&b""[..], b"{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"0000\"}"] {
            assert_eq!(marks.read(line), None);
        }
    }

    proptest! {
        #[test]
        fn every_number_reads_back(
            random: u64,
            spread in 1..=SPREAD_SECONDS_MAX.min(500),
            entry_bytes in ENTRY_BYTES_MIN..200,
            number: u64,
        ) {
            let marks = Marks::new(random, spread, entry_bytes);
            let number = number % marks.capacity();
            let mut line = marks.blank();
            marks.write(&mut line, number);
            prop_assert_eq!(line.len(), entry_bytes);
            prop_assert_eq!(marks.read(&line), Some(number));
        }
    }
}
