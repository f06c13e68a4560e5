//! The supply that claims rows of the store: without a broker the rows are the queue.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::handler::Job;
use super::parts::Parts;
use super::supply::{Body, Done, Supply, SupplyError};
use crate::clock::Clock;
use crate::service::held;
use crate::store::{Claim, Millis, Settled, Settlement, Store, StoreError, Task};
use crate::task::{Attempt, Beat, Name, TaskId, WorkerId};

/// The longest wait for a bell before the store is looked at anyway: rings may be lost.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// Who has been silent for so long may soon be taken for dead.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Claims tasks of some kinds.
#[derive(Debug)]
pub struct DirectSupply {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    endpoint: Option<Name>,
    kinds: Vec<Name>,
    /// Whether results are kept on this machine's disk until the store has them.
    is_remote: bool,
    /// The shortest time between two looks that brought nothing.
    gap: Duration,
    crew: Mutex<Crew>,
}

/// As whom this process runs tasks. Who is silent is buried, and runs none any more: after a while
/// without tasks, which is silent, it goes by another name.
#[derive(Debug)]
struct Crew {
    worker: WorkerId,
    /// What was claimed and is not delivered.
    in_hand: HashSet<(TaskId, Attempt)>,
    /// When it signed last, as far as is known.
    signed_at: Instant,
    /// The answer to a claim was lost: tasks may be in hand that are not known here.
    is_unsure: bool,
    /// When the next task becomes due, as far as is known; `None`: nothing waits.
    next_due_ms: Option<Millis>,
}

impl DirectSupply {
    /// A supply of tasks of these kinds, for any worker or those of an endpoint. `is_remote` is
    /// whether the store is another machine's, and so may be away for long.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        endpoint: Option<Name>,
        kinds: Vec<Name>,
        is_remote: bool,
    ) -> Self {
        let crew = Mutex::new(Crew {
            worker: WorkerId::new(),
            in_hand: HashSet::new(),
            signed_at: clock.monotonic(),
            is_unsure: false,
            next_due_ms: Some(Millis::MIN),
        });
        Self { store, clock, endpoint, kinds, is_remote, gap: Duration::ZERO, crew }
    }

    /// For kinds that are rare: what others submit does not make it look more often than this.
    #[must_use]
    pub const fn with_gap(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    async fn claim(&self, tasks_max: usize) -> Result<Vec<Job>, StoreError> {
        let worker = self.worker().await?;
        let claim = Claim {
            worker,
            endpoint: self.endpoint.clone(),
            kinds: self.kinds.clone(),
            tasks_max,
            now_ms: self.now_ms(),
        };
        held(&self.crew).is_unsure = true;
        let claimed = self.store.claim(claim).await?;
        let mut crew = held(&self.crew);
        crew.is_unsure = false;
        crew.next_due_ms = claimed.next_due_ms;
        if !claimed.tasks.is_empty() {
            crew.signed_at = self.clock.monotonic();
        }
        crew.in_hand.extend(claimed.tasks.iter().map(|task| (task.id, task.attempt)));
        Ok(claimed.tasks.into_iter().map(job).collect())
    }

    /// As whom to claim: by a name that is not buried, and has nothing that it does not know.
    async fn worker(&self) -> Result<WorkerId, StoreError> {
        let (worker, in_hand, is_idle, is_unsure) = {
            let crew = held(&self.crew);
            let silent = self.clock.monotonic().saturating_duration_since(crew.signed_at);
            let is_idle = crew.in_hand.is_empty() && silent >= SILENT_FOR;
            let in_hand: Vec<_> = crew.in_hand.iter().copied().collect();
            (crew.worker, in_hand, is_idle, crew.is_unsure)
        };
        if is_unsure {
            let tasks = self.store.disown(worker, in_hand).await?;
            if tasks > 0 {
                tracing::info!(tasks, "given back: the answer that brought them was lost");
            }
            held(&self.crew).is_unsure = false;
        }
        if is_idle {
            self.store.retire(worker).await?;
            let mut crew = held(&self.crew);
            crew.worker = WorkerId::new();
            crew.signed_at = self.clock.monotonic();
            return Ok(crew.worker);
        }
        Ok(worker)
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    /// How long nothing becomes due, as far as is known. Wall time may jump: not for long.
    fn pause(&self) -> Duration {
        let due = held(&self.crew).next_due_ms.map(|due| due.saturating_sub(self.now_ms()).max(1));
        let due = due.and_then(|due| u64::try_from(due).ok()).map(Duration::from_millis);
        due.map_or(SLOW_POLL, |due| due.min(SLOW_POLL))
    }

    /// Brings a whole result into the store, part by part; false if it is not waited for.
    async fn put(&self, done: &Done, body: &Body) -> Result<bool, SupplyError> {
        let mut parts = Parts::open(body).await?;
        for index in 0.. {
            let Some(part) = parts.next().await? else { break };
            if !self.put_part(done, index, part).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn put_part(&self, done: &Done, index: u32, part: Vec<u8>) -> Result<bool, SupplyError> {
        let put = self.store.put_part(done.id, Some(done.attempt), index, part).await;
        put.map_err(|error| SupplyError(error.to_string()))
    }
}

fn job(task: Task) -> Job {
    let Task { id, attempt, kind, expires_at_ms, payload, .. } = task;
    // What was given out before may have begun then.
    let expires_at_ms = expires_at_ms.filter(|_| attempt == 1);
    Job { id, attempt, kind, expires_at_ms, payload }
}

impl Supply for DirectSupply {
    fn next(&self, jobs_max: usize) -> BoxFuture<'_, Result<Vec<Job>, SupplyError>> {
        Box::pin(async move {
            let mut work = self.store.bells().work;
            loop {
                // Before the look, so that what comes after it rings.
                work.mark_unchanged();
                let claimed = self.claim(jobs_max).await;
                let jobs = claimed.map_err(|error| SupplyError(error.to_string()))?;
                if !jobs.is_empty() {
                    return Ok(jobs);
                }
                let pause = self.pause();
                let gap = pause.min(self.gap);
                tokio::time::sleep(gap).await;
                let _rung_or_not = tokio::time::timeout(pause - gap, work.changed()).await;
            }
        })
    }

    fn deliver<'a>(&'a self, done: &'a [Done]) -> BoxFuture<'a, Result<(), SupplyError>> {
        Box::pin(async move {
            let mut settlements = Vec::with_capacity(done.len());
            for done in done {
                if let Some(body) = &done.body
                    && !self.put(done, body).await?
                {
                    late(done.id, done.attempt);
                    continue;
                }
                settlements.push(Settlement {
                    id: done.id,
                    attempt: Some(done.attempt),
                    endpoint: self.endpoint.clone(),
                    outcome: done.outcome.clone(),
                    began_at_ms: done.began_at_ms,
                    at_ms: done.at_ms,
                });
            }
            let named: Vec<_> = settlements.iter().map(|one| (one.id, one.attempt)).collect();
            let settled = self.store.settle(settlements).await;
            let settled = settled.map_err(|error| SupplyError(error.to_string()))?;
            for ((id, attempt), settled) in named.into_iter().zip(settled) {
                match settled {
                    Settled::Applied => {}
                    Settled::Late | Settled::Unknown => late(id, attempt.unwrap_or_default()),
                    Settled::PartsMissing => {
                        let text = format!("the store has not all parts of the result of {id}");
                        return Err(SupplyError(text));
                    }
                }
            }
            let mut crew = held(&self.crew);
            for done in done {
                crew.in_hand.remove(&(done.id, done.attempt));
            }
            Ok(())
        })
    }

    fn beat(
        &self,
        running: Vec<Beat>,
    ) -> BoxFuture<'_, Result<Vec<(TaskId, Attempt)>, SupplyError>> {
        Box::pin(async move {
            let worker = held(&self.crew).worker;
            let beaten = self.store.beat(worker, running, self.now_ms()).await;
            let beaten = beaten.map_err(|error| SupplyError(error.to_string()))?;
            let mut crew = held(&self.crew);
            if crew.worker == worker {
                crew.signed_at = self.clock.monotonic();
                for lost in &beaten.lost {
                    crew.in_hand.remove(lost);
                }
                if beaten.is_buried {
                    tracing::warn!(%worker, "was silent for too long: its tasks are others' now");
                    crew.worker = WorkerId::new();
                    return Ok(crew.in_hand.drain().chain(beaten.lost).collect());
                }
            }
            Ok(beaten.lost)
        })
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.store.bells().news
    }

    fn is_remote(&self) -> bool {
        self.is_remote
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let worker = held(&self.crew).worker;
            if let Err(error) = self.store.retire(worker).await {
                tracing::debug!(%error, "not signed off; the others will notice");
            }
        })
    }
}

fn late(id: TaskId, attempt: Attempt) {
    tracing::info!(task = %id, attempt, "the task had ended, or was given to another worker");
}
