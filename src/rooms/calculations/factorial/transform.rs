//! Products of polynomials modulo a prime, by number-theoretic transform.
//!
//! A polynomial modulo `x^2m - w^2` is known from its remainders modulo `x^m - w` and `x^m + w`.
//! Taken apart again and again these form a tree. Node `b` of a level belongs to `x^m - z(b)`, with
//! `z(0) = 1`; its children `2b` and `2b + 1` have `z = w(b)` and `z = -w(b)`, so that one table of
//! `w` serves all levels. The leaves have 4 coefficients and are multiplied as at school, which is
//! quicker than two more levels of three transforms.
//!
//! There are lengths between the powers of two: a polynomial of `N + m` coefficients, with
//! `m = N / 2^s`, is known from its remainders modulo `x^N - 1` and modulo `x^m - z(2^s)`, as the
//! latter divides `x^N + 1`.

use super::field::{Factor, Field};
use super::length::Length;
use super::passes::{
    Twiddles, down, forward_pass, forward_shared, inverse_pass, inverse_shared, multiply_pair,
    quarters, up,
};
use super::progress::Progress;
use super::threads::join;

/// Coefficients, of each factor, that stay in the nearest cache.
const CACHED_LENGTH: usize = 1 << 11;

/// Coefficients below which a second thread costs more than it does.
const SHARED_LENGTH: usize = 1 << 13;

/// What the nodes of the tree multiply by, for all lengths up to a largest one.
#[derive(Debug)]
pub(super) struct Transform<const P: u64> {
    /// `w`.
    roots: Vec<Factor>,
    /// `1 / w`.
    inverse_roots: Vec<Factor>,
}

impl<const P: u64> Transform<P> {
    /// Makes the tables for products of up to that length, if there will be any.
    pub(super) fn new(longest: Option<Length>) -> Self {
        // Above the leaves, of 4 coefficients, is the last level that has roots.
        let nodes = longest.map_or(1, |longest| longest.coefficients().div_ceil(8));
        Self {
            roots: Self::table(nodes, Field::<P>::root),
            inverse_roots: Self::table(nodes, |log2| Field::<P>::inverse(Field::<P>::root(log2))),
        }
    }

    /// A bit of weight `2^l` in the number of the node turns its `w` by a root of order `2^(l+2)`.
    fn table(nodes: usize, root: impl Fn(u32) -> u64) -> Vec<Factor> {
        let mut table = Vec::with_capacity(nodes);
        table.push(Field::<P>::ONE);
        let mut order_log2 = 2;
        while table.len() < nodes {
            let turn = Field::<P>::factor(root(order_log2));
            let count = table.len().min(nodes - table.len());
            for index in 0..count {
                let value = table.get(index).map_or(0, |factor: &Factor| factor.value);
                let value = Field::<P>::reduce_once(Field::<P>::times(value, turn));
                table.push(Field::<P>::factor(value));
            }
            order_log2 += 1;
        }
        table
    }

    /// Multiplies `a` by `b`, or by itself if there is no `b`. All coefficients are below `P`, the
    /// vectors have the length, and the product, which `a` becomes, has no more coefficients. Of
    /// what is cancelled, `a` becomes anything.
    pub(super) fn multiply(
        &self,
        length: Length,
        a: &mut [u64],
        mut b: Option<Vec<u64>>,
        threads: usize,
        progress: &Progress,
    ) {
        let Length { main, tail_shift } = length;
        let work = Work { progress, per_coefficient: length.work_per_coefficient() };
        let Some(shift) = tail_shift else {
            self.multiply_at(0, a, b.as_deref_mut(), threads, &work);
            if !progress.is_cancelled() {
                self.scale(a, main);
            }
            return;
        };
        let root = self.root(1 << (shift - 1));
        Self::fold(root, main, a);
        if let Some(b) = &mut b {
            Self::fold(root, main, b);
        }
        let (head, tail) = a.split_at_mut(main);
        let (b_head, b_tail) = b.as_mut().map(|b| b.split_at_mut(main)).unzip();
        self.multiply_at(0, head, b_head, threads, &work);
        self.multiply_at(1 << shift, tail, b_tail, threads, &work);
        if progress.is_cancelled() {
            return;
        }
        drop(b);
        self.scale(head, main);
        self.scale(tail, main >> shift);
        Self::unfold(root, head, tail);
    }

    /// The whole way down the tree and up again, for the part that belongs to one node.
    fn multiply_at(
        &self,
        node: usize,
        a: &mut [u64],
        mut b: Option<&mut [u64]>,
        threads: usize,
        work: &Work<'_>,
    ) {
        if work.progress.is_cancelled() {
            return;
        }
        if a.len() <= CACHED_LENGTH {
            self.forward(node, a);
            if let Some(b) = &mut b {
                self.forward(node, b);
            }
            self.multiply_leaves(node, a, b.as_deref());
            self.inverse(node, a);
            work.advance(a.len());
            return;
        }
        let threads = if a.len() < SHARED_LENGTH { 1 } else { threads };
        let twiddles = Twiddles::of::<P>(&self.roots, node);
        forward_shared::<P>(quarters(a), twiddles, threads);
        if let Some(b) = &mut b {
            forward_shared::<P>(quarters(b), twiddles, threads);
        }
        let [a0, a1, a2, a3] = quarters(a);
        let [b0, b1, b2, b3] = match b {
            Some(b) => quarters(b).map(Some),
            None => [None, None, None, None],
        };
        let node = node * 4;
        join(
            threads,
            |threads| {
                let one = |threads| self.multiply_at(node, a0, b0, threads, work);
                join(threads, one, |threads| self.multiply_at(node + 1, a1, b1, threads, work))
            },
            |threads| {
                let one = |threads| self.multiply_at(node + 2, a2, b2, threads, work);
                join(threads, one, |threads| self.multiply_at(node + 3, a3, b3, threads, work))
            },
        );
        // What was left undone is beyond the range of what follows.
        if work.progress.is_cancelled() {
            return;
        }
        let twiddles = Twiddles::of::<P>(&self.inverse_roots, node / 4);
        inverse_shared::<P>(quarters(a), twiddles, threads);
    }

    /// Down to the leaves, level by level. Numbers are below `4 * P`.
    fn forward(&self, node: usize, data: &mut [u64]) {
        let mut length = data.len();
        let mut node = node;
        let mut nodes = 1;
        if data.len().ilog2() % 2 == 1 {
            let (low, high) = data.split_at_mut(length / 2);
            let root = self.root(node);
            for (low, high) in low.iter_mut().zip(high) {
                [*low, *high] = down::<P>(*low, *high, root);
            }
            (length, node, nodes) = (length / 2, node * 2, nodes * 2);
        }
        while length > 4 {
            let twiddles = Twiddles::all(&self.roots, node, nodes);
            for (block, twiddles) in data.chunks_exact_mut(length).zip(twiddles) {
                forward_pass::<P>(quarters(block), twiddles);
            }
            (length, node, nodes) = (length / 4, node * 4, nodes * 4);
        }
    }

    /// Up from the leaves, level by level. Numbers are below `2 * P`.
    fn inverse(&self, node: usize, data: &mut [u64]) {
        let is_odd = data.len().ilog2() % 2 == 1;
        let mut length = 16;
        while length <= data.len() {
            let nodes = data.len() / length;
            let twiddles = Twiddles::all(&self.inverse_roots, node * nodes, nodes);
            for (block, twiddles) in data.chunks_exact_mut(length).zip(twiddles) {
                inverse_pass::<P>(quarters(block), twiddles);
            }
            length *= 4;
        }
        if is_odd {
            let (low, high) = data.split_at_mut(data.len() / 2);
            let root = self.inverse_roots.get(node).copied().unwrap_or(Field::<P>::ONE);
            for (low, high) in low.iter_mut().zip(high) {
                [*low, *high] = up::<P>(*low, *high, root);
            }
        }
    }

    /// Multiplies at the leaves, from below `4 * P` to below `2 * P`; divides by 2^64.
    fn multiply_leaves(&self, node: usize, a: &mut [u64], b: Option<&[u64]>) {
        let nodes = a.len() / 8;
        let roots = self.roots.get(node * nodes..).unwrap_or_default();
        let (pairs, _) = a.as_chunks_mut::<8>();
        match b {
            Some(b) => {
                for ((a, b), root) in pairs.iter_mut().zip(b.as_chunks::<8>().0).zip(roots) {
                    *a = multiply_pair::<P>(*a, *b, *root);
                }
            }
            None => {
                for (a, root) in pairs.iter_mut().zip(roots) {
                    *a = multiply_pair::<P>(*a, *a, *root);
                }
            }
        }
    }

    fn root(&self, node: usize) -> Factor {
        self.roots.get(node).copied().unwrap_or(Field::<P>::ONE)
    }

    /// Undoes what the levels and the leaves have multiplied by; the result is below `P`.
    fn scale(&self, data: &mut [u64], length: usize) {
        let levels = u64::from(length.ilog2() - 2);
        // 2^64 / 2^levels
        let factor = Field::<P>::factor(Field::<P>::power(2, 64 - levels));
        for number in data {
            *number = Field::<P>::reduce_once(Field::<P>::times(*number, factor));
        }
    }

    /// From the coefficients to the two remainders. `root` is `z` of the tail's node.
    fn fold(root: Factor, main: usize, data: &mut [u64]) {
        let (head, tail) = data.split_at_mut(main);
        let remainder = remainder::<P>(root, head, tail.len());
        for ((tail, first), remainder) in tail.iter_mut().zip(head).zip(remainder) {
            // x^N is 1 modulo the one divisor and -1 modulo the other.
            *first += *tail;
            *tail = remainder + P - *tail;
        }
    }

    /// From the two remainders back to the coefficients.
    fn unfold(root: Factor, head: &mut [u64], tail: &mut [u64]) {
        const { assert!(P % 2 == 1) };
        let half = Field::<P>::factor(P.div_ceil(2));
        let remainder = remainder::<P>(root, head, tail.len());
        for ((tail, first), remainder) in tail.iter_mut().zip(head).zip(remainder) {
            let difference = Field::<P>::times(remainder + P - *tail, half);
            *tail = Field::<P>::reduce_once(difference);
            *first = Field::<P>::reduce_once(*first + P - *tail);
        }
    }
}

/// The remainder modulo `x^length - z`, below `3 * P`, of a polynomial with coefficients below `P`.
fn remainder<const P: u64>(z: Factor, polynomial: &[u64], length: usize) -> Vec<u64> {
    let mut remainder = vec![0; length];
    for part in polynomial.chunks_exact(length).rev() {
        for (sum, number) in remainder.iter_mut().zip(part) {
            *sum = Field::<P>::times(*sum, z) + number;
        }
    }
    remainder
}

/// Whom to tell of the work that is done.
struct Work<'a> {
    progress: &'a Progress,
    per_coefficient: u64,
}

impl Work<'_> {
    fn advance(&self, coefficients: usize) {
        self.progress.advance(self.per_coefficient.saturating_mul(coefficients as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::{FIRST, SECOND};
    use super::*;
    use proptest::prelude::*;

    fn product_at_school<const P: u64>(a: &[u64], b: &[u64], length: usize) -> Vec<u64> {
        let mut product = vec![0; length];
        for (shift, a) in a.iter().enumerate() {
            for (sum, b) in product.iter_mut().skip(shift).zip(b) {
                *sum = Field::<P>::reduce_once(*sum + Field::<P>::product(*a, *b));
            }
        }
        product
    }

    fn check<const P: u64>(a: &[u64], b: &[u64], threads: usize) {
        let length = Length::of(a.len() + b.len());
        let transform = Transform::<P>::new(Some(length));
        let padded = |numbers: &[u64]| {
            let mut padded: Vec<u64> = numbers.iter().map(|number| number % P).collect();
            padded.resize(length.coefficients(), 0);
            padded
        };
        let (mut product, b) = (padded(a), padded(b));
        let expected = product_at_school::<P>(&product[..a.len()], &b, length.coefficients());
        let progress = Progress::default();
        transform.multiply(length, &mut product, Some(b), threads, &progress);
        assert!(product == expected);
    }

    fn polynomial() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(prop_oneof![any::<u64>(), Just(FIRST - 1), Just(SECOND - 1)], 1..700)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_product_is_that_of_the_school(
            a in polynomial(),
            b in polynomial(),
            threads in 1_usize..4,
        ) {
            check::<FIRST>(&a, &b, threads);
            check::<SECOND>(&a, &b, threads);
        }
    }

    #[test]
    fn a_product_of_any_length_is_that_of_the_school() {
        // All tails, with an odd and with an even number of levels, beyond what is cached.
        for coefficients in [4096, 4608, 5120, 6144, 8192, 9216, 10_240, 12_288] {
            assert_eq!(Length::of(coefficients).coefficients(), coefficients);
            let a: Vec<u64> =
                (101..=coefficients as u64).map(|i| i.wrapping_mul(FIRST - i)).collect();
            let b: Vec<u64> = (1..=100).map(|i: u64| i.pow(9)).collect();
            check::<FIRST>(&a, &b, 4);
        }
    }
}
