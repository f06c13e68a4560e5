//! Which files hold the messages of a receipt.

use std::path::PathBuf;

use serde::Serialize;

use crate::batch::journal;
use crate::batch::name::{BatchKind, WorkerName};
use crate::broker::Receipt;
use crate::broker::append::shard_end;
use crate::broker::progress::Progress;
use crate::message::{Offset, OffsetRange, ShardKey, Topic};
use crate::state::{ReadTxn, State, StateError};

/// Where the messages of a receipt are now.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The receipt.
    pub receipt: Receipt,
    /// How many messages.
    pub messages: u64,
    /// Of these, in committed files.
    pub in_files: u64,
    /// Of these, waiting.
    pub waiting: u64,
    /// Shard by shard.
    pub parts: Vec<Part>,
}

/// The messages of one shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The topic.
    #[serde(skip_serializing_if = "Topic::is_messages")]
    pub topic: Topic,
    /// The shard.
    pub shard: u16,
    /// The offset of the first.
    pub first: Offset,
    /// How many.
    pub count: u64,
    /// The files that hold them.
    pub files: Vec<FilePart>,
    /// How many are in files whose rows are no longer kept.
    pub forgotten: u64,
    /// How many wait.
    pub waiting: u64,
}

/// The messages in one file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FilePart {
    /// The file, relative to the output directory; none if a program made nothing of them.
    pub file: Option<PathBuf>,
    /// Who wrote it.
    pub worker: WorkerName,
    /// The offset of the first of them.
    pub first: Offset,
    /// How many of them.
    pub count: u64,
    /// Whether no worker could do them: they are dead letters.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
    /// False between the commit and the rename, milliseconds as a rule.
    pub in_place: bool,
}

/// Looks a receipt up; `None` if it is not of this environment, or of offsets not given out.
///
/// # Errors
/// A read failed.
pub fn look_up(state: &State, receipt: &Receipt) -> Result<Option<Report>, StateError> {
    if !receipt.is_of(state.identity()) {
        return Ok(None);
    }
    let txn = state.read()?;
    let mut parts = Vec::with_capacity(receipt.ranges().len());
    for (key, range) in receipt.ranges() {
        if range.end > shard_end(&txn, state.tables(), *key)?.offset {
            return Ok(None);
        }
        parts.push(look_up_part(&txn, state, *key, *range)?);
    }
    let messages = receipt.count();
    let waiting = parts.iter().map(|part| part.waiting).sum();
    let in_files = messages.saturating_sub(waiting);
    Ok(Some(Report { receipt: receipt.clone(), messages, in_files, waiting, parts }))
}

fn look_up_part(
    txn: &ReadTxn<'_>,
    state: &State,
    key: ShardKey,
    range: OffsetRange,
) -> Result<Part, StateError> {
    let pruned_below = Progress::load(txn, state.tables(), key)?.pruned_below;
    let mut files = Vec::new();
    for (row, in_place) in journal::rows_of(txn, state.tables(), key, range)? {
        let first = row.range.first.max(range.first);
        let count = row.range.end.min(range.end) - first;
        let (file, worker) = (row.has_file().then(|| row.file.clone()), row.worker);
        let dead = row.kind == BatchKind::Dead;
        files.push(FilePart { file, worker, first, count, dead, in_place });
    }
    let forgotten = pruned_below.min(range.end).saturating_sub(range.first);
    let in_files: u64 = files.iter().map(|file| file.count).sum();
    let count = range.count();
    let waiting = count.saturating_sub(in_files + forgotten);
    let (topic, shard, first) = (key.topic, key.shard.0, range.first);
    Ok(Part { topic, shard, first, count, files, forgotten, waiting })
}
