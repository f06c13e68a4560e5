//! Whole numbers in base 10^15, lowest limb first, without zeros at the top; and the sums of
//! products of limbs from which such a number is made.
//!
//! Counting in tens from the start saves the conversion at the end, which would take several times
//! as long as the product. Fifteen digits leave room to add up 2^24 products of two limbs within
//! the product of two primes of 62 bits.

use super::field::low;

/// One more than the largest limb.
pub(super) const BASE: u64 = 1_000_000_000_000_000;

/// How many digits a limb has.
pub(super) const LIMB_DIGITS: usize = 15;

/// How many products of two limbs may be added up in one column.
pub(super) const LIMBS_IN_COLUMN_MAX: usize = 1 << 24;

/// A number.
pub(super) type Limbs = Vec<u64>;

/// What columns leave to the two limbs above them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carry {
    next: u64,
    after_next: u64,
}

impl Carry {
    /// Is there anything left to add?
    pub(super) fn is_zero(self) -> bool {
        self == Self::default()
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { next: self.next + other.next, after_next: self.after_next + other.after_next }
    }

    /// Makes a limb of a column, below 2^124, and of what the columns below have left.
    #[inline(always)]
    pub(super) fn limb(&mut self, column: u128) -> u64 {
        let (quotient, digits) = divide(column);
        let (after_next, next) = divide_small(quotient);
        let sum = digits + self.next;
        // The sum is below three times the base.
        let over = u64::from(sum >= BASE) + u64::from(sum >= 2 * BASE);
        self.next = self.after_next + next + over;
        self.after_next = after_next;
        sum - over * BASE
    }
}

/// Quotient, below 2^75, and remainder by the base of a number below 2^124.
///
/// The base is 2^15 * 5^15, so all but the lowest 15 bits are divided by a number of 35 bits, in
/// three steps that each fit in 64 bits.
#[inline(always)]
fn divide(number: u128) -> (u128, u64) {
    const ODD: u64 = 30_517_578_125;
    let shifted = number >> 15;
    let top = low(shifted >> 45);
    let (top_quotient, top_rest) = (top / ODD, top % ODD);
    let middle = (top_rest << 29) | (low(shifted >> 16) & ((1 << 29) - 1));
    let (middle_quotient, middle_rest) = (middle / ODD, middle % ODD);
    let bottom = (middle_rest << 16) | (low(shifted) & 0xffff);
    let (bottom_quotient, bottom_rest) = (bottom / ODD, bottom % ODD);
    let quotient =
        (u128::from(top_quotient) << 45) + u128::from((middle_quotient << 16) + bottom_quotient);
    (quotient, (bottom_rest << 15) | (low(number) & 0x7fff))
}

/// Quotient and remainder by the base of a number below 2^79.
#[inline(always)]
fn divide_small(number: u128) -> (u64, u64) {
    const ODD: u64 = BASE >> 15;
    let shifted = low(number >> 15);
    (shifted / ODD, ((shifted % ODD) << 15) | (low(number) & 0x7fff))
}

/// Makes limbs of columns; there must be room for all of the number.
pub(super) fn carry_columns(columns: impl Iterator<Item = u128>, limbs: &mut [u64]) -> Carry {
    let mut carry = Carry::default();
    for (limb, column) in limbs.iter_mut().zip(columns) {
        *limb = carry.limb(column);
    }
    carry
}

/// Adds what the columns below have left; returns what these limbs leave.
pub(super) fn add_carry(limbs: &mut [u64], mut carry: Carry) -> Carry {
    for limb in limbs {
        if carry.is_zero() {
            break;
        }
        *limb = carry.limb(u128::from(*limb));
    }
    carry
}

/// Multiplies by a number of one limb.
pub(super) fn multiply_by_limb(limbs: &mut Limbs, factor: u64) {
    let mut carry = 0;
    for limb in limbs.iter_mut() {
        let product = u128::from(*limb) * u128::from(factor) + u128::from(carry);
        let (quotient, rest) = divide(product);
        (carry, *limb) = (low(quotient), rest);
    }
    if carry > 0 {
        limbs.push(carry);
    }
}

/// The decimal logarithm of a limb.
pub(super) fn logarithm(limb: u64) -> f64 {
    (limb as f64).log10()
}

/// Limbs that suffice for a number of that decimal logarithm, of which the last digits are unsure.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative")]
pub(super) fn limbs_of(logarithm: f64) -> usize {
    (logarithm / LIMB_DIGITS as f64 + 1e-3) as usize + 1
}

/// Takes the zeros at the top off.
pub(super) fn trim(limbs: &mut Limbs) {
    let used = limbs.iter().rposition(|limb| *limb != 0).map_or(0, |last| last + 1);
    limbs.truncate(used);
}

/// Multiplies as at school.
pub(super) fn multiply_at_school(a: &[u64], b: &[u64]) -> Limbs {
    let mut columns = vec![0_u128; a.len() + b.len()];
    for (shift, limb) in a.iter().enumerate() {
        let limb = u128::from(*limb);
        for (column, other) in columns.iter_mut().skip(shift).zip(b) {
            *column += limb * u128::from(*other);
        }
    }
    let mut limbs = vec![0; columns.len()];
    carry_columns(columns.into_iter(), &mut limbs);
    trim(&mut limbs);
    limbs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_column_is_divided_as_by_long_division(column in 0..1_u128 << 124) {
            let base = u128::from(BASE);
            let (quotient, rest) = divide(column);
            prop_assert_eq!((quotient, u128::from(rest)), (column / base, column % base));
            let (upper, lower) = divide_small(quotient);
            let expected = (quotient / base, quotient % base);
            prop_assert_eq!((u128::from(upper), u128::from(lower)), expected);
        }

        #[test]
        fn a_product_as_at_school_is_that_of_the_processor(a in 1..BASE, b in 1..BASE) {
            let product = multiply_at_school(&[a], &[b]);
            let value = |sum: u128, limb: &u64| sum * u128::from(BASE) + u128::from(*limb);
            let value = product.iter().rev().fold(0, value);
            prop_assert_eq!(value, u128::from(a) * u128::from(b));
        }
    }

    #[test]
    fn a_carry_runs_over_nines_to_the_end() {
        let mut limbs = vec![BASE - 1; 5];
        let left = add_carry(&mut limbs, Carry { next: 1, after_next: 0 });
        assert_eq!((limbs, left), (vec![0; 5], Carry { next: 1, after_next: 0 }));
    }
}
