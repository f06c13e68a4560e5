//! Datagrams that are sent in one go, all of one length, so that the kernel can cut them apart.

use std::iter::repeat_n;
use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};

use super::super::datagram;

/// The most datagrams of a volley: what every kernel takes as one (`UDP_MAX_SEGMENTS` before Linux
/// 6.9).
pub const VOLLEY_DATAGRAMS: usize = 64;
/// What a battery of R2's ships may have, in volts.
const VALUES: RangeInclusive<u8> = 5..=30;

/// Makes the datagrams of a stream in their order, and holds those that are not sent yet.
#[derive(Debug)]
pub struct Volley {
    random: fastrand::Rng,
    /// The number of the next datagram that is made.
    sequence: u64,
    text: String,
    datagram_bytes: usize,
    sent_bytes: usize,
}

impl Volley {
    /// The datagrams of a seed: the same values for the same one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            sequence: 0,
            text: String::new(),
            datagram_bytes: 0,
            sent_bytes: 0,
        }
    }

    /// Makes the next `count` datagrams, measured `at` this time, in place of the last ones.
    pub fn load(&mut self, at: DateTime<Utc>, count: u64) {
        self.text.clear();
        self.sent_bytes = 0;
        let last = self.sequence.saturating_add(count.saturating_sub(1));
        datagram::write(&mut self.text, at, *VALUES.end(), last);
        self.datagram_bytes = self.text.len();
        self.text.clear();
        for _ in 0..count {
            let end = self.text.len().saturating_add(self.datagram_bytes);
            datagram::write(&mut self.text, at, self.random.u8(VALUES), self.sequence);
            let shorter = end.saturating_sub(self.text.len());
            self.text.extend(repeat_n(' ', shorter));
            self.sequence = self.sequence.saturating_add(1);
        }
    }

    /// What is not sent yet: datagrams of [`Volley::datagram_bytes`] each, one behind the other.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.text.as_bytes().get(self.sent_bytes..).unwrap_or_default()
    }

    /// The bytes of a datagram.
    #[must_use]
    pub const fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// So many more are sent.
    pub fn sent(&mut self, datagrams: usize) {
        let bytes = datagrams.saturating_mul(self.datagram_bytes);
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> DateTime<Utc> {
        "2026-11-22T07:30:00.000123Z".parse().unwrap()
    }

    fn values(volley: &Volley) -> Vec<(u64, f64)> {
        let datagrams = volley.unsent().chunks(volley.datagram_bytes());
        let read = datagrams.map(|datagram| datagram::read(datagram).unwrap());
        read.map(|reading| (reading.sequence.unwrap(), reading.value)).collect()
    }

    #[test]
    fn datagrams_of_a_volley_are_of_one_length_and_count_on() {
        let mut volley = Volley::new(7);
        let mut next = 0;
        for count in [1, 8, 64, 63, 1] {
            volley.load(at(), count);
            let found = values(&volley);
            assert_eq!(found.len() as u64, count);
            for (sequence, value) in found {
                assert_eq!(sequence, next);
                assert!((5.0..=30.0).contains(&value) && value.fract() == 0.0);
                next += 1;
            }
        }
    }

    #[test]
    fn a_seed_says_which_values_follow() {
        let draw = |seed, counts: &[u64]| -> Vec<(u64, f64)> {
            let mut volley = Volley::new(seed);
            let draw = counts.iter().flat_map(|count| {
                volley.load(at(), *count);
                values(&volley)
            });
            draw.collect()
        };
        assert_eq!(draw(7, &[10, 20]), draw(7, &[29, 1]));
        assert_ne!(draw(7, &[30]), draw(8, &[30]));
        let many = draw(1, &[5000]);
        let found: std::collections::BTreeSet<u64> =
            many.iter().map(|(_, value)| value.to_bits()).collect();
        assert_eq!(found.len(), 26, "every value from 5 to 30");
    }

    #[test]
    fn what_was_not_taken_stays_to_be_sent() {
        let mut volley = Volley::new(7);
        volley.load(at(), 10);
        let all = values(&volley);
        volley.sent(3);
        assert_eq!(values(&volley), all[3..]);
        volley.sent(7);
        assert_eq!(volley.unsent(), b"");
    }
}
