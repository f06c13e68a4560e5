//! Packets that two hosts have both taken: the doubles of a take-over across hosts.
//!
//! ```text
//! table packets:  offset key of its first message -> end of its offsets u64 | id
//! ```
//!
//! Which packets a host has taken, it knows for as long as module `taken` says; where their
//! messages went, it knows of the last 200,000 of each shard: a host that was cut off
//! has at most so many that it did not acknowledge.

use std::collections::HashMap;

use heed::RoTxn;

use super::id::{self, PacketId};
use super::taken;
use crate::message::{OffsetRange, ShardKey};
use crate::state::{State, StateError, Tables, WriteTxn};

/// Messages of a shard whose packets can be named: more than may be unacknowledged at once.
const NAMED_MESSAGES: u64 = 200_000;

/// A packet that both have taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Double {
    /// The shard.
    pub key: ShardKey,
    /// The packet.
    pub id: PacketId,
    /// Its messages in this state directory.
    pub here: OffsetRange,
    /// Its messages in the other one, if it still knows.
    pub there: Option<OffsetRange>,
}

/// What two state directories have both taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubles {
    /// The packets whose messages are known here.
    pub named: Vec<Double>,
    /// How many more there are, of which it is no longer known where their messages went.
    pub unnamed: u64,
}

/// Notes which packet the messages `range` came in, and forgets what is far behind.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub(super) fn note(
    txn: &mut WriteTxn<'_>,
    key: ShardKey,
    range: OffsetRange,
    id: PacketId,
) -> Result<(), StateError> {
    let value = [range.end.to_be_bytes().as_slice(), id.to_string().as_bytes()].concat();
    Ok(txn.tables.packets.put(&mut txn.txn, &key.offset_key(range.first), &value)?)
}

/// Forgets the packets that are far behind the end of a shard.
///
/// # Errors
/// The environment refused; the transaction cannot go on.
pub(super) fn forget(txn: &mut WriteTxn<'_>, key: ShardKey, end: u64) -> Result<(), StateError> {
    let (from, to) = (key.offset_key(0), key.offset_key(end.saturating_sub(NAMED_MESSAGES)));
    let bounds =
        (std::ops::Bound::Included(from.as_slice()), std::ops::Bound::Excluded(to.as_slice()));
    txn.tables.packets.delete_range(&mut txn.txn, &bounds)?;
    Ok(())
}

/// The packets that both have taken.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn doubles(here: &State, there: &State) -> Result<Doubles, StateError> {
    let (ours, theirs) = (here.read()?, there.read()?);
    let (our_tables, their_tables) = (here.tables(), there.tables());
    let known_there: HashMap<_, _> = packets(&theirs, their_tables)?
        .into_iter()
        .map(|(key, range, id)| ((key, id), range))
        .collect();
    let mut doubles = Doubles::default();
    for (key, range, id) in packets(&ours, our_tables)? {
        if taken_by(&theirs, their_tables, key, id)? {
            let there = known_there.get(&(key, id)).copied();
            doubles.named.push(Double { key, id, here: range, there });
        }
    }
    let both = taken::in_both((&ours, our_tables), (&theirs, their_tables))?;
    doubles.unnamed = both.saturating_sub(doubles.named.len() as u64);
    Ok(doubles)
}

fn packets(
    txn: &RoTxn<'_>,
    tables: Tables,
) -> Result<Vec<(ShardKey, OffsetRange, PacketId)>, StateError> {
    let mut packets = Vec::new();
    for row in tables.packets.iter(txn)? {
        let (at, value) = row?;
        let read = || {
            let (end, id) = value.split_first_chunk::<8>()?;
            let id = std::str::from_utf8(id).ok()?.parse().ok()?;
            let range = OffsetRange::new(ShardKey::parse_offset(at)?, u64::from_be_bytes(*end));
            Some((ShardKey::parse(at)?, range, id))
        };
        let damaged = || StateError::Damaged("a row of table packets is not readable".to_owned());
        packets.push(read().ok_or_else(damaged)?);
    }
    Ok(packets)
}

fn taken_by(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    id: PacketId,
) -> Result<bool, StateError> {
    match id {
        PacketId::OfSession(session, number) => {
            taken::session_holds(txn, tables, key, session, number)
        }
        PacketId::OfKey(..) => Ok(tables.keyed.get(txn, &id::stored(id, key))?.is_some()),
    }
}
