//! The arithmetic of a transform: up and down between the levels, and products at the leaves.

use super::field::{Factor, Field};
use super::threads::join;

/// What a node and its two children multiply by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Twiddles {
    parent: Factor,
    children: [Factor; 2],
}

impl Twiddles {
    /// Those of some nodes that follow each other.
    pub(super) fn all(table: &[Factor], node: usize, nodes: usize) -> impl Iterator<Item = Self> {
        let parents = table.get(node..node + nodes).unwrap_or_default();
        let (children, _) = table.get(node * 2..).unwrap_or_default().as_chunks::<2>();
        let pairs = parents.iter().zip(children);
        pairs.map(|(parent, children)| Self { parent: *parent, children: *children })
    }

    /// Those of one node.
    pub(super) fn of<const P: u64>(table: &[Factor], node: usize) -> Self {
        let one = Field::<P>::ONE;
        Self::all(table, node, 1).next().unwrap_or(Self { parent: one, children: [one; 2] })
    }
}

pub(super) fn quarters(data: &mut [u64]) -> [&mut [u64]; 4] {
    let (low, high) = data.split_at_mut(data.len() / 2);
    let (first, second) = low.split_at_mut(low.len() / 2);
    let (third, fourth) = high.split_at_mut(high.len() / 2);
    [first, second, third, fourth]
}

/// One level down: from below `4 * P` to below `4 * P`.
#[inline(always)]
pub(super) fn down<const P: u64>(low: u64, high: u64, root: Factor) -> [u64; 2] {
    let low = Field::<P>::halve_range(low);
    let high = Field::<P>::times(high, root);
    [low + high, low + 2 * P - high]
}

/// One level up: from below `2 * P` to below `2 * P`.
#[inline(always)]
pub(super) fn up<const P: u64>(low: u64, high: u64, inverse_root: Factor) -> [u64; 2] {
    let sum = Field::<P>::halve_range(low + high);
    [sum, Field::<P>::times(low + 2 * P - high, inverse_root)]
}

/// Two levels down at once.
pub(super) fn forward_pass<const P: u64>(quarters: [&mut [u64]; 4], twiddles: Twiddles) {
    let [first, second, third, fourth] = quarters;
    let Twiddles { parent, children: [left, right] } = twiddles;
    for (((a, b), c), d) in first.iter_mut().zip(second).zip(third).zip(fourth) {
        let [a_down, c_down] = down::<P>(*a, *c, parent);
        let [b_down, d_down] = down::<P>(*b, *d, parent);
        [*a, *b] = down::<P>(a_down, b_down, left);
        [*c, *d] = down::<P>(c_down, d_down, right);
    }
}

/// Two levels up at once.
pub(super) fn inverse_pass<const P: u64>(quarters: [&mut [u64]; 4], twiddles: Twiddles) {
    let [first, second, third, fourth] = quarters;
    let Twiddles { parent, children: [left, right] } = twiddles;
    for (((a, b), c), d) in first.iter_mut().zip(second).zip(third).zip(fourth) {
        let [a_up, b_up] = up::<P>(*a, *b, left);
        let [c_up, d_up] = up::<P>(*c, *d, right);
        [*a, *c] = up::<P>(a_up, c_up, parent);
        [*b, *d] = up::<P>(b_up, d_up, parent);
    }
}

pub(super) fn forward_shared<const P: u64>(
    parts: [&mut [u64]; 4],
    twiddles: Twiddles,
    threads: usize,
) {
    if threads < 2 {
        return forward_pass::<P>(parts, twiddles);
    }
    let (low, high) = halves(parts);
    let high = |threads| forward_shared::<P>(high, twiddles, threads);
    join(threads, |threads| forward_shared::<P>(low, twiddles, threads), high);
}

pub(super) fn inverse_shared<const P: u64>(
    parts: [&mut [u64]; 4],
    twiddles: Twiddles,
    threads: usize,
) {
    if threads < 2 {
        return inverse_pass::<P>(parts, twiddles);
    }
    let (low, high) = halves(parts);
    let high = |threads| inverse_shared::<P>(high, twiddles, threads);
    join(threads, |threads| inverse_shared::<P>(low, twiddles, threads), high);
}

/// The lower half of each part, and the upper half of each.
fn halves(parts: [&mut [u64]; 4]) -> ([&mut [u64]; 4], [&mut [u64]; 4]) {
    let [a, b, c, d] = parts.map(|part| part.split_at_mut(part.len() / 2));
    ([a.0, b.0, c.0, d.0], [a.1, b.1, c.1, d.1])
}

/// The products modulo `x^4 - w` and modulo `x^4 + w`.
#[inline(always)]
pub(super) fn multiply_pair<const P: u64>(a: [u64; 8], b: [u64; 8], root: Factor) -> [u64; 8] {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = a.map(Field::<P>::reduce);
    let [b0, b1, b2, b3, b4, b5, b6, b7] = b.map(Field::<P>::reduce);
    let turn = |number| Field::<P>::reduce_once(Field::<P>::times(number, root));
    let turned = [turn(a1), turn(a2), turn(a3)];
    let [c0, c1, c2, c3] = multiply_leaf::<P>([a0, a1, a2, a3], turned, [b0, b1, b2, b3]);
    let turned = [P - turn(a5), P - turn(a6), P - turn(a7)];
    let [c4, c5, c6, c7] = multiply_leaf::<P>([a4, a5, a6, a7], turned, [b4, b5, b6, b7]);
    [c0, c1, c2, c3, c4, c5, c6, c7]
}

/// The product of two polynomials modulo `x^4 - z`, given `z` times the last coefficients of `a`.
/// Four products of numbers up to `P` fit in 126 bits.
#[inline(always)]
fn multiply_leaf<const P: u64>(a: [u64; 4], turned: [u64; 3], b: [u64; 4]) -> [u64; 4] {
    let [a0, a1, a2, a3] = a.map(u128::from);
    let [t1, t2, t3] = turned.map(u128::from);
    let [b0, b1, b2, b3] = b.map(u128::from);
    [
        a0 * b0 + t3 * b1 + t2 * b2 + t1 * b3,
        a1 * b0 + a0 * b1 + t3 * b2 + t2 * b3,
        a2 * b0 + a1 * b1 + a0 * b2 + t3 * b3,
        a3 * b0 + a2 * b1 + a1 * b2 + a0 * b3,
    ]
    .map(Field::<P>::montgomery)
}
