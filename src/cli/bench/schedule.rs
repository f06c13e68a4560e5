//! When each request of an open loop is meant to be sent: evenly, whatever the server does.
//!
//! Latency is counted from this moment and not from when a connection was free for it. Otherwise a
//! server that stalls would hold back the very requests that would have found it stalled
//! (coordinated omission: Tene, "How NOT to Measure Latency").

use std::time::Duration;

/// A steady rate of messages, so many a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// Nanoseconds times `rate` between two requests.
    step: u128,
    /// Messages per second.
    rate: u128,
}

impl Schedule {
    /// `rate` messages per second in requests of `entries`; both at least 1.
    pub(super) fn new(rate: u64, entries: u64) -> Self {
        let step = u128::from(entries.max(1)) * 1_000_000_000;
        Self { step, rate: u128::from(rate.max(1)) }
    }

    /// When request number `request`, from 0, is meant to be sent, after the beginning.
    pub(super) fn intended(&self, request: u64) -> Duration {
        let nanoseconds = u128::from(request) * self.step / self.rate;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// How many requests are meant to be sent by `elapsed`, that moment included.
    pub(super) fn due(&self, elapsed: Duration) -> u64 {
        let due = ((elapsed.as_nanos() + 1) * self.rate - 1) / self.step + 1;
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// How many requests are meant to be sent before `end`.
    pub(super) fn count(&self, end: Duration) -> u64 {
        end.checked_sub(Duration::from_nanos(1)).map_or(0, |last| self.due(last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_holds_the_rate() {
        let schedule = Schedule::new(1000, 100);
        assert_eq!(schedule.intended(0), Duration::ZERO);
        assert_eq!(schedule.intended(7), Duration::from_millis(700));
        assert_eq!(schedule.due(Duration::from_nanos(999_999_999)), 10);
        assert_eq!(schedule.due(Duration::from_secs(1)), 11);
        assert_eq!(schedule.count(Duration::from_secs(1)), 10);
        assert_eq!(schedule.count(Duration::ZERO), 0);
    }

    proptest! {
        #[test]
        fn a_request_is_due_when_it_is_intended_and_not_before(
            rate in 1..10_000_000_u64,
            entries in 1..10_000_u64,
            request in 0..100_000_000_u64,
        ) {
            let schedule = Schedule::new(rate, entries);
            let at = schedule.intended(request);
            prop_assert!(schedule.due(at) > request);
            prop_assert!(schedule.intended(request + 1) >= at);
            prop_assert!(schedule.count(at) <= request);
        }
    }
}
