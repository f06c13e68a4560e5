//! Times as percentiles of an HDR histogram: three digits, from a nanosecond to an hour.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

const HIGHEST_NS: u64 = 60 * 60 * 1_000_000_000;
const DIGITS: u8 = 3;

/// Times taken.
#[derive(Debug, Clone)]
pub(super) struct Times(Option<Histogram<u64>>);

impl Times {
    /// None yet.
    pub(super) fn new() -> Self {
        // Bounds that the crate refuses would be a mistake in the constants above.
        Self(Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).ok())
    }

    /// Takes one; more than an hour counts as an hour.
    pub(super) fn record(&mut self, time: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(HIGHEST_NS));
        }
    }

    /// The figures; `None` if nothing was taken.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        // A percentile names the end of its step, which may lie above the longest time there was.
        let at =
            |quantile| milliseconds(histogram.value_at_quantile(quantile).min(histogram.max()));
        Some(Percentiles {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: milliseconds(histogram.max()),
        })
    }
}

fn milliseconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1000.0
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    /// How many times were taken.
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_taken_has_no_percentiles() {
        assert_eq!(Times::new().percentiles(), None);
    }

    proptest! {
        #[test]
        fn a_percentile_is_that_of_the_sorted_times_within_a_thousandth(
            mut times in prop::collection::vec(1_u64..10_000_000_000, 1..300),
        ) {
            let mut taken = Times::new();
            times.iter().for_each(|time| taken.record(Duration::from_nanos(*time)));
            times.sort_unstable();
            let percentiles = taken.percentiles().unwrap();
            let count = times.len();
            for (found, permille) in
                [(percentiles.p50, 500), (percentiles.p90, 900), (percentiles.p99, 990),
                 (percentiles.p99_9, 999), (percentiles.max, 1000)]
            {
                let rank = (count * permille).div_ceil(1000).max(1);
                let exact = milliseconds(times[rank - 1]);
                prop_assert!((found - exact).abs() <= exact / 900.0, "{found} for {exact}");
            }
        }
    }
}
