//! What became of every datagram of a capture, so that the sum is right. Pure.
//!
//! ```text
//! sent = stored (once) + malformed + truncated + lost
//! ```
//!
//! Of each datagram that comes from the ship one thing is said, in this order: too long, it is
//! *truncated*; what is no telemetry is *malformed*; a number that has come before is a
//! *duplicate*; the rest is new, and *stored* once storage has confirmed it. What comes from
//! elsewhere is *foreign*. *Lost* is what is left of what the ship says to have sent: on the way,
//! in the kernel, or because storage did not take it in time.
//!
//! Whether a number has come before is known for the [`WINDOW`] numbers up to the highest one. A
//! number below them comes so late that this is not known any more. It counts as a duplicate, so
//! that nothing is stored twice: if it was none, it is lost, and the sum is right either way. What
//! has no number (R2's ships do not count) is always new.
//!
//! A ship's count cannot be true if more has come than it says to have sent, or a number that it
//! cannot have reached: then somebody forges its address. `sent` and `lost` are not known then, as
//! when a ship does not count.

use serde::{Deserialize, Serialize};

/// How many numbers, up to the highest that came, are known one by one.
pub const WINDOW: u64 = WORDS as u64 * WORD_BITS;

const WORD_BITS: u64 = u64::BITS as u64;
/// 128 KiB of them.
const WORDS: usize = 1 << 14;

/// Which numbers of a stream have come. One bit each, at the number modulo [`WINDOW`].
#[derive(Debug)]
struct Numbers {
    bits: Box<[u64]>,
    /// One past the highest number that came.
    end: u128,
}

impl Numbers {
    fn new() -> Self {
        Self { bits: vec![0; WORDS].into_boxed_slice(), end: 0 }
    }

    /// Notes a number; false if it came before, or may have.
    fn note(&mut self, number: u64) -> bool {
        let wide = u128::from(number);
        if wide + u128::from(WINDOW) < self.end {
            return false;
        }
        self.advance(wide + 1);
        let bit = 1 << (number % WORD_BITS);
        let Some(word) = self.word(number) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Moves the window up to `end`: what enters it has not come.
    fn advance(&mut self, end: u128) {
        let mut next = self.end.max(end.saturating_sub(u128::from(WINDOW)));
        while next < end {
            // The remainder is below WINDOW.
            let number = u64::try_from(next % u128::from(WINDOW)).unwrap_or(0);
            let is_whole_word =
                number.is_multiple_of(WORD_BITS) && end - next >= u128::from(WORD_BITS);
            let Some(word) = self.word(number) else { return };
            if is_whole_word {
                *word = 0;
                next += u128::from(WORD_BITS);
            } else {
                *word &= !(1 << (number % WORD_BITS));
                next += 1;
            }
        }
        self.end = self.end.max(end);
    }

    fn word(&mut self, number: u64) -> Option<&mut u64> {
        let index = number % WINDOW / WORD_BITS;
        self.bits.get_mut(usize::try_from(index).ok()?)
    }
}

/// The account of a capture while it runs: of one stream after the other.
#[derive(Debug)]
pub struct Account {
    numbers: Numbers,
    /// New, malformed and truncated ones of this stream.
    of_stream: u64,
    /// Of the streams that have ended, if all of their counts are known.
    sent: Option<u64>,
    malformed: u64,
    truncated: u64,
    duplicates: u64,
    foreign: u64,
    dropped_by_kernel: u64,
    /// What the kernel said last: its count is of 32 bits, and begins anew after them.
    kernel_said: u32,
}

/// The account of a capture that has ended. The keys of its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Datagrams that the ship has sent; `None` if it does not say so.
    pub sent: Option<u64>,
    /// Datagrams that are stored, once each.
    pub stored: u64,
    /// Datagrams that are no telemetry.
    pub malformed: u64,
    /// Datagrams that were too long.
    pub truncated: u64,
    /// Datagrams that were sent and not received, or not stored.
    pub lost: Option<u64>,
    /// Datagrams that came again.
    pub duplicates: u64,
    /// Datagrams that came from elsewhere.
    pub foreign: u64,
    /// Drops that the kernel told, for want of room in the receive buffer. It tells them with the
    /// next datagram: those after the last one are not among them.
    pub dropped_by_kernel: u64,
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}

impl Account {
    /// An account of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            numbers: Numbers::new(),
            of_stream: 0,
            sent: Some(0),
            malformed: 0,
            truncated: 0,
            duplicates: 0,
            foreign: 0,
            dropped_by_kernel: 0,
            kernel_said: 0,
        }
    }

    /// Telemetry came; whether it is to be stored.
    pub fn telemetry(&mut self, sequence: Option<u64>) -> bool {
        let is_new = sequence.is_none_or(|number| self.numbers.note(number));
        if is_new {
            self.of_stream += 1;
        } else {
            self.duplicates += 1;
        }
        is_new
    }

    /// Something that is no telemetry came.
    pub const fn malformed(&mut self) {
        self.malformed += 1;
        self.of_stream += 1;
    }

    /// Something too long came.
    pub const fn truncated(&mut self) {
        self.truncated += 1;
        self.of_stream += 1;
    }

    /// Something came from elsewhere.
    pub const fn foreign(&mut self) {
        self.foreign += 1;
    }

    /// How many the kernel says to have dropped, ever.
    pub fn kernel_dropped(&mut self, ever: u32) {
        self.dropped_by_kernel += u64::from(ever.wrapping_sub(self.kernel_said));
        self.kernel_said = ever;
    }

    /// How many of what this stream has sent have come so far.
    #[must_use]
    pub const fn come(&self) -> u64 {
        self.of_stream
    }

    /// The stream has ended, after so many datagrams; another one may begin, from 0. Whether that
    /// count may be true.
    pub fn end_stream(&mut self, sent: Option<u64>) -> bool {
        let may_be = |sent: u64| self.of_stream <= sent && self.numbers.end <= u128::from(sent);
        let is_refuted = sent.is_some_and(|sent| !may_be(sent));
        let counted = sent.filter(|_| !is_refuted);
        self.sent = self.sent.zip(counted).and_then(|(all, one)| all.checked_add(one));
        self.of_stream = 0;
        self.numbers = Numbers::new();
        !is_refuted
    }

    /// What it comes to, when so many datagrams are stored: of those that were new, at most all.
    #[must_use]
    pub fn close(&self, stored: u64) -> Sums {
        let Self { malformed, truncated, duplicates, foreign, dropped_by_kernel, .. } = *self;
        let found = stored + malformed + truncated;
        Sums {
            sent: self.sent,
            stored,
            malformed,
            truncated,
            lost: self.sent.map(|sent| sent.saturating_sub(found)),
            duplicates,
            foreign,
            dropped_by_kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Come {
        Telemetry(Option<u64>),
        Malformed,
        Truncated,
        Foreign,
        Dropped(u32),
        End(Option<u64>),
    }

    fn come() -> impl Strategy<Value = Come> {
        let number = prop_oneof![
            8 => 0_u64..200,
            2 => WINDOW - 100..WINDOW * 2 + 100,
            1 => Just(u64::MAX),
            1 => any::<u64>(),
        ];
        let sent = prop_oneof![0_u64..300, Just(u64::MAX), any::<u64>()];
        prop_oneof![
            20 => proptest::option::weighted(0.9, number).prop_map(Come::Telemetry),
            2 => Just(Come::Malformed),
            2 => Just(Come::Truncated),
            2 => Just(Come::Foreign),
            2 => any::<u32>().prop_map(Come::Dropped),
            1 => proptest::option::weighted(0.9, sent).prop_map(Come::End),
        ]
    }

    proptest! {
        #[test]
        fn the_sum_is_right_whatever_comes_and_nothing_is_stored_twice(
            all in proptest::collection::vec(come(), 0..400),
            share in 0.0..=1.0,
        ) {
            let (mut account, mut seen, mut new) = (Account::new(), HashSet::new(), 0_u64);
            for come in all {
                match come {
                    Come::Telemetry(sequence) => {
                        let is_new = account.telemetry(sequence);
                        new += u64::from(is_new);
                        if let Some(number) = sequence {
                            prop_assert!(!is_new || seen.insert(number), "{number} twice");
                        }
                    }
                    Come::Malformed => account.malformed(),
                    Come::Truncated => account.truncated(),
                    Come::Foreign => account.foreign(),
                    Come::Dropped(ever) => account.kernel_dropped(ever),
                    Come::End(sent) => {
                        account.end_stream(sent);
                        seen.clear();
                    }
                }
            }
            account.end_stream(Some(u64::MAX - 1));
            #[expect(
                clippy::cast_possible_truncation, clippy::cast_sign_loss,
                clippy::cast_precision_loss, reason = "a share of a few hundred"
            )]
            let stored = (new as f64 * share) as u64;
            let sums = account.close(stored);
            prop_assert_eq!(sums.sent.is_some(), sums.lost.is_some());
            if let (Some(sent), Some(lost)) = (sums.sent, sums.lost) {
                prop_assert_eq!(sent, sums.stored + sums.malformed + sums.truncated + lost);
            }
        }

        #[test]
        fn within_the_window_each_number_is_new_exactly_once(
            start in prop_oneof![Just(0), Just(u64::MAX - 3000), any::<u64>()],
            numbers in proptest::collection::vec(0_u64..3000, 0..2000),
        ) {
            let (mut known, mut seen) = (Numbers::new(), HashSet::new());
            for number in numbers.into_iter().filter_map(|number| start.checked_add(number)) {
                prop_assert_eq!(known.note(number), seen.insert(number), "{}", number);
            }
        }
    }

    #[test]
    fn a_stream_in_order_that_is_longer_than_the_window_is_all_new() {
        let mut account = Account::new();
        for number in 0..3 * WINDOW {
            assert!(account.telemetry(Some(number)), "{number}");
        }
        assert!((2 * WINDOW..3 * WINDOW).all(|number| !account.telemetry(Some(number))));
        assert!(account.end_stream(Some(3 * WINDOW)));
        let sums = account.close(3 * WINDOW);
        assert_eq!((sums.lost, sums.duplicates), (Some(0), WINDOW));
    }

    #[test]
    fn what_comes_later_than_the_window_is_lost_and_not_stored_twice() {
        let mut account = Account::new();
        assert!(account.telemetry(Some(WINDOW)));
        assert!(account.telemetry(Some(1)), "the lowest that is known");
        assert!(!account.telemetry(Some(0)));
        account.end_stream(Some(WINDOW + 1));
        let sums = account.close(2);
        assert_eq!((sums.lost, sums.duplicates), (Some(WINDOW - 1), 1));
    }

    #[test]
    fn after_a_gap_longer_than_the_window_nothing_is_taken_for_known() {
        let mut numbers = Numbers::new();
        assert!((0..WINDOW).all(|number| numbers.note(number)));
        let far = 5 * WINDOW + 17;
        assert!(numbers.note(far));
        assert!((far - WINDOW + 1..far).all(|number| numbers.note(number)));
        assert!(numbers.note(u64::MAX) && !numbers.note(u64::MAX) && !numbers.note(far));
    }

    #[test]
    fn a_count_that_cannot_be_true_is_not_repeated() {
        let come = |numbers: &[u64], sent| {
            let mut account = Account::new();
            numbers.iter().for_each(|number| assert!(account.telemetry(Some(*number))));
            (account.end_stream(Some(sent)), account.close(0).sent)
        };
        assert_eq!(come(&[0, 1, 4], 5), (true, Some(5)));
        assert_eq!(come(&[0, 1, 5], 5), (false, None), "it cannot have come so far");
        assert_eq!(come(&[0, 1, u64::MAX], u64::MAX), (false, None));
        let mut account = Account::new();
        (0..3).for_each(|_| account.malformed());
        assert!(!account.end_stream(Some(2)), "more has come");
        assert_eq!(account.close(0).lost, None);
    }

    #[test]
    fn a_ship_that_does_not_count_is_stored_and_nothing_is_said_of_what_is_lost() {
        let mut account = Account::new();
        assert!((0..5).all(|_| account.telemetry(None)));
        assert!(account.end_stream(None));
        let sums = account.close(5);
        assert_eq!((sums.sent, sums.lost, sums.stored), (None, None, 5));
    }

    #[test]
    fn streams_are_summed_and_their_numbers_are_their_own() {
        let mut account = Account::new();
        for sent in [3, 4] {
            assert!((0..3).all(|number| account.telemetry(Some(number))));
            assert_eq!(account.come(), 3);
            account.end_stream(Some(sent));
        }
        let sums = account.close(6);
        assert_eq!((sums.sent, sums.lost), (Some(7), Some(1)));
    }

    #[test]
    fn the_kernels_count_goes_on_beyond_32_bits() {
        let mut account = Account::new();
        [7, u32::MAX, 2].into_iter().for_each(|ever| account.kernel_dropped(ever));
        assert_eq!(account.close(0).dropped_by_kernel, (1 << 32) + 2);
    }
}
