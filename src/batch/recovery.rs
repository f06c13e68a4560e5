//! What a crash left of a shard's batches, put right before anything else runs on the shard.
//!
//! It needs the shard's lock. Each step may be cut off and repeated. For each *prepared* batch:
//!
//! | final file | staged file | then |
//! |---|---|---|
//! | whole | absent or present | sync its folder, done; delete the staged one |
//! | absent | whole | rename, sync, done |
//! | absent | absent | it was renamed and taken away: done |
//! | damaged | any | stop |
//! | absent | damaged | stop |
//!
//! *Taken away* is sound, since the staging folder was synced before the batch was recorded, and
//! the output directory is the one it was staged in (module `output`). A whole final file may be
//! there without its name being durable: so its folder is synced first.
//!
//! Then staged files that no batch names are deleted, in this shard's staging alone. A gap in the
//! offsets, or a mark beyond the end, stops the start: nothing is repaired by deleting.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::journal::{self, BatchRow};
use super::writer::{WriteError, Writer};
use super::{name, output};
use crate::broker::append::shard_end;
use crate::broker::frames::Frames;
use crate::broker::ownership::ShardLock;
use crate::broker::progress::Progress;
use crate::message::ShardKey;
use crate::state::{State, StateError};

/// Why a shard cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file is not what was committed.
    #[error(
        "batch {number} of {key} (offsets {range}): {file} is damaged: {found}; committed were \
         {bytes} bytes with checksum {checksum}. Restore the file, or move it away and start \
         again: then these messages are taken from their staged file, or given up if there is none",
        number = .row.number, range = .row.range, bytes = .row.bytes, checksum = .row.checksum
    )]
    Damaged {
        /// The shard.
        key: ShardKey,
        /// The batch.
        row: Box<BatchRow>,
        /// The damaged file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// A batch is on its way into another output directory.
    #[error(
        "batch {number} of {key} is on its way into another output directory than {output}: start \
         once with the one that it was staged in, set as DATA_OUTPUT_DIR",
        number = .row.number
    )]
    OtherOutput {
        /// The shard.
        key: ShardKey,
        /// The batch.
        row: Box<BatchRow>,
        /// The output directory of this process.
        output: PathBuf,
    },
    /// Another output directory was adopted meanwhile.
    #[error(
        "another output directory than {output} has been adopted since this process started: start \
         it again with that one as DATA_OUTPUT_DIR"
    )]
    GivenUp {
        /// The output directory of this process.
        output: PathBuf,
    },
    /// Messages are missing from the state environment, or marked that never were.
    #[error("{key}: {found}. Restore the state directory from a copy; nothing was changed")]
    Gap {
        /// The shard.
        key: ShardKey,
        /// What was found.
        found: String,
    },
    /// A file can't be looked at.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A batch can't be placed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The state environment refused.
    #[error(transparent)]
    State(#[from] StateError),
}

impl RecoveryError {
    /// Whether the same may succeed later, when there is space or a right to write.
    #[must_use]
    pub const fn is_retry(&self) -> bool {
        match self {
            Self::Write(error) => error.is_retry(),
            Self::State(error) => error.is_space(),
            Self::Damaged { .. }
            | Self::OtherOutput { .. }
            | Self::GivenUp { .. }
            | Self::Gap { .. }
            | Self::Io { .. } => false,
        }
    }
}

/// What is found at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Whole,
    Damaged(String),
}

/// Compares a file with what was committed.
pub(super) fn inspect(disk: &dyn Disk, path: &Path, row: &BatchRow) -> io::Result<Found> {
    let Some(mut file) = disk.open(path)? else { return Ok(Found::Absent) };
    let mut hash = twox_hash::XxHash3_64::new();
    let mut bytes = 0;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut chunk)?;
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else { break };
        std::hash::Hasher::write(&mut hash, read);
        bytes += count as u64;
    }
    let checksum = format!("{:016x}", std::hash::Hasher::finish(&hash));
    if (bytes, &checksum) == (row.bytes, &row.checksum) {
        return Ok(Found::Whole);
    }
    Ok(Found::Damaged(format!("{bytes} bytes with checksum {checksum}")))
}

/// Recovers the shard of `lock` and raises its epoch; what it leaves may be consumed.
///
/// # Errors
/// Something is damaged or missing, or a call failed. Nothing is lost by trying again.
pub fn recover(writer: &Writer, lock: &ShardLock) -> Result<Progress, RecoveryError> {
    let key = lock.key();
    let staging = name::staging_dir(key);
    writer.folders.make(&staging)?;
    let prepared = {
        let txn = writer.state.read()?;
        journal::rows(&txn, writer.state.tables().prepared, key)?
    };
    if let Some(row) = prepared.iter().find(|row| row.output != writer.output_identity) {
        let (row, output) = (Box::new(row.clone()), writer.output().to_owned());
        return Err(RecoveryError::OtherOutput { key, row, output });
    }
    for row in &prepared {
        recover_batch(writer, key, row)?;
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RecoveryError::Io { path, source }
    };
    for stray in writer.disk.list(&staging).map_err(io(&staging))? {
        let path = staging.join(stray);
        // What cannot be deleted is in nobody's way.
        match writer.disk.remove(&path) {
            Ok(()) => tracing::debug!(path = %path.display(), "deleted a file that no batch names"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be deleted"),
        }
    }
    if !prepared.is_empty() {
        tracing::info!(shard = %key.shard, batches = prepared.len(), "recovered batches");
    }
    // The rows are marked as done in a commit before the next one: the queue keeps its order.
    writer.finish_again();
    let ours = writer.output_identity.clone();
    let progress = writer.state.commit(move |txn| {
        if output::identity(&txn.txn, txn.tables)?.as_ref() != Some(&ours) {
            return Ok(None);
        }
        let mut progress = Progress::load(&txn.txn, txn.tables, key)?;
        progress.epoch += 1;
        progress.store(txn, key)?;
        Ok(Some(progress))
    })?;
    let output = || writer.output().to_owned();
    let progress = progress.ok_or_else(|| RecoveryError::GivenUp { output: output() })?;
    check_offsets(&writer.state, key, &progress)?;
    Ok(progress)
}

fn recover_batch(writer: &Writer, key: ShardKey, row: &BatchRow) -> Result<(), RecoveryError> {
    let disk = writer.disk.as_ref();
    let look = |path: &Path| {
        inspect(disk, path, row)
            .map_err(|source| RecoveryError::Io { path: path.to_owned(), source })
    };
    let damaged = |file: &Path, found: String| {
        let (row, file) = (Box::new(row.clone()), writer.output().join(file));
        Err(RecoveryError::Damaged { key, row, file, found })
    };
    if !row.has_file() {
        writer.finish(key, row);
        return Ok(());
    }
    match (look(&row.file)?, look(&row.staged)?) {
        (Found::Whole, staged) => {
            writer.folders.make(row.folder())?;
            writer.folders.sync_with_path(row.folder())?;
            if staged != Found::Absent {
                let path = row.staged.clone();
                disk.remove(&path).map_err(|source| RecoveryError::Io { path, source })?;
            }
            writer.finish(key, row);
        }
        (Found::Absent, Found::Whole) => writer.place_once(key, row)?,
        (Found::Absent, Found::Absent) => {
            tracing::info!(file = %row.file.display(), "a committed file was taken away already");
            writer.finish(key, row);
        }
        (Found::Damaged(found), _) => return damaged(&row.file, found),
        (Found::Absent, Found::Damaged(found)) => return damaged(&row.staged, found),
    }
    Ok(())
}

/// Every offset from the low mark to the end must be in a frame.
fn check_offsets(state: &State, key: ShardKey, progress: &Progress) -> Result<(), RecoveryError> {
    let gap = |found| RecoveryError::Gap { key, found };
    let txn = state.read()?;
    let end = shard_end(&txn, state.tables(), key)?.offset;
    let (_, marked) = progress.gaps();
    if marked > end {
        return Err(gap(format!("offset {marked} is marked as committed, but only {end} came in")));
    }
    let mut next = progress.low;
    for frame in Frames::from(&txn, state, key, progress.low)? {
        let (range, _) = frame?;
        if range.end <= progress.low {
            continue;
        }
        if range.first > next {
            return Err(gap(format!("offsets {next}..{} are missing", range.first)));
        }
        next = range.end;
    }
    if next < end {
        return Err(gap(format!("offsets {next}..{end} are missing")));
    }
    Ok(())
}
