//! The engine: takes jobs from a supply, runs each in a slot, and delivers what came of it.
//!
//! Slots are threads, since work computes or blocks. Four loops feed and empty them:
//!
//! | loop | does |
//! |---|---|
//! | feed | takes jobs while there is room; gives back what waits behind long ones |
//! | settle | delivers what ended, grouped; by way of the spool, if the supply is remote |
//! | sign | says every [`BEAT_EVERY`] what runs, and stops what is not wanted any more |
//! | watch | stops what has run too long |

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use tokio::sync::mpsc;

use super::deliver::{self, Deliverer};
use super::hand::Hand;
use super::handler::{Ended, Handler, Job, Run};
use super::product;
use super::spool::{Left, Spool};
use super::supply::{Done, Supply};
use super::window::JOBS_MAX;
use crate::clock::Clock;
use crate::service::{Lifecycle, jittered, printable};
use crate::task::{Name, Outcome};

/// How often a worker signs while it has jobs in hand.
pub const BEAT_EVERY: Duration = Duration::from_millis(500);
/// How long news may wait for more.
const NEWS_GAP: Duration = Duration::from_millis(50);
/// How long a job may wait behind others before it is given back.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked for runs that take too long and jobs that wait too long.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// The pause after a supply could not be asked; doubled up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What an engine is made of.
#[derive(Debug)]
pub struct Engine {
    /// Where jobs come from and results go.
    pub supply: Arc<dyn Supply>,
    /// Who runs which kind.
    pub handlers: HashMap<Name, Arc<dyn Handler>>,
    /// How many jobs run at once.
    pub slots: usize,
    /// Where results are kept on their way.
    pub spool: Arc<Spool>,
    /// What dead processes have left there.
    pub left: Vec<Left>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Begins and ends it.
    pub life: Lifecycle,
    /// How long what runs may go on when the process stops.
    pub finish_within: Duration,
}

/// What the loops and the slots share.
#[derive(Debug, Clone)]
struct Shared {
    supply: Arc<dyn Supply>,
    handlers: Arc<HashMap<Name, Arc<dyn Handler>>>,
    hand: Arc<Hand>,
    spool: Arc<Spool>,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
}

impl Engine {
    /// Runs tasks until the process stops; then gives back what has not ended in time.
    ///
    /// # Errors
    /// A thread can't be started.
    pub async fn run(self) -> std::io::Result<()> {
        let hand = Arc::new(Hand::new(self.slots));
        let shared = Shared {
            supply: Arc::clone(&self.supply),
            handlers: Arc::new(self.handlers),
            hand: Arc::clone(&hand),
            spool: Arc::clone(&self.spool),
            clock: self.clock,
            life: self.life.clone(),
        };
        let deliverer = Deliverer {
            supply: Arc::clone(&self.supply),
            spool: self.spool,
            hand: Arc::clone(&hand),
            life: self.life.clone(),
            give_up_within: self.finish_within,
        };
        deliverer.leftovers(self.left).await;
        let (jobs, queue) = bounded(JOBS_MAX);
        let (endings, ended) = mpsc::channel(JOBS_MAX);
        let mut slots = Vec::with_capacity(self.slots);
        for number in 0..self.slots {
            let (shared, queue, endings) = (shared.clone(), queue.clone(), endings.clone());
            let slot = std::thread::Builder::new().name(format!("task-{number}"));
            slots.push(slot.spawn(move || shared.slot(&queue, &endings))?);
        }
        let signing = tokio::spawn(sign(shared.clone()));
        let watching = tokio::spawn(shared.clone().watch(queue.clone(), endings.clone()));
        let settling = tokio::spawn(deliver::settle(deliverer, ended));
        shared.feed(&jobs).await;
        // The slots end what they have begun; what waits, they give back.
        drop((jobs, queue, endings));
        let slots = tokio::task::spawn_blocking(move || {
            slots.into_iter().for_each(|slot| drop(slot.join()));
        });
        tokio::pin!(slots);
        if tokio::time::timeout(self.finish_within, &mut slots).await.is_err() {
            tracing::info!("what still runs is stopped, and given back");
            hand.stop_all();
            let _panicked = slots.await;
        }
        watching.abort();
        let _ended = watching.await;
        let _panicked = settling.await;
        signing.abort();
        self.supply.close().await;
        Ok(())
    }
}

impl Shared {
    /// Takes jobs until the process stops.
    async fn feed(&self, jobs: &Sender<Job>) {
        let (mut pause, mut told) = (PAUSE, false);
        loop {
            let room = self.hand.room();
            if room == 0 {
                tokio::select! {
                    () = self.hand.freed.notified() => continue,
                    () = self.life.stopping() => return,
                }
            }
            let next = tokio::select! {
                next = self.supply.next(room) => next,
                () = self.life.stopping() => return,
            };
            match next {
                Ok(taken) => {
                    (pause, told) = (PAUSE, false);
                    let now = self.clock.monotonic();
                    for job in taken {
                        if self.hand.take((job.id, job.attempt), now) {
                            // There is room for as many as are ever in hand.
                            let _full_or_gone = jobs.try_send(job);
                        }
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "no tasks can be taken now; trying again");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(jittered(pause)) => {}
                        () = self.life.stopping() => return,
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// A thread that runs one job after the other.
    fn slot(&self, queue: &Receiver<Job>, endings: &mpsc::Sender<Done>) {
        while let Ok(job) = queue.recv() {
            let done = if self.life.is_stopping() { Some(released(&job)) } else { self.run(&job) };
            match done {
                Some(done) => {
                    let _ended = endings.blocking_send(done);
                }
                None => self.hand.remove([(job.id, job.attempt)]),
            }
        }
    }

    /// Runs a job; what came of it, if anybody wants it.
    fn run(&self, job: &Job) -> Option<Done> {
        let key = (job.id, job.attempt);
        let result_path = self.spool.result_path(job.id, job.attempt);
        let handler = self.handlers.get(&job.kind);
        let timeout = handler.map_or(Duration::MAX, |handler| handler.timeout());
        let run = Run::new(&result_path, timeout);
        if !self.hand.begin(key, run.clone(), self.clock.monotonic()) {
            return None;
        }
        let ended = match handler {
            None => Ended::Failed {
                reason: format!("this worker does not know how to run `{}`", job.kind),
                is_final: true,
            },
            Some(handler) => {
                let ran = catch_unwind(AssertUnwindSafe(|| handler.run(job, &run)));
                ran.unwrap_or_else(|_| Ended::Failed {
                    reason: "the handler panicked; see the log of the worker".to_owned(),
                    is_final: false,
                })
            }
        };
        let why = self.hand.end(key);
        if let Ended::Failed { reason, .. } = &ended {
            let reason = printable(reason);
            tracing::warn!(task = %job.id, kind = %job.kind, reason, "an attempt failed");
        }
        product::done(job, &run, ended, why, self.clock.wall().timestamp_millis())
    }

    /// Stops what runs too long; gives back what waits too long behind it.
    async fn watch(self, queue: Receiver<Job>, endings: mpsc::Sender<Done>) {
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            let now = self.clock.monotonic();
            self.hand.stop_overdue(now);
            let waits = self.hand.waiting_since();
            if waits.is_none_or(|since| now.saturating_duration_since(since) < PATIENCE) {
                continue;
            }
            self.hand.stuck();
            loop {
                match queue.try_recv() {
                    Ok(job) => {
                        let _ended = endings.send(released(&job)).await;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
        }
    }
}

fn released(job: &Job) -> Done {
    let (id, attempt) = (job.id, job.attempt);
    Done { id, attempt, outcome: Outcome::Released, body: None, at_ms: 0 }
}

/// Signs while there is something in hand, and learns what is not wanted any more.
async fn sign(shared: Shared) {
    let mut news = shared.supply.news();
    let mut is_heard = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(BEAT_EVERY) => {}
            Ok(()) = news.changed() => tokio::time::sleep(NEWS_GAP).await,
        }
        if shared.hand.is_empty() {
            continue;
        }
        match shared.supply.beat(shared.hand.beats()).await {
            Ok(lost) => {
                is_heard = true;
                for (id, attempt) in &lost {
                    tracing::info!(task = %id, attempt, "not wanted any more: stopping it");
                }
                shared.hand.lose(&lost);
            }
            Err(error) => {
                if std::mem::replace(&mut is_heard, false) {
                    tracing::warn!(%error, "no sign of life can be given; the work goes on");
                }
            }
        }
    }
}
