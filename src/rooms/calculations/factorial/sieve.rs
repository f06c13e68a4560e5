//! Primes.

use super::progress::{Cancelled, Progress};

/// Odd numbers that are sieved at once: as many bytes as stay in the nearest cache.
const SEGMENT: usize = 1 << 15;

/// All primes up to a limit, in ascending order (the sieve of Eratosthenes, segment by segment).
pub(super) fn primes(limit: u32, progress: &Progress) -> Result<Vec<u32>, Cancelled> {
    let mut primes = if limit < 2 { Vec::new() } else { vec![2] };
    // The odd number of an index is 2 * index + 1.
    let odds = (limit as usize).div_ceil(2);
    let mut dividers = dividers(limit.isqrt() as usize);
    let mut is_composite = vec![false; SEGMENT.min(odds)];
    for start in (0..odds).step_by(SEGMENT) {
        progress.check()?;
        let end = odds.min(start + SEGMENT);
        is_composite.fill(false);
        for (prime, multiple) in &mut dividers {
            while *multiple < end {
                is_composite.get_mut(*multiple - start).into_iter().for_each(|mark| *mark = true);
                *multiple += *prime;
            }
        }
        let segment = (start..end).zip(&is_composite);
        // 1, the first odd number, is no prime.
        let found = segment.filter(|(index, is_composite)| *index > 0 && !**is_composite);
        primes.extend(found.filter_map(|(index, _)| u32::try_from(2 * index + 1).ok()));
    }
    Ok(primes)
}

/// The odd primes up to a small limit, each with the index of its next multiple: at first its
/// square, since smaller ones have smaller dividers.
fn dividers(limit: usize) -> Vec<(usize, usize)> {
    let is_prime = |number: &usize| {
        (3..=number.isqrt()).step_by(2).all(|divider| !number.is_multiple_of(divider))
    };
    (3..=limit).step_by(2).filter(is_prime).map(|prime| (prime, prime * prime / 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prime_is_missed_and_no_other_number_is_taken() {
        let is_prime = |number: &u32| {
            *number > 1 && (2..=number.isqrt()).all(|divider| !number.is_multiple_of(divider))
        };
        let primes = |limit| primes(limit, &Progress::default()).unwrap();
        let expected: Vec<u32> = (0..200_000).filter(is_prime).collect();
        assert_eq!(primes(199_999), expected);
        for limit in (0..600).chain([65_535, 65_536, 65_537, 65_538, 131_072, 131_073]) {
            let below = expected.partition_point(|prime| *prime <= limit);
            assert_eq!(primes(limit), expected[..below], "{limit}");
        }
        assert_eq!(primes(1_000_000).len(), 78_498);
    }
}
