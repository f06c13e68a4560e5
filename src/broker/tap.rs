//! Watching messages without consuming them: what is there is copied, nothing is written.
//!
//! A [`Tap`] follows the shards from where it starts, each strictly by offset. Each look copies a
//! bounded chunk within one short read, so that whoever is slow to print what was copied holds up
//! neither consumers nor the reuse of pages. What was consumed before a look is gone: its messages
//! are counted as missed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select};

use super::append::shard_ends;
use super::frame;
use super::frames::Frames;
use super::progress::Progress;
use super::wake::WakeListener;
use crate::message::{Offset, OffsetRange, ShardId, ShardKey, Topic, line_prefix_bytes};
use crate::state::{ReadTxn, State, StateError};

/// What one look copies at most: so many frames, and no further one after so many bytes.
const LOOK_FRAMES: usize = 64;
const LOOK_BYTES: usize = 1 << 20;

/// Where a tap starts. A shard that comes into being later is watched from its first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At what is accepted from now on.
    Now,
    /// At the first message that waits; what is in files already is passed over.
    Waiting,
    /// At this offset of every shard.
    At(Offset),
}

/// Why a tap cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The state environment could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The wake-up socket can't be made.
    #[error("binding a wake-up socket: {0}")]
    Wake(io::Error),
}

/// Consecutive messages of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The shard.
    pub key: ShardKey,
    /// Their offsets.
    pub range: OffsetRange,
    /// Their lines, each ended by a newline.
    pub lines: Vec<u8>,
}

/// What one look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Messages in the order in which they were accepted, as far as the clock tells.
    pub pieces: Vec<Piece>,
    /// How many messages of a shard were consumed before this look came to them.
    pub missed: BTreeMap<ShardKey, u64>,
}

/// How far a shard has been watched.
#[derive(Debug)]
struct Place {
    next: Offset,
    /// In files since before the start, beyond the first message that waited: sorted and apart.
    in_files: Vec<OffsetRange>,
}

/// Watches shards.
#[derive(Debug)]
pub struct Tap {
    state: State,
    topic: Topic,
    /// The shards chosen; empty for all.
    chosen: BTreeSet<ShardId>,
    start: Start,
    places: BTreeMap<ShardKey, Place>,
    listener: WakeListener,
    wakes: Vec<Receiver<()>>,
}

impl Tap {
    /// A tap on the shards `chosen` of a topic, on all if it is empty. It misses nothing that is
    /// accepted after this.
    ///
    /// # Errors
    /// A read failed, or the wake-up socket can't be made.
    pub fn new(
        state: State,
        topic: Topic,
        chosen: BTreeSet<ShardId>,
        start: Start,
    ) -> Result<Self, TapError> {
        let listener = WakeListener::start(state.dir()).map_err(TapError::Wake)?;
        let places = BTreeMap::new();
        let mut tap = Self { state, topic, chosen, start, places, listener, wakes: Vec::new() };
        let state = tap.state.clone();
        let txn = state.read()?;
        for (key, end) in shard_ends(&txn, state.tables())? {
            let place = match start {
                Start::Now => Place { next: end.offset, in_files: Vec::new() },
                Start::Waiting => {
                    let Progress { low, ranges, .. } = Progress::load(&txn, state.tables(), key)?;
                    Place { next: low, in_files: ranges }
                }
                Start::At(offset) => Place { next: offset, in_files: Vec::new() },
            };
            if let Some(known) = tap.watch(key) {
                *known = place;
            }
        }
        Ok(tap)
    }

    /// The place in a shard, which may be new; `None` if it is not among those chosen.
    fn watch(&mut self, key: ShardKey) -> Option<&mut Place> {
        let is_chosen = self.chosen.is_empty() || self.chosen.contains(&key.shard);
        if key.topic != self.topic || !is_chosen {
            return None;
        }
        Some(match self.places.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.wakes.push(self.listener.register(key));
                let next = if let Start::At(offset) = self.start { offset } else { 0 };
                new.insert(Place { next, in_files: Vec::new() })
            }
        })
    }

    /// Copies what has come since the last look, up to about a megabyte; empty if there is nothing.
    ///
    /// # Errors
    /// A read failed.
    pub fn look(&mut self) -> Result<Look, StateError> {
        let state = self.state.clone();
        let txn = state.read()?;
        let mut look = Look::default();
        let mut ahead = Vec::new();
        for (key, end) in shard_ends(&txn, state.tables())? {
            let Some(place) = self.watch(key).filter(|place| place.next < end.offset) else {
                continue;
            };
            match Ahead::at(&txn, &state, key, place.next)? {
                Some(frames) => ahead.push(frames),
                None => place.pass(key, OffsetRange::new(end.offset, end.offset), &[], &mut look),
            }
        }
        let mut bytes = 0;
        for _ in 0..LOOK_FRAMES {
            // The earliest of all; `ahead` is sorted by shard, and the first of equals is taken.
            let next = ahead.iter_mut().min_by_key(|frames| frames.accepted_ms);
            let Some(frames) = next.filter(|_| bytes < LOOK_BYTES) else { break };
            if let Some(place) = self.places.get_mut(&frames.key) {
                place.pass(frames.key, frames.range, frames.lines, &mut look);
            }
            bytes += frames.lines.len();
            if !frames.advance(&txn, &state)? {
                let ended = frames.key;
                ahead.retain(|frames| frames.key != ended);
            }
        }
        Ok(look)
    }

    /// Waits for a wake-up, at most for `timeout`: one may get lost, and none comes for the first
    /// messages of a shard.
    pub fn wait(&self, timeout: Duration) {
        let mut select = Select::new();
        for wake in &self.wakes {
            select.recv(wake);
        }
        // A wake-up and the end of the wait both mean: look again.
        let _woken = select.ready_timeout(timeout);
        for wake in &self.wakes {
            let _taken = wake.try_recv();
        }
    }
}

impl Look {
    /// Whether nothing has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.missed.is_empty()
    }
}

impl Place {
    /// Goes on to the end of the frame `range`: copies what is new of it, and counts what should
    /// have been before it as missed.
    fn pass(&mut self, key: ShardKey, range: OffsetRange, lines: &[u8], look: &mut Look) {
        let before = without(OffsetRange::new(self.next, range.first), &self.in_files);
        let missed: u64 = before.iter().map(|range| range.count()).sum();
        if missed > 0 {
            *look.missed.entry(key).or_default() += missed;
        }
        let new = OffsetRange::new(self.next.max(range.first), range.end);
        for wanted in without(new, &self.in_files) {
            let skip = line_prefix_bytes(lines, wanted.first - range.first);
            let rest = lines.get(skip..).unwrap_or_default();
            let bytes = line_prefix_bytes(rest, wanted.count());
            let lines = rest.get(..bytes).unwrap_or(rest).to_vec();
            look.pieces.push(Piece { key, range: wanted, lines });
        }
        self.next = range.end;
    }
}

/// What is in `range` and in none of `others`, which are sorted and apart.
fn without(range: OffsetRange, others: &[OffsetRange]) -> Vec<OffsetRange> {
    let mut left = Vec::new();
    let mut next = range.first;
    for other in others.iter().filter(|other| other.overlaps(range)) {
        if next < other.first {
            left.push(OffsetRange::new(next, other.first));
        }
        next = other.end;
    }
    if next < range.end {
        left.push(OffsetRange::new(next, range.end));
    }
    left
}

/// The next frame of a shard, and those behind it.
struct Ahead<'txn> {
    key: ShardKey,
    frames: Frames<'txn>,
    range: OffsetRange,
    lines: &'txn [u8],
    accepted_ms: u64,
}

impl<'txn> Ahead<'txn> {
    /// From the frame that holds `offset`, or the next one; `None` if there is none.
    fn at(
        txn: &'txn ReadTxn<'_>,
        state: &State,
        key: ShardKey,
        offset: Offset,
    ) -> Result<Option<Self>, StateError> {
        let frames = Frames::from(txn, state, key, offset)?;
        let range = OffsetRange::new(0, offset);
        let mut ahead = Self { key, frames, range, lines: &[], accepted_ms: 0 };
        Ok(ahead.advance(txn, state)?.then_some(ahead))
    }

    /// Goes to the next frame that ends later than this one; false if there is none.
    fn advance(&mut self, txn: &'txn ReadTxn<'_>, state: &State) -> Result<bool, StateError> {
        for frame in self.frames.by_ref() {
            let (range, lines) = frame?;
            if range.end > self.range.end {
                let row = state.tables().frames.get(txn, &self.key.offset_key(range.first))?;
                let head = row.and_then(frame::decode).map(|(head, _)| head);
                self.accepted_ms = head.map_or(0, |head| head.accepted_ms);
                (self.range, self.lines) = (range, lines);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;
    use std::path::Path;

    use super::*;
    use crate::broker::append::Appender;
    use crate::broker::wake::Waker;
    use crate::message::Lines;
    use crate::state::{StateOptions, WriteTxn};

    fn key(shard: u16) -> ShardKey {
        ShardKey::new(Topic::Messages, ShardId(shard))
    }

    fn open(dir: &Path) -> State {
        let (dir, on_poison) = (dir.to_owned(), Box::new(|_: &str| {}));
        State::open(StateOptions { dir, map_bytes: 64 << 20, low_water_bytes: Some(0), on_poison })
            .unwrap()
    }

    /// One commit of lines, as accepted at `at_ms`.
    fn append(state: &State, at_ms: u64, shard: u16, lines: &[&str]) {
        let mut all = Lines::default();
        lines.iter().for_each(|line| all.push(line.as_bytes()));
        let work = move |txn: &mut WriteTxn<'_>| {
            let mut appender = Appender::new(at_ms);
            appender.append(txn, key(shard), &all)?;
            appender.finish(txn).map(drop)
        };
        state.commit(work).unwrap();
    }

    /// The messages below `low` and those of `ranges` are in files; the frames that start below
    /// `gone` are deleted.
    fn consume(state: &State, shard: u16, low: Offset, ranges: &[(Offset, Offset)], gone: Offset) {
        let ranges = ranges.iter().map(|(first, end)| OffsetRange::new(*first, *end)).collect();
        let progress = Progress { low, ranges, ..Progress::default() };
        let work = move |txn: &mut WriteTxn<'_>| {
            let (from, to) = (key(shard).offset_key(0), key(shard).offset_key(gone));
            let gone = (Bound::Included(from.as_slice()), Bound::Excluded(to.as_slice()));
            txn.tables.frames.delete_range(&mut txn.txn, &gone)?;
            progress.store(txn, key(shard))
        };
        state.commit(work).unwrap();
    }

    fn tap(state: &State, start: Start) -> Tap {
        Tap::new(state.clone(), Topic::Messages, BTreeSet::new(), start).unwrap()
    }

    /// Shard, first offset and lines.
    type Shown = (u16, Offset, String);

    /// All there is, and how many messages of which shard were missed.
    fn all(tap: &mut Tap) -> (Vec<Shown>, Vec<(u16, u64)>) {
        let (mut pieces, mut missed) = (Vec::new(), Vec::new());
        loop {
            let look = tap.look().unwrap();
            if look.is_empty() {
                return (pieces, missed);
            }
            pieces.extend(look.pieces.into_iter().map(|piece| {
                let text = String::from_utf8(piece.lines).unwrap();
                assert_eq!(text.lines().count() as u64, piece.range.count());
                (piece.key.shard.0, piece.range.first, text.replace('\n', " ").trim().to_owned())
            }));
            missed.extend(look.missed.into_iter().map(|(key, count)| (key.shard.0, count)));
        }
    }

    fn piece(shard: u16, first: Offset, text: &str) -> Shown {
        (shard, first, text.to_owned())
    }

    #[test]
    fn shards_come_in_the_order_of_their_acceptance_also_one_that_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        append(&state, 1, 0, &["old"]);
        let mut now = tap(&state, Start::Now);
        assert_eq!(all(&mut now).0, []);
        append(&state, 2, 3, &["a", "b"]);
        append(&state, 3, 0, &["c"]);
        append(&state, 4, 3, &["d"]);
        let expected = [piece(3, 0, "a b"), piece(0, 1, "c"), piece(3, 2, "d")];
        assert_eq!(all(&mut now), (expected.to_vec(), vec![]));
        assert_eq!(all(&mut now).0, []);
        let chosen = BTreeSet::from([ShardId(0), ShardId(9)]);
        let mut some = Tap::new(state, Topic::Messages, chosen, Start::At(0)).unwrap();
        assert_eq!(all(&mut some).0, [piece(0, 0, "old"), piece(0, 1, "c")]);
    }

    #[test]
    fn waiting_starts_within_a_frame_and_passes_over_what_is_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        append(&state, 1, 0, &["0", "1", "2", "3", "4", "5"]);
        append(&state, 2, 0, &["6", "7"]);
        consume(&state, 0, 1, &[(2, 4), (5, 7)], 0);
        let mut waiting = tap(&state, Start::Waiting);
        let expected = [piece(0, 1, "1"), piece(0, 4, "4"), piece(0, 7, "7")];
        assert_eq!(all(&mut waiting), (expected.to_vec(), vec![]));
        let (pieces, missed) = all(&mut tap(&state, Start::At(5)));
        assert_eq!((pieces, missed), (vec![piece(0, 5, "5"), piece(0, 6, "6 7")], vec![]));
    }

    #[test]
    fn what_was_consumed_before_it_was_read_is_missed_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        append(&state, 1, 0, &["0", "1"]);
        append(&state, 2, 0, &["2"]);
        append(&state, 3, 1, &["x", "y"]);
        let mut from_start = tap(&state, Start::At(0));
        consume(&state, 0, 2, &[], 2);
        consume(&state, 1, 2, &[], 2);
        let (pieces, missed) = all(&mut from_start);
        assert_eq!((pieces, missed), (vec![piece(0, 2, "2")], vec![(0, 2), (1, 2)]));
        append(&state, 4, 1, &["z"]);
        assert_eq!(all(&mut from_start), (vec![piece(1, 2, "z")], vec![]));
        let mut beyond = tap(&state, Start::At(4));
        append(&state, 5, 1, &["3", "4", "5"]);
        assert_eq!(all(&mut beyond), (vec![piece(1, 4, "4 5")], vec![]));
    }

    #[test]
    fn a_look_is_bounded_and_nothing_is_lost_between_two() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        let long = "x".repeat(30_000);
        for n in 0..100 {
            append(&state, n, u16::try_from(n % 3).unwrap(), &[&long, "y"]);
        }
        let mut waiting = tap(&state, Start::Waiting);
        let mut counts = Vec::new();
        loop {
            let look = waiting.look().unwrap();
            if look.is_empty() {
                break;
            }
            let bytes: usize = look.pieces.iter().map(|piece| piece.lines.len()).sum();
            assert!(bytes < LOOK_BYTES + frame::LINES_BYTES_MAX, "{bytes}");
            counts.push(look.pieces.len());
        }
        assert_eq!(counts.iter().sum::<usize>(), 100);
        assert!(counts.len() > 2, "{counts:?}");
    }

    #[test]
    fn a_wake_up_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        append(&state, 1, 4, &["a"]);
        let watching = tap(&state, Start::Now);
        let waker = Waker::new(dir.path()).unwrap();
        let (woken, is_woken) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            watching.wait(Duration::from_secs(3600));
            woken.send(()).unwrap();
        });
        waker.wake(&[key(4)]);
        is_woken.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
