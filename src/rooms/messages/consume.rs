//! Drains the shards into files: takes ownership, recovers, runs a pool per shard, tells history.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process::{Processing, Processor};
use crate::batch::disk::Disk;
use crate::batch::journal::{self, JournalRetention, WorkerTotals};
use crate::batch::name::{Compression, WorkerName};
use crate::batch::output::{self, OutputError};
use crate::batch::recovery::{RecoveryError, recover};
use crate::batch::writer::{WriteError, Writer};
use crate::broker::Feed;
use crate::broker::append::shard_ends;
use crate::broker::ownership::{RETRY, ShardLock};
use crate::broker::progress::Progress;
use crate::broker::source::Source;
use crate::broker::take::TakePolicy;
use crate::broker::wake::WakeListener;
use crate::clock::Clock;
use crate::message::{ShardId, ShardKey, Topic};
use crate::pool::scale::Limits;
use crate::pool::{Handler, Pool};
use crate::service::Lifecycle;
use crate::state::{State, StateError};

const LOCKING: &str = "locking a shard";

/// What the consumer needs to know.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Shards that exist whether or not they hold messages.
    pub shards: NonZeroU16,
    /// Workers per shard.
    pub workers: Limits,
    /// When a batch is due.
    pub policy: TakePolicy,
    /// What workers do with a batch.
    pub processing: Processing,
    /// How files are compressed.
    pub compression: Compression,
    /// How long the journal's rows are kept.
    pub retention: JournalRetention,
    /// Whether to bind a new output directory in place of the one used so far.
    pub adopt_output: bool,
    /// How often the workers' history is logged.
    pub history_every: Duration,
}

/// Why the consumer cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The output directory may not be used.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A shard can't be taken over.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The state environment refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// A lock, a socket or a thread can't be made.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ConsumeError {
    /// Whether the same may succeed later: with space, with a right to write, with descriptors.
    fn is_retry(&self) -> bool {
        match self {
            Self::Recovery(error) => error.is_retry(),
            Self::State(error) => error.is_space(),
            Self::Io { doing, .. } => *doing == LOCKING,
            Self::Output(_) => false,
        }
    }
}

/// The parts that the consumer is made of; tests bring their own disk and clock.
pub struct Consumer {
    /// The state environment.
    pub state: State,
    /// The output directory.
    pub disk: Arc<dyn Disk>,
    /// Its path, for messages.
    pub output: PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The process.
    pub life: Lifecycle,
    /// The settings.
    pub settings: ConsumerSettings,
    /// What brings messages of a broker elsewhere, if there is one.
    pub feed: Option<Arc<dyn Feed>>,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("output", &self.output).finish_non_exhaustive()
    }
}

/// The shards that this process owns.
struct Owned {
    writer: Arc<Writer>,
    handler: Arc<dyn Handler>,
    wake: WakeListener,
    /// A pool ends before its lock is let go.
    pools: Vec<(Pool, ShardLock)>,
    standing_by: bool,
}

impl Consumer {
    /// Consumes until the process stops, then finishes what the workers hold.
    ///
    /// # Errors
    /// It cannot start, or a shard cannot be recovered.
    pub fn run(&self) -> Result<(), ConsumeError> {
        let disk = self.disk.as_ref();
        let identity = output::bind(&self.state, disk, &self.output, self.settings.adopt_output)?;
        let mut owned = self.start(identity)?;
        tracing::info!(output = %self.output.display(), "consuming into files");
        let outcome = self.take_shards_until_stopped(&mut owned);
        if let Err(error) = &outcome {
            self.life.fail(error.to_string());
        }
        // Nothing comes any more before a lock is let go.
        self.feed.iter().for_each(|feed| feed.end());
        owned.wake.wake_all();
        for (pool, lock) in owned.pools {
            pool.join();
            drop(lock);
        }
        owned.writer.finish_again();
        // Whatever was handed to the committer is stored when this comes back.
        let flushed = self.state.commit(|_| Ok(()));
        self.log_history(&mut HashMap::new());
        outcome.and(flushed.map_err(ConsumeError::from))
    }

    fn start(&self, output_identity: String) -> Result<Owned, ConsumeError> {
        let io = |doing| move |source| ConsumeError::Io { doing, source };
        let writer = Writer::new(
            self.state.clone(),
            Arc::clone(&self.disk),
            self.output.clone(),
            output_identity,
            Arc::clone(&self.clock),
            self.settings.retention,
            self.life.clone(),
        );
        let writer = Arc::new(writer.compressed(self.settings.compression));
        let handler = Processor {
            writer: Arc::clone(&writer),
            state: self.state.clone(),
            clock: Arc::clone(&self.clock),
            life: self.life.clone(),
            processing: self.settings.processing.clone(),
        };
        let wake = WakeListener::start(self.state.dir()).map_err(io("binding a wake-up socket"))?;
        let handler = Arc::new(handler);
        Ok(Owned { writer, handler, wake, pools: Vec::new(), standing_by: false })
    }

    fn take_shards_until_stopped(&self, owned: &mut Owned) -> Result<(), ConsumeError> {
        let mut history = History::new(self.clock.monotonic() + self.settings.history_every);
        let mut hindrance = None;
        loop {
            let hindered = self.take_free_shards(owned)?.map(|error| error.to_string());
            if let Some(error) = hindered.as_ref().filter(|_| hindered != hindrance) {
                tracing::warn!(%error, "a shard cannot be taken over, yet");
            }
            hindrance = hindered;
            owned.writer.finish_again();
            let now = self.clock.monotonic();
            owned.pools.iter_mut().for_each(|(pool, _)| pool.supervise(now));
            if self.clock.monotonic() >= history.due_at {
                history.due_at += self.settings.history_every;
                self.log_history(&mut history.logged);
            }
            if self.life.wait_stopping(RETRY) {
                return Ok(());
            }
        }
    }

    /// The shards of the setting, and those that still hold messages, or batches on their way, of
    /// another setting.
    fn wanted(&self) -> Result<BTreeSet<ShardKey>, StateError> {
        let configured = (0..self.settings.shards.get()).map(ShardId);
        let mut wanted: BTreeSet<_> =
            configured.map(|shard| ShardKey::new(Topic::Messages, shard)).collect();
        let tables = self.state.tables();
        let txn = self.state.read()?;
        for (key, end) in shard_ends(&txn, tables)? {
            if wanted.contains(&key) {
                continue;
            }
            let unfinished = !journal::rows(&txn, tables.prepared, key)?.is_empty();
            if unfinished || Progress::load(&txn, tables, key)?.waiting(end.offset) > 0 {
                wanted.insert(key);
            }
        }
        Ok(wanted)
    }

    /// Takes over what is free; what hinders it at one shard hinders no other, and is told.
    fn take_free_shards(&self, owned: &mut Owned) -> Result<Option<ConsumeError>, ConsumeError> {
        let mut wanted = self.wanted()?;
        for (pool, _) in &owned.pools {
            wanted.remove(&pool.key());
        }
        let (mut taken, mut others, mut hindrance) = (0_usize, 0_usize, None);
        for key in wanted {
            match self.take_shard(owned, key) {
                Ok(true) => taken += 1,
                Ok(false) => others += 1,
                // The next start places what this one has no time for.
                Err(ConsumeError::Recovery(RecoveryError::Write(WriteError::Stopping(_)))) => {}
                Err(error) if error.is_retry() => hindrance = Some(error),
                Err(error) => return Err(error),
            }
        }
        if taken > 0 {
            tracing::info!(taken, shards = owned.pools.len(), "took over shards");
        }
        if others > 0 && !owned.standing_by {
            tracing::info!(others, "another consumer owns shards: standing by for them");
        }
        owned.standing_by = others > 0;
        Ok(hindrance)
    }

    /// Takes over one shard; false if another process owns it.
    fn take_shard(&self, owned: &mut Owned, key: ShardKey) -> Result<bool, ConsumeError> {
        let io = |doing| move |source| ConsumeError::Io { doing, source };
        let lock = ShardLock::try_take(self.state.dir(), key).map_err(io(LOCKING))?;
        let Some(lock) = lock else { return Ok(false) };
        let progress = recover(&owned.writer, &lock)?;
        let source = Source::new(
            self.state.clone(),
            key,
            &progress,
            self.settings.policy,
            Arc::clone(&self.clock),
            self.life.clone(),
            owned.wake.register(key),
        )?;
        let pool = Pool::start(self.settings.workers, &source, &owned.handler, &self.life)
            .map_err(io("starting a worker"))?;
        owned.pools.push((pool, lock));
        self.feed.iter().for_each(|feed| feed.begin(key));
        Ok(true)
    }

    /// Logs the totals of every worker that has done something since it was logged.
    fn log_history(&self, logged: &mut HashMap<WorkerName, WorkerTotals>) {
        let rows = self.state.read().and_then(|txn| journal::workers(&txn, self.state.tables()));
        match rows {
            Ok(rows) => {
                for (worker, totals) in rows {
                    if logged.get(&worker) != Some(&totals) {
                        log_worker(worker, &totals);
                        logged.insert(worker, totals);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the workers' history"),
        }
    }
}

/// When the workers' history is logged, and what was.
struct History {
    due_at: Instant,
    logged: HashMap<WorkerName, WorkerTotals>,
}

impl History {
    fn new(due_at: Instant) -> Self {
        Self { due_at, logged: HashMap::new() }
    }
}

fn log_worker(worker: WorkerName, totals: &WorkerTotals) {
    let WorkerTotals { batches, messages, bytes, errors, timeouts, last_seen_ms } = totals;
    tracing::info!(
        %worker, batches, messages, bytes, errors, timeouts, last_seen_ms, "worker history"
    );
}
