//! How many datagrams are due: a rate, evenly in small ticks.
//!
//! A tick has up to [`TICK_DATAGRAMS`] datagrams, but lasts from 1 to 10 ms; at fewer than 100
//! datagrams a second each has a tick of its own. Its datagrams are due at its beginning, and a
//! second has a whole number of ticks: so each second from the start has exactly as many datagrams
//! as the rate says.
//!
//! After a stall, what was missed is made up for gently: with each tick at most one tick's worth
//! beside its own. What was due more than a second ago is left out.

use std::num::NonZeroU32;
use std::time::Duration;

/// What a tick has at rates between those where its length decides.
const TICK_DATAGRAMS: u64 = 64;
/// Ticks last 10 ms at most,
const TICKS_PER_SECOND_MIN: u64 = 100;
/// and 1 ms at least: threads are not woken more often.
const TICKS_PER_SECOND_MAX: u64 = 1000;
const NANOSECONDS: u128 = 1_000_000_000;

/// The pace of one stream. Pure: the caller brings the time.
#[derive(Debug, Clone)]
pub struct Pace {
    rate: u64,
    ticks_per_second: u64,
    /// The most datagrams of a tick.
    tick_datagrams_max: u64,
    /// The first tick that was not taken yet.
    next_tick: u64,
    /// Datagrams that were given out, or are left out.
    settled: u64,
}

impl Pace {
    /// A pace of `rate` datagrams per second, which begins now.
    #[must_use]
    pub fn new(rate: NonZeroU32) -> Self {
        let rate = u64::from(rate.get());
        let ticks_per_second = if rate <= TICKS_PER_SECOND_MIN {
            rate
        } else {
            rate.div_ceil(TICK_DATAGRAMS).clamp(TICKS_PER_SECOND_MIN, TICKS_PER_SECOND_MAX)
        };
        let tick_datagrams_max = rate.div_ceil(ticks_per_second);
        Self { rate, ticks_per_second, tick_datagrams_max, next_tick: 0, settled: 0 }
    }

    /// How many datagrams are to be sent now, so long after the beginning; none before the next
    /// tick.
    pub fn take(&mut self, elapsed: Duration) -> u64 {
        let tick = self.tick_at(elapsed);
        if tick < self.next_tick {
            return 0;
        }
        let due = self.due_before(tick.saturating_add(1));
        let own = due.saturating_sub(self.due_before(tick));
        let missing = due.saturating_sub(self.settled);
        let given = missing.min(own.saturating_add(self.tick_datagrams_max));
        let kept = missing.saturating_sub(given).min(self.rate);
        self.settled = due.saturating_sub(kept);
        self.next_tick = tick.saturating_add(1);
        given
    }

    /// How long it is until the next tick.
    #[must_use]
    pub fn wait(&self, elapsed: Duration) -> Duration {
        let (ticks, tick) = (u128::from(self.ticks_per_second), u128::from(self.next_tick));
        // Rounded up: a moment too early would be in the tick before.
        let begins = (tick * NANOSECONDS).div_ceil(ticks);
        let wait = begins.saturating_sub(elapsed.as_nanos());
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn tick_at(&self, elapsed: Duration) -> u64 {
        let ticks = elapsed.as_nanos() * u128::from(self.ticks_per_second) / NANOSECONDS;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Datagrams of the ticks before this one.
    fn due_before(&self, tick: u64) -> u64 {
        let due = u128::from(tick) * u128::from(self.rate) / u128::from(self.ticks_per_second);
        u64::try_from(due).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(rate: u32) -> Pace {
        Pace::new(NonZeroU32::new(rate).unwrap())
    }

    /// Takes as a thread does that is never late: what came at which time.
    fn taken(pace: &mut Pace, until: Duration) -> Vec<(Duration, u64)> {
        let mut now = Duration::ZERO;
        let mut taken = Vec::new();
        while now < until {
            taken.push((now, pace.take(now)));
            now += pace.wait(now);
        }
        taken
    }

    #[test]
    fn a_slow_stream_has_its_datagrams_one_by_one() {
        let seconds = Duration::from_secs;
        let expected = [(seconds(0), 1), (seconds(1), 1), (seconds(2), 1)];
        assert_eq!(taken(&mut pace(1), seconds(3)), expected);
        let apart = taken(&mut pace(3), seconds(1));
        assert_eq!(apart.iter().map(|(_, count)| count).sum::<u64>(), 3);
    }

    #[test]
    fn a_stall_is_made_up_for_gently_and_only_a_second_of_it() {
        let mut pace = pace(1000);
        let ms = Duration::from_millis;
        assert_eq!(pace.take(ms(0)), 10);
        assert_eq!(pace.take(ms(9)), 0);
        // Two ticks were missed.
        assert_eq!(pace.take(ms(30)), 20);
        assert_eq!(pace.take(ms(40)), 20);
        assert_eq!(pace.take(ms(50)), 10, "all is made up for");
        assert_eq!(pace.take(ms(10_050)), 20);
        let after = (1..1000).map(|tick| pace.take(ms(10_050 + tick * 10)));
        assert_eq!(after.map(|count| count - 10).sum::<u64>(), 1000);
    }

    #[test]
    fn time_that_stands_still_gives_nothing() {
        let mut pace = pace(1_000_000);
        assert!(pace.take(Duration::from_secs(5)) > 0);
        assert_eq!(pace.take(Duration::from_secs(5)), 0);
        assert_eq!(pace.take(Duration::from_secs(4)), 0);
    }

    fn rates() -> impl Strategy<Value = u32> {
        prop_oneof![1_u32..200, 1_u32..20_000, 1_u32..=10_000_000]
    }

    proptest! {
        #[test]
        fn each_second_has_as_many_datagrams_as_the_rate_says(
            rate in rates(), seconds in 1_u64..4,
        ) {
            let taken = taken(&mut pace(rate), Duration::from_secs(seconds));
            for second in 0..seconds {
                let within = taken.iter().filter(|(at, _)| at.as_secs() == second);
                let count: u64 = within.map(|(_, count)| count).sum();
                prop_assert_eq!(count, u64::from(rate));
            }
            for pair in taken.windows(2) {
                let gap = pair[1].0 - pair[0].0;
                let one_each = Duration::from_secs(1) / rate + Duration::from_nanos(1);
                prop_assert!(gap <= Duration::from_nanos(10_000_001).max(one_each), "{gap:?}");
            }
        }

        #[test]
        fn never_ahead_of_the_rate_never_a_burst_and_nothing_left_out_within_a_second(
            rate in rates(), gaps in prop::collection::vec(0_u64..400_000_000, 1..60),
        ) {
            let mut pace = pace(rate);
            let worth = u64::from(rate).div_ceil(pace.ticks_per_second);
            let (mut now, mut sum) = (Duration::ZERO, 0);
            for gap in gaps {
                now += Duration::from_nanos(gap);
                let given = pace.take(now);
                prop_assert!(given <= 2 * worth);
                sum += given;
                let due = pace.due_before(pace.tick_at(now) + 1);
                prop_assert!(sum <= due, "{} of {}", sum, due);
                prop_assert!(pace.wait(now) <= Duration::from_secs(1));
            }
            // A thread that is never late again has soon made up for all that is not left out.
            let settled = pace.settled;
            prop_assert!(settled >= sum);
            for _ in 0..=pace.ticks_per_second {
                now += pace.wait(now);
                pace.take(now);
            }
            prop_assert_eq!(pace.settled, pace.due_before(pace.tick_at(now) + 1));
        }

        #[test]
        fn whoever_waits_as_told_finds_something_due(
            rate in rates(), late in 0_u64..3_000_000_000,
        ) {
            let mut pace = pace(rate);
            let now = Duration::from_nanos(late);
            pace.take(now);
            let wait = pace.wait(now);
            prop_assert!(!wait.is_zero());
            let again = pace.clone().take(now + wait - Duration::from_nanos(1));
            prop_assert_eq!(again, 0);
            prop_assert!(pace.take(now + wait) > 0);
        }
    }
}
