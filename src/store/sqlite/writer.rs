//! The one thread of a process that writes: it takes every job that waits, applies them in one
//! transaction, syncs it, and answers each.
//!
//! While it waits for its turn and while it syncs, the next group gathers. When a group cannot be
//! committed, each of its jobs gets a transaction of its own, so that one that fails fails alone.

use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::{Connection, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::bells::{Rings, Tower};
use super::fault::Health;
use super::log::Log;
use super::turn::Turn;
use super::write::Write;
use crate::store::StoreError;

/// What jobs that wait may weigh together; more is back-pressure.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What a job weighs at least, so that only so many may wait.
const JOB_BYTES_MIN: usize = 16 << 10;
/// What a transaction may hold: beyond it, other processes would wait for too long.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Weights are counted in these.
const UNIT_BYTES: usize = 1 << 10;

/// One change, committed together with others.
trait Job: Send {
    fn bytes(&self) -> usize;

    /// Whether anybody still waits for it.
    fn is_wanted(&self) -> bool;

    /// May be called again after a rollback: it starts over then.
    fn apply(&mut self, write: &mut Write<'_>) -> Result<()>;

    fn settle(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Waited<T, F> {
    work: F,
    bytes: usize,
    answer: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
    _room: OwnedSemaphorePermit,
}

impl<T, F> Job for Waited<T, F>
where
    T: Send,
    F: FnMut(&mut Write<'_>) -> Result<T> + Send,
{
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn apply(&mut self, write: &mut Write<'_>) -> Result<()> {
        self.answer = Some((self.work)(write)?);
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        // Nobody waits any more: the commit stands all the same.
        let _gone = reply.send(outcome.and_then(|()| answer.ok_or_else(stopped)));
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store of the tasks is closed; start the program again".to_owned())
}

#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<UnboundedSender<Box<dyn Job>>>,
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        turn: Turn,
        health: Arc<Health>,
        tower: Arc<Tower>,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = unbounded_channel();
        let log = Log::default();
        let desk = Desk { connection, turn, health, tower, log };
        let thread =
            std::thread::Builder::new().name("tasks".to_owned()).spawn(move || desk.run(jobs))?;
        let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX / UNIT_BYTES));
        Ok(Self { queue: Some(queue), room, thread: Some(thread) })
    }

    /// Applies `work`, which weighs about `bytes`, and waits until it is synced.
    pub(super) async fn write<T, F>(&self, bytes: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut Write<'_>) -> Result<T> + Send + 'static,
    {
        let bytes = bytes.clamp(JOB_BYTES_MIN, WAITING_BYTES_MAX);
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(1);
        let room = Arc::clone(&self.room).acquire_many_owned(units).await;
        let room = room.map_err(|_closed| stopped())?;
        let (reply, answer) = oneshot::channel();
        let job = Waited { work, bytes, answer: None, reply, _room: room };
        self.queue.as_ref().and_then(|queue| queue.send(Box::new(job)).ok()).ok_or_else(stopped)?;
        answer.await.unwrap_or_else(|_gone| Err(stopped()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What waits is committed first: the thread ends when the queue is empty and closed.
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _panicked = thread.join();
        }
    }
}

/// What the thread works with.
struct Desk {
    connection: Connection,
    turn: Turn,
    health: Arc<Health>,
    tower: Arc<Tower>,
    log: Log,
}

impl Drop for Desk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.health.poison("the thread that writes them panicked");
        }
    }
}

impl Desk {
    fn run(mut self, mut jobs: UnboundedReceiver<Box<dyn Job>>) {
        while let Some(first) = jobs.blocking_recv() {
            self.serve(first, &mut jobs);
        }
    }

    fn serve(&mut self, first: Box<dyn Job>, jobs: &mut UnboundedReceiver<Box<dyn Job>>) {
        let taken = match self.turn.take() {
            Ok(taken) => taken,
            Err(error) => {
                let path = self.health.path().display();
                let reason = format!("cannot lock the tasks in {path}: {error}");
                return first.settle(Err(StoreError::Unavailable(reason)));
            }
        };
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while bytes < GROUP_BYTES_MAX
            && let Ok(job) = jobs.try_recv()
        {
            bytes += job.bytes();
            group.push(job);
        }
        group.retain(|job| job.is_wanted());
        let (rings, settled) = commit_group(&self.connection, &self.health, group);
        self.log.keep_short(&self.connection, &self.health);
        drop(taken);
        for (job, outcome) in settled {
            job.settle(outcome);
        }
        self.tower.ring(rings);
    }
}

type Settled = Vec<(Box<dyn Job>, Result<(), StoreError>)>;

fn commit_group(
    connection: &Connection,
    health: &Health,
    mut group: Vec<Box<dyn Job>>,
) -> (Rings, Settled) {
    let mut rings = Rings::default();
    match attempt(connection, health, &mut group) {
        Err(error) if group.len() > 1 && health.check().is_ok() => {
            tracing::debug!(%error, jobs = group.len(), "group not committed: one by one");
            let alone = |job| {
                let mut group = [job];
                let outcome = attempt(connection, health, &mut group).map(|more| {
                    rings = rings.and(more);
                });
                let [job] = group;
                (job, outcome)
            };
            let settled = group.into_iter().map(alone).collect();
            (rings, settled)
        }
        outcome => {
            let rings = outcome.as_ref().copied().unwrap_or_default();
            let outcome = outcome.map(|_| ());
            (rings, group.into_iter().map(|job| (job, outcome.clone())).collect())
        }
    }
}

fn attempt(
    connection: &Connection,
    health: &Health,
    group: &mut [Box<dyn Job>],
) -> Result<Rings, StoreError> {
    health.check()?;
    let written = write_all(connection, group);
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        return Err(health.poison(&format!("a change could not be undone ({error})")));
    }
    written.map_err(|error| health.explain("write", &error))
}

fn write_all(connection: &Connection, group: &mut [Box<dyn Job>]) -> Result<Rings> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut write = Write::new(connection);
    for job in group {
        job.apply(&mut write)?;
    }
    let rings = write.finish()?;
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(rings)
}
