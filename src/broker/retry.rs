//! What becomes of a delivery that its handler failed at. Pure, but for loading and storing.
//!
//! ```text
//! table retries:  offset key of its first message -> JSON of `Retry`
//! ```
//!
//! A batch is tried again, after a pause, up to `BATCH_ATTEMPTS` times. Then it is split into
//! tenths, each tried once, and these again, until the messages that cannot be done stand alone:
//! they are dead. The others are done. When all parts of a batch are either, its dead messages are
//! delivered once more, to be written to the dead letters: neighbours together.
//!
//! A message that is no entry is dead as it comes: its row is stored with it.
//!
//! A row stands for each part that is neither done nor delivered for the last time. It goes with
//! the commit of its messages, in the same transaction, so a restart goes on where this was.

use std::collections::BTreeMap;
use std::time::Duration;

use heed::RoTxn;
use serde::{Deserialize, Serialize};

use super::progress::Progress;
use crate::message::{Offset, OffsetRange, ShardKey};
use crate::state::{StateError, Tables, WriteTxn};

/// Into how many parts a batch is split.
const SPLIT: u64 = 10;
/// The pause before a batch is tried again, at first and at most; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The smallest share of the timeout that a part gets, and the least time if the timeout is longer:
/// room for a program to start.
const TIMEOUT_SHARES: u32 = 120;
const TIMEOUT_LEAST: Duration = Duration::from_secs(1);
/// The longest reason that is kept, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// A part of a batch that its handler failed at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// The messages of the part.
    pub range: OffsetRange,
    /// The messages of the batch that it is a part of.
    pub batch: OffsetRange,
    /// How often just this part was tried.
    pub attempts: u32,
    /// Why it failed the last time, or its batch, if it was not tried yet.
    pub reason: String,
    /// When that was, in milliseconds since 1970.
    pub failed_ms: u64,
    /// Whether it is given up: one message, for the dead letters.
    pub dead: bool,
}

/// How a delivery came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be processed; the timeout is for `of` messages.
    Process {
        /// The size of the batch that this is a part of, or all of.
        of: u64,
    },
    /// To be written to the dead letters.
    Bury,
}

/// What happens next to a part that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again after a pause.
    Again(Duration),
    /// It is split into so many parts.
    Split(u64),
    /// It is one message, and dead.
    Dead,
}

/// Something to be delivered again, and after which pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Again {
    /// The messages.
    pub range: OffsetRange,
    /// What for.
    pub purpose: Purpose,
    /// Not before this long.
    pub pause: Duration,
}

/// The parts of a shard that failed and are not done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retries {
    rows: BTreeMap<Offset, Retry>,
}

/// What a failure changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What happens next.
    pub verdict: Verdict,
    /// The rows that stand for the part from now on.
    pub rows: Vec<Retry>,
}

/// How long the processing of `count` of a batch of `of` messages may take: their share of
/// `timeout`, and not less than a 120th of it, or a second.
#[must_use]
pub fn timeout_of(timeout: Duration, count: u64, of: u64) -> Duration {
    let least = (timeout / TIMEOUT_SHARES).max(TIMEOUT_LEAST.min(timeout));
    if count >= of {
        return timeout;
    }
    let nanos = timeout.as_nanos() * u128::from(count) / u128::from(of.max(1));
    least.max(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// A reason as it is kept: cut, if it is too long.
#[must_use]
pub fn reason(text: &str) -> String {
    let kept = text.get(..text.floor_char_boundary(REASON_BYTES_MAX));
    kept.unwrap_or(text).to_owned()
}

fn pause_after(attempts: u32) -> Duration {
    PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(PAUSE_MAX)
}

fn decide(range: OffsetRange, batch: OffsetRange, attempts: u32, attempts_max: u32) -> Verdict {
    // A part has been tried as often as its batch before it was split off.
    let allowed = if range == batch { attempts_max.max(1) } else { 1 };
    if attempts < allowed {
        Verdict::Again(pause_after(attempts))
    } else if range.count() > 1 {
        Verdict::Split(range.count().min(SPLIT))
    } else {
        Verdict::Dead
    }
}

fn split(range: OffsetRange, parts: u64) -> impl Iterator<Item = OffsetRange> {
    let at = move |part: u64| range.first + range.count() * part / parts.max(1);
    (0..parts).map(move |part| OffsetRange::new(at(part), at(part + 1)))
}

impl Retries {
    /// What becomes of `range`, whose handler has just failed; nothing is changed yet.
    #[must_use]
    pub fn judge(
        &self,
        range: OffsetRange,
        reason: &str,
        attempts_max: u32,
        now_ms: u64,
    ) -> Failure {
        let known = self.rows.get(&range.first).filter(|row| row.range == range);
        let batch = known.map_or(range, |row| row.batch);
        let attempts = known.map_or(0, |row| row.attempts) + 1;
        let verdict = decide(range, batch, attempts, attempts_max);
        let (reason, dead) = (self::reason(reason), verdict == Verdict::Dead);
        let row = Retry { range, batch, attempts, reason, failed_ms: now_ms, dead };
        let rows = match verdict {
            Verdict::Again(_) | Verdict::Dead => vec![row],
            Verdict::Split(parts) => split(range, parts)
                .map(|range| Retry { range, attempts: 0, ..row.clone() })
                .collect(),
        };
        Failure { verdict, rows }
    }

    /// The failure is stored: takes its rows in, and says what is to be delivered next.
    pub fn take_in(&mut self, failure: Failure) -> Vec<Again> {
        let pause = match failure.verdict {
            Verdict::Again(pause) => pause,
            Verdict::Split(_) | Verdict::Dead => Duration::ZERO,
        };
        let batch = failure.rows.first().map(|row| row.batch);
        let mut again: Vec<_> =
            failure.rows.iter().filter(|row| !row.dead).map(|row| row.again(pause)).collect();
        for row in failure.rows {
            self.rows.insert(row.range.first, row);
        }
        again.extend(batch.into_iter().flat_map(|batch| self.buried(batch)));
        again
    }

    /// Messages that were stored as dead, whole batches of them: says what is to be delivered.
    pub fn add_dead(&mut self, rows: Vec<Retry>) -> Vec<Again> {
        let mut batches: Vec<_> = rows.iter().map(|row| row.batch).collect();
        batches.dedup();
        self.rows.extend(rows.into_iter().map(|row| (row.range.first, row)));
        batches.into_iter().flat_map(|batch| self.buried(batch)).collect()
    }

    /// The messages of `range` are committed: says what is to be delivered because of that.
    pub fn settle(&mut self, range: OffsetRange) -> Vec<Again> {
        let Some(batch) = self.rows.get(&range.first).map(|row| row.batch) else {
            return Vec::new();
        };
        let was_dead = self.rows.get(&range.first).is_some_and(|row| row.dead);
        let done: Vec<_> = self.rows.range(range.first..range.end).map(|(at, _)| *at).collect();
        done.iter().for_each(|at| drop(self.rows.remove(at)));
        if was_dead { Vec::new() } else { self.buried(batch) }
    }

    /// Everything that is to be delivered, after a restart.
    #[must_use]
    pub fn all(&self) -> Vec<Again> {
        let mut all: Vec<_> =
            self.rows.values().filter(|row| !row.dead).map(|row| row.again(PAUSE)).collect();
        let mut batches: Vec<_> = self.rows.values().map(|row| row.batch).collect();
        batches.dedup();
        all.extend(batches.into_iter().flat_map(|batch| self.buried(batch)));
        all
    }

    /// The first offset that was never taken, and what below it was taken, did not fail, and is not
    /// committed.
    #[must_use]
    pub fn untried(&self, progress: &Progress) -> (Offset, Vec<OffsetRange>) {
        let (_, committed) = progress.gaps();
        let everything = OffsetRange::new(progress.low, Offset::MAX);
        let mut known: Vec<_> = self.within(everything).map(|row| row.range).collect();
        known.extend_from_slice(&progress.ranges);
        known.sort_unstable();
        let (mut next, mut untried) = (progress.low, Vec::new());
        for range in known {
            if range.first > next {
                untried.push(OffsetRange::new(next, range.first));
            }
            next = next.max(range.end);
        }
        (next.max(committed), untried)
    }

    /// The rows whose messages are in `range`, in order.
    pub fn within(&self, range: OffsetRange) -> impl Iterator<Item = &Retry> {
        self.rows.range(range.first..range.end).map(|(_, row)| row)
    }

    /// The dead messages of a batch, neighbours together, when nothing else is left of it.
    fn buried(&self, batch: OffsetRange) -> Vec<Again> {
        let mut runs: Vec<OffsetRange> = Vec::new();
        for row in self.within(batch) {
            if !row.dead {
                return Vec::new();
            }
            match runs.last_mut().filter(|run| run.end == row.range.first) {
                Some(run) => run.end = row.range.end,
                None => runs.push(row.range),
            }
        }
        let bury = |range| Again { range, purpose: Purpose::Bury, pause: Duration::ZERO };
        runs.into_iter().map(bury).collect()
    }
}

impl Retry {
    const fn again(&self, pause: Duration) -> Again {
        Again { range: self.range, purpose: Purpose::Process { of: self.batch.count() }, pause }
    }
}

/// The rows of a shard.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn load(txn: &RoTxn<'_>, tables: Tables, key: ShardKey) -> Result<Retries, StateError> {
    let mut rows = BTreeMap::new();
    for row in tables.retries.prefix_iter(txn, &key.key())? {
        let row = decode(row?.1)?;
        rows.insert(row.range.first, row);
    }
    Ok(Retries { rows })
}

/// The first row of a shard from an offset on.
///
/// # Errors
/// A read failed, or the row is damaged.
pub fn first_from(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    from: Offset,
) -> Result<Option<Retry>, StateError> {
    let row = tables.retries.get_greater_than_or_equal_to(txn, &key.offset_key(from))?;
    let row = row.filter(|(at, _)| ShardKey::parse(at) == Some(key));
    row.map(|(_, value)| decode(value)).transpose()
}

fn decode(value: &[u8]) -> Result<Retry, StateError> {
    serde_json::from_slice(value)
        .map_err(|error| StateError::Damaged(format!("a row of table retries: {error}")))
}

/// Stores the rows of a failure.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub fn store(txn: &mut WriteTxn<'_>, key: ShardKey, rows: &[Retry]) -> Result<(), StateError> {
    for row in rows {
        let value = serde_json::to_vec(row)
            .map_err(|error| StateError::Damaged(format!("encoding: {error}")))?;
        txn.tables.retries.put(&mut txn.txn, &key.offset_key(row.range.first), &value)?;
    }
    Ok(())
}

/// Deletes the rows of messages that are committed by the same transaction.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub fn forget(txn: &mut WriteTxn<'_>, key: ShardKey, range: OffsetRange) -> Result<(), StateError> {
    if !txn.tables.retries.is_empty(&txn.txn)? {
        let (from, to) = (key.offset_key(range.first), key.offset_key(range.end));
        let bounds =
            (std::ops::Bound::Included(from.as_slice()), std::ops::Bound::Excluded(to.as_slice()));
        txn.tables.retries.delete_range(&mut txn.txn, &bounds)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const MINUTES: Duration = Duration::from_secs(120);

    #[test]
    fn a_batch_is_tried_so_often_and_then_split() {
        let batch = OffsetRange::new(5, 25);
        let mut retries = Retries::default();
        for (attempt, pause_s) in [(1, 1), (2, 2)] {
            let failure = retries.judge(batch, "why", 3, 7);
            assert_eq!(failure.verdict, Verdict::Again(Duration::from_secs(pause_s)));
            assert_eq!(failure.rows[0].attempts, attempt);
            let again = retries.take_in(failure);
            assert_eq!(again[0].purpose, Purpose::Process { of: 20 });
        }
        let failure = retries.judge(batch, "why", 3, 7);
        assert_eq!(failure.verdict, Verdict::Split(10));
        let again = retries.take_in(failure);
        assert_eq!(again.len(), 10);
        assert!(again.iter().all(|part| part.range.count() == 2 && part.pause.is_zero()));
    }

    #[test]
    fn deadlines_shrink_with_the_part_but_let_a_program_start() {
        assert_eq!(timeout_of(MINUTES, 10_000, 10_000), MINUTES);
        assert_eq!(timeout_of(MINUTES, 1_000, 10_000), MINUTES / 10);
        assert_eq!(timeout_of(MINUTES, 1, 10_000), Duration::from_secs(1));
        assert_eq!(timeout_of(MINUTES * 10, 1, 10_000), Duration::from_secs(10));
        assert_eq!(timeout_of(Duration::from_secs(5), 1, 10_000), Duration::from_secs(1));
        assert_eq!(timeout_of(TIMEOUT_LEAST / 2, 1, 10_000), TIMEOUT_LEAST / 2);
        // Ten thousand messages that all hang, one worker after another's, in hours.
        let levels = [(10, 1_000), (100, 100), (1_000, 10), (10_000, 1)];
        let all: Duration =
            levels.map(|(n, size)| timeout_of(MINUTES, size, 10_000) * n).iter().sum();
        let pool = (MINUTES * 3 + all) / 3;
        assert!(pool < Duration::from_secs(3600 * 5 / 4), "{pool:?}");
    }

    /// Runs a batch to its end; what was done, and what was buried.
    fn run(
        batch: OffsetRange,
        poison: &BTreeSet<Offset>,
        restart_every: usize,
    ) -> (Vec<Offset>, Vec<OffsetRange>, usize) {
        let mut retries = Retries::default();
        let whole = Purpose::Process { of: batch.count() };
        let first = Again { range: batch, purpose: whole, pause: Duration::ZERO };
        let mut queue = VecDeque::from([first]);
        let (mut done, mut buried, mut runs) = (Vec::new(), Vec::new(), 0);
        while let Some(Again { range, purpose, .. }) = queue.pop_front() {
            runs += 1;
            if purpose == Purpose::Bury {
                buried.push(range);
                queue.extend(retries.settle(range));
            } else if poison.range(range.first..range.end).next().is_some() {
                let failure = retries.judge(range, "poison", 2, 0);
                queue.extend(retries.take_in(failure));
            } else {
                done.extend(range.first..range.end);
                queue.extend(retries.settle(range));
            }
            if runs % restart_every == 0 && retries != Retries::default() {
                queue = retries.all().into();
            }
        }
        assert_eq!(retries, Retries::default(), "a row is left behind");
        (done, buried, runs)
    }

    proptest! {
        #[test]
        fn every_message_is_done_or_buried_once(
            first in 0_u64..50,
            count in 1_u64..300,
            seeds in prop::collection::btree_set(0_u64..300, 0..8),
            restart_every in 1_usize..50,
        ) {
            let batch = OffsetRange::new(first, first + count);
            let poison: BTreeSet<_> = seeds.iter().map(|seed| first + seed % count).collect();
            let (mut done, buried, _) = run(batch, &poison, restart_every);
            done.sort_unstable();
            let mut dead: Vec<_> = buried.iter().flat_map(|run| run.first..run.end).collect();
            dead.sort_unstable();
            prop_assert_eq!(&dead, &poison.iter().copied().collect::<Vec<_>>());
            let good: Vec<_> = (batch.first..batch.end).filter(|at| !poison.contains(at)).collect();
            prop_assert_eq!(done, good);
        }
    }

    #[test]
    fn one_poisonous_message_costs_few_runs_and_neighbours_are_buried_together() {
        let batch = OffsetRange::new(0, 10_000);
        let (_, buried, runs) = run(batch, &BTreeSet::from([4711]), usize::MAX);
        assert_eq!(buried, [OffsetRange::new(4711, 4712)]);
        assert!(runs < 50, "{runs}");
        let (_, buried, _) = run(batch, &(100..350).collect(), usize::MAX);
        assert_eq!(buried, [OffsetRange::new(100, 350)]);
    }
}
