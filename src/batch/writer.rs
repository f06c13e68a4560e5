//! The commit protocol: stage, commit, place, finish (the four steps of the module's front page).
//!
//! Before the commit point every failure leaves the delivery unsettled and nothing committed; it
//! may be tried again under a new name. After it the batch *will* be placed: by this process, or
//! by the recovery of the next one.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::companion::{Companion, Tally};
use super::content::{self, Content, Written};
use super::disk::Disk;
use super::folders::Folders;
use super::journal::{BatchRow, JournalRetention, Staged};
use super::name::{self, Compression, WorkerName};
use super::record::{Finishing, InHand, NotRecorded};
use crate::broker::Delivery;
use crate::broker::progress::Committed;
use crate::clock::Clock;
use crate::message::{ShardKey, Topic};
use crate::service::Lifecycle;
use crate::state::{State, StateError};

/// How long to wait before a committed batch is placed again.
const PLACE_RETRY: Duration = Duration::from_millis(200);
/// How often a folder is made again at once, when it has vanished.
const FOLDER_TRIES: u32 = 8;

/// Why a batch is not in place.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing is committed; the same may succeed later, when there is space or a right to write.
    #[error("{doing} {path}: {source}")]
    Retry {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is committed: the state environment has no room now.
    #[error("recording a batch: {0}")]
    NoRoom(StateError),
    /// Nothing is committed: the worker was too slow, and the messages are somebody else's now.
    #[error("it took too long, and another worker has the messages")]
    Lost,
    /// It would not be safe to go on: the process stops, and recovery decides.
    #[error("{0}")]
    Fatal(String),
    /// Committed, and to be placed by the next start: the process stops.
    #[error("the process stops before {0} is in place; the next start places it")]
    Stopping(PathBuf),
}

impl WriteError {
    /// Whether the delivery may be tried again.
    #[must_use]
    pub const fn is_retry(&self) -> bool {
        matches!(self, Self::Retry { .. } | Self::NoRoom(_))
    }
}

/// Writes the batches of every shard that this process owns.
pub struct Writer {
    pub(super) state: State,
    pub(super) disk: Arc<dyn Disk>,
    output: PathBuf,
    /// What `output::bind` said: the identity of the output directory.
    pub(super) output_identity: String,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
    compression: Compression,
    companions: HashMap<Topic, Arc<dyn Companion>>,
    pub(super) folders: Folders,
    nonce: AtomicU64,
    finishing: Arc<Finishing>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("output", &self.output).finish_non_exhaustive()
    }
}

pub(super) fn retry<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> WriteError + 'a {
    move |source| WriteError::Retry { doing, path: path.to_owned(), source }
}

impl Writer {
    /// A writer into the output directory behind `disk`, which is bound to `state`.
    #[must_use]
    pub fn new(
        state: State,
        disk: Arc<dyn Disk>,
        output: PathBuf,
        output_identity: String,
        clock: Arc<dyn Clock>,
        retention: JournalRetention,
        life: Lifecycle,
    ) -> Self {
        let finishing = Finishing::new(state.clone(), retention, Arc::clone(&clock));
        let folders = Folders::new(Arc::clone(&disk), output.clone(), life.clone());
        let nonce = AtomicU64::new(0);
        let (finishing, compression) = (Arc::new(finishing), Compression::None);
        let companions = HashMap::new();
        Self {
            state,
            disk,
            output,
            output_identity,
            clock,
            life,
            compression,
            companions,
            folders,
            nonce,
            finishing,
        }
    }

    /// The same, with its files compressed.
    #[must_use]
    pub fn compressed(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// The same, with what else is committed with the batches of each topic.
    #[must_use]
    pub fn accompanied(self, companions: HashMap<Topic, Arc<dyn Companion>>) -> Self {
        Self { companions, ..self }
    }

    /// The output directory, for messages.
    #[must_use]
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// To be held while a batch is on its way: see module `record`.
    #[must_use]
    pub fn in_hand(&self) -> InHand {
        self.finishing.in_hand()
    }

    /// Steps 1 and 2: stages the file of a delivery and commits the batch. The proof settles it.
    ///
    /// # Errors
    /// Nothing is committed; see [`WriteError::is_retry`].
    pub fn commit(
        &self,
        worker: WorkerName,
        delivery: &Delivery,
        content: &Content,
    ) -> Result<(BatchRow, Committed), WriteError> {
        let (staged, tally) = match self.stage(worker, delivery, content) {
            Ok(staged) => staged,
            // Its messages may be committed and deleted by now: whatever failed is no news.
            Err(_) if delivery.claim().is_lost() => return Err(WriteError::Lost),
            Err(error) => return Err(error),
        };
        let path = staged.path.clone();
        match self.finishing.record(staged, tally, delivery.claim()) {
            Ok(Ok(committed)) => Ok(committed),
            Ok(Err(NotRecorded::Lost)) => {
                self.discard(&path);
                Err(WriteError::Lost)
            }
            Ok(Err(NotRecorded::Refused(refused))) => {
                self.discard(&path);
                Err(WriteError::Fatal(format!("{}: {refused}", delivery.key)))
            }
            Err(error) if error.is_space() => {
                self.discard(&path);
                Err(WriteError::NoRoom(error))
            }
            // Whether it is committed is unknown: the staged file stays for recovery.
            Err(error) => Err(WriteError::Fatal(format!("recording a batch: {error}"))),
        }
    }

    fn stage(
        &self,
        worker: WorkerName,
        delivery: &Delivery,
        content: &Content,
    ) -> Result<(Staged, Option<Box<dyn Tally>>), WriteError> {
        self.check_root()?;
        let at = self.clock.wall();
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        let path = name::staged_path(delivery.key, delivery.range, delivery.epoch, nonce);
        let compression = content.compression(self.compression);
        let companion = self.companions.get(&delivery.key.topic);
        let mut tally = companion.filter(|_| content.is_as_is()).map(|companion| companion.begin());
        let (written, outputs) = match content {
            Content::Made(made) if made.is_empty() => (Written::default(), Some(0)),
            _ => {
                // Made before the commit point, so that no space for it is found out in time.
                let folder = name::final_folder(delivery.key.topic, content.kind(), at);
                self.folders.make(&folder)?;
                let tally = tally.as_deref_mut();
                let written = self.stage_file(&path, delivery, content, compression, tally)?;
                let outputs = matches!(content, Content::Made(_)).then_some(written.lines);
                (written, outputs)
            }
        };
        let staged = Staged {
            key: delivery.key,
            range: delivery.range,
            epoch: delivery.epoch,
            kind: content.kind(),
            bytes: written.bytes,
            checksum: written.checksum,
            outputs,
            worker,
            compression,
            output: self.output_identity.clone(),
            path,
            reason: content.reason().to_owned(),
            at,
        };
        Ok((staged, tally))
    }

    fn stage_file(
        &self,
        path: &Path,
        delivery: &Delivery,
        content: &Content,
        compression: Compression,
        tally: Option<&mut (dyn Tally + 'static)>,
    ) -> Result<Written, WriteError> {
        let staging = name::staging_dir(delivery.key);
        self.folders.make(&staging)?;
        let created = self.disk.create_new(path);
        if created.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // Somebody has emptied the staging folder: make it again at the next try.
            self.folders.forget();
        }
        let file = created.map_err(retry("creating", path))?;
        match content::write(file, path, delivery, content, compression, tally) {
            Ok(written) => self.folders.sync(&staging).map(|_| written),
            Err(error) => {
                self.discard(path);
                Err(error)
            }
        }
    }

    /// Removes a staged file that no batch names. Should it stay, recovery removes it.
    fn discard(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %path.display(), %error, "a staged file stays until recovery");
        }
    }

    /// Steps 3 and 4: renames a committed batch into place and hands it to the next commit as done.
    ///
    /// # Errors
    /// The process stops first, or going on would not be safe. Recovery places the batch then.
    pub fn place(&self, key: ShardKey, row: &BatchRow) -> Result<(), WriteError> {
        while let Err(error) = self.place_once(key, row) {
            let WriteError::Retry { .. } = &error else { return Err(error) };
            tracing::warn!(%error, file = %row.file.display(), "a batch cannot be placed, yet");
            if self.life.wait_stopping(PLACE_RETRY) {
                return Err(WriteError::Stopping(row.file.clone()));
            }
        }
        Ok(())
    }

    /// The same, tried once: recovery has other shards to look after.
    pub(super) fn place_once(&self, key: ShardKey, row: &BatchRow) -> Result<(), WriteError> {
        self.rename_and_sync(row)?;
        self.finish(key, row);
        Ok(())
    }

    fn rename_and_sync(&self, row: &BatchRow) -> Result<(), WriteError> {
        if !row.has_file() {
            return Ok(());
        }
        self.check_root()?;
        // A reader that takes files away with their folder may do so again and again.
        for _ in 0..FOLDER_TRIES {
            match self.folders.make(row.folder()) {
                Ok(()) if self.rename(row)? => {
                    return self.folders.sync_with_path(row.folder());
                }
                Ok(()) | Err(WriteError::Retry { .. }) => self.folders.forget(),
                Err(error) => return Err(error),
            }
        }
        self.folders.make(row.folder())?;
        let vanished = io::Error::from(io::ErrorKind::NotFound);
        Err(retry("renaming to", &row.file)(vanished))
    }

    /// False if the folder has vanished.
    fn rename(&self, row: &BatchRow) -> Result<bool, WriteError> {
        match self.disk.rename_new(&row.staged, &row.file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let staged = self.disk.open(&row.staged);
                if staged.map_err(retry("opening", &row.staged))?.is_none() {
                    return Err(WriteError::Fatal(format!(
                        "the staged file {} of batch {} is gone from {}: has somebody emptied \
                         {}? Start again, and recovery looks what is there",
                        row.staged.display(),
                        row.number,
                        self.output.display(),
                        name::STAGING,
                    )));
                }
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(WriteError::Fatal(format!(
                    "{} is there already, but not by this program: move it away and start again",
                    self.output.join(&row.file).display()
                )))
            }
            Err(error) => Err(retry("renaming to", &row.file)(error)),
        }
    }

    /// Step 4: done, with the next transaction that there is.
    pub(super) fn finish(&self, key: ShardKey, row: &BatchRow) {
        self.finishing.add(key, row);
    }

    /// Marks as done what is in place, and what an earlier transaction had no room for.
    pub fn finish_again(&self) {
        self.finishing.submit();
    }

    fn check_root(&self) -> Result<(), WriteError> {
        self.disk.check_root().map_err(|error| {
            WriteError::Fatal(format!(
                "output directory {} is not what it was at start ({error}): has it been moved, \
                 or something mounted over it? Put it back and start again",
                self.output.display()
            ))
        })
    }
}
