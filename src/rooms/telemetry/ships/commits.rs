//! The batches of telemetry in the order of their commits, for whoever follows them.
//!
//! ```text
//! table ship_batches:  shard key | number of the batch u64
//!                        -> first offset u64 | end of its offsets u64 | lines before it u64
//! ```
//!
//! All big-endian. *Lines before it* counts the lines of the shard's batches that were committed
//! earlier, ever. So a place in a shard is a number of lines, and how many are missing between two
//! places is known, whatever else is not. Rows go some time after those of the journal; the newest
//! of a shard stays.

use std::collections::BTreeMap;
use std::ops::Bound;

use heed::RoTxn;

use crate::batch::journal::{self, BatchRow};
use crate::broker::append::shard_ends;
use crate::message::{Offset, OffsetRange, ShardKey, Topic};
use crate::state::{State, StateError, Tables, WriteTxn};

/// Old rows that are deleted for each that comes: more than one.
const TRIMMED: usize = 8;

/// How far the batches of a shard have been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The number of the last batch of which anything was read, 0 at the start.
    pub batch: u64,
    /// Lines of the shard that were read or passed over, in the order of commits.
    pub lines: u64,
}

/// What comes next in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Lines of a batch.
    Batch {
        /// The batch.
        row: Box<BatchRow>,
        /// How many of its lines were read before.
        skip: u64,
        /// The place when all of it is read.
        end: Place,
    },
    /// Lines of which nothing is known any more but that they were there.
    Gone {
        /// How many.
        lines: u64,
        /// The place behind them.
        end: Place,
        /// When the oldest file of the shard that is known was committed, in milliseconds since
        /// 1970: they were before.
        before_ms: Option<u64>,
    },
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u64,
    range: OffsetRange,
    lines_before: u64,
}

impl Entry {
    const fn end(self) -> u64 {
        self.lines_before + self.range.count()
    }

    const fn end_place(self) -> Place {
        Place { batch: self.number, lines: self.end() }
    }

    fn read((key, value): (&[u8], &[u8])) -> Result<Self, StateError> {
        let fields = value.as_chunks::<8>().0.iter().map(|field| u64::from_be_bytes(*field));
        let (number, fields) = (ShardKey::parse_offset(key), fields.collect::<Vec<_>>());
        let (Some(number), [first, end, lines_before]) = (number, fields.as_slice()) else {
            let text = "a row of table ship_batches is not readable";
            return Err(StateError::Damaged(text.to_owned()));
        };
        let range = OffsetRange::new(*first, *end);
        Ok(Self { number, range, lines_before: *lines_before })
    }

    /// The row of the batch, prepared or done.
    fn row(
        self,
        txn: &RoTxn<'_>,
        tables: Tables,
        key: ShardKey,
    ) -> Result<Option<BatchRow>, StateError> {
        let found = journal::row(txn, tables, key, self.range.first)?;
        Ok(found.filter(|row| row.number == self.number))
    }
}

/// Notes a batch, in the transaction that commits it.
pub(super) fn note(
    txn: &mut WriteTxn<'_>,
    key: ShardKey,
    row: &BatchRow,
) -> Result<(), StateError> {
    let lines_before = last(&txn.txn, txn.tables, key)?.map_or(0, Entry::end);
    let value = [row.range.first, row.range.end, lines_before].map(u64::to_be_bytes).concat();
    let table = txn.tables.ship_batches;
    table.put(&mut txn.txn, &key.offset_key(row.number), &value)?;
    let (from, to) = (key.offset_key(0), key.offset_key(row.number));
    let oldest = table.range(&txn.txn, &between(&from, &to))?.take(TRIMMED);
    let oldest: Vec<Entry> = oldest.map(|row| Entry::read(row?)).collect::<Result<_, _>>()?;
    for entry in oldest {
        if entry.row(&txn.txn, txn.tables, key)?.is_some() {
            break;
        }
        table.delete(&mut txn.txn, &key.offset_key(entry.number))?;
    }
    Ok(())
}

/// The newest batch of a shard.
fn last(txn: &RoTxn<'_>, tables: Tables, key: ShardKey) -> Result<Option<Entry>, StateError> {
    let end = key.offset_key(Offset::MAX);
    let last = tables.ship_batches.get_lower_than_or_equal_to(txn, &end)?;
    last.filter(|(at, _)| ShardKey::parse(at) == Some(key)).map(Entry::read).transpose()
}

/// What comes next in a shard, and the number of its batch; `None` at the end.
fn next(
    txn: &RoTxn<'_>,
    tables: Tables,
    key: ShardKey,
    place: Place,
) -> Result<Option<(u64, Next)>, StateError> {
    let (from, to) = (key.offset_key(place.batch), key.offset_key(Offset::MAX));
    for row in tables.ship_batches.range(txn, &between(&from, &to))? {
        let entry = Entry::read(row?)?;
        if entry.end() <= place.lines {
            continue;
        }
        let gone = |lines_end: u64| {
            let end = Place { batch: entry.number, lines: lines_end };
            let before_ms = journal::oldest(txn, tables, key)?.map(|row| row.committed_ms);
            let gone = Next::Gone { lines: lines_end - place.lines, end, before_ms };
            Ok(Some((entry.number, gone)))
        };
        if entry.lines_before > place.lines {
            return gone(entry.lines_before);
        }
        let Some(row) = entry.row(txn, tables, key)? else { return gone(entry.end()) };
        let skip = place.lines - entry.lines_before;
        let end = entry.end_place();
        return Ok(Some((entry.number, Next::Batch { row: Box::new(row), skip, end })));
    }
    Ok(None)
}

/// Follows the batches of all shards in the order of their commits.
#[derive(Debug)]
pub struct Commits {
    state: State,
    places: BTreeMap<ShardKey, Place>,
}

impl Commits {
    /// From the first batch of which anything is known.
    #[must_use]
    pub const fn from_start(state: State) -> Self {
        Self { state, places: BTreeMap::new() }
    }

    /// From what is committed from now on.
    ///
    /// # Errors
    /// A read failed.
    pub fn from_now(state: State) -> Result<Self, StateError> {
        let mut commits = Self::from_start(state);
        let txn = commits.state.read()?;
        for key in shards(&txn, commits.state.tables())? {
            if let Some(last) = last(&txn, commits.state.tables(), key)? {
                commits.places.insert(key, last.end_place());
            }
        }
        drop(txn);
        Ok(commits)
    }

    /// The place behind the newest batch of a shard.
    ///
    /// # Errors
    /// A read failed.
    pub fn end(&self, key: ShardKey) -> Result<Place, StateError> {
        let last = last(&*self.state.read()?, self.state.tables(), key)?;
        Ok(last.map_or(Place::default(), Entry::end_place))
    }

    /// Whether a shard has ever been at `place`, as far as is known. It has not where the state
    /// directory is an older copy of itself.
    ///
    /// # Errors
    /// A read failed.
    pub fn knows(&self, key: ShardKey, place: Place) -> Result<bool, StateError> {
        let (txn, table) = (self.state.read()?, self.state.tables().ship_batches);
        let at = key.offset_key(place.batch);
        let of_shard = |found: Option<(&[u8], &[u8])>| {
            let found = found.filter(|(at, _)| ShardKey::parse(at) == Some(key));
            found.map(Entry::read).transpose()
        };
        if let Some(entry) = of_shard(table.get_lower_than_or_equal_to(&txn, &at)?)? {
            let lines = entry.lines_before..=entry.end();
            return Ok(entry.number == place.batch && lines.contains(&place.lines));
        }
        // Its row was deleted long ago, or there was none.
        let oldest = of_shard(table.get_greater_than(&txn, &at)?)?;
        Ok(place.lines <= oldest.map_or(0, |entry| entry.lines_before))
    }

    /// The shards that ever took telemetry.
    ///
    /// # Errors
    /// A read failed.
    pub fn shards(&self) -> Result<Vec<ShardKey>, StateError> {
        shards(&*self.state.read()?, self.state.tables())
    }

    /// What comes next, and in which shard; `None` when all that is committed was read. It stays
    /// the next one until [`Commits::go_to`] says otherwise.
    ///
    /// # Errors
    /// A read failed, or a row is damaged.
    pub fn next(&self) -> Result<Option<(ShardKey, Next)>, StateError> {
        let (txn, tables) = (self.state.read()?, self.state.tables());
        let mut first: Option<(u64, ShardKey, Next)> = None;
        for key in shards(&txn, tables)? {
            let Some((number, found)) = next(&txn, tables, key, self.place(key))? else { continue };
            if first.as_ref().is_none_or(|(lowest, ..)| number < *lowest) {
                first = Some((number, key, found));
            }
        }
        Ok(first.map(|(_, key, next)| (key, next)))
    }

    /// How far a shard has been read.
    #[must_use]
    pub fn place(&self, key: ShardKey) -> Place {
        self.places.get(&key).copied().unwrap_or_default()
    }

    /// A shard has been read up to `place`.
    pub fn go_to(&mut self, key: ShardKey, place: Place) {
        self.places.insert(key, place);
    }
}

/// The shards that ever took telemetry.
fn shards(txn: &RoTxn<'_>, tables: Tables) -> Result<Vec<ShardKey>, StateError> {
    let all = shard_ends(txn, tables)?.into_iter().map(|(key, _)| key);
    Ok(all.filter(|key| key.topic == Topic::Telemetry).collect())
}

const fn between<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from), Bound::Excluded(to))
}
