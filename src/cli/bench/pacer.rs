//! Hands out permits as requests become due.
//!
//! A thread, since the runtime's own timers know only milliseconds, which would show in every
//! latency of an open loop; a thread wakes within some 60 µs.

use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::schedule::Schedule;
use crate::service::Lifecycle;

/// What is due, and when it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) schedule: Schedule,
    /// What the schedule counts from.
    pub(super) began: Instant,
    /// How many requests there are.
    pub(super) last: u64,
}

impl Pace {
    /// Adds a permit for each request when it is due, and one for each of `takers` at the end, to
    /// find that nothing more is.
    pub(super) fn keep(self, due: &Semaphore, takers: u64, over: &Lifecycle) {
        let mut given = 0;
        while given < self.last {
            let elapsed = self.began.elapsed();
            let now_due = self.schedule.due(elapsed).min(self.last);
            add(due, now_due.saturating_sub(given));
            given = given.max(now_due);
            let next = self.schedule.intended(given).saturating_sub(elapsed);
            if next > Duration::ZERO && over.wait_stopping(next) {
                return;
            }
        }
        add(due, takers);
    }
}

/// Adds so many permits.
pub(super) fn add(due: &Semaphore, permits: u64) {
    due.add_permits(usize::try_from(permits).unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_gets_a_permit_and_each_taker_an_end() {
        let (due, over) = (Semaphore::new(0), Lifecycle::new());
        let schedule = Schedule::new(1_000_000, 1);
        Pace { schedule, began: Instant::now(), last: 500 }.keep(&due, 16, &over);
        assert_eq!(due.available_permits(), 516);
    }

    #[test]
    fn it_ends_when_the_run_is_over() {
        let (due, over) = (Semaphore::new(0), Lifecycle::new());
        over.stop();
        let schedule = Schedule::new(1, 1);
        Pace { schedule, began: Instant::now(), last: u64::MAX }.keep(&due, 16, &over);
        assert_eq!(due.available_permits(), 1);
    }
}
