//! Digits on their way out.

use std::io::Write;

use super::FactorialError;
use super::decimal::{LIMB_DIGITS, Limbs};
use super::progress::Progress;

/// Digits that are written at once.
const PIECE: usize = 1 << 16;

/// The work of writing a number, in the unit of [`Progress`]; the weight is measured.
pub(super) fn work(limbs: u64) -> u64 {
    limbs.saturating_mul(WORK_PER_LIMB)
}

const WORK_PER_LIMB: u64 = 8;

/// Writes digits in large pieces, as long as nobody cancels.
pub(super) struct Digits<'a> {
    waiting: Vec<u8>,
    /// Digits that are written.
    count: u64,
    progress: &'a Progress,
    sink: &'a mut dyn Write,
}

impl<'a> Digits<'a> {
    /// Nothing is written yet.
    pub(super) fn new(progress: &'a Progress, sink: &'a mut dyn Write) -> Self {
        Self { waiting: Vec::new(), count: 0, progress, sink }
    }

    /// Writes a number.
    pub(super) fn number(&mut self, limbs: &Limbs) -> Result<(), FactorialError> {
        for (index, limb) in limbs.iter().rev().enumerate() {
            let digits = fifteen_digits(*limb);
            let leading = if index == 0 { leading_zeros(&digits) } else { 0 };
            self.waiting.extend(digits.iter().skip(leading));
            self.write_if(PIECE)?;
        }
        Ok(())
    }

    /// Writes zeros.
    pub(super) fn zeros(&mut self, count: usize) -> Result<(), FactorialError> {
        let mut left = count;
        while left > 0 {
            let now = left.min(PIECE);
            self.waiting.resize(self.waiting.len() + now, b'0');
            self.write_if(PIECE)?;
            left -= now;
        }
        Ok(())
    }

    /// Writes what waits; returns the number of digits.
    pub(super) fn finish(mut self) -> Result<u64, FactorialError> {
        self.write_if(1)?;
        self.sink.flush()?;
        Ok(self.count)
    }

    fn write_if(&mut self, least: usize) -> Result<(), FactorialError> {
        if self.waiting.len() >= least {
            self.progress.check()?;
            self.sink.write_all(&self.waiting)?;
            let written = self.waiting.len() as u64;
            self.count += written;
            self.progress.advance(work(written / LIMB_DIGITS as u64));
            self.waiting.clear();
        }
        Ok(())
    }
}

fn leading_zeros(digits: &[u8]) -> usize {
    digits.iter().take_while(|digit| **digit == b'0').count()
}

/// The digits of a limb.
fn fifteen_digits(limb: u64) -> [u8; LIMB_DIGITS] {
    const UPPER: u64 = 100_000_000;
    let [_, upper @ ..] = eight_digits(limb / UPPER);
    let lower = eight_digits(limb % UPPER);
    let mut digits = [0; LIMB_DIGITS];
    for (digit, source) in digits.iter_mut().zip(upper.iter().chain(&lower)) {
        *digit = *source;
    }
    digits
}

/// The digits of a number below 10^8, all at once: the number is halved three times, in lanes of
/// 32, 16 and 8 bits, and divided in each by a multiplication and a shift.
fn eight_digits(number: u64) -> [u8; 8] {
    let fours = (number / 10_000) | ((number % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let twos = hundreds | ((fours - hundreds * 100) << 16);
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tens | ((twos - tens * 10) << 8);
    (ones | 0x3030_3030_3030_3030).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(limbs: &Limbs, zeros: usize) -> String {
        let (progress, mut sink) = (Progress::default(), Vec::new());
        let mut digits = Digits::new(&progress, &mut sink);
        digits.number(limbs).unwrap();
        digits.zeros(zeros).unwrap();
        let count = digits.finish().unwrap();
        assert_eq!(count, sink.len() as u64);
        String::from_utf8(sink).unwrap()
    }

    #[test]
    fn zeros_within_a_number_are_written_and_zeros_before_it_are_not() {
        assert_eq!(written(&vec![7], 0), "7");
        assert_eq!(written(&vec![7, 0, 12], 3), "12000000000000000000000000000007000");
        assert_eq!(written(&vec![1], 200_000), format!("1{}", "0".repeat(200_000)));
    }

    proptest! {
        #[test]
        fn a_limb_is_written_as_its_digits(limb in 0..super::super::decimal::BASE) {
            prop_assert_eq!(fifteen_digits(limb).to_vec(), format!("{limb:015}").into_bytes());
        }
    }
}
