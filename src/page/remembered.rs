//! What is asked elsewhere: it may take its time, and so nobody waits for it for long.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::service::held;

/// How long whoever draws waits for a new answer.
const PATIENCE: Duration = Duration::from_millis(100);

/// An answer that is asked for again when it is old; meanwhile the last one stands.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    fresh: Duration,
    known: Arc<Mutex<Known<T>>>,
}

#[derive(Debug)]
struct Known<T> {
    answer: Option<T>,
    /// When it was asked for last, and what had changed by then.
    asked: Option<(Instant, u64)>,
    is_asking: bool,
}

impl<T: Clone + Send + 'static> Remembered<T> {
    /// An answer is good for so long, unless something changes.
    pub(super) fn new(fresh: Duration) -> Self {
        let known = Known { answer: None, asked: None, is_asking: false };
        Self { fresh, known: Arc::new(Mutex::new(known)) }
    }

    /// The answer, as far as there is one; never waits for long. `change` is another number when
    /// something has changed that the answer depends on.
    pub(super) async fn get(
        &self,
        change: u64,
        ask: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Option<T> {
        if self.is_due(change) {
            let (known, asking) = (Arc::clone(&self.known), ask());
            let asking = tokio::spawn(async move {
                let answer = asking.await;
                let mut known = held(&known);
                (known.answer, known.is_asking) = (Some(answer), false);
            });
            // If it takes longer, the next one who draws has it.
            let _late = timeout(PATIENCE, asking).await;
        }
        held(&self.known).answer.clone()
    }

    /// Whether it is to be asked now, by whoever is told so.
    fn is_due(&self, change: u64) -> bool {
        let mut known = held(&self.known);
        let is_good = |(at, then): (Instant, u64)| then == change && at.elapsed() < self.fresh;
        if known.is_asking || known.asked.is_some_and(is_good) {
            return false;
        }
        (known.asked, known.is_asking) = (Some((Instant::now(), change)), true);
        true
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_slow_answer_and_the_last_one_stands_meanwhile() {
        let remembered = Remembered::<u32>::new(Duration::from_secs(3600));
        let never = || -> BoxFuture<'static, u32> { panic!("it is asked already") };
        let (answer, answered) = oneshot::channel();
        let slow = || async { answered.await.unwrap() }.boxed();
        assert_eq!(remembered.get(0, slow).await, None);
        assert_eq!(remembered.get(0, never).await, None);
        answer.send(1).unwrap();
        while remembered.get(0, never).await != Some(1) {
            tokio::task::yield_now().await;
        }
        let (_answer, answered) = oneshot::channel::<u32>();
        let slow = || async { answered.await.unwrap() }.boxed();
        assert_eq!(remembered.get(1, slow).await, Some(1));
        assert_eq!(remembered.get(1, never).await, Some(1));
    }
}
