//! How many jobs a worker has in hand: many, as long as they are over in no time; else as many as
//! it can run at once, so that none waits here that another worker could run.

use std::time::Duration;

/// Jobs that were over sooner than this make the window grow. That one began at once says nothing:
/// it may run for an hour, and what was taken beside it would wait.
const QUICK: Duration = Duration::from_millis(20);
/// Those that waited longer before they began make it shrink.
const SLOW: Duration = Duration::from_millis(100);
/// The most jobs in hand.
pub(super) const JOBS_MAX: usize = 512;

/// The window of one worker process. Pure: the caller measures.
#[derive(Debug, Clone)]
pub(super) struct Window {
    slots: usize,
    size: usize,
}

impl Window {
    /// A window for so many slots.
    #[must_use]
    pub(super) fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, JOBS_MAX);
        Self { slots, size: slots }
    }

    /// A job has begun, so long after it was taken.
    pub(super) fn began(&mut self, after: Duration) {
        if after > SLOW {
            self.size = (self.size / 2).max(self.slots);
        }
    }

    /// A job has ended, so long after it was taken.
    pub(super) fn ended(&mut self, after: Duration) {
        if after < QUICK {
            self.size = (self.size + 1 + self.size / 4).min(JOBS_MAX);
        }
    }

    /// Jobs were given back, since none of those that run came to an end.
    pub(super) const fn stuck(&mut self) {
        self.size = self.slots;
    }

    /// How many to take, with so many in hand; 0 to wait until it is worth a trip.
    #[must_use]
    pub(super) const fn room(&self, in_hand: usize) -> usize {
        let room = self.size.saturating_sub(in_hand);
        if room > 0 && (in_hand < self.slots || room >= self.size / 2) { room } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_jobs_are_taken_by_the_hundred_and_slow_ones_one_a_slot() {
        let mut window = Window::new(2);
        assert_eq!(window.room(0), 2);
        (0..100).for_each(|_| window.ended(Duration::from_millis(1)));
        assert_eq!(window.room(0), JOBS_MAX);
        assert_eq!(window.room(300), 0, "trips are made when they bring much");
        assert_eq!(window.room(200), JOBS_MAX - 200);
        (0..100).for_each(|_| window.began(Duration::from_secs(1)));
        assert_eq!(window.room(0), 2);
        assert_eq!(window.room(2), 0);
        assert_eq!(window.room(1), 1);
    }

    #[test]
    fn beside_jobs_that_have_begun_at_once_nothing_is_taken_until_they_are_over_as_soon() {
        let mut window = Window::new(1);
        window.began(Duration::ZERO);
        assert_eq!(window.room(1), 0);
        window.ended(Duration::from_secs(1));
        assert_eq!(window.room(0), 1);
        assert_eq!(window.room(1), 0);
    }

    #[test]
    fn a_window_that_is_stuck_holds_no_more_than_runs() {
        let mut window = Window::new(3);
        (0..100).for_each(|_| window.ended(Duration::ZERO));
        window.stuck();
        assert_eq!(window.room(3), 0);
        assert_eq!(window.room(2), 1);
    }
}
