//! How many workers a pool has. Pure: the caller brings what it sees, and when.
//!
//! A pool grows by one when all its workers are busy and the oldest message that none has taken
//! has waited for long; it shrinks by one when a worker has had nothing to do for longer.

use std::time::{Duration, Instant};

/// How old the backlog is when a pool grows.
pub const GROW_AGE: Duration = Duration::from_secs(5);
/// How long a worker is idle when a pool shrinks.
pub const SHRINK_IDLE: Duration = Duration::from_secs(30);
/// The time between two changes: what the last one brought must show first.
const SETTLE: Duration = Duration::from_secs(5);

/// Limits of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Workers at start, and at least.
    pub least: u16,
    /// Workers at most.
    pub most: u16,
}

/// What a pool looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Workers there are.
    pub workers: u16,
    /// Of these, with a delivery in hand.
    pub busy: u16,
    /// How long the oldest message that nobody has taken has waited.
    pub backlog_age: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// One worker more.
    Grow,
    /// One worker less.
    Shrink,
    /// No change.
    Hold,
}

/// What the decision needs to remember.
#[derive(Debug, Clone, Copy)]
pub struct Scaling {
    limits: Limits,
    changed_at: Instant,
    /// Since when a worker has had nothing to do.
    idle_since: Option<Instant>,
}

impl Scaling {
    /// A pool with its first workers.
    #[must_use]
    pub const fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, changed_at: now, idle_since: None }
    }

    /// The limits.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Decides.
    pub fn decide(&mut self, load: Load, now: Instant) -> Decision {
        let all_busy = load.busy >= load.workers;
        self.idle_since = if all_busy { None } else { Some(self.idle_since.unwrap_or(now)) };
        let since = |at: Instant| now.saturating_duration_since(at);
        if since(self.changed_at) < SETTLE {
            return Decision::Hold;
        }
        let idle = self.idle_since.map_or(Duration::ZERO, since);
        let decision =
            if load.workers < self.limits.most && all_busy && load.backlog_age >= GROW_AGE {
                Decision::Grow
            } else if load.workers > self.limits.least && idle >= SHRINK_IDLE {
                Decision::Shrink
            } else {
                return Decision::Hold;
            };
        self.changed_at = now;
        self.idle_since = None;
        decision
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { least: 3, most: 4 };

    fn load(workers: u16, busy: u16, age_s: u64) -> Load {
        Load { workers, busy, backlog_age: Duration::from_secs(age_s) }
    }

    #[test]
    fn it_grows_only_when_nobody_is_free_and_messages_wait_for_long() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let decide = |load| Scaling::new(LIMITS, start).decide(load, later);
        assert_eq!(decide(load(3, 3, 5)), Decision::Grow);
        assert_eq!(decide(load(3, 2, 500)), Decision::Hold, "somebody is free");
        assert_eq!(decide(load(3, 3, 4)), Decision::Hold, "they have not waited for long");
        assert_eq!(decide(load(4, 4, 500)), Decision::Hold, "four at most");
    }

    #[test]
    fn it_shrinks_when_one_has_been_idle_without_a_break() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut scaling = Scaling::new(LIMITS, start);
        assert_eq!(scaling.decide(load(4, 3, 0), at(10)), Decision::Hold);
        assert_eq!(scaling.decide(load(4, 4, 0), at(30)), Decision::Hold);
        assert_eq!(scaling.decide(load(4, 3, 0), at(31)), Decision::Hold);
        assert_eq!(scaling.decide(load(4, 0, 0), at(60)), Decision::Hold);
        assert_eq!(scaling.decide(load(4, 0, 0), at(61)), Decision::Shrink);
        assert_eq!(scaling.decide(load(3, 0, 0), at(200)), Decision::Hold, "three at least");
    }

    proptest! {
        #[test]
        fn it_stays_within_its_limits_and_never_hurries(
            steps in prop::collection::vec((0_u64..40, 0_u16..5, 0_u64..20), 1..200),
        ) {
            let mut now = Instant::now();
            let (mut workers, mut changed) = (LIMITS.least, now);
            let mut scaling = Scaling::new(LIMITS, now);
            for (pause_s, busy, age_s) in steps {
                now += Duration::from_secs(pause_s);
                let decision = scaling.decide(load(workers, busy.min(workers), age_s), now);
                match decision {
                    Decision::Grow => workers += 1,
                    Decision::Shrink => workers -= 1,
                    Decision::Hold => continue,
                }
                prop_assert!((LIMITS.least..=LIMITS.most).contains(&workers));
                prop_assert!(now - changed >= SETTLE);
                changed = now;
            }
        }
    }
}
