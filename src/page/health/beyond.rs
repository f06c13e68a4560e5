//! What is asked elsewhere: it may take its time, and so nobody waits for it for long.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::Request;
use serde_json::Value;
use tokio::time::timeout;

use crate::rooms::telemetry::road::Road;
use crate::service::{held, printable};
use crate::store::{Millis, Store, StoreError};

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(2);
/// How long whoever draws waits for a new one.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// An answer that is asked for again when it is old; meanwhile the last one stands.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    known: Arc<Mutex<Known<T>>>,
}

#[derive(Debug)]
struct Known<T> {
    answer: Option<T>,
    asked_at: Option<Instant>,
    is_asking: bool,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        let known = Known { answer: None, asked_at: None, is_asking: false };
        Self { known: Arc::new(Mutex::new(known)) }
    }
}

impl<T: Clone + Send + 'static> Remembered<T> {
    /// The answer, as far as there is one; never waits for long.
    pub(super) async fn get(&self, ask: impl FnOnce() -> BoxFuture<'static, T>) -> Option<T> {
        if self.is_due() {
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
    fn is_due(&self) -> bool {
        let mut known = held(&self.known);
        let is_fresh = known.asked_at.is_some_and(|at| at.elapsed() < FRESH);
        if known.is_asking || is_fresh {
            return false;
        }
        (known.asked_at, known.is_asking) = (Some(Instant::now()), true);
        true
    }
}

/// What a store says of tasks and schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tasks {
    /// How many parts of processes, wherever they are, have signed for tasks that they run now.
    pub(super) workers: usize,
    /// Whether a schedule recurs.
    pub(super) recurs: bool,
}

/// Asks the store.
pub(super) async fn ask_store(store: Arc<dyn Store>) -> Result<Tasks, String> {
    let asked = async {
        let workers = store.workers().await?.len();
        // What was due before all times is nothing: this tells when the first is due, if any.
        let recurs = store.due_schedules(1, Millis::MIN).await?.next_at_ms.is_some();
        Ok(Tasks { workers, recurs })
    };
    let answer: Result<Result<Tasks, StoreError>, _> = timeout(ANSWER_TIMEOUT, asked).await;
    answer.map_err(|_| late())?.map_err(|error| error.to_string())
}

/// Asks a spaceship for its version. R2's answers this as well, of another program's version, which
/// is not told.
pub(super) async fn ask_spaceship(road: Road) -> Result<Option<String>, String> {
    let request = Request::get("/openapi.json").body(Bytes::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = timeout(ANSWER_TIMEOUT, road.exchange(request)).await.map_err(|_| late())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let description: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let said = |name| description.pointer(name).and_then(Value::as_str).unwrap_or_default();
    let is_ours = said("/info/title").starts_with("async-data-processor");
    Ok(is_ours.then(|| printable(said("/info/version"))))
}

fn late() -> String {
    format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_a_slow_answer_and_the_last_one_stands_meanwhile() {
        let remembered = Remembered::<u32>::default();
        let never = || -> BoxFuture<'static, u32> { panic!("it is asked already") };
        let (answer, answered) = oneshot::channel();
        let slow = || async { answered.await.unwrap() }.boxed();
        assert_eq!(remembered.get(slow).await, None);
        assert_eq!(remembered.get(never).await, None);
        answer.send(1).unwrap();
        while remembered.get(never).await != Some(1) {
            tokio::task::yield_now().await;
        }
        held(&remembered.known).asked_at = None;
        let (_answer, answered) = oneshot::channel::<u32>();
        let slow = || async { answered.await.unwrap() }.boxed();
        assert_eq!(remembered.get(slow).await, Some(1));
        assert_eq!(remembered.get(never).await, Some(1));
    }
}
