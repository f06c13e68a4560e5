//! Which packets were taken already: what makes a packet that comes twice count once.
//!
//! ```text
//! table sessions:  shard key | session
//!                    -> seen, ms since 1970 u64 | low u64 | (first u64 | end u64)*
//! ```
//!
//! All big-endian. Of a session, every packet below `low` was taken, and those of the ranges above
//! it; so a row grows with the gaps in the numbers and not with the messages. A session that was
//! not seen for [`KEPT`] may be forgotten: nothing of it can still be on its way. Requests with a
//! key are sessions of a few packets each: they are remembered as long as their keys are.

use std::collections::BTreeMap;
use std::time::Duration;

use heed::RoTxn;

use super::id::{self, PacketId, Session};
use crate::broker::idempotency::{self, KeyRetention};
use crate::broker::progress::insert;
use crate::broker::{PublishError, Receipt};
use crate::message::{OffsetRange, ShardKey};
use crate::state::{StateError, Tables, WriteTxn};

/// How long a session that is not seen is remembered.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many sessions of a shard are remembered in any case.
const SESSIONS_MANY: usize = 1000;

/// The packets of a shard that were taken, as seen and changed by one transaction.
#[derive(Debug)]
pub struct Taken {
    key: ShardKey,
    retention: KeyRetention,
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
    /// What was taken of `key`, for one transaction.
    #[must_use]
    pub const fn new(key: ShardKey, retention: KeyRetention, now_ms: u64) -> Self {
        Self { key, retention, now_ms, sessions: BTreeMap::new() }
    }

    /// Whether the packet was taken before.
    ///
    /// # Errors
    /// A read failed, or a row is damaged.
    pub fn holds(&mut self, txn: &WriteTxn<'_>, id: PacketId) -> Result<bool, StateError> {
        match id {
            PacketId::OfSession(session, number) => {
                let row = self.session(txn, session)?;
                let above = row.ranges.iter();
                Ok(number < row.low
                    || above.into_iter().any(|r| r.first <= number && number < r.end))
            }
            PacketId::OfKey(..) => {
                let stored = id::stored(id, self.key);
                let (retention, now_ms) = (self.retention, self.now_ms);
                let known =
                    idempotency::find(&txn.txn, txn.tables, &stored, [0; 32], retention, now_ms)?;
                Ok(known.is_some_and(|known| known != Err(PublishError::KeyReused)))
            }
        }
    }

    /// The packet is taken by this transaction; its messages got the offsets `range`.
    ///
    /// # Errors
    /// The environment refused; the transaction cannot go on.
    pub fn add(
        &mut self,
        txn: &mut WriteTxn<'_>,
        id: PacketId,
        identity: &str,
        range: OffsetRange,
    ) -> Result<(), StateError> {
        match id {
            PacketId::OfSession(session, number) => {
                let now_ms = self.now_ms;
                let row = self.session(txn, session)?;
                row.seen_ms = now_ms;
                insert(&mut row.low, &mut row.ranges, OffsetRange::new(number, number + 1));
                Ok(())
            }
            PacketId::OfKey(..) => {
                let stored = id::stored(id, self.key);
                let receipt = Receipt::new(identity, vec![(self.key, range)]);
                let (retention, now_ms) = (self.retention, self.now_ms);
                idempotency::remember(txn, &stored, [0; 32], &receipt, retention, now_ms)
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
                let row = stored.map_or_else(|| Some(Row::default()), Row::decode);
                let row = row.ok_or_else(|| {
                    StateError::Damaged(format!("a session of {} is not readable", self.key))
                })?;
                Ok(entry.insert(row))
            }
        }
    }
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

    proptest! {
        #[test]
        fn a_row_reads_back(seen_ms: u64, low: u64, ends: Vec<(u64, u64)>) {
            let ranges = ends.into_iter().map(|(a, b)| OffsetRange::new(a, b)).collect();
            let row = Row { seen_ms, low, ranges };
            prop_assert_eq!(Row::decode(&row.encode()), Some(row));
        }
    }

    #[test]
    fn half_a_row_is_damaged() {
        let bytes = Row { seen_ms: 1, low: 2, ranges: vec![OffsetRange::new(4, 5)] }.encode();
        assert_eq!(Row::decode(&bytes[..bytes.len() - 8]), None);
        assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Row::decode(&bytes[..8]), None);
    }
}
