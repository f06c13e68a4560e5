//! Factorials, exactly, in decimal: on all cores, cancellable, in memory of a few bytes per digit.
//!
//! # How
//!
//! The usual way is to multiply in binary and to convert, and the conversion takes several times as
//! long as the product. Here numbers are decimal from the start (`decimal`), so nothing has to be
//! converted. The factorial is put together from the powers of its primes (`sieve`, `product`);
//! large numbers are multiplied (`multiply`) by number-theoretic transforms (`transform`, with
//! its `length`, its `passes` and its `field`), modulo two primes, each on a thread of its
//! own, and on more threads if there are; and `digits` writes the result.
//!
//! # Limits
//!
//! Memory that runs out ends the process, as everywhere in Rust. [`digits_estimate`] tells
//! beforehand how large a result will be; the computation takes some 5 bytes per digit of it.
//! Whoever lets strangers choose `n` runs it in a process of its own, with a limit.

mod decimal;
mod digits;
mod field;
#[cfg(feature = "gmp")]
pub mod gmp;
mod length;
mod multiply;
mod passes;
mod product;
mod progress;
mod sieve;
mod threads;
mod transform;

use std::f64::consts::{LN_10, TAU};
use std::io::{self, Write};
use std::num::NonZeroUsize;

use thiserror::Error;

use digits::Digits;
use product::Factorization;
use progress::Cancelled;

pub use progress::Progress;

/// Why there is no factorial, or not all of it.
#[derive(Debug, Error)]
pub enum FactorialError {
    /// [`Progress::cancel`] was called.
    #[error("the computation was cancelled")]
    Cancelled,
    /// The number is 2^32 or more: its factorial would have more than 39 billion digits.
    #[error("the number is too large, its factorial cannot be computed")]
    TooLarge,
    /// The digits could not be written.
    #[error("the digits could not be written: {0}")]
    Io(#[from] io::Error),
}

impl From<Cancelled> for FactorialError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Writes `n!` in decimal, without a newline, to `sink`, and returns the number of digits.
///
/// It uses up to that many threads, and none but the caller's as long as `n` is small. What was
/// written before an error is the start of the digits, or nothing.
///
/// # Errors
///
/// See [`FactorialError`]; an error of the sink ends it.
pub fn write_factorial(
    n: u64,
    threads: NonZeroUsize,
    progress: &Progress,
    sink: &mut dyn Write,
) -> Result<u64, FactorialError> {
    let n = u32::try_from(n).map_err(|_| FactorialError::TooLarge)?;
    let factorization = Factorization::of_factorial(n, progress)?;
    let output = digits::work(factorization.limbs() as u64);
    progress.plan(factorization.work().saturating_add(output));
    let product = factorization.multiply(threads.get(), progress)?;
    let mut digits = Digits::new(progress, sink);
    digits.number(&product)?;
    digits.zeros(factorization.zeros() as usize)?;
    let count = digits.finish()?;
    progress.finish();
    Ok(count)
}

/// The number of digits of `n!`, without computing it.
///
/// By Stirling's series up to its third term, which is an upper bound (H. Robbins, "A remark on
/// Stirling's formula", 1955), and a margin for rounding: it is the number itself, or the number
/// and 1 if the factorial is only just below a power of ten. From 10^15 on it is a rough figure.
pub fn digits_estimate(n: u64) -> u64 {
    let n = n.max(1) as f64;
    let logarithm = n * (n.ln() - 1.0) + (TAU * n).ln() / 2.0 + 1.0 / (12.0 * n);
    let digits = logarithm / LN_10;
    rounded_down(digits * (1.0 + 4.0 * f64::EPSILON)).saturating_add(1)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
fn rounded_down(number: f64) -> u64 {
    number as u64
}

/// The name of the arithmetic in use.
pub const fn backend() -> &'static str {
    "decimal number-theoretic transforms"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    /// Threads, n, digits, and SHA-256 of the digits as Python's `math.factorial` has them.
    const LARGE: [(usize, u64, usize, &str); 3] = [
        (1, 1000, 2568, "cc336cf135d690c1105664b3b859db66b940db51cd66cf891fee120584cf7873"),
        (1, 10_000, 35_660, "f17f312be51414ec57f0fda0b1589003663a505df1ef2aafac40bb3be2e46c8e"),
        (3, 100_000, 456_574, "820239691ef9b4887957093bb745a1ac33d3184b272db3e9a0d0a37062a13399"),
    ];

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    fn factorial(n: u64, count: usize) -> String {
        let (progress, mut digits) = (Progress::default(), Vec::new());
        let written = write_factorial(n, threads(count), &progress, &mut digits).unwrap();
        assert_eq!(written, digits.len() as u64);
        String::from_utf8(digits).unwrap()
    }

    /// Multiplies, in base 10^9, by one number after the other.
    struct Naive {
        n: u64,
        limbs: Vec<u64>,
    }

    impl Naive {
        fn new() -> Self {
            Self { n: 0, limbs: vec![1] }
        }

        fn advance_to(&mut self, n: u64) -> String {
            while self.n < n {
                self.n += 1;
                let mut carry = 0;
                for limb in &mut self.limbs {
                    let product = *limb * self.n + carry;
                    (*limb, carry) = (product % 1_000_000_000, product / 1_000_000_000);
                }
                if carry > 0 {
                    self.limbs.push(carry);
                }
            }
            let (top, lower) = self.limbs.split_last().unwrap();
            let lower = lower.iter().rev().map(|limb| format!("{limb:09}"));
            format!("{top}{}", lower.collect::<String>())
        }
    }

    #[test]
    fn every_factorial_up_to_700_is_that_of_one_multiplication_after_the_other() {
        let mut naive = Naive::new();
        for n in 0..=700 {
            let expected = naive.advance_to(n);
            assert_eq!(factorial(n, 1), expected, "{n}");
        }
        assert_eq!(factorial(20, 2), "2432902008176640000");
    }

    #[test]
    fn the_estimate_of_the_digits_is_exact_for_the_first_5000() {
        let mut logarithm = 0.0;
        for n in 1..=5000_u32 {
            logarithm += f64::from(n).log10();
            assert_eq!(digits_estimate(u64::from(n)), rounded_down(logarithm) + 1, "{n}");
        }
        assert_eq!(digits_estimate(0), 1);
        assert_eq!(digits_estimate(1_000_000), 5_565_709);
        assert_eq!(digits_estimate(10_000_000), 65_657_060);
        assert_eq!(digits_estimate(1_000_000_000), 8_565_705_523);
        assert_eq!(digits_estimate(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_large_factorial_has_the_digits_that_others_have_computed() {
        for (count, n, digits, sha256) in LARGE {
            let factorial = factorial(n, count);
            assert_eq!(factorial.len(), digits, "{n}");
            let computed: String =
                Sha256::digest(&factorial).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(computed, sha256, "{n}");
        }
        let digit_sum = |n| factorial(n, 2).bytes().map(|digit| u64::from(digit - b'0')).sum();
        let digit_sums: [u64; 2] = [100, 1000].map(digit_sum);
        assert_eq!(digit_sums, [648, 10_539]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn no_number_of_threads_changes_the_digits(n in 0_u64..6000, count in 1_usize..9) {
            prop_assert_eq!(factorial(n, count), Naive::new().advance_to(n));
        }
    }

    /// A sink that does something before each piece.
    struct Watching<F>(F);

    impl<F: FnMut() -> io::Result<()>> Write for Watching<F> {
        fn write(&mut self, digits: &[u8]) -> io::Result<usize> {
            (self.0)().map(|()| digits.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_computation_cancelled_before_it_starts_writes_nothing() {
        let (progress, mut digits) = (Progress::default(), Vec::new());
        progress.cancel();
        for n in [3, 30_000] {
            let refused = write_factorial(n, threads(2), &progress, &mut digits);
            assert!(matches!(refused, Err(FactorialError::Cancelled)));
        }
        assert!(digits.is_empty() && progress.is_cancelled() && progress.fraction() < 1.0);
    }

    #[test]
    fn a_computation_cancelled_while_it_multiplies_ends_without_a_digit() {
        let (progress, mut digits) = (Progress::default(), Vec::new());
        let refused = std::thread::scope(|scope| {
            scope.spawn(|| {
                while progress.fraction() == 0.0 {
                    std::thread::yield_now();
                }
                progress.cancel();
            });
            // It would take long.
            write_factorial(20_000_000, threads(2), &progress, &mut digits)
        });
        assert!(matches!(refused, Err(FactorialError::Cancelled)));
        assert!(digits.is_empty() && progress.fraction() < 1.0);
    }

    #[test]
    fn a_computation_cancelled_while_it_writes_stops_at_the_next_piece() {
        let (progress, mut pieces) = (Progress::default(), 0);
        let mut sink = Watching(|| {
            pieces += 1;
            progress.cancel();
            Ok(())
        });
        let refused = write_factorial(40_000, threads(2), &progress, &mut sink);
        assert!(matches!(refused, Err(FactorialError::Cancelled)));
        assert_eq!(pieces, 1);
    }

    #[test]
    fn an_error_of_the_sink_is_told() {
        let mut sink = Watching(|| Err(io::ErrorKind::StorageFull.into()));
        let refused = write_factorial(10, threads(1), &Progress::default(), &mut sink);
        let Err(FactorialError::Io(error)) = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_number_beyond_the_limit_is_refused() {
        let refused = write_factorial(1 << 32, threads(1), &Progress::default(), &mut io::sink());
        assert!(matches!(refused, Err(FactorialError::TooLarge)));
    }

    #[test]
    fn progress_never_falls_and_is_whole_at_the_end() {
        let progress = Progress::default();
        let mut last = progress.fraction();
        assert_eq!(last, 0.0);
        let mut sink = Watching(|| {
            let now = progress.fraction();
            // Writing is the last and the least of the work.
            assert!(now >= last && now > 0.5 && now < 1.0, "{last} {now}");
            last = now;
            Ok(())
        });
        write_factorial(60_000, threads(2), &progress, &mut sink).unwrap();
        assert_eq!(progress.fraction(), 1.0);
        write_factorial(0, threads(2), &progress, &mut io::sink()).unwrap();
        assert_eq!(progress.fraction(), 1.0);
    }

    #[cfg(feature = "gmp")]
    #[test]
    fn gmp_computes_the_same_digits() {
        for n in (0..100).chain([1000, 12_345, 100_000, 250_000]) {
            let mut digits = Vec::new();
            let written = gmp::write_factorial(n, &mut digits).unwrap();
            assert_eq!(written, digits.len() as u64);
            assert!(digits == factorial(n, 2).into_bytes(), "{n}");
        }
    }
}
