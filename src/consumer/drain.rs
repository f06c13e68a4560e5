//! Takes ownership of shards, recovers them, runs a pool for each, and tells history.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::process::Processor;
use super::{ConsumeError, Consumer, TopicPart};
use crate::batch::journal::{self, WorkerTotals};
use crate::batch::name::WorkerName;
use crate::batch::output;
use crate::batch::recovery::{RecoveryError, recover};
use crate::batch::writer::{WriteError, Writer};
use crate::broker::append::shard_ends;
use crate::broker::ownership::{RETRY, ShardLock};
use crate::broker::progress::Progress;
use crate::broker::source::Source;
use crate::broker::wake::WakeListener;
use crate::clock::Clock;
use crate::message::{ShardId, ShardKey, Topic};
use crate::pool::{Handler, Pool};
use crate::service::presence::Presence;
use crate::state::StateError;

/// How often it is said what the workers do.
const NOTICE_EVERY: Duration = Duration::from_secs(1);

/// How far the clocks may come apart before one of them has jumped, or the machine was suspended,
/// in milliseconds.
const CLOCK_JUMP_MS: u64 = 1000;

const LOCKING: &str = "locking a shard";

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

/// The shards that this process owns.
struct Owned {
    writer: Arc<Writer>,
    handlers: HashMap<Topic, Arc<dyn Handler>>,
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
        let companions = self.topics.iter().filter_map(|part| {
            let companion = part.companion.as_ref()?;
            Some((part.topic, Arc::clone(companion)))
        });
        let writer = writer.compressed(self.settings.compression).accompanied(companions.collect());
        let writer = Arc::new(writer);
        let handlers = self.topics.iter().map(|part| (part.topic, self.handler(part, &writer)));
        let handlers = handlers.collect();
        let wake = WakeListener::start(self.state.dir()).map_err(io("binding a wake-up socket"))?;
        Ok(Owned { writer, handlers, wake, pools: Vec::new(), standing_by: false })
    }

    fn handler(&self, part: &TopicPart, writer: &Arc<Writer>) -> Arc<dyn Handler> {
        Arc::new(Processor {
            writer: Arc::clone(writer),
            state: self.state.clone(),
            clock: Arc::clone(&self.clock),
            life: self.life.clone(),
            processing: part.processing.clone(),
        })
    }

    fn take_shards_until_stopped(&self, owned: &mut Owned) -> Result<(), ConsumeError> {
        let mut history = History::new(self.clock.monotonic() + self.settings.history_every);
        let mut noticeboard = Noticeboard::new(self.clock.as_ref());
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
            noticeboard.show(now, self.clock.wall_ms(), owned, &self.presence);
            if self.clock.monotonic() >= history.due_at {
                history.due_at += self.settings.history_every;
                self.log_history(&mut history.logged);
            }
            if self.life.wait_stopping(RETRY) {
                return Ok(());
            }
        }
    }

    /// The shards of the setting, and those that hold messages, or batches on their way: of
    /// another setting, or of a topic that is owned only then.
    fn wanted(&self) -> Result<BTreeSet<ShardKey>, StateError> {
        let topics = self.topics.iter().filter(|part| part.is_idle_owned);
        let of_topic = |part: &TopicPart| {
            let topic = part.topic;
            let shards = (0..self.settings.shards.get()).map(ShardId);
            shards.map(move |shard| ShardKey::new(topic, shard))
        };
        let mut wanted: BTreeSet<_> = topics.flat_map(of_topic).collect();
        let tables = self.state.tables();
        let txn = self.state.read()?;
        for (key, end) in shard_ends(&txn, tables)? {
            let is_ours = self.topics.iter().any(|part| part.topic == key.topic);
            if !is_ours || wanted.contains(&key) {
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
        let Some(handler) = owned.handlers.get(&key.topic) else { return Ok(false) };
        let pool = Pool::start(self.settings.workers, &source, handler, &self.life)
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

/// Says on the card of the process what the workers do.
struct Noticeboard {
    due_at: Instant,
    /// The same moment by two clocks, taken anew when one of them has jumped: what is said of the
    /// same is the same until it changes.
    same: (Instant, u64),
}

impl Noticeboard {
    fn new(clock: &dyn Clock) -> Self {
        let now = clock.monotonic();
        Self { due_at: now, same: (now, clock.wall_ms()) }
    }

    fn show(&mut self, now: Instant, now_ms: u64, owned: &Owned, presence: &Presence) {
        if now < self.due_at {
            return;
        }
        self.due_at = now + NOTICE_EVERY;
        if wall_ms(self.same, now).abs_diff(now_ms) > CLOCK_JUMP_MS {
            self.same = (now, now_ms);
        }
        let same = self.same;
        let wall_ms = |at: Instant| wall_ms(same, at);
        presence.show_pools(owned.pools.iter().map(|(pool, _)| pool.card(wall_ms)).collect());
    }
}

/// The wall time of a moment, told from one that is known by both clocks.
fn wall_ms((known, known_ms): (Instant, u64), at: Instant) -> u64 {
    let ms = |from: Instant, to: Instant| {
        u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
    };
    known_ms.saturating_add(ms(known, at)).saturating_sub(ms(at, known))
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
