//! The supply over the pipes of a broker, for workers that do not reach the store.
//!
//! A task is acknowledged when its result is confirmed by the broker, or when a sign of life of it
//! is, once it has run for about a second: before that the broker notices that this process is
//! dead, from then on those do who hear the signs of life. While the broker is away the work goes
//! on; what comes again afterwards is known (`ledger`).

mod ledger;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::ledger::{Ledger, Settling, Verdict};
use super::handler::Job;
use super::parts::Parts;
use super::supply::{Done, Supply, SupplyError};
use crate::broker::pipes::{
    FOREIGN_BYTES_MAX, Order, PipeError, Reference, Said, Tag, Taken, WorkerPipes,
};
use crate::service::held;
use crate::task::{Attempt, Beat, Outcome, TaskId, WorkerId};

/// How much is said at once, at most, but for the last message: bytes, and messages.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_MAX: usize = 256;

/// Whether the result of a task waits on this machine's disk to be delivered.
pub type IsSpooled = Box<dyn Fn(TaskId) -> bool + Send + Sync>;

/// Takes tasks from a pipe.
pub struct PipedSupply {
    pipes: Arc<dyn WorkerPipes>,
    is_spooled: IsSpooled,
    ledger: Mutex<Ledger>,
    /// Held while this worker signs, or signs off.
    signing: tokio::sync::Mutex<()>,
}

impl fmt::Debug for PipedSupply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipedSupply").field("pipes", &self.pipes).finish_non_exhaustive()
    }
}

/// What is about to be said.
#[derive(Default)]
struct Group {
    said: Vec<Said>,
    bytes: usize,
}

impl From<PipeError> for SupplyError {
    fn from(error: PipeError) -> Self {
        Self(error.to_string())
    }
}

impl PipedSupply {
    /// A supply from these pipes.
    #[must_use]
    pub fn new(pipes: Arc<dyn WorkerPipes>, is_spooled: IsSpooled) -> Self {
        let (ledger, signing) = (Mutex::new(Ledger::new()), tokio::sync::Mutex::default());
        Self { pipes, is_spooled, ledger, signing }
    }

    /// What of the tasks that have come is to be run. Answers at once, so that none is lost: what
    /// is to be said of the others is said by the way, and if that fails, they come again.
    fn sort(&self, taken: Vec<Taken>) -> Vec<Job> {
        let (mut jobs, mut over, mut again) = (Vec::new(), Vec::new(), Vec::new());
        let now = Instant::now();
        let mut ledger = held(&self.ledger);
        for taken in taken {
            match ledger.take(taken, now, &self.is_spooled) {
                Verdict::Run(job) => jobs.push(job),
                Verdict::Kept => {}
                Verdict::Over(mut tags) => over.append(&mut tags),
                Verdict::Again(done, mut tags) => {
                    again.push(ended(&done, done.attempt));
                    over.append(&mut tags);
                }
            }
        }
        drop(ledger);
        if !over.is_empty() {
            let pipes = Arc::clone(&self.pipes);
            tokio::spawn(async move {
                if again.is_empty() || pipes.say(again).await.is_ok() {
                    pipes.acknowledge(over).await;
                } else {
                    pipes.give_back(over).await;
                }
            });
        }
        jobs
    }

    async fn say(&self, group: &mut Group) -> Result<(), SupplyError> {
        let Group { said, .. } = std::mem::take(group);
        if said.is_empty() { Ok(()) } else { Ok(self.pipes.say(said).await?) }
    }

    async fn add(&self, group: &mut Group, said: Said, bytes: usize) -> Result<(), SupplyError> {
        group.said.push(said);
        group.bytes += bytes;
        if group.bytes >= GROUP_BYTES || group.said.len() >= GROUP_MAX {
            self.say(group).await?;
        }
        Ok(())
    }

    /// Says how a task ended, but for what still is in the group.
    async fn tell(
        &self,
        group: &mut Group,
        done: &Done,
        settling: &Settling,
    ) -> Result<(), SupplyError> {
        let Settling { attempt, reference, is_told, is_acknowledged } = settling;
        let is_gone = reference.is_some() && *is_acknowledged;
        let cut_off = (is_gone && done.outcome == Outcome::Released).then(|| cut_off(done));
        let done = cut_off.as_ref().unwrap_or(done);
        if done.outcome == Outcome::Released && !is_told {
            // The broker gives it to another one, as the same attempt.
            return Ok(());
        }
        if let Some(reference) = reference {
            let reply = reply(done, reference).await?;
            let bytes = done.body.as_ref().map_or(0, |_| FOREIGN_BYTES_MAX);
            return self.add(group, reply, bytes).await;
        }
        if let Some(body) = &done.body {
            let mut parts = Parts::open(body).await?;
            for index in 0.. {
                let Some(bytes) = parts.next().await? else { break };
                let (size, id, attempt) = (bytes.len(), done.id, *attempt);
                self.add(group, Said::Part { id, attempt, index, bytes }, size).await?;
            }
        }
        self.add(group, ended(done, *attempt), 0).await
    }

    /// Says how these ended, and lets go of them; of which a newer attempt has come meanwhile, so
    /// that it must be said of that as well.
    async fn hand_over<'a>(&self, done: Vec<&'a Done>) -> Result<Vec<&'a Done>, SupplyError> {
        let (mut group, mut settled) = (Group::default(), Vec::with_capacity(done.len()));
        let (died, done): (Vec<_>, Vec<_>) = done.into_iter().partition(|done| is_death(done));
        for done in &died {
            // Of a process before this one: of what this one has, it says nothing.
            self.add(&mut group, ended(done, done.attempt), 0).await?;
        }
        for done in &done {
            let settling = held(&self.ledger).settling(done);
            self.tell(&mut group, done, &settling).await?;
            settled.push(settling);
        }
        self.say(&mut group).await?;
        died.into_iter().for_each(|done| held(&self.ledger).remember(done.clone()));
        let (mut over, mut back, mut newer) = (Vec::new(), Vec::new(), Vec::new());
        for (done, settling) in done.into_iter().zip(&settled) {
            let Some(mut tags) = held(&self.ledger).settled(done, settling) else {
                newer.push(done);
                continue;
            };
            let is_back = done.outcome == Outcome::Released && !settling.is_told;
            if is_back { &mut back } else { &mut over }.append(&mut tags);
        }
        self.pipes.acknowledge(over).await;
        self.pipes.give_back(back).await;
        Ok(newer)
    }

    /// A worker of which nobody hears any more is taken for dead, unless it has signed off.
    async fn sign_off_if_idle(&self) -> Result<(), SupplyError> {
        let _one_at_a_time = self.signing.lock().await;
        let worker = {
            let ledger = held(&self.ledger);
            if !ledger.has_signed || ledger.runs_told() {
                return Ok(());
            }
            ledger.worker
        };
        self.pipes.say(vec![Said::Retired { worker }]).await?;
        self.rename(worker);
        Ok(())
    }

    /// A name is never used again.
    fn rename(&self, from: WorkerId) {
        let mut ledger = held(&self.ledger);
        if ledger.worker == from {
            ledger.worker = WorkerId::new();
            ledger.has_signed = false;
        }
    }

    /// Reads the orders; what is not wanted any more, and its deliveries.
    fn obey(&self) -> (Vec<(TaskId, Attempt)>, Vec<Tag>) {
        let (mut lost, mut tags) = (Vec::new(), Vec::new());
        for order in self.pipes.orders() {
            match order {
                Order::Stop { worker, attempts } => {
                    let mut ledger = held(&self.ledger);
                    // By a newer name the next sign of life gets an answer of its own.
                    let own = attempts.into_iter().filter(|_| worker == ledger.worker);
                    for (id, attempt) in own.collect::<Vec<_>>() {
                        if let Some((key, mut of)) = ledger.lose(id, attempt) {
                            lost.push(key);
                            tags.append(&mut of);
                        }
                    }
                }
                Order::Buried(worker) => self.rename(worker),
                Order::TakeOver { .. } => {}
            }
        }
        (lost, tags)
    }
}

const fn is_death(done: &Done) -> bool {
    matches!(done.outcome, Outcome::Died { .. })
}

fn ended(done: &Done, attempt: Attempt) -> Said {
    let Done { id, began_at_ms, at_ms, .. } = *done;
    Said::Ended { id, attempt, outcome: done.outcome.clone(), began_at_ms, at_ms }
}

/// Somebody else's task that the broker has no more cannot be given back.
fn cut_off(done: &Done) -> Done {
    let reason = "its worker stopped before it had ended; send it again".to_owned();
    Done { outcome: Outcome::Failed { reason, is_final: true }, ..done.clone() }
}

/// The answer to somebody else's task: the whole result in one message, if it fits.
async fn reply(done: &Done, to: &Reference) -> Result<Said, SupplyError> {
    let (to, mut outcome) = (to.clone(), done.outcome.clone());
    let mut body = match (&done.body, &outcome) {
        (Some(body), _) => Parts::open(body).await?.read(FOREIGN_BYTES_MAX + 1).await?,
        (None, Outcome::Finished(result)) => result.head.clone(),
        (None, _) => Vec::new(),
    };
    if body.len() > FOREIGN_BYTES_MAX {
        body = Vec::new();
        let reason = format!("the result is longer than {FOREIGN_BYTES_MAX} bytes");
        outcome = Outcome::Failed { reason, is_final: true };
    }
    Ok(Said::Reply { to, outcome, body })
}

impl Supply for PipedSupply {
    fn next(&self, jobs_max: usize) -> BoxFuture<'_, Result<Vec<Job>, SupplyError>> {
        Box::pin(async move {
            loop {
                let taken = self.pipes.take(jobs_max).await?;
                let jobs = self.sort(taken);
                if !jobs.is_empty() {
                    return Ok(jobs);
                }
            }
        })
    }

    fn deliver<'a>(&'a self, done: &'a [Done]) -> BoxFuture<'a, Result<(), SupplyError>> {
        Box::pin(async move {
            let mut left: Vec<&Done> = done.iter().collect();
            while !left.is_empty() {
                left = self.hand_over(left).await?;
            }
            // Whoever does not hear it buries nothing but a name.
            let _unheard = self.sign_off_if_idle().await;
            Ok(())
        })
    }

    fn beat(
        &self,
        running: Vec<Beat>,
    ) -> BoxFuture<'_, Result<Vec<(TaskId, Attempt)>, SupplyError>> {
        Box::pin(async move {
            let signing = self.signing.lock().await;
            let now = Instant::now();
            let (worker, told) = {
                let mut ledger = held(&self.ledger);
                let told = ledger.told(running, now);
                ledger.has_signed |= !told.is_empty();
                (ledger.worker, told)
            };
            if !told.is_empty() {
                self.pipes.say(vec![Said::Beat { worker, running: told.clone() }]).await?;
            }
            let heard = held(&self.ledger).heard(&told, now);
            drop(signing);
            let (lost, mut tags) = self.obey();
            tags.extend(heard);
            self.pipes.acknowledge(tags).await;
            if told.is_empty() {
                let _unheard = self.sign_off_if_idle().await;
            }
            Ok(lost)
        })
    }

    fn news(&self) -> watch::Receiver<u64> {
        self.pipes.news()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.sign_off_if_idle().await {
                tracing::debug!(%error, "not signed off; the others will notice");
            }
            self.pipes.close().await;
        })
    }
}
