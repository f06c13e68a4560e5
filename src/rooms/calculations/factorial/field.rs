//! Numbers modulo a prime `P` below 2^62, such that `P - 1` is a multiple of 2^30.
//!
//! Values are kept lazily: a function says below which multiple of `P` its result is. Four times
//! the prime fits in 64 bits, which saves most of the comparisons (D. Harvey, "Faster arithmetic
//! for number-theoretic transforms", 2014).

/// The first of two primes; 3 is no square modulo either.
pub(super) const FIRST: u64 = 0x3fff_ffee_c000_0001;

/// The second of two primes.
pub(super) const SECOND: u64 = 0x3fff_ffee_0000_0001;

const NON_RESIDUE: u64 = 3;

/// The lower half.
#[expect(clippy::cast_possible_truncation, reason = "that is what it is for")]
pub(super) const fn low(wide: u128) -> u64 {
    wide as u64
}

/// The upper half.
pub(super) const fn high(wide: u128) -> u64 {
    low(wide >> 64)
}

const fn wide_product(a: u64, b: u64) -> u128 {
    a as u128 * b as u128
}

/// A number that many are multiplied by (V. Shoup's way).
#[derive(Debug, Clone, Copy)]
pub(super) struct Factor {
    /// Below `P`.
    pub(super) value: u64,
    /// `value * 2^64 / P`, rounded down.
    quotient: u64,
}

/// The field of the numbers modulo `P`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<const P: u64>;

impl<const P: u64> Field<P> {
    /// What changes nothing.
    pub(super) const ONE: Factor = Self::factor(1);

    /// `2^125 / P`, rounded down.
    const RECIPROCAL: u64 = low((1 << 125) / P as u128);

    /// `-1 / P` modulo 2^64, by Newton's iteration: each step doubles the bits that are right.
    const MINUS_INVERSE: u64 = {
        let mut inverse = P;
        let mut step = 0;
        while step < 5 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(P.wrapping_mul(inverse)));
            step += 1;
        }
        inverse.wrapping_neg()
    };

    /// Prepares a number below `P`.
    pub(super) const fn factor(value: u64) -> Factor {
        // The estimate is at most 2 too small, so what is left over fits in 64 bits.
        let mut quotient = low(wide_product(value, Self::RECIPROCAL) >> 61);
        let mut rest = quotient.wrapping_mul(P).wrapping_neg();
        while rest >= P {
            rest -= P;
            quotient += 1;
        }
        Factor { value, quotient }
    }

    /// The product, below `2 * P`, with any number.
    #[inline(always)]
    pub(super) const fn times(number: u64, factor: Factor) -> u64 {
        let quotient = high(wide_product(number, factor.quotient));
        number.wrapping_mul(factor.value).wrapping_sub(quotient.wrapping_mul(P))
    }

    /// The remainder, below `P`, of a number below `2 * P`.
    #[inline(always)]
    pub(super) const fn reduce_once(number: u64) -> u64 {
        if number >= P { number - P } else { number }
    }

    /// A number equal to it, below `2 * P`, of one below `4 * P`.
    #[inline(always)]
    pub(super) const fn halve_range(number: u64) -> u64 {
        if number >= 2 * P { number - 2 * P } else { number }
    }

    /// The remainder, below `P`, of a number below `4 * P`.
    #[inline(always)]
    pub(super) const fn reduce(number: u64) -> u64 {
        Self::reduce_once(Self::halve_range(number))
    }

    /// `wide / 2^64` modulo `P` (P. L. Montgomery's reduction), below `P + wide / 2^64`.
    #[inline(always)]
    pub(super) const fn montgomery(wide: u128) -> u64 {
        let multiple = low(wide).wrapping_mul(Self::MINUS_INVERSE);
        // The lower halves add up to 0 or 2^64.
        let carry = (low(wide) != 0) as u64;
        high(wide) + high(wide_product(multiple, P)) + carry
    }

    /// The product, below `P`, of two numbers of which one is below `P`.
    pub(super) const fn product(a: u64, b: u64) -> u64 {
        Self::reduce_once(Self::times(a, Self::factor(b)))
    }

    /// The power, below `P`.
    pub(super) const fn power(mut base: u64, mut exponent: u64) -> u64 {
        let mut power = 1;
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = Self::product(power, base);
            }
            base = Self::product(base, base);
            exponent >>= 1;
        }
        power
    }

    /// The inverse, below `P`.
    pub(super) const fn inverse(number: u64) -> u64 {
        Self::power(number, P - 2)
    }

    /// A number whose `2^log2`-th power is the first that is 1.
    pub(super) const fn root(log2: u32) -> u64 {
        Self::power(NON_RESIDUE, (P - 1) >> log2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_field<const P: u64>(a: u64, b: u64) {
        let (wide, p) = (u128::from(a) * u128::from(b % P), u128::from(P));
        assert_eq!(u128::from(Field::<P>::product(a, b % P)), wide % p);
        let quotient = (u128::from(b % P) << 64) / p;
        assert_eq!(u128::from(Field::<P>::factor(b % P).quotient), quotient);
        let reduced = u128::from(Field::<P>::montgomery(wide));
        assert_eq!((reduced << 64) % p, wide % p);
        if !b.is_multiple_of(P) {
            assert_eq!(Field::<P>::product(Field::<P>::inverse(b % P), b % P), 1);
        }
    }

    proptest! {
        #[test]
        fn products_modulo_the_primes_are_those_of_long_division(a: u64, b: u64) {
            check_field::<FIRST>(a, b);
            check_field::<SECOND>(a, b);
        }
    }

    #[test]
    fn the_roots_have_the_order_that_transforms_rely_on() {
        for log2 in 1..=30 {
            let half = 1 << (log2 - 1);
            let first = Field::<FIRST>::root(log2);
            assert_eq!(Field::<FIRST>::power(first, half), FIRST - 1);
            let second = Field::<SECOND>::root(log2);
            assert_eq!(Field::<SECOND>::power(second, half), SECOND - 1);
        }
    }
}
