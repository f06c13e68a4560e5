//! The latest batches of all shards.

use std::collections::BinaryHeap;

use heed::RoTxn;

use super::journal::{BatchRow, decode};
use crate::message::ShardKey;
use crate::state::{StateError, Table, Tables};

/// Workers of a shard commit out of turn: so many rows more are looked at.
const OUT_OF_TURN: usize = 16;

/// The rows with the highest numbers, the highest first: at most `limit`, with the shard of each,
/// and whether it is in place. Of `shards` only.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn latest(
    txn: &RoTxn<'_>,
    tables: Tables,
    shards: &[ShardKey],
    limit: usize,
) -> Result<Vec<(ShardKey, BatchRow, bool)>, StateError> {
    let mut roads = Vec::with_capacity(shards.len() * 2);
    for key in shards {
        for (table, is_done) in [(tables.prepared, false), (tables.journal, true)] {
            roads.push(Road { key: *key, is_done, rows: backwards(txn, table, *key)? });
        }
    }
    // The next row of each road, the highest number on top.
    let mut heads = BinaryHeap::with_capacity(roads.len());
    let mut found = Vec::with_capacity(limit + OUT_OF_TURN);
    let mut taken = Vec::with_capacity(roads.len());
    for (place, road) in roads.iter_mut().enumerate() {
        taken.push(road.next()?);
        heads.extend(taken.last().and_then(Option::as_ref).map(|row| (row.number, place)));
    }
    while let Some((_, place)) = heads.pop().filter(|_| found.len() < limit + OUT_OF_TURN) {
        let Some((road, head)) = roads.get_mut(place).zip(taken.get_mut(place)) else { break };
        let next = road.next()?;
        heads.extend(next.as_ref().map(|row| (row.number, place)));
        if let Some(row) = std::mem::replace(head, next) {
            found.push((road.key, row, road.is_done));
        }
    }
    found.sort_by_key(|(_, row, _)| std::cmp::Reverse(row.number));
    found.truncate(limit);
    Ok(found)
}

type Rows<'txn> = heed::RoRevPrefix<'txn, heed::types::Bytes, heed::types::Bytes>;

fn backwards<'txn>(
    txn: &'txn RoTxn<'_>,
    table: Table,
    key: ShardKey,
) -> Result<Rows<'txn>, StateError> {
    Ok(table.rev_prefix_iter(txn, &key.key())?)
}

/// The rows of a shard in one of the two tables, the last one first.
struct Road<'txn> {
    key: ShardKey,
    is_done: bool,
    rows: Rows<'txn>,
}

impl Road<'_> {
    fn next(&mut self) -> Result<Option<BatchRow>, StateError> {
        let Some(row) = self.rows.next() else { return Ok(None) };
        decode("a row of the journal", row?.1).map(Some)
    }
}
