//! Products of large numbers.
//!
//! The digits of a product, before carrying, are the coefficients of a product of polynomials. They
//! are computed modulo two primes, at the same time if there are threads for it, and put together
//! by the Chinese remainder theorem.

use super::decimal::{
    Carry, LIMBS_IN_COLUMN_MAX, Limbs, add_carry, carry_columns, multiply_at_school, trim,
};
use super::field::{FIRST, Factor, Field, SECOND};
use super::length::Length;
use super::progress::{Cancelled, Progress};
use super::threads::join;
use super::transform::Transform;

/// Limbs of the shorter factor up to which the way of the school is the quickest.
const SCHOOL_LIMBS: usize = 96;

/// Columns below which a second thread costs more than it does.
const SHARED_COLUMNS: usize = 1 << 12;

/// The work of a product of two numbers of so many limbs, in the unit of [`Progress`].
pub(super) fn work(a_limbs: usize, b_limbs: usize) -> u64 {
    let is_transformed = a_limbs.min(b_limbs) > SCHOOL_LIMBS;
    if is_transformed { 2 * Length::of(a_limbs + b_limbs).work() } else { 0 }
}

/// Multiplies, as long as nobody cancels.
#[derive(Debug)]
pub(super) struct Multiplier<'a> {
    first: Transform<FIRST>,
    second: Transform<SECOND>,
    /// Limbs of the longest product that needs no splitting.
    limbs_max: usize,
    progress: &'a Progress,
}

impl<'a> Multiplier<'a> {
    /// Prepares for products of up to that many limbs; longer ones are split.
    pub(super) fn new(limbs: usize, threads: usize, progress: &'a Progress) -> Self {
        // A column adds up as many products as the shorter factor has limbs.
        let limbs_max = limbs.min(2 * LIMBS_IN_COLUMN_MAX);
        // No product of less is transformed.
        let longest = (limbs_max > 2 * SCHOOL_LIMBS).then(|| Length::of(limbs_max));
        let threads = if limbs < SHARED_COLUMNS { 1 } else { threads };
        let (first, second) =
            join(threads, |_| Transform::new(longest), |_| Transform::new(longest));
        Self { first, second, limbs_max, progress }
    }

    /// The product.
    pub(super) fn multiply(
        &self,
        a: &[u64],
        b: &[u64],
        threads: usize,
    ) -> Result<Limbs, Cancelled> {
        self.progress.check()?;
        if a.len().min(b.len()) <= SCHOOL_LIMBS {
            Ok(multiply_at_school(a, b))
        } else if a.len() + b.len() > self.limbs_max {
            self.multiply_split(a, b, threads)
        } else {
            self.transform(a, Some(b), threads)
        }
    }

    /// The product with itself.
    pub(super) fn square(&self, a: &[u64], threads: usize) -> Result<Limbs, Cancelled> {
        if a.len() <= SCHOOL_LIMBS || 2 * a.len() > self.limbs_max {
            self.multiply(a, a, threads)
        } else {
            self.transform(a, None, threads)
        }
    }

    /// Multiplies by the halves of the longer factor.
    fn multiply_split(&self, a: &[u64], b: &[u64], threads: usize) -> Result<Limbs, Cancelled> {
        let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
        let middle = long.len() / 2;
        let (low, high) = long.split_at(middle);
        let mut product = self.multiply(low, short, threads)?;
        let high = self.multiply(high, short, threads)?;
        product.resize(a.len() + b.len(), 0);
        let (_, upper) = product.split_at_mut(middle);
        let mut carry = Carry::default();
        for (limb, other) in upper.iter_mut().zip(high.iter().chain(std::iter::repeat(&0))) {
            *limb = carry.limb(u128::from(*limb + other));
        }
        trim(&mut product);
        Ok(product)
    }

    /// The product of `a` and `b`, or `a` itself if there is no `b`.
    fn transform(&self, a: &[u64], b: Option<&[u64]>, threads: usize) -> Result<Limbs, Cancelled> {
        let limbs = a.len() + b.unwrap_or(a).len();
        let threads = if limbs < SHARED_COLUMNS { 1 } else { threads };
        let (first, second) = join(
            threads,
            |threads| residues(&self.first, a, b, threads, self.progress),
            |threads| residues(&self.second, a, b, threads, self.progress),
        );
        self.progress.check()?;
        let mut product = vec![0; limbs];
        carry_residues(&first, &second, &mut product, threads);
        trim(&mut product);
        Ok(product)
    }
}

/// The columns of the product modulo one prime.
fn residues<const P: u64>(
    transform: &Transform<P>,
    a: &[u64],
    b: Option<&[u64]>,
    threads: usize,
    progress: &Progress,
) -> Vec<u64> {
    let length = Length::of(a.len() + b.unwrap_or(a).len());
    let padded = |limbs: &[u64]| {
        let mut padded = Vec::with_capacity(length.coefficients());
        padded.extend_from_slice(limbs);
        padded.resize(length.coefficients(), 0);
        padded
    };
    let mut product = padded(a);
    transform.multiply(length, &mut product, b.map(padded), threads, progress);
    product
}

/// Makes limbs of the columns of which the residues modulo both primes are known; returns what
/// these limbs leave.
fn carry_residues(first: &[u64], second: &[u64], limbs: &mut [u64], threads: usize) -> Carry {
    if threads < 2 || limbs.len() < SHARED_COLUMNS {
        let columns = first.iter().zip(second).map(|(first, second)| column(*first, *second));
        return carry_columns(columns, limbs);
    }
    let middle = limbs.len() / 2;
    let (low, high) = limbs.split_at_mut(middle);
    let (first_low, first_high) = first.split_at(middle);
    let (second_low, second_high) = second.split_at(middle);
    let (below, above) = join(
        threads,
        |threads| carry_residues(first_low, second_low, low, threads),
        |threads| carry_residues(first_high, second_high, high, threads),
    );
    above.plus(add_carry(high, below))
}

/// The number below the product of the primes that has these residues.
#[inline(always)]
fn column(first: u64, second: u64) -> u128 {
    const INVERSE: Factor = Field::<SECOND>::factor(Field::<SECOND>::inverse(FIRST % SECOND));
    let difference = Field::<SECOND>::times(second + 2 * SECOND - first, INVERSE);
    let times = Field::<SECOND>::reduce_once(difference);
    u128::from(FIRST) * u128::from(times) + u128::from(first)
}

#[cfg(test)]
mod tests {
    use super::super::decimal::BASE;
    use super::*;
    use proptest::prelude::*;

    fn number(limbs: usize) -> impl Strategy<Value = Limbs> {
        let limb = prop_oneof![4 => 0..BASE, 1 => Just(0), 2 => Just(BASE - 1), 1 => Just(1)];
        let top = prop_oneof![1..BASE, Just(BASE - 1)];
        (prop::collection::vec(limb, 0..limbs), top).prop_map(|(mut limbs, top)| {
            limbs.push(top);
            limbs
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_product_by_transform_is_that_of_the_school(
            a in number(1500),
            b in number(1500),
            threads in 1_usize..6,
        ) {
            let progress = Progress::default();
            let multiplier = Multiplier::new(3100, threads, &progress);
            let product = multiplier.transform(&a, Some(&b), threads).unwrap();
            prop_assert_eq!(&product, &multiply_at_school(&a, &b));
            let square = multiplier.transform(&a, None, threads).unwrap();
            prop_assert_eq!(square, multiply_at_school(&a, &a));
        }

        #[test]
        fn a_product_that_is_too_long_for_the_tables_is_split(a in number(900), b in number(900)) {
            let progress = Progress::default();
            let multiplier = Multiplier::new(300, 1, &progress);
            let product = multiplier.multiply(&a, &b, 1).unwrap();
            prop_assert_eq!(product, multiply_at_school(&a, &b));
            prop_assert_eq!(multiplier.square(&a, 1).unwrap(), multiply_at_school(&a, &a));
        }
    }

    #[test]
    fn nines_overflow_no_column_and_carry_over_the_seams_of_the_threads() {
        // (10^k - 1)^2 = 10^2k - 2 * 10^k + 1
        let limbs = 100_000;
        let nines = vec![BASE - 1; limbs];
        let mut expected = vec![0; 2 * limbs];
        let (low, high) = expected.split_at_mut(limbs);
        low[0] = 1;
        high.fill(BASE - 1);
        high[0] = BASE - 2;
        let progress = Progress::default();
        let multiplier = Multiplier::new(2 * limbs, 8, &progress);
        for threads in [1, 2, 3, 8] {
            assert!(multiplier.square(&nines, threads).unwrap() == expected, "{threads}");
        }
    }

    #[test]
    fn the_largest_column_is_below_the_product_of_the_primes() {
        let column = LIMBS_IN_COLUMN_MAX as u128 * u128::from(BASE - 1).pow(2);
        assert!(column < u128::from(FIRST) * u128::from(SECOND));
        let residue = |prime: u64| u64::try_from(column % u128::from(prime)).unwrap();
        assert_eq!(super::column(residue(FIRST), residue(SECOND)), column);
    }
}
