//! Reading what waits: the frames of a shard, in order.

use std::ops::Bound;

use heed::RoTxn;

use super::append::shard_end;
use super::frame;
use super::progress::Progress;
use crate::message::{Offset, OffsetRange, ShardKey, line_prefix_bytes};
use crate::state::{ReadTxn, State, StateError, Tables};

/// The bytes that the shard had taken in before `offset`.
///
/// # Errors
/// A read failed, or no frame holds it.
pub(super) fn bytes_before(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    offset: Offset,
) -> Result<u64, StateError> {
    let end = shard_end(txn, tables, key)?;
    if offset >= end.offset {
        return Ok(end.bytes);
    }
    let row = tables.frames.get_lower_than_or_equal_to(txn, &key.offset_key(offset))?;
    let found = row.filter(|(at, _)| ShardKey::parse(at) == Some(key));
    let (head, lines, first) = found
        .and_then(|(at, value)| {
            let (head, lines) = frame::decode(value)?;
            Some((head, lines, ShardKey::parse_offset(at)?))
        })
        .ok_or_else(|| StateError::Damaged(format!("{key}: no frame holds offset {offset}")))?;
    let skipped = line_prefix_bytes(lines, offset.saturating_sub(first));
    Ok(head.bytes_before + skipped as u64)
}

/// Bytes of lines that wait in a shard: those in no committed batch.
///
/// # Errors
/// A read failed.
pub fn waiting_bytes(txn: &RoTxn<'_>, tables: Tables, key: ShardKey) -> Result<u64, StateError> {
    let (gaps, next) = Progress::load(txn, tables, key)?.gaps();
    let before = |offset| bytes_before(txn, tables, key, offset);
    let mut waiting = shard_end(txn, tables, key)?.bytes.saturating_sub(before(next)?);
    for gap in gaps {
        waiting += before(gap.end)?.saturating_sub(before(gap.first)?);
    }
    Ok(waiting)
}

/// When the oldest message that waits was accepted, in milliseconds since 1970.
///
/// # Errors
/// A read failed.
pub fn oldest_waiting_ms(
    txn: &ReadTxn<'_>,
    state: &State,
    key: ShardKey,
    low: Offset,
) -> Result<Option<u64>, StateError> {
    let row = state.tables().frames.get_lower_than_or_equal_to(txn, &key.offset_key(low))?;
    Ok(row
        .filter(|(at, _)| ShardKey::parse(at) == Some(key))
        .and_then(|(_, value)| frame::decode(value))
        .map(|(head, _)| head.accepted_ms))
}

/// The frames of a shard from the one that holds an offset, in order.
pub struct Frames<'txn> {
    rows: heed::RoRange<'txn, heed::types::Bytes, heed::types::Bytes>,
    key: ShardKey,
}

impl std::fmt::Debug for Frames<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frames({})", self.key)
    }
}

impl<'txn> Frames<'txn> {
    /// From the frame that holds `offset`, or the next one.
    ///
    /// # Errors
    /// A read failed.
    pub fn from(
        txn: &'txn ReadTxn<'_>,
        state: &State,
        key: ShardKey,
        offset: Offset,
    ) -> Result<Self, StateError> {
        let frames = state.tables().frames;
        let at = key.offset_key(offset);
        let start = frames
            .get_lower_than_or_equal_to(txn, &at)?
            .filter(|(found, _)| ShardKey::parse(found) == Some(key))
            .map_or_else(|| at.to_vec(), |(found, _)| found.to_vec());
        let end = key.offset_key(Offset::MAX);
        let bounds = (Bound::Included(start.as_slice()), Bound::Included(end.as_slice()));
        Ok(Self { rows: frames.range(txn, &bounds)?, key })
    }
}

impl<'txn> Iterator for Frames<'txn> {
    type Item = Result<(OffsetRange, &'txn [u8]), StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?.map_err(StateError::from);
        Some(row.and_then(|(at, value)| {
            let first = ShardKey::parse_offset(at);
            let parts = first.zip(frame::decode(value));
            let (first, (head, lines)) = parts
                .ok_or_else(|| StateError::Damaged(format!("{}: unreadable frame", self.key)))?;
            Ok((OffsetRange::new(first, first + u64::from(head.count)), lines))
        }))
    }
}
