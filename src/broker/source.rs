//! The workers' side of a shard: take the next delivery.
//!
//! The idle workers of a pool share one [`Source`]. One of them waits in [`Source::next`] for the
//! delivery that becomes due, the others wait for it to leave; so taking is one step, and no thread
//! stands between the messages and the worker that gets them. What comes back unsettled goes first.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::append::{ShardEnd, shard_end};
use super::progress::Progress;
use super::take::{Decision, TakePolicy, Waiting};
use super::{Delivery, TakeBack, frame};
use crate::clock::{Clock, TokenBucket};
use crate::message::{Offset, OffsetRange, ShardKey, line_prefix_bytes};
use crate::service::{Lifecycle, held};
use crate::state::{ReadTxn, State, StateError};

/// A shard that this process owns, as its workers see it.
pub struct Source {
    state: State,
    key: ShardKey,
    epoch: u64,
    policy: TakePolicy,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
    cursor: Mutex<Cursor>,
    returned: Mutex<VecDeque<OffsetRange>>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({}, epoch {})", self.key, self.epoch)
    }
}

/// Held by the one worker that waits for the next delivery.
#[derive(Debug)]
struct Cursor {
    /// The first offset not yet taken.
    next: Offset,
    /// Bytes that the shard had taken in before it.
    next_bytes: u64,
    waiting_since: Option<Instant>,
    bucket: TokenBucket,
    wake: Receiver<()>,
}

impl Source {
    /// The shard `key`, right after its recovery left it at `progress`.
    ///
    /// # Errors
    /// A read failed.
    pub fn new(
        state: State,
        key: ShardKey,
        progress: &Progress,
        policy: TakePolicy,
        clock: Arc<dyn Clock>,
        life: Lifecycle,
        wake: Receiver<()>,
    ) -> Result<Arc<Self>, StateError> {
        let (gaps, next) = progress.gaps();
        let next_bytes = bytes_before(&state, key, next)?;
        let files = TakePolicy::FILES_IN_HAND;
        let bucket = TokenBucket::new(files, policy.files_per_second, clock.monotonic());
        let cursor = Cursor { next, next_bytes, waiting_since: None, bucket, wake };
        Ok(Arc::new(Self {
            state,
            key,
            epoch: progress.epoch,
            policy,
            clock,
            life,
            cursor: Mutex::new(cursor),
            returned: Mutex::new(gaps.into()),
        }))
    }

    /// The shard.
    #[must_use]
    pub const fn key(&self) -> ShardKey {
        self.key
    }

    /// Waits for the next delivery; `None` when the process stops.
    ///
    /// # Errors
    /// A read failed, or frames are missing that should be there.
    pub fn next(self: &Arc<Self>) -> Result<Option<Delivery>, StateError> {
        let mut cursor = held(&self.cursor);
        while !self.life.is_stopping() {
            let returned = held(&self.returned).pop_front();
            if let Some(range) = returned {
                return self.take_again(range).map(Some);
            }
            let txn = self.state.read()?;
            let end = shard_end(&txn, self.state.tables(), self.key)?;
            let now = self.clock.monotonic();
            let waiting = cursor.look(end, now);
            match self.policy.decide(waiting, cursor.bucket.wait(now)) {
                Decision::Take { spend } => {
                    if spend {
                        cursor.bucket.try_take(now);
                    }
                    return self.take(&mut cursor, &txn, end).map(Some);
                }
                Decision::Wait(pause) => {
                    drop(txn);
                    // A wake-up, the end of the wait and a closed channel all mean: look again.
                    if cursor.wake.recv_timeout(pause) == Err(CLOSED) {
                        std::thread::sleep(pause);
                    }
                }
                Decision::Hold(pause) => {
                    drop(txn);
                    std::thread::sleep(pause);
                }
            }
        }
        Ok(None)
    }

    fn take(
        self: &Arc<Self>,
        cursor: &mut Cursor,
        txn: &ReadTxn<'_>,
        end: ShardEnd,
    ) -> Result<Delivery, StateError> {
        let most =
            OffsetRange::new(cursor.next, end.offset.min(cursor.next + self.policy.batch_max));
        let bytes = cursor.bytes_of(most.count(), end);
        let (range, lines) = self.read(txn, most, bytes)?;
        cursor.next = range.end;
        cursor.next_bytes += lines.len() as u64;
        cursor.waiting_since = None;
        Ok(self.deliver(range, lines))
    }

    /// Delivers what came back; the part that is beyond one delivery goes back again.
    fn take_again(self: &Arc<Self>, range: OffsetRange) -> Result<Delivery, StateError> {
        let most =
            OffsetRange::new(range.first, range.end.min(range.first + self.policy.batch_max));
        let (taken, lines) = self.read(&self.state.read()?, most, 0)?;
        if taken.end < range.end {
            held(&self.returned).push_front(OffsetRange::new(taken.end, range.end));
        }
        Ok(self.deliver(taken, lines))
    }

    fn deliver(self: &Arc<Self>, range: OffsetRange, lines: Vec<u8>) -> Delivery {
        let home = Arc::clone(self) as Arc<dyn TakeBack>;
        Delivery { key: self.key, range, lines, epoch: self.epoch, home: Some(home) }
    }

    /// The lines of `most`, or of as much from its start as one delivery may hold in bytes; about
    /// `expected_bytes`.
    fn read(
        &self,
        txn: &ReadTxn<'_>,
        most: OffsetRange,
        expected_bytes: usize,
    ) -> Result<(OffsetRange, Vec<u8>), StateError> {
        let damaged = |at| {
            StateError::Damaged(format!("{}: no frame holds offset {at}, which waits", self.key))
        };
        let limit = usize::try_from(self.policy.batch_bytes_max).unwrap_or(usize::MAX);
        // Growing step by step would leave as much again in every worker's heap.
        let mut lines = Vec::with_capacity(expected_bytes.min(limit) + frame::FRAME_BYTES_MAX);
        let mut next = most.first;
        for frame in Frames::from(txn, &self.state, self.key, most.first)? {
            let (range, frame_lines) = frame?;
            if next >= most.end || (lines.len() >= limit && next > most.first) {
                break;
            }
            if range.first > next || range.end <= next {
                return Err(damaged(next));
            }
            let skip = line_prefix_bytes(frame_lines, next - range.first);
            let end = range.end.min(most.end);
            let rest = frame_lines.get(skip..).unwrap_or_default();
            let bytes =
                if end == range.end { rest.len() } else { line_prefix_bytes(rest, end - next) };
            lines.extend_from_slice(rest.get(..bytes).unwrap_or(rest));
            next = end;
        }
        if next == most.first {
            return Err(damaged(next));
        }
        Ok((OffsetRange::new(most.first, next), lines))
    }
}

const CLOSED: crossbeam_channel::RecvTimeoutError =
    crossbeam_channel::RecvTimeoutError::Disconnected;

impl TakeBack for Source {
    fn take_back(&self, range: OffsetRange) {
        held(&self.returned).push_back(range);
    }
}

impl Cursor {
    /// The bytes of the next `messages`, as far as the average of what waits tells.
    fn bytes_of(&self, messages: u64, end: ShardEnd) -> usize {
        let waiting = u128::from(end.offset.saturating_sub(self.next).max(1));
        let bytes = u128::from(end.bytes.saturating_sub(self.next_bytes));
        usize::try_from(bytes * u128::from(messages) / waiting).unwrap_or(0)
    }

    fn look(&mut self, end: ShardEnd, now: Instant) -> Waiting {
        let messages = end.offset.saturating_sub(self.next);
        if messages == 0 {
            self.waiting_since = None;
            return Waiting::default();
        }
        let since = *self.waiting_since.get_or_insert(now);
        Waiting {
            messages,
            bytes: end.bytes.saturating_sub(self.next_bytes),
            waited: now.saturating_duration_since(since),
        }
    }
}

/// The bytes that the shard had taken in before `offset`.
fn bytes_before(state: &State, key: ShardKey, offset: Offset) -> Result<u64, StateError> {
    let txn = state.read()?;
    let end = shard_end(&txn, state.tables(), key)?;
    if offset >= end.offset {
        return Ok(end.bytes);
    }
    let row = state.tables().frames.get_lower_than_or_equal_to(&txn, &key.offset_key(offset))?;
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
