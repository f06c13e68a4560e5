//! The workers of a shard: threads that take deliveries and hand each to a [`Handler`].
//!
//! The idle workers of a pool share one [`Source`]: one of them waits for the delivery that becomes
//! due, the others for their turn (leader and followers; Schmidt et al., PLoP 2000). So five
//! messages that wait are one worker's batch, and there is no queue between pool and workers.
//!
//! | room | what it holds |
//! |---|---|
//! | [`scale`] | when a pool grows and shrinks; pure |
//! | `worker` | one worker |
//!
//! A worker that holds a delivery for too long loses its claim on it: the messages go to another
//! worker, and another thread takes its place. Should the first wake up again, what it does is
//! refused, and it ends.

pub mod scale;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::broker::Delivery;
use crate::broker::claim::Claim;
use crate::broker::source::Source;
use crate::message::ShardKey;
use crate::service::Lifecycle;
use crate::service::presence::{PoolCard, Standing, WorkerCard};
use scale::{Decision, Limits, Load, Scaling};
use worker::Worker;

/// Workers of a shard that may hang at the same time and still be replaced; more say that it is not
/// the workers.
const HANGING_MAX: usize = 8;

/// What a worker does with a delivery.
pub trait Handler: Send + Sync {
    /// Handles it to its end: settled, failed, or dropped because the process stops. `place` is the
    /// worker's place in its pool, from 1. It renews the delivery's claim as it gets on.
    fn handle(&self, place: u16, delivery: Delivery);

    /// The worker at `place` of the shard's pool took too long, and another one gets its messages.
    fn timed_out(&self, key: ShardKey, place: u16);
}

/// The running workers of one shard.
#[derive(Debug)]
pub struct Pool {
    staff: Staff,
    scaling: Scaling,
    workers: Vec<Worker>,
    /// Those that lost their claim and have not woken up since.
    hanging: Vec<Worker>,
    /// Those that are no longer needed, and end when they have nothing in hand.
    leaving: Vec<Worker>,
}

/// What every worker of a pool is given.
struct Staff {
    source: Arc<Source>,
    handler: Arc<dyn Handler>,
    life: Lifecycle,
}

impl std::fmt::Debug for Staff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.source.fmt(f)
    }
}

impl Staff {
    fn hire(&self, place: u16) -> io::Result<Worker> {
        Worker::start(place, &self.source, &self.handler, &self.life)
    }

    /// The worker at `place` has lost its claim: its messages go back.
    fn take_from(&self, place: u16, claim: &Claim) {
        let key = self.source.key();
        tracing::warn!(
            shard = %key.shard, worker = place, range = %claim.range(),
            "a worker takes too long: its messages go to another one"
        );
        self.source.take_from(claim);
        self.handler.timed_out(key, place);
    }
}

impl Pool {
    /// Starts the least number of workers, which consume `source` until the process stops.
    ///
    /// # Errors
    /// A thread can't be started.
    pub fn start(
        limits: Limits,
        source: &Arc<Source>,
        handler: &Arc<dyn Handler>,
        life: &Lifecycle,
    ) -> io::Result<Self> {
        let (source, handler) = (Arc::clone(source), Arc::clone(handler));
        let staff = Staff { source, handler, life: life.clone() };
        let scaling = Scaling::new(limits, Instant::now());
        let (workers, hanging, leaving) = (Vec::new(), Vec::new(), Vec::new());
        let mut pool = Self { staff, scaling, workers, hanging, leaving };
        for place in 1..=limits.least {
            match pool.staff.hire(place) {
                Ok(worker) => pool.workers.push(worker),
                Err(error) => {
                    // Those that run must end before the shard is let go.
                    life.fail(format!("starting a worker of {}: {error}", pool.key()));
                    pool.join();
                    return Err(error);
                }
            }
        }
        Ok(pool)
    }

    /// The shard.
    #[must_use]
    pub fn key(&self) -> ShardKey {
        self.staff.source.key()
    }

    /// Takes what is late from its worker, and changes the number of workers if it should; to be
    /// called several times a second.
    pub fn supervise(&mut self, now: Instant) {
        self.hanging.retain(|worker| !worker.is_finished());
        self.leaving.retain(|worker| !worker.is_finished());
        for at in 0..self.workers.len() {
            self.replace_if_late(at, now);
        }
        for worker in &self.leaving {
            if let Some(claim) = worker.revoke_if_late(now) {
                self.staff.take_from(worker.place, &claim);
            }
        }
        let load = self.load();
        match self.scaling.decide(load, now) {
            Decision::Grow => self.grow(load),
            Decision::Shrink => self.shrink(),
            Decision::Hold => {}
        }
    }

    fn load(&self) -> Load {
        let count = |workers: usize| u16::try_from(workers).unwrap_or(u16::MAX);
        let workers = count(self.workers.len());
        let busy = count(self.workers.iter().filter(|worker| worker.is_busy()).count());
        // Only looked at when it matters.
        let age = (busy == workers).then(|| self.staff.source.backlog_age().ok()).flatten();
        Load { workers, busy, backlog_age: age.unwrap_or(Duration::ZERO) }
    }

    fn replace_if_late(&mut self, at: usize, now: Instant) {
        let Some(worker) = self.workers.get_mut(at) else { return };
        if self.hanging.len() >= HANGING_MAX {
            return;
        }
        let Some(claim) = worker.revoke_if_late(now) else { return };
        self.staff.take_from(worker.place, &claim);
        match self.staff.hire(worker.place) {
            Ok(replacement) => {
                worker.resign();
                self.hanging.push(std::mem::replace(worker, replacement));
            }
            // It goes on when it wakes up.
            Err(error) => tracing::warn!(%error, "no thread can be started in its place"),
        }
    }

    fn grow(&mut self, load: Load) {
        let place = load.workers + 1;
        match self.staff.hire(place) {
            Ok(worker) => self.workers.push(worker),
            Err(error) => return tracing::warn!(%error, "a pool cannot grow"),
        }
        tracing::info!(
            shard = %self.key().shard, workers = place, waited_s = load.backlog_age.as_secs(),
            "a pool grows: all its workers are busy, and the oldest message waits for long"
        );
    }

    fn shrink(&mut self) {
        let Some(worker) = self.workers.pop() else { return };
        worker.resign();
        tracing::info!(
            shard = %self.key().shard, workers = self.workers.len(),
            idle_s = scale::SHRINK_IDLE.as_secs(),
            "a pool shrinks: a worker has had nothing to do for long"
        );
        self.leaving.push(worker);
    }

    /// The workers now; `wall_ms` turns a time into milliseconds since 1970.
    #[must_use]
    pub fn card(&self, wall_ms: impl Fn(Instant) -> u64) -> PoolCard {
        let (key, Limits { least, most }) = (self.key(), self.scaling.limits());
        let card = |worker: &Worker, standing| {
            let (range, since) = worker.in_hand();
            let range = range.map(|range| (range.first, range.end));
            WorkerCard { place: worker.place, standing, range, since_ms: wall_ms(since) }
        };
        let serving = self.workers.iter().map(|worker| card(worker, Standing::Serving));
        let leaving = self.leaving.iter().map(|worker| card(worker, Standing::Leaving));
        let hanging = self.hanging.iter().map(|worker| card(worker, Standing::Hanging));
        let workers = serving.chain(leaving).chain(hanging).collect();
        let topic = key.topic.name().to_owned();
        PoolCard { topic, shard: key.shard.0, least, most, workers }
    }

    /// Waits until every worker has ended, which they do when the process stops; those that hang
    /// hold nothing that they could commit.
    pub fn join(self) {
        let (lost, leaving): (Vec<_>, Vec<_>) =
            self.leaving.into_iter().partition(Worker::has_lost_its_claim);
        self.workers.into_iter().chain(leaving).for_each(Worker::join);
        drop(lost);
        self.hanging.into_iter().filter(Worker::is_finished).for_each(Worker::join);
    }
}
