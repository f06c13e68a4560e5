//! The workers' side of a shard: take the next delivery.
//!
//! The idle workers of a pool share one [`Source`]. One of them waits in [`Source::next`] for the
//! delivery that becomes due, the others wait for it to leave; so taking is one step, and no thread
//! stands between the messages and the worker that gets them. What comes back unsettled goes first.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Delivery;
use super::append::shard_end;
use super::claim::Claim;
use super::cursor::Cursor;
use super::frame::LINES_BYTES_MAX;
use super::frames::{Frames, bytes_before, oldest_waiting_ms};
use super::progress::Progress;
use super::retry::{self, Again, Purpose, Retries, Retry, Verdict};
use super::take::{Decision, TakePolicy};
use crate::clock::{Clock, TokenBucket};
use crate::message::{Offset, OffsetRange, ShardKey, line_prefix_bytes};
use crate::service::{Lifecycle, held};
use crate::state::{ReadTxn, State, StateError};

/// What is copied in one read, at least, in bytes: a frame under load, or many small ones. Each
/// worker holds so much, or twice as much.
const PIECE_BYTES: usize = 16 * 1024;

/// A shard that this process owns, as its workers see it.
pub struct Source {
    state: State,
    key: ShardKey,
    epoch: u64,
    policy: TakePolicy,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
    cursor: Mutex<Cursor>,
    /// The first offset not yet taken, for those who do not hold the cursor.
    next: AtomicU64,
    returned: Mutex<VecDeque<Returned>>,
    retries: Mutex<Retries>,
    /// Room for pieces of lines; as many as were ever in use at once.
    pieces: Mutex<Vec<Vec<u8>>>,
    /// Wakes whoever waits for the next delivery.
    nudge: (Sender<()>, Receiver<()>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({}, epoch {})", self.key, self.epoch)
    }
}

/// Messages that were taken and are to be delivered again.
#[derive(Debug, Clone, Copy)]
struct Returned {
    range: OffsetRange,
    purpose: Purpose,
    due: Instant,
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
        let retries = retry::load(&*state.read()?, state.tables(), key)?;
        let (next, untried) = retries.untried(progress);
        let next_bytes = bytes_before(&*state.read()?, state.tables(), key, next)?;
        let files = TakePolicy::FILES_IN_HAND;
        let bucket = TokenBucket::new(files, policy.files_per_second, clock.monotonic());
        let cursor = Cursor { next, next_bytes, waiting_since: None, bucket, wake };
        let source = Self {
            epoch: progress.epoch,
            cursor: Mutex::new(cursor),
            next: AtomicU64::new(next),
            returned: Mutex::default(),
            pieces: Mutex::default(),
            nudge: bounded(1),
            retries: Mutex::new(Retries::default()),
            state,
            key,
            policy,
            clock,
            life,
        };
        for range in untried {
            source.take_back_in_parts(range)?;
        }
        source.queue(retries.all());
        *held(&source.retries) = retries;
        Ok(Arc::new(source))
    }

    /// The shard.
    #[must_use]
    pub const fn key(&self) -> ShardKey {
        self.key
    }

    /// Waits for the next delivery; `None` when the process stops, or `resigned` is set.
    ///
    /// # Errors
    /// A read failed, or frames are missing that should be there.
    pub fn next(self: &Arc<Self>, resigned: &AtomicBool) -> Result<Option<Delivery>, StateError> {
        let mut cursor = held(&self.cursor);
        while !self.life.is_stopping() && !resigned.load(Ordering::Relaxed) {
            let now = self.clock.monotonic();
            let due = match self.pop_returned(now) {
                Ok(Returned { range, purpose, .. }) => {
                    return Ok(Some(self.deliver(range, purpose)));
                }
                Err(due) => due,
            };
            let txn = self.state.read()?;
            let end = shard_end(&txn, self.state.tables(), self.key)?;
            let most = self.pass_by_dead(&mut cursor, &txn, end.offset)?;
            let waiting = cursor.look(end, now);
            let until = |pause: Duration| {
                due.map_or(pause, |due| pause.min(due.saturating_duration_since(now)))
            };
            match self.policy.decide(waiting, cursor.bucket.wait(now)) {
                Decision::Take { spend } => {
                    if spend {
                        cursor.bucket.try_take(now);
                    }
                    return self.take(&mut cursor, &txn, most).map(Some);
                }
                Decision::Wait(pause) => {
                    drop(txn);
                    cursor.wait(&self.nudge.1, until(pause));
                }
                Decision::Hold(pause) => {
                    drop(txn);
                    // More messages change nothing until then.
                    let _nudged = self.nudge.1.recv_timeout(until(pause));
                }
            }
        }
        Ok(None)
    }

    /// What is due again; or when the first will be.
    fn pop_returned(&self, now: Instant) -> Result<Returned, Option<Instant>> {
        let mut returned = held(&self.returned);
        let due = returned.iter().position(|returned| returned.due <= now);
        due.and_then(|at| returned.remove(at))
            .ok_or_else(|| returned.iter().map(|returned| returned.due).min())
    }

    fn take(
        self: &Arc<Self>,
        cursor: &mut Cursor,
        txn: &ReadTxn<'_>,
        most: Offset,
    ) -> Result<Delivery, StateError> {
        let most = OffsetRange::new(cursor.next, most.min(cursor.next + self.policy.batch_max));
        let (range, bytes) = self.cut(txn, most)?;
        cursor.next = range.end;
        self.next.store(range.end, Ordering::Relaxed);
        cursor.next_bytes += bytes;
        cursor.waiting_since = None;
        Ok(self.deliver(range, whole(range)))
    }

    /// Messages that were dead when they came, because they are no entries: they are passed by and
    /// buried. Says where the next of them stands, or else `end`.
    fn pass_by_dead(
        &self,
        cursor: &mut Cursor,
        txn: &ReadTxn<'_>,
        end: Offset,
    ) -> Result<Offset, StateError> {
        let mut dead = Vec::new();
        let most = loop {
            match retry::first_from(txn, self.state.tables(), self.key, cursor.next)? {
                Some(row) if row.range.first == cursor.next => {
                    cursor.next = row.range.end;
                    dead.push(row);
                }
                row => break row.map_or(end, |row| row.range.first.min(end)),
            }
        };
        if !dead.is_empty() {
            cursor.next_bytes = bytes_before(txn, self.state.tables(), self.key, cursor.next)?;
            self.next.store(cursor.next, Ordering::Relaxed);
            let again = held(&self.retries).add_dead(dead);
            self.queue(again);
        }
        Ok(most)
    }

    /// What was taken before a restart, in deliveries of today's size. What failed or is dead comes
    /// back as it was, whatever its size: the row that stands for it must go with its commit.
    fn take_back_in_parts(&self, mut range: OffsetRange) -> Result<(), StateError> {
        let txn = self.state.read()?;
        while !range.is_empty() {
            let end = range.end.min(range.first + self.policy.batch_max);
            let (part, _) = self.cut(&txn, OffsetRange::new(range.first, end))?;
            self.take_back(part, whole(part));
            range.first = part.end;
        }
        Ok(())
    }

    fn deliver(self: &Arc<Self>, range: OffsetRange, purpose: Purpose) -> Delivery {
        Delivery::new(Arc::clone(self), self.epoch, range, purpose)
    }

    /// `most`, or as much from its start as one delivery may hold in bytes; and its bytes.
    fn cut(&self, txn: &ReadTxn<'_>, most: OffsetRange) -> Result<(OffsetRange, u64), StateError> {
        let (mut end, mut bytes) = (most.first, 0);
        self.walk(txn, most, |range, lines| {
            end = range.end;
            bytes += lines.len() as u64;
            Ok::<_, StateError>(bytes < self.policy.batch_bytes_max)
        })?;
        Ok((OffsetRange::new(most.first, end), bytes))
    }

    /// Passes over the lines of `range`, frame by frame, while `visit` says true.
    fn walk<E: From<StateError>>(
        &self,
        txn: &ReadTxn<'_>,
        range: OffsetRange,
        mut visit: impl FnMut(OffsetRange, &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut next = range.first;
        for frame in Frames::from(txn, &self.state, self.key, next)? {
            let (held, lines) = frame?;
            if held.first > next || held.end <= next {
                break;
            }
            let skip = line_prefix_bytes(lines, next - held.first);
            let rest = lines.get(skip..).unwrap_or_default();
            let end = held.end.min(range.end);
            let bytes =
                if end == held.end { rest.len() } else { line_prefix_bytes(rest, end - next) };
            let piece = OffsetRange::new(next, end);
            next = end;
            if !visit(piece, rest.get(..bytes).unwrap_or(rest))? || next >= range.end {
                return Ok(());
            }
        }
        let key = self.key;
        Err(StateError::Damaged(format!("{key}: no frame holds offset {next}, which waits")).into())
    }

    /// Passes over copies of the lines, a piece at a time: whatever `visit` waits for, no read is
    /// open meanwhile, which would keep pages from being used again.
    pub(super) fn visit<E: From<StateError>>(
        &self,
        range: OffsetRange,
        mut visit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Used again and again: fresh room for each would be spread over the whole heap.
        let room = || Vec::with_capacity(PIECE_BYTES + LINES_BYTES_MAX);
        let (mut next, mut piece) = (range.first, held(&self.pieces).pop().unwrap_or_else(room));
        while next < range.end {
            piece.clear();
            let txn = self.state.read()?;
            self.walk(&txn, OffsetRange::new(next, range.end), |part, lines| {
                piece.extend_from_slice(lines);
                next = part.end;
                Ok::<_, E>(piece.len() < PIECE_BYTES)
            })?;
            drop(txn);
            visit(&piece)?;
        }
        held(&self.pieces).push(piece);
        Ok(())
    }

    pub(super) fn take_back(&self, range: OffsetRange, purpose: Purpose) {
        let due = self.clock.monotonic();
        held(&self.returned).push_back(Returned { range, purpose, due });
        self.nudge();
    }

    /// The owner of `claim` was too slow and has lost it: somebody else may have the messages.
    pub fn take_from(&self, claim: &Claim) {
        self.take_back(claim.range(), claim.purpose());
    }

    fn queue(&self, again: Vec<Again>) {
        if again.is_empty() {
            return;
        }
        let now = self.clock.monotonic();
        let returned = again.into_iter().map(|Again { range, purpose, pause }| Returned {
            range,
            purpose,
            due: now + pause,
        });
        held(&self.returned).extend(returned);
        self.nudge();
    }

    fn nudge(&self) {
        // One that waits is as good as many.
        let _already = self.nudge.0.try_send(());
    }

    pub(super) fn settled(&self, range: OffsetRange) {
        let again = held(&self.retries).settle(range);
        self.queue(again);
    }

    pub(super) fn retries_of(&self, range: OffsetRange) -> Vec<Retry> {
        held(&self.retries).within(range).cloned().collect()
    }

    pub(super) fn fail(
        &self,
        claim: &Arc<Claim>,
        reason: &str,
        attempts_max: u32,
    ) -> Result<Option<Verdict>, StateError> {
        let now_ms = self.clock.wall_ms();
        let failure = held(&self.retries).judge(claim.range(), reason, attempts_max, now_ms);
        let (key, epoch) = (self.key, self.epoch);
        let (rows, ours) = (failure.rows.clone(), Arc::clone(claim));
        let stored = self.state.commit(move |txn| {
            let progress = Progress::load(&txn.txn, txn.tables, key)?;
            if progress.epoch != epoch || !ours.enter_commit() {
                return Ok(false);
            }
            retry::store(txn, key, &rows).map(|()| true)
        });
        match stored {
            Ok(true) => {
                let verdict = failure.verdict;
                let again = held(&self.retries).take_in(failure);
                self.queue(again);
                Ok(Some(verdict))
            }
            Ok(false) => Ok(None),
            Err(error) => {
                claim.leave_commit();
                Err(error)
            }
        }
    }

    /// How long the oldest message that nobody has taken has waited.
    ///
    /// # Errors
    /// A read failed.
    pub fn backlog_age(&self) -> Result<Duration, StateError> {
        let next = self.next.load(Ordering::Relaxed);
        let txn = self.state.read()?;
        if shard_end(&txn, self.state.tables(), self.key)?.offset <= next {
            return Ok(Duration::ZERO);
        }
        let oldest_ms = oldest_waiting_ms(&txn, &self.state, self.key, next)?;
        let age_ms = oldest_ms.map_or(0, |oldest| self.clock.wall_ms().saturating_sub(oldest));
        Ok(Duration::from_millis(age_ms))
    }
}

/// A delivery that is a batch of its own.
const fn whole(range: OffsetRange) -> Purpose {
    Purpose::Process { of: range.count() }
}
