//! The committer: the one thread of a process that writes to the environment.
//!
//! It takes every job that waits, applies them in one transaction, syncs it, and tells each job.
//! While it syncs, the next group gathers. When a group cannot be committed, each of its jobs gets
//! a transaction of its own, so that one that does not fit fails alone.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::{Core, State, StateError, WriteTxn};

/// Jobs that may wait; more is back-pressure.
const QUEUE_JOBS: usize = 1024;
/// Readers that died without a word keep pages from being used again: look for them this often.
const STALE_READERS_EVERY: Duration = Duration::from_secs(10);

/// One change of the environment, committed together with others.
pub trait Job: Send {
    /// Writes into the transaction. May be called again after an abort: it starts over then.
    ///
    /// # Errors
    /// The transaction cannot go on. A refusal that wrote nothing is no error: keep it, and tell
    /// it in `settle`.
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError>;

    /// Called once: after the commit is synced, or when it will not be.
    fn settle(self: Box<Self>, outcome: Result<(), StateError>);
}

#[derive(Debug)]
pub(super) struct Committer {
    queue: Option<Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(core: Arc<Core>) -> std::io::Result<Self> {
        let (queue, jobs) = bounded(QUEUE_JOBS);
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || run(&core, &jobs))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(super) fn submit(&self, job: Box<dyn Job>) {
        let Some(queue) = &self.queue else { return job.settle(Err(StateError::Stopped)) };
        if let Err(refused) = queue.send(job) {
            refused.into_inner().settle(Err(StateError::Stopped));
        }
    }

    pub(super) fn try_submit(&self, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        let Some(queue) = &self.queue else { return Err(job) };
        queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

impl Drop for Committer {
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

/// Poisons the state when the thread unwinds: what it was doing then is unknown.
struct PanicGuard<'a>(&'a Core);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the committer panicked");
        }
    }
}

fn run(core: &Core, jobs: &Receiver<Box<dyn Job>>) {
    let _guard = PanicGuard(core);
    let mut cleared_at = Instant::now();
    loop {
        // Also under load, when the queue is never empty for so long.
        if cleared_at.elapsed() >= STALE_READERS_EVERY {
            clear_stale_readers(core);
            cleared_at = Instant::now();
        }
        match jobs.recv_timeout(STALE_READERS_EVERY) {
            Ok(first) => {
                let mut group = vec![first];
                // Whatever is queued by now, and not what comes while this is being taken.
                group.extend(jobs.try_iter().take(jobs.len()));
                commit_group(core, group);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn clear_stale_readers(core: &Core) {
    match core.env.clear_stale_readers() {
        Ok(0) => {}
        Ok(cleared) => tracing::info!(cleared, "freed reader slots of dead processes"),
        Err(error) => tracing::warn!(%error, "cannot look for reader slots of dead processes"),
    }
}

fn commit_group(core: &Core, mut group: Vec<Box<dyn Job>>) {
    let attempted = attempt(core, &mut group);
    if matches!(attempted, Err(StateError::MapFull)) {
        core.space.note_map_full();
        clear_stale_readers(core);
    }
    match attempted {
        Err(error) if group.len() > 1 && core.check_poison().is_ok() => {
            tracing::debug!(%error, jobs = group.len(), "group not committed: one by one");
            for job in group {
                let mut alone = [job];
                let outcome = attempt(core, &mut alone);
                let [job] = alone;
                job.settle(outcome);
            }
        }
        outcome => group.into_iter().for_each(|job| job.settle(outcome.clone())),
    }
}

fn attempt(core: &Core, group: &mut [Box<dyn Job>]) -> Result<(), StateError> {
    core.check_poison()?;
    let since_ms = u64::try_from(core.started_at.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
    core.waiting_since_ms.store(since_ms + 1, Ordering::Relaxed);
    let begun = core.env.write_txn();
    core.waiting_since_ms.store(0, Ordering::Relaxed);
    let txn =
        begun.map_err(|error| core.poison(&format!("cannot begin a transaction: {error}")))?;
    // A hint for `readyz` of other processes; losing it does no harm.
    let _hint = core.writer_file.write_all_at(&std::process::id().to_le_bytes(), 0);
    let mut txn = WriteTxn { txn, tables: core.tables };
    for job in group {
        // An error drops the transaction, which aborts it.
        job.apply(&mut txn)?;
    }
    match txn.txn.commit().map_err(StateError::from) {
        Ok(()) => {
            core.commits.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        // LMDB tells a short write, by which a full disk shows, as an input/output error.
        Err(error) if error.is_space() || core.space.is_disk_full() => {
            // After a half-written meta page it begins no more transactions.
            match core.env.write_txn() {
                Ok(_) if error.is_space() => Err(error),
                Ok(_) => Err(StateError::NoSpace(error.to_string())),
                Err(panic) => Err(core.poison(&format!("a commit broke off: {error}; {panic}"))),
            }
        }
        Err(error) => Err(core.poison(&format!("a commit was not synced: {error}"))),
    }
}

/// A closure as a job, its answer sent back.
struct Waited<T, F> {
    work: F,
    answer: Option<T>,
    reply: Sender<Result<T, StateError>>,
}

impl<T, F> Job for Waited<T, F>
where
    T: Send,
    F: FnMut(&mut WriteTxn<'_>) -> Result<T, StateError> + Send,
{
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        self.answer = Some((self.work)(txn)?);
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        let Self { answer, reply, .. } = *self;
        // Nobody waits any more: the commit stands all the same.
        let _gone = reply.send(outcome.and_then(|()| answer.ok_or(StateError::Stopped)));
    }
}

pub(super) fn commit_and_wait<T, F>(state: &State, work: F) -> Result<T, StateError>
where
    T: Send + 'static,
    F: FnMut(&mut WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
{
    let (reply, answer) = bounded(1);
    state.submit(Box::new(Waited { work, answer: None, reply }));
    answer.recv().unwrap_or(Err(StateError::Stopped))
}
