//! The state environment: one LMDB file that holds every promise made and not yet kept.
//!
//! ```text
//! <state>/data.mdb, lock.mdb   LMDB
//! <state>/namespace            the PID namespace that uses it (see `guard`)
//! <state>/writer               the process that last held the write lock, for `readyz`
//! <state>/shards/*.lock        who owns a shard      (module `broker::ownership`)
//! <state>/wake/*.sock          whom to wake          (module `broker::wake`)
//! ```
//!
//! Tables, all bytes to bytes; keys and values are described where they are written:
//!
//! | table | key | value | written by |
//! |---|---|---|---|
//! | frames | offset key | lines and a head | `broker::append` |
//! | ends | shard key | next offset, bytes ever | `broker::append` |
//! | progress | shard key | epoch, low mark, ranges | `broker::progress` |
//! | prepared, journal | offset key | batch row | `batch::journal` |
//! | workers | worker name | totals | `batch::journal` |
//! | retries | offset key | what failed | `broker::retry` |
//! | dead | batch number | dead letters | `batch::dead` |
//! | sessions | shard key, session | packets taken | `broker::rabbitmq` |
//! | keyed, keyed_order | packet / number | number / packet | `broker::rabbitmq` |
//! | packets | offset key | which packet | `broker::rabbitmq` |
//! | idempotency, idempotency_order | key / number | first answer / key | `broker::idempotency` |
//! | ships | name | account | `rooms::telemetry` |
//! | ship_seconds, ship_minutes | name, time | figures | `rooms::telemetry` |
//! | ship_batches | shard key, batch number | lines before | `rooms::telemetry` |
//! | meta | name | identity, counters | several |
//!
//! Every commit is synced: no NOSYNC, NOMETASYNC or WRITEMAP. One thread per process commits, and
//! groups all that waits into one transaction; the commit in progress is the linger.
//!
//! **A failure to sync is final.** The kernel may have dropped what it could not write, so nothing
//! after it can be trusted: the state is poisoned, every later call is refused, and the process
//! stops with the reason. Running out of space is not that, also where LMDB learns it from a short
//! write or only when it syncs: the transaction aborts, the next one writes all its own pages
//! again, and nothing committed stands on what was lost. Work goes on when there is space.

mod committer;
mod durable;
mod error;
mod guard;
mod space;
mod tables;

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use heed::{Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use rustix::io::FdFlags;

pub use committer::Job;
pub use durable::create_durable;
pub use error::StateError;
pub use guard::{FileSystem, GuardError, file_system, holds_state};
pub use space::{DiskRoom, disk_bytes, low_water_bytes};
use tables::FORMAT;
pub use tables::{Table, Tables};

/// Reader slots, fixed by whoever creates the lock file: reads that go on at once.
const READERS_MAX: u32 = 4096;
/// A short look at one committed moment.
pub type ReadTxn<'a> = RoTxn<'a, WithoutTls>;

/// Why the environment could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory can't be made or used.
    #[error("state directory {path}: {source}; set STATE_DIR to a directory you may write to")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory may not be used from here.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// LMDB refused it.
    #[error("state environment in {path}: {source}")]
    Environment {
        /// The directory.
        path: PathBuf,
        /// What LMDB said.
        source: heed::Error,
    },
    /// Written by another version.
    #[error(
        "state directory {path} has format {found}; this version reads format {FORMAT}: \
         use the version that wrote it, or another STATE_DIR"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
}

/// An identity that nothing else has: 128 random bits as 32 hexadecimal digits.
///
/// # Errors
/// The kernel gives no random bits.
pub fn random_identity() -> std::io::Result<String> {
    let mut bits = [0; 16];
    // From the kernel itself, so that it works without `/dev`.
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

/// What to open, and whom to tell when it can no longer be trusted.
pub struct StateOptions {
    /// The state directory; made if absent.
    pub dir: PathBuf,
    /// The most the map may grow to, in bytes. Address space, not disk: the file is sparse.
    pub map_bytes: usize,
    /// Free disk below which publishing stops, in bytes; `None`: the smaller of 256 MiB and 5 %.
    pub low_water_bytes: Option<u64>,
    /// Called once, with the reason, when a sync has failed.
    pub on_poison: Box<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for StateOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateOptions").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// The open environment; clones share it.
#[derive(Debug, Clone)]
pub struct State {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    // Dropped in this order: the committer ends before the environment closes.
    committer: committer::Committer,
    core: Arc<Core>,
}

/// What the committer thread shares with everybody else.
pub(crate) struct Core {
    env: Env<WithoutTls>,
    tables: Tables,
    dir: PathBuf,
    identity: String,
    space: space::Space,
    poison: OnceLock<String>,
    on_poison: Box<dyn Fn(&str) + Send + Sync>,
    writer_file: File,
    /// Milliseconds after `started_at` since when the committer waits for the write lock, plus 1.
    waiting_since_ms: AtomicU64,
    started_at: Instant,
    commits: AtomicU64,
    _guard: guard::NamespaceGuard,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// A write transaction with the tables at hand.
pub struct WriteTxn<'a> {
    /// The transaction.
    pub txn: RwTxn<'a>,
    /// The tables.
    pub tables: Tables,
}

impl std::fmt::Debug for WriteTxn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTxn").finish_non_exhaustive()
    }
}

impl State {
    /// Opens the environment, making it if it is not there, and starts its committer.
    ///
    /// # Errors
    /// The directory cannot be used, is used from another PID namespace, lies on a network file
    /// system, or was written by another version.
    pub fn open(options: StateOptions) -> Result<Self, OpenError> {
        let core = Arc::new(Core::open(options)?);
        let committer = committer::Committer::start(Arc::clone(&core))
            .map_err(|source| OpenError::Directory { path: core.dir.clone(), source })?;
        Ok(Self { inner: Arc::new(Inner { committer, core }) })
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.core.dir
    }

    /// What tells this environment from every other: 32 hexadecimal digits.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.inner.core.identity
    }

    /// The tables.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.inner.core.tables
    }

    /// Starts a read. Keep it short: pages freed meanwhile cannot be used again.
    ///
    /// # Errors
    /// The environment is poisoned, or all reader slots are taken.
    pub fn read(&self) -> Result<ReadTxn<'_>, StateError> {
        self.inner.core.check_poison()?;
        Ok(self.inner.core.env.read_txn()?)
    }

    /// Hands a job to the committer; waits while its queue is full.
    pub fn submit(&self, job: Box<dyn Job>) {
        self.inner.committer.submit(job);
    }

    /// Hands a job to the committer, or gives it back when the queue is full.
    ///
    /// # Errors
    /// The job, unsettled.
    pub fn try_submit(&self, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        self.inner.committer.try_submit(job)
    }

    /// Runs `work` in the next commit and waits for it. `work` may run again after an abort.
    ///
    /// # Errors
    /// What `work` refused, or why it is not committed.
    pub fn commit<T, F>(&self, work: F) -> Result<T, StateError>
    where
        T: Send + 'static,
        F: FnMut(&mut WriteTxn<'_>) -> Result<T, StateError> + Send + 'static,
    {
        committer::commit_and_wait(self, work)
    }

    /// Whether there is room to publish: the map's reserve and the disk's low-water mark.
    ///
    /// # Errors
    /// [`StateError::MapFull`] or [`StateError::NoSpace`].
    pub fn room_to_publish(&self) -> Result<(), StateError> {
        self.inner.core.space.check(&self.inner.core.env)
    }

    /// Bytes of the map that publishers leave for draining.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.inner.core.space.reserve_bytes()
    }

    /// Whether the map is so full that even draining needs what was kept for it.
    ///
    /// # Errors
    /// A read failed.
    pub fn is_pressed(&self) -> Result<bool, StateError> {
        self.inner.core.space.is_pressed(&self.inner.core.env)
    }

    /// How full it is: bytes in use and the most there may be.
    ///
    /// # Errors
    /// A read failed.
    pub fn used_bytes(&self) -> Result<(u64, u64), StateError> {
        self.inner.core.space.used(&self.inner.core.env)
    }

    /// How full its disk is.
    ///
    /// # Errors
    /// What the system said.
    pub fn disk_room(&self) -> Result<DiskRoom, StateError> {
        self.inner.core.space.disk()
    }

    /// Commits synced by this process since it started.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.inner.core.commits.load(Ordering::Relaxed)
    }

    /// The number of the last transaction that changed anything, of whichever process: cheap to ask
    /// for, and another one after every change.
    #[must_use]
    pub fn last_change(&self) -> usize {
        self.inner.core.env.info().last_txn_id
    }

    /// How long the committer has waited for the write lock, and the process that took it last.
    #[must_use]
    pub fn write_lock_wait(&self) -> Option<(Duration, u32)> {
        let core = &self.inner.core;
        let since_ms = core.waiting_since_ms.load(Ordering::Relaxed).checked_sub(1)?;
        let waited = core.started_at.elapsed().saturating_sub(Duration::from_millis(since_ms));
        let mut pid = [0; 4];
        core.writer_file.read_exact_at(&mut pid, 0).ok()?;
        Some((waited, u32::from_le_bytes(pid)))
    }
}

impl Core {
    fn open(options: StateOptions) -> Result<Self, OpenError> {
        let dir = options.dir;
        let unusable = |source| OpenError::Directory { path: dir.clone(), source };
        create_durable(&dir, 0o700).map_err(unusable)?;
        let dir = dir.canonicalize().map_err(unusable)?;
        let (guard, map_bytes) = guard::NamespaceGuard::take(&dir, options.map_bytes)?;
        let writer_file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("writer"))
            .map_err(unusable)?;
        let refused = |source| OpenError::Environment { path: dir.clone(), source };
        let env = open_environment(&dir, map_bytes).map_err(refused)?;
        env.clear_stale_readers().map_err(refused)?;
        let (tables, identity) = tables::create(&env)
            .map_err(refused)?
            .map_err(|found| OpenError::Format { path: dir.clone(), found })?;
        // The names of the environment's own files.
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(unusable)?;
        Ok(Self {
            space: space::Space::new(dir.clone(), &env, options.low_water_bytes),
            env,
            tables,
            dir,
            identity,
            poison: OnceLock::new(),
            on_poison: options.on_poison,
            writer_file,
            waiting_since_ms: AtomicU64::new(0),
            started_at: Instant::now(),
            commits: AtomicU64::new(0),
            _guard: guard,
        })
    }

    fn check_poison(&self) -> Result<(), StateError> {
        self.poison.get().map_or(Ok(()), |reason| Err(StateError::Poisoned(reason.clone())))
    }

    fn poison(&self, reason: &str) -> StateError {
        if self.poison.set(reason.to_owned()).is_ok() {
            (self.on_poison)(reason);
        }
        StateError::Poisoned(reason.to_owned())
    }
}

#[expect(unsafe_code, reason = "heed's open, and a descriptor that LMDB keeps: only here")]
fn open_environment(dir: &Path, map_bytes: usize) -> heed::Result<Env<WithoutTls>> {
    // A slot is taken per read, not per thread that ever read.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes.next_multiple_of(64 * 1024)).max_dbs(32).max_readers(READERS_MAX);
    // SAFETY: the map is only ever written through LMDB: the file lies in a directory of mode 0700
    // that `guard` keeps off network file systems and to one PID namespace, so that LMDB's own
    // locks hold, and no other code of this program opens its files.
    let env = unsafe { options.open(dir) }?;
    // LMDB opens its file so that programs which this process starts would inherit it.
    // Where there is no /proc there is no shell to start any.
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let is_ours =
            std::fs::read_link(entry.path()).is_ok_and(|path| path == dir.join("data.mdb"));
        if let Some(number) = number.filter(|_| is_ours) {
            // SAFETY: LMDB keeps its files open as long as `env` lives, which is until after this.
            let file = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC).map_err(std::io::Error::from)?;
        }
    }
    Ok(env)
}
