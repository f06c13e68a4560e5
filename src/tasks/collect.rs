//! What comes back through the result pipe goes into the store; runs in servers, in one at a time.
//!
//! What has come is sorted into few calls of the store, and acknowledged when they are synced.
//! While the store is away nothing is acknowledged or heard; what comes twice counts once.
//! What nobody can make sense of is counted, told without its content, and removed.

mod ear;
mod sorted;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use self::ear::{Ear, PROBE_EVERY};
use self::sorted::{Part, Sorted};
use super::keeper::Hearing;
use crate::broker::pipes::{Heard, Order, PipeError, ServerPipes, Tag};
use crate::clock::Clock;
use crate::service::{Lifecycle, held, jittered};
use crate::store::{Answer, Millis, Settled, Settlement, Store, StoreError};
use crate::task::{Beat, Name, Outcome, TaskId, WorkerId};

/// What is taken from the pipe at once.
const SAID_MAX: usize = 256;
/// Parts of results that are stored at once.
const PARTS_MAX: usize = 4;
/// The pause before the store is asked again, at first and at most; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// How long a result waits for parts that another server may still be storing.
const PARTS_WAITED_FOR: Duration = Duration::from_secs(5);
const PARTS_POLL: Duration = Duration::from_millis(200);
/// Tasks whose endpoints are remembered, so that not each part asks for them.
const OWNERS_MAX: usize = 256;

/// Brings results into the store.
pub struct Collector {
    store: Arc<dyn Store>,
    pipes: Arc<dyn ServerPipes>,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
    ear: Arc<Ear>,
    owners: Mutex<Owners>,
    unclear: AtomicU64,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("store", &self.store.name()).finish_non_exhaustive()
    }
}

/// Which endpoints the tasks are of.
#[derive(Debug, Default)]
struct Owners {
    known: HashMap<TaskId, Option<Name>>,
    order: VecDeque<TaskId>,
}

/// A result some of whose parts are missing.
struct Incomplete {
    tag: Tag,
    settlement: Settlement,
    since: Instant,
}

/// The process stops, or cannot go on.
struct Stopping;

impl Collector {
    /// A collector; it does nothing before it [runs](Self::run).
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        pipes: Arc<dyn ServerPipes>,
        clock: Arc<dyn Clock>,
        life: Lifecycle,
    ) -> Self {
        let (ear, owners, unclear) = (Arc::default(), Mutex::default(), AtomicU64::new(0));
        Self { store, pipes, clock, life, ear, owners, unclear }
    }

    /// Whether, and since when, this server hears the workers.
    #[must_use]
    pub fn hearing(&self) -> Arc<dyn Hearing> {
        Arc::clone(&self.ear) as Arc<dyn Hearing>
    }

    /// How many messages made no sense so far.
    #[must_use]
    pub fn unclear(&self) -> u64 {
        self.unclear.load(Ordering::Relaxed)
    }

    /// Collects until the process stops.
    pub async fn run(&self) {
        let both = async { tokio::join!(self.collect(), self.probe()) };
        tokio::select! {
            _never = both => {}
            () = self.life.stopping() => {}
        }
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    async fn probe(&self) {
        loop {
            let number = self.ear.probe(Instant::now());
            // One that is not sent is not heard.
            let _unsent = self.pipes.probe(self.ear.own(), number).await;
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    async fn collect(&self) {
        let mut incomplete = Vec::new();
        loop {
            let hear = self.pipes.hear(SAID_MAX);
            let heard = if incomplete.is_empty() {
                hear.await
            } else {
                tokio::time::timeout(PARTS_POLL, hear).await.unwrap_or(Ok(Vec::new()))
            };
            match heard {
                Ok(heard) => {
                    if self.store_all(heard, &mut incomplete).await.is_err() {
                        return;
                    }
                }
                Err(PipeError::Closed) => return,
                Err(error) => {
                    tracing::debug!(%error, "nothing is heard");
                    tokio::time::sleep(jittered(PAUSE)).await;
                }
            }
        }
    }

    async fn store_all(
        &self,
        heard: Vec<Heard>,
        incomplete: &mut Vec<Incomplete>,
    ) -> Result<(), Stopping> {
        let sorted = Sorted::of(heard, self.now_ms());
        self.tell_unclear(&sorted.unclear);
        let mut tags = sorted.tags;
        for (worker, running) in sorted.beats {
            self.beat(worker, running).await?;
        }
        let mut parts =
            stream::iter(sorted.parts.into_iter().map(|part| self.put(part))).buffered(PARTS_MAX);
        while let Some(put) = parts.next().await {
            put?;
        }
        drop(parts);
        self.settle(sorted.ended, &mut tags, incomplete).await?;
        for worker in sorted.retired {
            self.ask(|| self.store.retire(worker)).await?;
        }
        self.pipes.acknowledge(tags).await;
        for (by, number) in sorted.probes {
            if by == self.ear.own() {
                self.ear.heard(number, Instant::now());
            }
        }
        Ok(())
    }

    fn tell_unclear(&self, reasons: &[(Option<Name>, String)]) {
        self.unclear.fetch_add(reasons.len() as u64, Ordering::Relaxed);
        for (endpoint, reason) in reasons {
            let endpoint = endpoint.as_ref().map(Name::as_str);
            tracing::warn!(endpoint, reason, "a message of the result pipe makes no sense");
        }
    }

    async fn beat(&self, worker: WorkerId, running: Vec<Beat>) -> Result<(), Stopping> {
        let now_ms = self.now_ms();
        let beaten = self.ask(|| self.store.beat(worker, running.clone(), now_ms)).await?;
        let order = match beaten.is_buried {
            // By another name it asks again; what it may go on with is told then.
            true => Order::Buried(worker),
            false if beaten.lost.is_empty() => return Ok(()),
            false => Order::Stop { worker, attempts: beaten.lost },
        };
        // Told again after the next sign of life.
        let _untold = self.pipes.order(order).await;
        Ok(())
    }

    /// Stores a part, if the task is of the endpoint that says so.
    async fn put(&self, part: Part) -> Result<(), Stopping> {
        let Part { id, attempt, endpoint, index, bytes } = part;
        if self.owner(id).await?.is_none_or(|owner| owner != endpoint) {
            let reason = "a part of the result of a task that is not its own".to_owned();
            self.tell_unclear(&[(endpoint, reason)]);
            return Ok(());
        }
        let waited_for =
            self.ask(|| self.store.put_part(id, attempt, index, bytes.clone())).await?;
        if !waited_for {
            tracing::debug!(task = %id, index, "a part came late");
        }
        Ok(())
    }

    /// Of which endpoint a task is; `None` if there is no such task.
    async fn owner(&self, id: TaskId) -> Result<Option<Option<Name>>, Stopping> {
        if let Some(owner) = held(&self.owners).known.get(&id) {
            return Ok(Some(owner.clone()));
        }
        let Some(task) = self.ask(|| self.store.task(id)).await? else { return Ok(None) };
        let mut owners = held(&self.owners);
        if owners.known.insert(id, task.endpoint.clone()).is_none() {
            owners.order.push_back(id);
        }
        if owners.order.len() > OWNERS_MAX
            && let Some(oldest) = owners.order.pop_front()
        {
            owners.known.remove(&oldest);
        }
        Ok(Some(task.endpoint))
    }

    /// Settles what has ended, and what lacked parts when it was tried last.
    async fn settle(
        &self,
        ended: Vec<(Tag, Settlement)>,
        tags: &mut Vec<Tag>,
        incomplete: &mut Vec<Incomplete>,
    ) -> Result<(), Stopping> {
        let now = Instant::now();
        let fresh =
            ended.into_iter().map(|(tag, settlement)| Incomplete { tag, settlement, since: now });
        let mut all: Vec<Incomplete> = std::mem::take(incomplete);
        all.extend(fresh);
        if all.is_empty() {
            return Ok(());
        }
        for one in &mut all {
            if one.since.elapsed() > PARTS_WAITED_FOR {
                let reason = "parts of the result were lost on their way".to_owned();
                one.settlement.outcome = Outcome::Failed { reason, is_final: false };
            }
        }
        let settlements: Vec<_> = all.iter().map(|one| one.settlement.clone()).collect();
        let settled = self.ask(|| self.store.settle(settlements.clone())).await?;
        for (one, settled) in all.into_iter().zip(settled) {
            let Settlement { id, endpoint, outcome, .. } = &one.settlement;
            match settled {
                Settled::PartsMissing => {
                    incomplete.push(one);
                    continue;
                }
                Settled::Applied => {}
                Settled::Late => tracing::debug!(task = %id, "a result came late"),
                // Somebody else's task, which the store does not know.
                Settled::Unknown if matches!(outcome, Outcome::Died { .. }) => {}
                Settled::Unknown => {
                    let reason = format!("the result of {id}, which is no task of its own");
                    self.tell_unclear(&[(endpoint.clone(), reason)]);
                }
            }
            tags.push(one.tag);
        }
        Ok(())
    }

    /// Asks the store, however long it is away or full.
    async fn ask<'a, T>(&self, ask: impl Fn() -> Answer<'a, T>) -> Result<T, Stopping> {
        let (mut pause, mut is_told) = (PAUSE, false);
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Broken(reason)) => {
                    self.life.fail(reason);
                    return Err(Stopping);
                }
                Err(error) if !is_told => {
                    is_told = true;
                    tracing::warn!(%error, "results wait in the broker");
                }
                Err(_) => {}
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
