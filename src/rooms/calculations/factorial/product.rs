//! The factorial as a product of primes, of which few have large powers.
//!
//! For all `i`, it is the product of the primes whose exponent has bit `i` set, to the power `2^i`:
//! so, from the highest bit down, square what there is and multiply by the primes of the bit. A
//! square takes two thirds of the time of another product, and almost all of the number comes from
//! the last square. Tens are left out, since zeros at the end need no arithmetic.

use super::decimal::{self, BASE, Limbs, multiply_by_limb};
use super::multiply::{self, Multiplier};
use super::progress::{Cancelled, Progress};
use super::sieve::primes;
use super::threads::join;

/// Factors of one limb that are multiplied one after the other.
const FACTORS_IN_A_ROW: usize = 12;

/// Up to this number, to multiply all numbers is quicker than to look for primes.
const PLAIN_MAX: u32 = 200;

/// Factors from which on two halves are multiplied at the same time.
const SHARED_FACTORS: usize = 1 << 9;

/// How often a prime divides the factorial of `n` (A.-M. Legendre).
fn exponent(n: u32, prime: u32) -> u32 {
    let (mut rest, mut exponent) = (n, 0);
    while rest >= prime {
        rest /= prime;
        exponent += rest;
    }
    exponent
}

/// What a factorial is made of.
#[derive(Debug)]
pub(super) struct Factorization {
    /// The highest bit first.
    bits: Vec<Bit>,
    /// The exponent of ten, as far as it is left out.
    zeros: u32,
}

/// One bit of the exponents.
#[derive(Debug)]
struct Bit {
    /// Numbers of one limb whose product is that of the primes.
    factors: Limbs,
    /// The decimal logarithm of the product of this bit and the higher ones.
    logarithm: f64,
}

impl Bit {
    /// Limbs that suffice for that product.
    fn limbs(&self) -> usize {
        decimal::limbs_of(self.logarithm)
    }
}

impl Factorization {
    /// That of `n!`.
    pub(super) fn of_factorial(n: u32, progress: &Progress) -> Result<Self, Cancelled> {
        let mut factorization = Self { bits: Vec::new(), zeros: 0 };
        if n <= PLAIN_MAX {
            factorization.push(pack(2..=n));
            return Ok(factorization);
        }
        let zeros = exponent(n, 5);
        let primes = primes(n, progress)?;
        for bit in (0..u32::BITS - n.leading_zeros()).rev() {
            progress.check()?;
            // A prime's exponent is at most n / (prime - 1).
            let used = primes.partition_point(|prime| prime - 1 <= n >> bit);
            let has_bit = |prime: &u32| {
                let exponent = match *prime {
                    2 => exponent(n, 2) - zeros,
                    5 => 0,
                    prime => exponent(n, prime),
                };
                (exponent >> bit) & 1 == 1
            };
            factorization.push(pack(primes.iter().take(used).copied().filter(has_bit)));
        }
        Ok(Self { zeros, ..factorization })
    }

    /// Adds the next lower bit.
    fn push(&mut self, factors: Limbs) {
        let above = self.bits.last().map_or(0.0, |bit| bit.logarithm);
        let own: f64 = factors.iter().map(|factor| decimal::logarithm(*factor)).sum();
        self.bits.push(Bit { factors, logarithm: 2.0 * above + own });
    }

    /// How many zeros follow what is multiplied.
    pub(super) fn zeros(&self) -> u32 {
        self.zeros
    }

    /// Limbs that suffice for what is multiplied.
    pub(super) fn limbs(&self) -> usize {
        self.bits.last().map_or(1, Bit::limbs)
    }

    /// An estimate of the work of multiplying, in the unit of [`Progress`].
    pub(super) fn work(&self) -> u64 {
        let (mut work, mut limbs) = (0, 1);
        for bit in &self.bits {
            let factors = bit.factors.len();
            work += multiply::work(limbs, limbs) + work_of_all(factors);
            work += multiply::work(2 * limbs, factors);
            limbs = bit.limbs();
        }
        work
    }

    /// The factorial without the zeros.
    pub(super) fn multiply(&self, threads: usize, progress: &Progress) -> Result<Limbs, Cancelled> {
        // A product may have one limb less than its factors together.
        let multiplier = Multiplier::new(self.limbs() + 1, threads, progress);
        let mut product = vec![1];
        for Bit { factors, .. } in &self.bits {
            product = multiplier.square(&product, threads)?;
            let factor = multiply_all(factors, &multiplier, threads)?;
            product = multiplier.multiply(&product, &factor, threads)?;
        }
        Ok(product)
    }
}

/// Multiplies numbers as long as they fit in a limb.
fn pack(numbers: impl Iterator<Item = u32>) -> Limbs {
    let mut factors = Vec::new();
    let mut factor = 1;
    for number in numbers.map(u64::from) {
        if factor > (BASE - 1) / number {
            factors.push(factor);
            factor = number;
        } else {
            factor *= number;
        }
    }
    factors.push(factor);
    factors
}

/// The product of factors of one limb.
fn multiply_all(
    factors: &[u64],
    multiplier: &Multiplier<'_>,
    threads: usize,
) -> Result<Limbs, Cancelled> {
    if factors.len() <= FACTORS_IN_A_ROW {
        let mut product = vec![1];
        factors.iter().for_each(|factor| multiply_by_limb(&mut product, *factor));
        return Ok(product);
    }
    let (low, high) = factors.split_at(factors.len() / 2);
    let (low, high) = join(
        if factors.len() < SHARED_FACTORS { 1 } else { threads },
        |threads| multiply_all(low, multiplier, threads),
        |threads| multiply_all(high, multiplier, threads),
    );
    multiplier.multiply(&low?, &high?, threads)
}

fn work_of_all(factors: usize) -> u64 {
    if factors <= FACTORS_IN_A_ROW {
        return 0;
    }
    let half = factors / 2;
    multiply::work(half, factors - half) + work_of_all(half) + work_of_all(factors - half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factors_are_those_of_the_factorial() {
        // Modulo a prime above all of them, so that no factor vanishes.
        const MODULUS: u64 = 2_147_483_647;
        let times = |a: u64, b: u64| a * (b % MODULUS) % MODULUS;
        let mut factorial = 1;
        for n in 1..3000_u32 {
            factorial = times(factorial, u64::from(n));
            let factorization = Factorization::of_factorial(n, &Progress::default()).unwrap();
            let square_and_multiply = |product: u64, bit: &Bit| {
                bit.factors.iter().copied().fold(times(product, product), times)
            };
            let product = factorization.bits.iter().fold(1, square_and_multiply);
            let product = (0..factorization.zeros).fold(product, |product, _| times(product, 10));
            assert_eq!(product, factorial, "{n}");
        }
    }

    #[test]
    fn the_number_of_limbs_suffices() {
        for n in (0..5000).step_by(7) {
            let progress = Progress::default();
            let factorization = Factorization::of_factorial(n, &progress).unwrap();
            let product = factorization.multiply(1, &progress).unwrap();
            assert!(product.len() <= factorization.limbs(), "{n}");
        }
    }

    #[test]
    fn a_row_of_factors_is_multiplied_whatever_its_length() {
        let progress = Progress::default();
        let multiplier = Multiplier::new(2000, 2, &progress);
        for count in [0, 1, 2, 12, 13, 100, 1500] {
            let product = multiply_all(&vec![10; count], &multiplier, 2).unwrap();
            let mut expected = vec![0; count / 15];
            expected.push(10_u64.pow(u32::try_from(count % 15).unwrap()));
            assert_eq!(product, expected, "{count}");
        }
    }
}
