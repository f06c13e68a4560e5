//! Lines get their offsets and go into the state environment, inside somebody's transaction.
//!
//! ```text
//! table ends:  shard key -> next offset u64 | bytes of lines ever u64   (big-endian)
//! ```
//!
//! An [`Appender`] gathers the lines of every request of a group into as few frames as they fit.

use std::collections::BTreeMap;

use heed::{PutFlags, RoTxn};

use super::frame::{FRAME_BYTES_MAX, HEAD_BYTES, Head};
use crate::message::{Lines, Offset, OffsetRange, ShardKey, line_prefix_bytes};
use crate::state::{StateError, Tables, WriteTxn};

/// Where a shard ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardEnd {
    /// The offset that the next message gets: how many were ever accepted.
    pub offset: Offset,
    /// Bytes of lines ever accepted.
    pub bytes: u64,
}

impl ShardEnd {
    fn encode(self) -> [u8; 16] {
        ((u128::from(self.offset) << 64) | u128::from(self.bytes)).to_be_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (offset, bytes) = bytes.split_first_chunk::<8>()?;
        let (bytes, []) = bytes.split_first_chunk::<8>()? else { return None };
        Some(Self { offset: u64::from_be_bytes(*offset), bytes: u64::from_be_bytes(*bytes) })
    }
}

/// Where the shard ends now; zero for one that never took a message.
///
/// # Errors
/// A read failed, or the row is damaged.
pub fn shard_end(txn: &RoTxn<'_>, tables: Tables, key: ShardKey) -> Result<ShardEnd, StateError> {
    match tables.ends.get(txn, &key.key())? {
        None => Ok(ShardEnd::default()),
        Some(row) => ShardEnd::decode(row)
            .ok_or_else(|| StateError::Damaged(format!("the end of {key} is not readable"))),
    }
}

/// Every shard that ever took a message, in order.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn shard_ends(
    txn: &RoTxn<'_>,
    tables: Tables,
) -> Result<Vec<(ShardKey, ShardEnd)>, StateError> {
    let damaged = || StateError::Damaged("a row of table ends is not readable".to_owned());
    let mut ends = Vec::new();
    for row in tables.ends.iter(txn)? {
        let (key, value) = row?;
        let key = ShardKey::parse(key).ok_or_else(damaged)?;
        ends.push((key, ShardEnd::decode(value).ok_or_else(damaged)?));
    }
    Ok(ends)
}

/// Appends lines of many requests within one transaction.
#[derive(Debug)]
pub struct Appender {
    accepted_ms: u64,
    open: BTreeMap<ShardKey, OpenFrame>,
}

/// The frame being filled at the end of a shard.
#[derive(Debug)]
struct OpenFrame {
    first: Offset,
    head: Head,
    /// Room for the head, then the lines.
    value: Vec<u8>,
}

impl Appender {
    /// An appender of one transaction; `accepted_ms` since 1970 marks what it appends.
    #[must_use]
    pub const fn new(accepted_ms: u64) -> Self {
        Self { accepted_ms, open: BTreeMap::new() }
    }

    /// Appends lines to a shard and says which offsets they got.
    ///
    /// A line longer than a frame gets one of its own. Whoever takes entries in refuses them
    /// before; what comes from elsewhere and is only kept as a dead letter may be so long.
    ///
    /// # Errors
    /// The environment refused; the transaction cannot go on.
    pub fn append(
        &mut self,
        txn: &mut WriteTxn<'_>,
        key: ShardKey,
        lines: &Lines,
    ) -> Result<OffsetRange, StateError> {
        if !self.open.contains_key(&key) {
            let end = shard_end(&txn.txn, txn.tables, key)?;
            self.open.insert(key, OpenFrame::new(end, self.accepted_ms));
        }
        let Some(frame) = self.open.get_mut(&key) else { return Err(StateError::Stopped) };
        let first = frame.end().offset;
        let mut rest = lines.bytes.as_slice();
        while !rest.is_empty() {
            let (mut bytes, mut count) = whole_lines_within(rest, lines, frame.room());
            if count == 0 {
                if frame.head.count > 0 {
                    frame.write(txn, key)?;
                    *frame = OpenFrame::new(frame.end(), self.accepted_ms);
                    continue;
                }
                (bytes, count) = (line_prefix_bytes(rest, 1), 1);
            }
            let (taken, left) = rest.split_at(bytes);
            frame.value.extend_from_slice(taken);
            frame.head.count += count;
            rest = left;
        }
        Ok(OffsetRange::new(first, frame.end().offset))
    }

    /// Writes what is still open, and where the shards end now.
    ///
    /// # Errors
    /// The environment refused; the transaction cannot go on.
    pub fn finish(mut self, txn: &mut WriteTxn<'_>) -> Result<Vec<ShardKey>, StateError> {
        for (key, frame) in &mut self.open {
            frame.write(txn, *key)?;
            txn.tables.ends.put(&mut txn.txn, &key.key(), &frame.end().encode())?;
        }
        Ok(self.open.into_keys().collect())
    }
}

impl OpenFrame {
    fn new(end: ShardEnd, accepted_ms: u64) -> Self {
        let head = Head { count: 0, accepted_ms, bytes_before: end.bytes };
        Self { first: end.offset, head, value: vec![0; HEAD_BYTES] }
    }

    fn room(&self) -> usize {
        FRAME_BYTES_MAX.saturating_sub(self.value.len())
    }

    /// Where the shard ends after this frame.
    fn end(&self) -> ShardEnd {
        ShardEnd {
            offset: self.first + u64::from(self.head.count),
            bytes: self.head.bytes_before + (self.value.len() - HEAD_BYTES) as u64,
        }
    }

    fn write(&mut self, txn: &mut WriteTxn<'_>, key: ShardKey) -> Result<(), StateError> {
        if self.head.count == 0 {
            return Ok(());
        }
        if let Some(room) = self.value.first_chunk_mut::<HEAD_BYTES>() {
            *room = self.head.encode();
        }
        let offset_key = key.offset_key(self.first);
        let flags = PutFlags::NO_OVERWRITE;
        Ok(txn.tables.frames.put_with_flags(&mut txn.txn, flags, &offset_key, &self.value)?)
    }
}

/// How much of `rest` fits into `room`, in whole lines: bytes and lines.
fn whole_lines_within(rest: &[u8], all: &Lines, room: usize) -> (usize, u32) {
    if rest.len() <= room && rest.len() == all.bytes.len() {
        return (rest.len(), all.count);
    }
    let within = rest.get(..room.min(rest.len())).unwrap_or(rest);
    let Some(last) = memchr::memrchr(b'\n', within) else { return (0, 0) };
    let taken = within.get(..=last).unwrap_or(within);
    let count = memchr::memchr_iter(b'\n', taken).count();
    (taken.len(), u32::try_from(count).unwrap_or(u32::MAX))
}
