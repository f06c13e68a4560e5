//! The state environment before and after: what of the run still waits, and when nothing does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::batch::journal;
use crate::broker::append::shard_ends;
use crate::broker::progress::Progress;
use crate::message::{Offset, ShardKey};
use crate::service::Lifecycle;
use crate::state::{State, StateError};

/// How often it is looked whether messages still wait: some 20 µs of work each time.
const POLL: Duration = Duration::from_millis(5);

/// How far a state environment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Where each shard ends.
    pub(super) ends: BTreeMap<ShardKey, Offset>,
    /// Batches ever committed.
    pub(super) batches: u64,
}

impl Mark {
    /// How far it is now.
    ///
    /// # Errors
    /// A read failed.
    pub(super) fn read(state: &State) -> Result<Self, StateError> {
        let txn = state.read()?;
        let ends = shard_ends(&txn, state.tables())?;
        let ends = ends.into_iter().map(|(key, end)| (key, end.offset)).collect();
        Ok(Self { ends, batches: journal::batches(&txn, state.tables())? })
    }

    /// How many messages were accepted since `before`.
    pub(super) fn accepted_since(&self, before: &Self) -> u64 {
        let since = |(key, end): (&ShardKey, &Offset)| {
            end.saturating_sub(before.ends.get(key).copied().unwrap_or(0))
        };
        self.ends.iter().map(since).sum()
    }

    /// How many of the messages below it are in no committed file in its place.
    ///
    /// # Errors
    /// A read failed.
    pub(super) fn waiting(&self, state: &State) -> Result<u64, StateError> {
        let (txn, tables) = (state.read()?, state.tables());
        let mut waiting = 0;
        for (key, end) in &self.ends {
            waiting += uncommitted(&Progress::load(&txn, tables, *key)?, *end);
            let prepared = journal::rows(&txn, tables.prepared, *key)?;
            let below = prepared.iter().filter(|row| row.range.first < *end);
            waiting += below.map(|row| row.range.count()).sum::<u64>();
        }
        Ok(waiting)
    }
}

/// How many offsets below `end` are in no committed batch.
fn uncommitted(progress: &Progress, end: Offset) -> u64 {
    let (gaps, next) = progress.gaps();
    let clipped = |first: Offset, last: Offset| last.min(end).saturating_sub(first);
    let within: u64 = gaps.iter().map(|gap| clipped(gap.first, gap.end)).sum();
    within + clipped(next, end)
}

/// How the wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    /// All of it is in files, since this moment.
    All(Instant),
    /// Nothing got on for too long: so many wait.
    Stuck(u64),
    /// Ctrl-C: so many wait.
    Interrupted(u64),
}

/// Messages that are to be in files.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    /// How far the state environment was before the run.
    pub(super) before: &'a Mark,
    /// How many have been accepted since, and must come: over a broker, some time later.
    pub(super) accepted: u64,
}

/// Waits until all messages that have been accepted by now are in files; gives up when none comes
/// for `patience`. `tick` is told how many wait. Gives how far the state environment was when all
/// of them had come.
///
/// # Errors
/// A read failed.
pub(super) fn wait(
    expected: &Expected<'_>,
    state: &State,
    patience: Duration,
    life: &Lifecycle,
    mut tick: impl FnMut(u64),
) -> Result<(Drained, Mark), StateError> {
    let mut least = u64::MAX;
    let mut since = Instant::now();
    let mut mark = Mark::read(state)?;
    loop {
        let missing = expected.accepted.saturating_sub(mark.accepted_since(expected.before));
        let waiting = missing + mark.waiting(state)?;
        if waiting == 0 {
            return Ok((Drained::All(Instant::now()), mark));
        }
        if waiting < least {
            (least, since) = (waiting, Instant::now());
        }
        tick(waiting);
        if since.elapsed() > patience {
            return Ok((Drained::Stuck(waiting), mark));
        }
        if life.wait_stopping(POLL) {
            return Ok((Drained::Interrupted(waiting), mark));
        }
        if missing > 0 {
            mark = Mark::read(state)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{OffsetRange, ShardId, Topic};

    fn mark(ends: &[(u16, Offset)]) -> Mark {
        let key = |shard| ShardKey::new(Topic::Messages, ShardId(shard));
        Mark { ends: ends.iter().map(|(shard, end)| (key(*shard), *end)).collect(), batches: 0 }
    }

    #[test]
    fn a_shard_that_is_new_counts_from_its_beginning() {
        let (before, after) = (mark(&[(0, 10), (1, 5)]), mark(&[(0, 12), (1, 5), (7, 3)]));
        assert_eq!(after.accepted_since(&before), 5);
        assert_eq!(before.accepted_since(&before), 0);
    }

    proptest! {
        #[test]
        fn what_waits_is_what_no_range_covers(
            low in 0..20_u64,
            covered in prop::collection::btree_set(0..60_u64, 0..40),
            end in 0..70_u64,
        ) {
            let key = ShardKey::new(Topic::Messages, ShardId(0));
            let mut progress = Progress { low, ..Progress::default() };
            for offset in covered.range(low..) {
                progress.record(key, OffsetRange::new(*offset, offset + 1), 0).unwrap();
            }
            let expected = (low..end).filter(|offset| !covered.contains(offset)).count();
            prop_assert_eq!(uncommitted(&progress, end), expected as u64);
        }
    }
}
