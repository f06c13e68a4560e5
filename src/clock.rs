//! Wall time and monotonic time behind one trait, so that tests can set a clock back.
//!
//! Wall time names things for people (folders, journal rows, ages shown); every wait, deadline and
//! rate uses monotonic time, so a clock that jumps delays and loses nothing.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};

/// A source of wall and of monotonic time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall time, in UTC. May jump forwards and backwards.
    fn wall(&self) -> DateTime<Utc>;

    /// Monotonic time, for waits and deadlines.
    fn monotonic(&self) -> Instant;

    /// The wall time in milliseconds since 1970; 0 before it.
    fn wall_ms(&self) -> u64 {
        u64::try_from(self.wall().timestamp_millis()).unwrap_or(0)
    }
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> DateTime<Utc> {
        DateTime::from(SystemTime::now())
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A token bucket: `capacity` tokens in hand, one back every `1 / per_second` seconds.
///
/// A rate of 0 means no limit. Pure: the caller brings the time.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    refilled_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(capacity: u32, per_second: f64, now: Instant) -> Self {
        let capacity = f64::from(capacity.max(1));
        Self { capacity, per_second, tokens: capacity, refilled_at: now }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled_at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.capacity);
        self.refilled_at = self.refilled_at.max(now);
    }

    /// How long until a token is there; `None` when one is there now or there is no limit.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.per_second <= 0.0 {
            return None;
        }
        self.refill(now);
        let missing = 1.0 - self.tokens;
        // Below a nanosecond of refill is rounding, not a shortage.
        (missing > self.per_second * 1e-9)
            .then(|| Duration::from_secs_f64(missing / self.per_second))
    }

    /// Takes a token; false, and nothing taken, when there is none.
    pub fn try_take(&mut self, now: Instant) -> bool {
        if self.wait(now).is_some() {
            return false;
        }
        if self.per_second > 0.0 {
            self.tokens = (self.tokens - 1.0).max(0.0);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_capacity_then_one_per_period() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 1.0, start);
        assert_eq!((0..20).filter(|_| bucket.try_take(start)).count(), 10);
        let wait = bucket.wait(start).unwrap();
        assert!(!bucket.try_take(start + wait / 2));
        assert!(bucket.try_take(start + Duration::from_secs(1)));
        assert!(!bucket.try_take(start + Duration::from_secs(1)));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1, 0.0, start);
        assert!((0..1000).all(|_| bucket.try_take(start)));
    }

    #[test]
    fn time_that_goes_backwards_gives_no_tokens() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = TokenBucket::new(1, 1.0, start);
        assert!(bucket.try_take(start));
        assert!(!bucket.try_take(start - Duration::from_secs(50)));
        assert!(!bucket.try_take(start));
    }
}
