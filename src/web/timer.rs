//! One reusable timer that is moved as rarely as possible.
//!
//! A busy connection changes its deadline with every request. The wheel of the runtime is touched
//! only when a deadline comes nearer or the timer fires; a deadline that moves away costs a
//! comparison, and at most one wake-up for nothing per period.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer for the deadlines of one connection, or of one body, one after the other.
#[derive(Debug, Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready once `deadline` has passed; until then the task is woken at `deadline` at the latest.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_deadline_that_moved_away_is_kept_and_one_that_came_nearer_is_met() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let near = start + Duration::from_millis(20);
        let far = start + Duration::from_millis(60);
        let never = start + Duration::from_secs(600);
        let mut first = true;
        poll_fn(|context| {
            if std::mem::take(&mut first) {
                assert!(timer.poll(context, never).is_pending());
                assert!(timer.poll(context, near).is_pending());
            }
            timer.poll(context, far)
        })
        .await;
        assert!(Instant::now() >= far);
        poll_fn(|context| timer.poll(context, near)).await;
    }
}
