//! The journal: a row per batch, and totals per worker.
//!
//! ```text
//! table prepared:  offset key of its first message -> JSON of `BatchRow`   (steps 2 to 4)
//! table journal:   the same                                                (done)
//! table workers:   worker name -> JSON of `WorkerTotals`, kept for ever
//! table meta:      "batches" -> how many batches were ever committed, u64 big-endian
//!                  "batches " and the name of a topic -> how many of them are of that topic
//! ```
//!
//! Rows of done batches are kept for a number of batches of their topic and a time; the totals
//! stay.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use heed::RoTxn;
use serde::{Deserialize, Serialize};

use super::dead;
use super::name::{self, BatchKind, Compression, WorkerName};
use crate::broker::progress::{Committed, Progress, Refused};
use crate::broker::retry;
use crate::message::{Offset, OffsetRange, ShardKey, Topic};
use crate::state::{StateError, Table, Tables, WriteTxn};

/// A batch that reached its commit point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRow {
    /// Counts every batch of this state environment.
    pub number: u64,
    /// Counts every batch of its topic; 0 where it was committed before that was counted.
    #[serde(default)]
    pub number_in_topic: u64,
    /// Its messages.
    pub range: OffsetRange,
    /// What it holds.
    pub kind: BatchKind,
    /// Bytes of the file.
    pub bytes: u64,
    /// XXH3 (64 bits, seed 0) of the file, in hexadecimal.
    pub checksum: String,
    /// Lines of the file, where a program made them; else there is one for each message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<u64>,
    /// Who wrote it.
    pub worker: WorkerName,
    /// Where it is, relative to the output directory.
    pub file: PathBuf,
    /// Where it was staged.
    pub staged: PathBuf,
    /// The identity of the output directory that both are in.
    pub output: String,
    /// When it was committed, in milliseconds since 1970.
    pub committed_ms: u64,
}

/// What a worker has done, ever.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerTotals {
    /// Batches committed.
    pub batches: u64,
    /// Messages in them.
    pub messages: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts that took longer than they may.
    pub timeouts: u64,
    /// When it last committed or failed, in milliseconds since 1970.
    pub last_seen_ms: u64,
}

/// How long rows of done batches are kept; the smaller wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRetention {
    /// Batches (`JOURNAL_BATCHES`), counted over all shards of a topic.
    pub batches_max: u64,
    /// Age in milliseconds (`JOURNAL_DAYS`).
    pub age_ms_max: u64,
}

/// What the commit point needs to know of a batch.
#[derive(Debug, Clone)]
pub struct Staged {
    /// The shard.
    pub key: ShardKey,
    /// Its messages.
    pub range: OffsetRange,
    /// The owner's fencing token.
    pub epoch: u64,
    /// What it holds.
    pub kind: BatchKind,
    /// Bytes of the file.
    pub bytes: u64,
    /// Checksum of the file.
    pub checksum: String,
    /// Lines of the file, where a program made them.
    pub outputs: Option<u64>,
    /// Who wrote it.
    pub worker: WorkerName,
    /// How the lines stand in the file.
    pub compression: Compression,
    /// The identity of the output directory.
    pub output: String,
    /// Where it is staged.
    pub path: PathBuf,
    /// Why it is dead, if it is: of its first message.
    pub reason: String,
    /// Now.
    pub at: chrono::DateTime<chrono::Utc>,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, StateError> {
    serde_json::to_vec(value).map_err(|error| StateError::Damaged(format!("encoding: {error}")))
}

pub(super) fn decode<'a, T: Deserialize<'a>>(what: &str, row: &'a [u8]) -> Result<T, StateError> {
    serde_json::from_slice(row).map_err(|error| StateError::Damaged(format!("{what}: {error}")))
}

/// The commit point of a batch: the row, the offsets and the worker's totals, or a refusal that
/// wrote nothing.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub fn prepare(
    txn: &mut WriteTxn<'_>,
    staged: &Staged,
) -> Result<Result<(BatchRow, Committed), Refused>, StateError> {
    let tables = txn.tables;
    let mut progress = Progress::load(&txn.txn, tables, staged.key)?;
    let committed = match progress.record(staged.key, staged.range, staged.epoch) {
        Ok(committed) => committed,
        Err(refused) => return Ok(Err(refused)),
    };
    progress.store(txn, staged.key)?;
    retry::forget(txn, staged.key, staged.range)?;
    let number = count_batch(txn, BATCHES)?;
    let number_in_topic = count_batch(txn, &batches_of(staged.key.topic))?;
    let row =
        BatchRow {
            number,
            number_in_topic,
            range: staged.range,
            kind: staged.kind,
            bytes: staged.bytes,
            checksum: staged.checksum.clone(),
            outputs: staged.outputs,
            worker: staged.worker,
            file: name::final_folder(staged.key.topic, staged.kind, staged.at)
                .join(name::final_name(number, staged.worker, staged.compression)),
            staged: staged.path.clone(),
            output: staged.output.clone(),
            committed_ms: u64::try_from(staged.at.timestamp_millis()).unwrap_or(0),
        };
    let key = staged.key.offset_key(staged.range.first);
    tables.prepared.put(&mut txn.txn, &key, &encode(&row)?)?;
    if row.kind == BatchKind::Dead {
        dead::record(txn, staged.key, &row, &staged.reason)?;
    }
    update_worker(txn, staged.worker, |totals| {
        totals.batches += 1;
        totals.messages += row.range.count();
        totals.bytes += row.bytes;
        totals.last_seen_ms = row.committed_ms;
    })?;
    Ok(Ok((row, committed)))
}

/// More than one, so that a smaller retention, or room in a full map, is reached.
const PRUNED_PER_BATCH: u32 = 8;
const BATCHES: &[u8] = b"batches";

/// How many batches were ever committed.
///
/// # Errors
/// A read failed.
pub fn batches(txn: &RoTxn<'_>, tables: Tables) -> Result<u64, StateError> {
    counted(txn, tables, BATCHES)
}

fn counted(txn: &RoTxn<'_>, tables: Tables, counter: &[u8]) -> Result<u64, StateError> {
    let stored = tables.meta.get(txn, counter)?;
    Ok(stored.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Counts one more batch; the number of it.
fn count_batch(txn: &mut WriteTxn<'_>, counter: &[u8]) -> Result<u64, StateError> {
    let number = counted(&txn.txn, txn.tables, counter)? + 1;
    txn.tables.meta.put(&mut txn.txn, counter, &number.to_be_bytes())?;
    Ok(number)
}

fn batches_of(topic: Topic) -> Vec<u8> {
    [BATCHES, b" ", topic.name().as_bytes()].concat()
}

/// Step 4: the batch is in place. Deletes what no longer needs to be kept: frames below the low
/// mark, and old rows.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub fn finish(
    txn: &mut WriteTxn<'_>,
    key: ShardKey,
    first: u64,
    retention: JournalRetention,
    now_ms: u64,
) -> Result<(), StateError> {
    let tables = txn.tables;
    let row_key = key.offset_key(first);
    let Some(row) = tables.prepared.get(&txn.txn, &row_key)?.map(<[u8]>::to_vec) else {
        return Ok(());
    };
    tables.journal.put(&mut txn.txn, &row_key, &row)?;
    tables.prepared.delete(&mut txn.txn, &row_key)?;
    delete_frames(txn, key)?;
    prune(txn, key, retention, now_ms)
}

/// Deletes the frames that lie below the low mark whole.
fn delete_frames(txn: &mut WriteTxn<'_>, key: ShardKey) -> Result<(), StateError> {
    let tables = txn.tables;
    let low = Progress::load(&txn.txn, tables, key)?.low;
    // The last frame that starts at or below the mark may reach beyond it: whether it does, its
    // head says.
    let at = key.offset_key(low);
    let last = tables.frames.get_lower_than_or_equal_to(&txn.txn, &at)?;
    let Some((found, value)) = last.filter(|(found, _)| ShardKey::parse(found) == Some(key)) else {
        return Ok(());
    };
    let first = ShardKey::parse_offset(found).unwrap_or(low);
    let count = crate::broker::frame::decode(value).map_or(0, |(head, _)| u64::from(head.count));
    let below = if first + count <= low { low } else { first };
    let (from, to) = (key.offset_key(0), key.offset_key(below));
    tables.frames.delete_range(&mut txn.txn, &between(&from, &to))?;
    Ok(())
}

/// The keys from `from` to before `to`.
const fn between<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from), Bound::Excluded(to))
}

/// Forgets the oldest rows of the shard that are beyond the retention: at most a few, which is more
/// than the one that was just added.
fn prune(
    txn: &mut WriteTxn<'_>,
    key: ShardKey,
    retention: JournalRetention,
    now_ms: u64,
) -> Result<(), StateError> {
    let tables = txn.tables;
    let newest = counted(&txn.txn, tables, &batches_of(key.topic))?;
    for _ in 0..PRUNED_PER_BATCH {
        let Some(row) = oldest(&txn.txn, tables, key)? else { return Ok(()) };
        let keep = newest.saturating_sub(row.number_in_topic) < retention.batches_max
            && now_ms.saturating_sub(row.committed_ms) <= retention.age_ms_max;
        let mut progress = Progress::load(&txn.txn, tables, key)?;
        // Above the mark, or with a gap before it, the rows still tell what is where.
        if keep || row.range.first != progress.pruned_below || row.range.end > progress.low {
            return Ok(());
        }
        tables.journal.delete(&mut txn.txn, &key.offset_key(row.range.first))?;
        progress.pruned_below = row.range.end;
        if row.kind == BatchKind::Dead {
            progress.pruned_dead += row.range.count();
        }
        progress.store(txn, key)?;
    }
    Ok(())
}

/// The first row of a shard's done batches.
///
/// # Errors
/// A read failed, or the row is damaged.
pub fn oldest(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
) -> Result<Option<BatchRow>, StateError> {
    let oldest = tables.journal.get_greater_than_or_equal_to(txn, &key.offset_key(0))?;
    let oldest = oldest.filter(|(at, _)| ShardKey::parse(at) == Some(key));
    oldest.map(|(_, row)| decode("a row of table journal", row)).transpose()
}

/// The rows of a shard in one of the two tables, in order of their offsets.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn rows(txn: &RoTxn<'_>, table: Table, key: ShardKey) -> Result<Vec<BatchRow>, StateError> {
    let mut rows = Vec::new();
    for row in table.prefix_iter(txn, &key.key())? {
        rows.push(decode("a row of the journal", row?.1)?);
    }
    Ok(rows)
}

/// The row of the batch that begins with an offset, prepared or done, if it is still kept.
///
/// # Errors
/// A read failed, or the row is damaged.
pub fn row(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    first: Offset,
) -> Result<Option<BatchRow>, StateError> {
    let at = key.offset_key(first);
    let row = match tables.prepared.get(txn, &at)? {
        Some(row) => Some(row),
        None => tables.journal.get(txn, &at)?,
    };
    row.map(|row| decode("a row of the journal", row)).transpose()
}

/// The rows of batches that hold any of `range`, and whether they have been put into place.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn rows_of(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    range: OffsetRange,
) -> Result<Vec<(BatchRow, bool)>, StateError> {
    let mut found = Vec::new();
    for (table, done) in [(tables.prepared, false), (tables.journal, true)] {
        let at = key.offset_key(range.first);
        let start = table
            .get_lower_than_or_equal_to(txn, &at)?
            .filter(|(row_key, _)| ShardKey::parse(row_key) == Some(key))
            .map_or_else(|| at.to_vec(), |(row_key, _)| row_key.to_vec());
        let end = key.offset_key(range.end);
        for row in table.range(txn, &between(&start, &end))? {
            let row: BatchRow = decode("a row of the journal", row?.1)?;
            if row.range.overlaps(range) {
                found.push((row, done));
            }
        }
    }
    found.sort_by_key(|(row, _)| row.range.first);
    Ok(found)
}

/// Changes a worker's totals.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub fn update_worker(
    txn: &mut WriteTxn<'_>,
    worker: WorkerName,
    change: impl FnOnce(&mut WorkerTotals),
) -> Result<(), StateError> {
    let key = worker.to_string();
    let table = txn.tables.workers;
    let mut totals = match table.get(&txn.txn, key.as_bytes())? {
        Some(row) => decode("a row of table workers", row)?,
        None => WorkerTotals::default(),
    };
    change(&mut totals);
    Ok(table.put(&mut txn.txn, key.as_bytes(), &encode(&totals)?)?)
}

/// The totals of every worker there ever was, by shard and place.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn workers(
    txn: &RoTxn<'_>,
    tables: Tables,
) -> Result<Vec<(WorkerName, WorkerTotals)>, StateError> {
    let mut workers = Vec::new();
    for row in tables.workers.iter(txn)? {
        let (key, totals) = row?;
        let name = std::str::from_utf8(key).ok().and_then(|name| name.parse().ok());
        let name = name.ok_or_else(|| StateError::Damaged("a worker's name".to_owned()))?;
        workers.push((name, decode("a row of table workers", totals)?));
    }
    workers.sort_by_key(|(name, _)| *name);
    Ok(workers)
}

impl BatchRow {
    /// Whether there is a file: not when a program made nothing of the messages.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.outputs != Some(0)
    }

    /// The folder that its final name is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }
}
