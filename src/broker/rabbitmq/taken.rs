//! Which packets were taken already: what makes a packet that comes twice count once.
//!
//! ```text
//! table sessions:     shard key | session
//!                       -> seen, ms since 1970 u64 | low u64 | (first u64 | end u64)*
//! table keyed:        SHA-256 of shard and id of a packet -> number u64
//! table keyed_order:  shard key | number u64              -> key of table keyed
//! ```
//!
//! All big-endian. Of a session, every packet below `low` was taken, and those of the ranges above
//! it; so a row grows with the gaps in the numbers and not with the messages. A session that was
//! not seen for [`KEPT`] may be forgotten: nothing of it can still be on its way. The
//! packets of requests with a key are remembered one by one, so many of them (`IDEMPOTENCY_KEYS` of
//! each shard). Not for a time: a consumer that was stopped must know what it took before.

use std::collections::BTreeMap;
use std::time::Duration;

use heed::RoTxn;

use super::id::{self, PacketId, Session};
use crate::broker::progress::insert;
use crate::message::{OffsetRange, ShardKey};
use crate::state::{StateError, Tables, WriteTxn};

/// How long a session that is not seen is remembered.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many packets of requests with a key are remembered of a shard in any case: several times as
/// many as may come again because they were not acknowledged.
const KEYED_LEAST: u64 = 10_000;
/// Packets forgotten for one that is remembered, at most: more than one, so that a smaller limit is
/// reached.
const EVICTIONS: usize = 4;
/// How many sessions of a shard are remembered in any case.
const SESSIONS_MANY: usize = 1000;

/// The packets of a shard that were taken, as seen and changed by one transaction.
#[derive(Debug)]
pub struct Taken {
    key: ShardKey,
    keyed_max: u64,
    now_ms: u64,
    sessions: BTreeMap<Session, Row>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    seen_ms: u64,
    low: u64,
    ranges: Vec<OffsetRange>,
}

impl Row {
    fn holds(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.end <= number);
        number < self.low || self.ranges.get(at).is_some_and(|range| range.first <= number)
    }

    /// Everything taken, as ranges in order.
    fn all(&self) -> impl Iterator<Item = OffsetRange> {
        std::iter::once(OffsetRange::new(0, self.low)).chain(self.ranges.iter().copied())
    }

    fn encode(&self) -> Vec<u8> {
        let ends = self.ranges.iter().flat_map(|range| [range.first, range.end]);
        let numbers = [self.seen_ms, self.low].into_iter().chain(ends);
        numbers.flat_map(u64::to_be_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let mut numbers = numbers.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let mut row = Self { seen_ms: numbers.next()?, low: numbers.next()?, ranges: Vec::new() };
        while let Some(first) = numbers.next() {
            row.ranges.push(OffsetRange::new(first, numbers.next()?));
        }
        Some(row)
    }
}

fn row_key(key: ShardKey, session: Session) -> Vec<u8> {
    [key.key().as_slice(), session.as_slice()].concat()
}

impl Taken {
    /// What was taken of `key`, for one transaction; so many packets of requests with a key are
    /// remembered of the shard, and 10,000 in any case.
    #[must_use]
    pub fn new(key: ShardKey, keyed_max: u64, now_ms: u64) -> Self {
        let keyed_max = keyed_max.max(KEYED_LEAST);
        Self { key, keyed_max, now_ms, sessions: BTreeMap::new() }
    }

    /// Whether the packet was taken before.
    ///
    /// # Errors
    /// A read failed, or a row is damaged.
    pub fn holds(&mut self, txn: &WriteTxn<'_>, id: PacketId) -> Result<bool, StateError> {
        match id {
            PacketId::OfSession(session, number) => Ok(self.session(txn, session)?.holds(number)),
            PacketId::OfKey(..) => {
                let stored = id::stored(id, self.key);
                Ok(txn.tables.keyed.get(&txn.txn, &stored)?.is_some())
            }
        }
    }

    /// The packet is taken by this transaction.
    ///
    /// # Errors
    /// The environment refused; the transaction cannot go on.
    pub fn add(&mut self, txn: &mut WriteTxn<'_>, id: PacketId) -> Result<(), StateError> {
        match id {
            PacketId::OfSession(session, number) => {
                let now_ms = self.now_ms;
                let row = self.session(txn, session)?;
                row.seen_ms = now_ms;
                insert(&mut row.low, &mut row.ranges, OffsetRange::new(number, number + 1));
                Ok(())
            }
            PacketId::OfKey(..) => {
                add_keyed(txn, self.key, &id::stored(id, self.key), self.keyed_max)
            }
        }
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// The environment refused; the transaction cannot go on.
    pub fn finish(self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        for (session, row) in self.sessions {
            let stored = row_key(self.key, session);
            txn.tables.sessions.put(&mut txn.txn, &stored, &row.encode())?;
        }
        Ok(())
    }

    fn session(&mut self, txn: &WriteTxn<'_>, session: Session) -> Result<&mut Row, StateError> {
        use std::collections::btree_map::Entry;
        match self.sessions.entry(session) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let stored = txn.tables.sessions.get(&txn.txn, &row_key(self.key, session))?;
                Ok(entry.insert(stored.map(decoded).transpose()?.unwrap_or_default()))
            }
        }
    }
}

/// Remembers a packet of a request with a key, and forgets the oldest of too many of its shard.
fn add_keyed(
    txn: &mut WriteTxn<'_>,
    key: ShardKey,
    stored: &[u8; 32],
    keyed_max: u64,
) -> Result<(), StateError> {
    let tables = txn.tables;
    let damaged = || StateError::Damaged("a row of table keyed_order is not readable".to_owned());
    let read = |at: &[u8]| ShardKey::parse_offset(at).ok_or_else(damaged);
    let newest = tables.keyed_order.rev_prefix_iter(&txn.txn, &key.key())?.next().transpose()?;
    let number = newest.map(|(at, _)| read(at)).transpose()?.map_or(0, |newest| newest + 1);
    tables.keyed.put(&mut txn.txn, stored, &number.to_be_bytes())?;
    tables.keyed_order.put(&mut txn.txn, &key.offset_key(number), stored)?;
    for _ in 0..EVICTIONS {
        let oldest = tables.keyed_order.prefix_iter(&txn.txn, &key.key())?.next().transpose()?;
        let Some((at, stored)) = oldest else { break };
        let (oldest, stored) = (read(at)?, stored.to_vec());
        if number - oldest < keyed_max {
            break;
        }
        tables.keyed_order.delete(&mut txn.txn, &key.offset_key(oldest))?;
        tables.keyed.delete(&mut txn.txn, &stored)?;
    }
    Ok(())
}

/// Whether a packet of a session was taken.
///
/// # Errors
/// A read failed, or the row is damaged.
pub(super) fn session_holds(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    session: Session,
    number: u64,
) -> Result<bool, StateError> {
    let stored = tables.sessions.get(txn, &row_key(key, session))?;
    Ok(stored.map(decoded).transpose()?.is_some_and(|row| row.holds(number)))
}

/// How many packets both have taken.
///
/// # Errors
/// A read failed, or a row is damaged.
pub(super) fn in_both(
    one: (&RoTxn<'_>, Tables),
    other: (&RoTxn<'_>, Tables),
) -> Result<u64, StateError> {
    let mut both = 0;
    for row in one.1.sessions.iter(one.0)? {
        let (stored, value) = row?;
        let Some(there) = other.1.sessions.get(other.0, stored)? else { continue };
        let (here, there) = (decoded(value)?, decoded(there)?);
        for range in here.all() {
            let common = there.all().map(|other| {
                OffsetRange::new(range.first.max(other.first), range.end.min(other.end)).count()
            });
            both += common.sum::<u64>();
        }
    }
    for row in one.1.keyed.iter(one.0)? {
        both += u64::from(other.1.keyed.get(other.0, row?.0)?.is_some());
    }
    Ok(both)
}

fn decoded(bytes: &[u8]) -> Result<Row, StateError> {
    let damaged = || StateError::Damaged("a row of table sessions is not readable".to_owned());
    Row::decode(bytes).ok_or_else(damaged)
}

/// The sessions of a shard that may be forgotten: there are many, and these were not seen for
/// [`KEPT`].
///
/// # Errors
/// A read failed.
pub fn stale(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    now_ms: u64,
) -> Result<Vec<Vec<u8>>, StateError> {
    let kept_ms = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
    let (mut stale, mut sessions) = (Vec::new(), 0);
    for row in tables.sessions.prefix_iter(txn, &key.key())? {
        let (stored, value) = row?;
        sessions += 1;
        let seen_ms = Row::decode(value).map_or(0, |row| row.seen_ms);
        if now_ms.saturating_sub(seen_ms) > kept_ms {
            stale.push(stored.to_vec());
        }
    }
    // A clock that has jumped is no reason to forget what takes up hardly any room.
    Ok(if sessions > SESSIONS_MANY { stale } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{ShardId, Topic};
    use crate::state::{State, StateOptions};

    proptest! {
        #[test]
        fn a_row_reads_back(seen_ms: u64, low: u64, ends: Vec<(u64, u64)>) {
            let ranges = ends.into_iter().map(|(a, b)| OffsetRange::new(a, b)).collect();
            let row = Row { seen_ms, low, ranges };
            prop_assert_eq!(Row::decode(&row.encode()), Some(row));
        }
    }

    fn state(dir: &std::path::Path) -> State {
        State::open(StateOptions {
            dir: dir.to_owned(),
            map_bytes: 16 << 20,
            low_water_bytes: Some(0),
            on_poison: Box::new(|reason| panic!("poisoned: {reason}")),
        })
        .unwrap()
    }

    /// Offers packets in one transaction; which of them were new.
    fn offer(state: &State, shard: u16, ids: Vec<PacketId>, keyed_max: u64) -> Vec<PacketId> {
        let key = ShardKey::new(Topic::Messages, ShardId(shard));
        let work = move |txn: &mut WriteTxn<'_>| {
            let (mut taken, mut new) = (Taken::new(key, keyed_max, 7), Vec::new());
            for id in &ids {
                if !taken.holds(txn, *id)? {
                    taken.add(txn, *id)?;
                    new.push(*id);
                }
            }
            taken.finish(txn)?;
            Ok(new)
        };
        state.commit(work).unwrap()
    }

    #[test]
    fn a_packet_counts_once_in_its_shard_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let of = |number| PacketId::OfSession([1; 16], number);
        let (other, keyed) = (PacketId::OfSession([2; 16], 0), PacketId::OfKey([1; 16], 0));
        let all = vec![of(0), of(2), of(2), other, keyed, keyed];
        let new = vec![of(0), of(2), other, keyed];
        assert_eq!(offer(&state(dir.path()), 0, all.clone(), 10), new);
        let state = state(dir.path());
        assert_eq!(offer(&state, 0, all.clone(), 10), []);
        assert_eq!(offer(&state, 0, vec![of(1), of(3), of(0)], 10), [of(1), of(3)]);
        assert_eq!(offer(&state, 1, all, 10), new);
    }

    #[test]
    fn of_requests_with_a_key_the_latest_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(dir.path());
        let of = |number| PacketId::OfKey([1; 16], number);
        let most = KEYED_LEAST;
        // However few are asked for: what may come again at once is known, beside a busy shard too.
        offer(&state, 0, (0..most + 3).map(of).collect(), 1);
        offer(&state, 1, (0..most + 3).map(of).collect(), 1);
        assert_eq!(offer(&state, 0, (3..most + 3).map(of).collect(), 1), []);
        assert_eq!(offer(&state, 0, vec![of(0)], 1), [of(0)]);
        let (txn, tables) = (state.read().unwrap(), state.tables());
        assert_eq!(tables.keyed.len(&txn).unwrap(), 2 * most);
        assert_eq!(tables.keyed_order.len(&txn).unwrap(), 2 * most);
    }

    #[test]
    fn half_a_row_is_damaged() {
        let bytes = Row { seen_ms: 1, low: 2, ranges: vec![OffsetRange::new(4, 5)] }.encode();
        assert_eq!(Row::decode(&bytes[..bytes.len() - 8]), None);
        assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Row::decode(&bytes[..8]), None);
    }
}
