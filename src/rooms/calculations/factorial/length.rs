//! Lengths for which there is a transform: powers of two, and some between them.

/// How many coefficients a transform is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Length {
    /// `N`, a power of two.
    pub(super) main: usize,
    /// `s`, if there is a tail of `N / 2^s`.
    pub(super) tail_shift: Option<u32>,
}

impl Length {
    /// The shortest length for that many coefficients.
    pub(super) fn of(coefficients: usize) -> Self {
        let power = coefficients.max(256).next_power_of_two();
        let with_tail = |shift| Self { main: power / 2, tail_shift: Some(shift) };
        let fits = |length: &Self| length.coefficients() >= coefficients;
        let without_tail = Self { main: power, tail_shift: None };
        [3, 2, 1].into_iter().map(with_tail).find(fits).unwrap_or(without_tail)
    }

    /// How many coefficients a product may have.
    pub(super) fn coefficients(self) -> usize {
        self.main + self.tail_shift.map_or(0, |shift| self.main >> shift)
    }

    /// The work for each coefficient: as many steps as there are levels.
    pub(super) fn work_per_coefficient(self) -> u64 {
        u64::from(self.main.ilog2())
    }

    /// The work of a product, in the unit of [`Progress`](super::Progress).
    pub(super) fn work(self) -> u64 {
        self.work_per_coefficient().saturating_mul(self.coefficients() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_length_suffices_and_wastes_less_than_a_third(coefficients in 256..10_000_000_usize) {
            let length = Length::of(coefficients).coefficients();
            prop_assert!(length >= coefficients);
            prop_assert!(length * 3 <= coefficients * 4 + 3, "{}", length);
        }
    }
}
