//! Is everything that was accepted in files, waiting, or dead? Reads only, also beside a running
//! consumer.
//!
//! The rows are read at one moment; files are looked at afterwards, so a batch that was *prepared*
//! then may be staged or in place, and what was committed since is not judged.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::disk::Disk;
use super::journal::{self, BatchRow};
use super::name::{self, BatchKind};
use super::recovery::{Found, inspect};
use crate::broker::append::shard_ends;
use crate::broker::frames::Frames;
use crate::broker::progress::Progress;
use crate::message::{Offset, OffsetRange, ShardId, ShardKey, Topic};
use crate::state::{ReadTxn, State, StateError};

/// What is wrong with some offsets of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The topic.
    #[serde(skip_serializing_if = "Topic::is_messages")]
    pub topic: Topic,
    /// The shard.
    pub shard: u16,
    /// The offsets.
    pub range: OffsetRange,
    /// What is wrong.
    pub kind: FindingKind,
    /// Where, and what was found.
    pub detail: String,
}

impl Finding {
    /// The shard, with its topic.
    #[must_use]
    pub const fn key(&self) -> ShardKey {
        ShardKey::new(self.topic, ShardId(self.shard))
    }
}

/// Kinds of [`Finding`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingKind {
    /// Neither in a file nor waiting.
    Missing,
    /// In more than one place.
    Doubled,
    /// In a file that is not what was committed, or cannot be read.
    Damaged,
}

/// The account of one shard: accepted = in files + dead + waiting, if nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ShardAccount {
    /// The topic.
    #[serde(skip_serializing_if = "Topic::is_messages")]
    pub topic: Topic,
    /// The shard.
    pub shard: u16,
    /// Messages ever accepted.
    pub accepted: u64,
    /// Messages in files, the taken away and the pruned included.
    pub in_files: u64,
    /// In files that are no longer there, dead ones included.
    pub taken_away: u64,
    /// In files whose rows are no longer kept, so that they cannot be checked, dead ones included.
    pub pruned: u64,
    /// Messages in files of the dead.
    pub dead: u64,
    /// Messages that wait.
    pub waiting: u64,
}

impl ShardAccount {
    /// The shard, with its topic.
    #[must_use]
    pub const fn key(&self) -> ShardKey {
        ShardKey::new(self.topic, ShardId(self.shard))
    }
}

/// The account of everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Account {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// Sum over the shards.
    pub accepted: u64,
    /// Sum over the shards.
    pub in_files: u64,
    /// Sum over the shards.
    pub dead: u64,
    /// Sum over the shards.
    pub waiting: u64,
    /// Shard by shard.
    pub shards: Vec<ShardAccount>,
    /// What is wrong, in order.
    pub findings: Vec<Finding>,
}

/// One shard at the moment it was read.
struct Snapshot {
    key: ShardKey,
    end: Offset,
    progress: Progress,
    /// Rows and whether they are done, in order of their offsets.
    rows: Vec<(BatchRow, bool)>,
    /// Offsets that should wait in frames but are in none.
    lost_frames: Vec<OffsetRange>,
}

/// What is found in the output directory.
#[derive(Default)]
struct BatchFiles {
    /// Batch files, by number.
    by_number: BTreeMap<u64, Vec<PathBuf>>,
    /// Folders that cannot be read, and what the system said.
    unreadable: Vec<(PathBuf, io::Error)>,
}

struct Verifier<'a> {
    disk: Option<&'a dyn Disk>,
    allow_taken_away: bool,
    on_disk: BatchFiles,
    findings: Vec<Finding>,
}

/// Verifies everything; `disk` is the output directory, `None` if there has never been one. With
/// `allow_taken_away`, a file that is gone counts as read and taken away, otherwise as missing.
///
/// # Errors
/// The state environment could not be read. What is wrong with files, also with those that cannot
/// be read, is in the account.
pub fn verify(
    state: &State,
    disk: Option<&dyn Disk>,
    allow_taken_away: bool,
) -> Result<Account, StateError> {
    // Before the rows: so every file found that is no newer than they must be in them.
    let on_disk = disk.map(batch_files).unwrap_or_default();
    let (snapshots, newest) = snapshot(state)?;
    let mut verifier = Verifier { disk, allow_taken_away, on_disk, findings: Vec::new() };
    let mut account = Account::default();
    let mut known = HashMap::new();
    for shard in &snapshots {
        let shard_account = verifier.shard(shard);
        account.accepted += shard_account.accepted;
        account.in_files += shard_account.in_files;
        account.dead += shard_account.dead;
        account.waiting += shard_account.waiting;
        account.shards.push(shard_account);
        known.extend(shard.rows.iter().map(|(row, _)| (row.number, (shard.key, row))));
    }
    verifier.strays(&known, newest);
    account.findings = verifier.findings;
    account.findings.sort_by_key(|finding| (finding.key(), finding.range));
    account.ok = account.findings.is_empty();
    Ok(account)
}

fn snapshot(state: &State) -> Result<(Vec<Snapshot>, u64), StateError> {
    let tables = state.tables();
    let txn = state.read()?;
    let mut snapshots = Vec::new();
    for (key, end) in shard_ends(&txn, tables)? {
        let progress = Progress::load(&txn, tables, key)?;
        let mut rows = Vec::new();
        for (table, done) in [(tables.prepared, false), (tables.journal, true)] {
            let found = journal::rows(&txn, table, key)?;
            rows.extend(found.into_iter().map(|row| (row, done)));
        }
        rows.sort_by_key(|(row, _)| row.range);
        let lost_frames = lost_frames(&txn, state, key, &progress, end.offset)?;
        snapshots.push(Snapshot { key, end: end.offset, progress, rows, lost_frames });
    }
    Ok((snapshots, journal::batches(&txn, tables)?))
}

/// What should wait in frames, from the low mark to the end, but does not.
fn lost_frames(
    txn: &ReadTxn<'_>,
    state: &State,
    key: ShardKey,
    progress: &Progress,
    end: Offset,
) -> Result<Vec<OffsetRange>, StateError> {
    let mut lost = Vec::new();
    let mut next = progress.low;
    for frame in Frames::from(txn, state, key, progress.low)? {
        let (range, _) = frame?;
        if range.first > next {
            lost.push(OffsetRange::new(next, range.first));
        }
        next = next.max(range.end);
    }
    if next < end {
        lost.push(OffsetRange::new(next, end));
    }
    // What is committed above the mark is in a file; only the rest should still wait.
    let (mut waiting, next) = progress.gaps();
    waiting.push(OffsetRange::new(next, end));
    let both = lost.iter().flat_map(|lost| {
        waiting.iter().map(|waiting| {
            OffsetRange::new(lost.first.max(waiting.first), lost.end.min(waiting.end))
        })
    });
    Ok(both.filter(|range| !range.is_empty()).collect())
}

/// Every batch file below the output directory.
fn batch_files(disk: &dyn Disk) -> BatchFiles {
    let mut found = BatchFiles::default();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let names = match disk.list(&folder) {
            Ok(names) => names,
            Err(error) => {
                // Those of its files that are known are findings; of others, only this tells.
                tracing::warn!(folder = %folder.display(), %error, "cannot read a folder of files");
                found.unreadable.push((folder, error));
                continue;
            }
        };
        for file in names.into_iter().filter(|file| !file.starts_with('.')) {
            match name::parse_final(&file) {
                Some(number) => {
                    found.by_number.entry(number).or_default().push(folder.join(file));
                }
                None if name::is_folder(&folder, &file) => open.push(folder.join(file)),
                None => {}
            }
        }
    }
    found
}

/// What is at a batch's place, or why that cannot be told.
fn look(disk: &dyn Disk, path: &Path, row: &BatchRow) -> Found {
    inspect(disk, path, row)
        .unwrap_or_else(|error| Found::Damaged(format!("cannot read it: {error}")))
}

impl Verifier<'_> {
    fn find(&mut self, key: ShardKey, range: OffsetRange, kind: FindingKind, detail: String) {
        let (topic, shard) = (key.topic, key.shard.0);
        self.findings.push(Finding { topic, shard, range, kind, detail });
    }

    fn shard(&mut self, shard: &Snapshot) -> ShardAccount {
        let Snapshot { key, end, progress, rows, lost_frames } = shard;
        let mut account = ShardAccount {
            topic: key.topic,
            shard: key.shard.0,
            accepted: *end,
            in_files: progress.pruned_below.saturating_sub(progress.pruned_dead),
            dead: progress.pruned_dead,
            pruned: progress.pruned_below,
            waiting: progress.waiting(*end),
            taken_away: 0,
        };
        self.check_cover(shard);
        for range in lost_frames {
            account.waiting = account.waiting.saturating_sub(range.count());
            self.find(*key, *range, FindingKind::Missing, "should wait, but does not".to_owned());
        }
        for (row, done) in rows {
            let counted = match row.kind {
                BatchKind::Data => &mut account.in_files,
                BatchKind::Dead => &mut account.dead,
            };
            *counted += row.range.count();
            if self.file(*key, row, *done) {
                account.taken_away += row.range.count();
            }
        }
        account
    }

    /// The rows must hold what the marks say is committed: all of it, and once.
    fn check_cover(&mut self, shard: &Snapshot) {
        let Snapshot { key, progress, rows, .. } = shard;
        let mut next = progress.pruned_below;
        let (gaps, _) = progress.gaps();
        for (row, _) in rows {
            if row.range.first < next {
                let twice = OffsetRange::new(row.range.first, row.range.end.min(next));
                let detail = format!("in {} and in another batch", row.file.display());
                self.find(*key, twice, FindingKind::Doubled, detail);
            }
            self.check_gap(*key, OffsetRange::new(next, row.range.first), &gaps);
            next = next.max(row.range.end);
        }
        let committed = progress.ranges.last().map_or(progress.low, |range| range.end);
        self.check_gap(*key, OffsetRange::new(next, committed), &gaps);
    }

    /// Between rows there may only be what waits: that is a gap of the marks.
    fn check_gap(&mut self, key: ShardKey, range: OffsetRange, gaps: &[OffsetRange]) {
        if !range.is_empty() && !gaps.contains(&range) {
            let detail = "marked as committed, but in no batch".to_owned();
            self.find(key, range, FindingKind::Missing, detail);
        }
    }

    /// Looks at the file of a batch; true if it was taken away.
    fn file(&mut self, key: ShardKey, row: &BatchRow, done: bool) -> bool {
        if !row.has_file() {
            return false;
        }
        let Some(disk) = self.disk else {
            let detail = format!("{}: there is no output directory", row.file.display());
            self.find(key, row.range, FindingKind::Missing, detail);
            return false;
        };
        let mut found = look(disk, &row.file, row);
        if found == Found::Absent && !done {
            // Staged then; or renamed between these two looks.
            found = match look(disk, &row.staged, row) {
                Found::Absent => look(disk, &row.file, row),
                staged => staged,
            };
        }
        let unreadable = &self.on_disk.unreadable;
        if let Some((_, error)) = unreadable.iter().find(|(folder, _)| row.file.starts_with(folder))
            && found == Found::Whole
        {
            found =
                Found::Damaged(format!("its folder may hold others, and is unreadable: {error}"));
        }
        match found {
            Found::Whole => false,
            Found::Damaged(found) => {
                let detail = format!(
                    "{}: {found}; committed were {} bytes with checksum {}",
                    row.file.display(),
                    row.bytes,
                    row.checksum
                );
                self.find(key, row.range, FindingKind::Damaged, detail);
                false
            }
            Found::Absent if self.allow_taken_away => true,
            Found::Absent => {
                let detail = format!("{} is not there", row.file.display());
                self.find(key, row.range, FindingKind::Missing, detail);
                false
            }
        }
    }

    /// Batch files that no row names, in the place where they stand. Those newer than the rows are
    /// not judged, nor those whose row may have been pruned.
    fn strays(&mut self, known: &HashMap<u64, (ShardKey, &BatchRow)>, newest: u64) {
        let Some(oldest) = known.keys().min().copied() else { return };
        for (number, paths) in std::mem::take(&mut self.on_disk.by_number).range(oldest..=newest) {
            let Some((key, row)) = known.get(number) else { continue };
            for path in paths.iter().filter(|path| **path != row.file) {
                let detail = format!("{} besides {}", path.display(), row.file.display());
                self.find(*key, row.range, FindingKind::Doubled, detail);
            }
        }
    }
}
