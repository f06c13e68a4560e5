//! What of a shard is committed: everything below the low mark, and ranges above it.
//!
//! ```text
//! table progress:  shard key -> JSON of `Progress`
//! ```
//!
//! Three or four workers finish out of order, so ranges stand above the mark until what lies below
//! them is committed too. Frames are deleted only below the mark.

use heed::RoTxn;
use serde::{Deserialize, Serialize};

use crate::message::{Offset, OffsetRange, ShardKey};
use crate::state::{StateError, Tables, WriteTxn};

/// The row of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The fencing token: raised each time a process takes the shard over.
    pub epoch: u64,
    /// All offsets below are committed.
    pub low: Offset,
    /// Committed ranges above the mark: sorted, apart from each other and from the mark.
    pub ranges: Vec<OffsetRange>,
    /// Journal rows below this offset have been pruned.
    pub pruned_below: Offset,
    /// How many messages of these rows were dead.
    pub pruned_dead: u64,
}

/// Why a range may not be committed. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The shard was taken over since: the holder of this token is no longer the owner.
    #[error("the fencing token {held} is out of date, the shard is at {current}")]
    Fenced {
        /// The token held.
        held: u64,
        /// The shard's epoch.
        current: u64,
    },
    /// Some of it is committed already.
    #[error("offsets {range} are committed already, at least in part")]
    Overlap {
        /// The range refused.
        range: OffsetRange,
    },
}

/// Proof that a range is committed. Only [`Progress::record`] makes one, inside a transaction, and
/// `State::commit` lets it out only when that transaction is synced.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed {
    key: ShardKey,
    range: OffsetRange,
}

impl Committed {
    /// Whether it is a proof for all of `range`.
    #[must_use]
    pub fn covers(&self, key: ShardKey, range: OffsetRange) -> bool {
        self.key == key && self.range.first <= range.first && range.end <= self.range.end
    }
}

impl Progress {
    /// Reads the row of a shard.
    ///
    /// # Errors
    /// A read failed, or the row is damaged.
    pub fn load(txn: &RoTxn<'_>, tables: Tables, key: ShardKey) -> Result<Self, StateError> {
        match tables.progress.get(txn, &key.key())? {
            None => Ok(Self::default()),
            Some(row) => serde_json::from_slice(row)
                .map_err(|error| StateError::Damaged(format!("progress of {key}: {error}"))),
        }
    }

    /// Writes the row of a shard.
    ///
    /// # Errors
    /// The environment refused; the transaction cannot go on.
    pub fn store(&self, txn: &mut WriteTxn<'_>, key: ShardKey) -> Result<(), StateError> {
        let row = serde_json::to_vec(self)
            .map_err(|error| StateError::Damaged(format!("progress of {key}: {error}")))?;
        Ok(txn.tables.progress.put(&mut txn.txn, &key.key(), &row)?)
    }

    /// Records a range as committed by the holder of the token `epoch`.
    ///
    /// # Errors
    /// The token is out of date, or some of the range is committed already.
    pub fn record(
        &mut self,
        key: ShardKey,
        range: OffsetRange,
        epoch: u64,
    ) -> Result<Committed, Refused> {
        if epoch != self.epoch {
            return Err(Refused::Fenced { held: epoch, current: self.epoch });
        }
        match insert(&mut self.low, &mut self.ranges, range) {
            true => Ok(Committed { key, range }),
            false => Err(Refused::Overlap { range }),
        }
    }

    /// What is not committed below the highest range, and where what follows it begins.
    #[must_use]
    pub fn gaps(&self) -> (Vec<OffsetRange>, Offset) {
        let mut gaps = Vec::with_capacity(self.ranges.len());
        let mut next = self.low;
        for range in &self.ranges {
            gaps.push(OffsetRange::new(next, range.first));
            next = range.end;
        }
        (gaps, next)
    }

    /// How many offsets below `end` are not committed.
    #[must_use]
    pub fn waiting(&self, end: Offset) -> u64 {
        let above: u64 = self.ranges.iter().map(|range| range.count()).sum();
        end.saturating_sub(self.low).saturating_sub(above)
    }
}

/// Adds a range to a low mark and the ranges above it: sorted, apart from each other and from the
/// mark. False, and nothing changed, when some of it is there already.
pub(super) fn insert(low: &mut u64, ranges: &mut Vec<OffsetRange>, range: OffsetRange) -> bool {
    let at = ranges.partition_point(|known| known.first < range.first);
    let (before, after) = ranges.split_at(at);
    let overlaps = |known: Option<&OffsetRange>| known.is_some_and(|k| k.overlaps(range));
    if range.is_empty() || range.first < *low || overlaps(before.last()) || overlaps(after.first())
    {
        return false;
    }
    let joins_before = before.last().is_some_and(|known| known.end == range.first);
    let joins_after = after.first().is_some_and(|known| known.first == range.end);
    let first = if joins_before { at - 1 } else { at };
    let joined = OffsetRange::new(
        before.last().filter(|_| joins_before).map_or(range.first, |known| known.first),
        after.first().filter(|_| joins_after).map_or(range.end, |known| known.end),
    );
    ranges.splice(first..at + usize::from(joins_after), [joined]);
    if joined.first == *low {
        ranges.remove(0);
        *low = joined.end;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{ShardId, Topic};

    const KEY: ShardKey = ShardKey::new(Topic::Messages, ShardId(0));

    #[test]
    fn an_old_token_commits_nothing() {
        let mut progress = Progress { epoch: 3, ..Progress::default() };
        let before = progress.clone();
        let refused = progress.record(KEY, OffsetRange::new(0, 1), 2).unwrap_err();
        assert_eq!(refused, Refused::Fenced { held: 2, current: 3 });
        assert_eq!(progress, before);
    }

    #[test]
    fn an_overlap_commits_nothing() {
        let mut progress = Progress::default();
        progress.record(KEY, OffsetRange::new(10, 20), 0).unwrap();
        progress.record(KEY, OffsetRange::new(0, 5), 0).unwrap();
        let before = progress.clone();
        for (first, end) in [(0, 1), (4, 6), (5, 11), (19, 30), (12, 13), (7, 7)] {
            let range = OffsetRange::new(first, end);
            assert_eq!(progress.record(KEY, range, 0), Err(Refused::Overlap { range }));
        }
        assert_eq!(progress, before);
        assert_eq!(progress.gaps(), (vec![OffsetRange::new(5, 10)], 20));
        assert_eq!(progress.waiting(25), 10);
    }

    fn shuffled_ranges() -> impl Strategy<Value = Vec<OffsetRange>> {
        prop::collection::btree_set(1_u64..200, 1..20).prop_flat_map(|cuts| {
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let ranges = starts.zip(&cuts).map(|(first, end)| OffsetRange::new(first, *end));
            Just(ranges.collect::<Vec<_>>()).prop_shuffle()
        })
    }

    proptest! {
        #[test]
        fn any_order_of_commits_ends_at_one_low_mark(ranges in shuffled_ranges()) {
            let end = ranges.iter().map(|range| range.end).max().unwrap();
            let mut progress = Progress::default();
            for (i, range) in ranges.iter().enumerate() {
                let proof = progress.record(KEY, *range, 0).unwrap();
                prop_assert!(proof.covers(KEY, *range));
                let done: u64 = ranges[..=i].iter().map(|range| range.count()).sum();
                prop_assert_eq!(progress.waiting(end), end - done);
                prop_assert!(progress.record(KEY, *range, 0).is_err());
            }
            prop_assert_eq!(&progress, &Progress { low: end, ..Progress::default() });
        }
    }
}
