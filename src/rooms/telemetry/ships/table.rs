//! The tables of ships.
//!
//! ```text
//! table ships:         name -> JSON of `ShipRow`
//! table ship_seconds:  name | 0 | second since 1970 -> `Bucket`
//! table ship_minutes:  name | 0 | minute since 1970 -> `Bucket`
//! table meta:          "ships_trimmed" -> the name whose old rows were deleted last, but for those
//!                      of batches
//! ```
//!
//! No name holds a 0. Times are i64 big-endian with the sign turned, so that keys are in the order
//! of time, before 1970 too. A ship's row is kept for ever; the others are deleted when they are
//! old, a few with each batch: of the batch's ships, and of as many others in their turn.

use std::ops::Bound;

use heed::RoTxn;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::bucket::Bucket;
use super::companion::{Kept, ShipAccount};
use crate::rooms::telemetry::ship::ShipName;
use crate::state::{StateError, Table, Tables, WriteTxn};

const SECOND_US: i64 = 1_000_000;

/// Old rows of a ship that are deleted at once, at least; and beyond those that came.
const TRIMMED: usize = 64;
const TRIM_CURSOR: &[u8] = b"ships_trimmed";

/// All that is kept of a ship for ever.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ShipRow {
    /// Its readings in files, ever.
    pub count: u64,
    /// Bytes of their lines, ever.
    pub bytes: u64,
    /// When the first was measured, in microseconds since 1970.
    pub first_us: Option<i64>,
    /// When the last was measured, likewise.
    pub last_us: Option<i64>,
    /// The line of the last.
    pub latest: Option<Box<RawValue>>,
}

/// Adds what a batch has of a ship.
pub(super) fn add(
    txn: &mut WriteTxn<'_>,
    ship: &ShipAccount,
    kept: Kept,
    now_s: i64,
) -> Result<(), StateError> {
    add_row(txn, ship, now_s)?;
    let tables = txn.tables;
    let (first_second, first_minute) = (kept.first_second(now_s), kept.first_minute(now_s));
    let (mut seconds, mut minutes) = (0, 0);
    let mut minute: Option<(i64, Bucket)> = None;
    for (second, bucket) in &ship.seconds {
        if *second >= first_second {
            add_bucket(txn, tables.ship_seconds, &ship.name, *second, *bucket)?;
            seconds += 1;
        }
        let at = second.div_euclid(60);
        match &mut minute {
            Some((open, sum)) if *open == at => sum.add(*bucket),
            _ => {
                minutes += close_minute(txn, &ship.name, minute, first_minute)?;
                minute = Some((at, *bucket));
            }
        }
    }
    minutes += close_minute(txn, &ship.name, minute, first_minute)?;
    trim(txn, tables.ship_seconds, &ship.name, first_second, TRIMMED + 2 * seconds)?;
    trim(txn, tables.ship_minutes, &ship.name, first_minute, TRIMMED + 2 * minutes)
}

fn add_row(txn: &mut WriteTxn<'_>, ship: &ShipAccount, now_s: i64) -> Result<(), StateError> {
    let table = txn.tables.ships;
    let key = ship.name.as_str().as_bytes();
    let mut row = table.get(&txn.txn, key)?.map(decode).transpose()?.unwrap_or_default();
    row.count += ship.count;
    row.bytes += ship.bytes;
    if let Some(dated) = &ship.dated {
        let first_us = row.first_us.unwrap_or(dated.first_us);
        row.first_us = Some(first_us.min(dated.first_us));
        // What is dated ahead of now was so by a clock that was wrong: it stands in nobody's way.
        let gives_way = |last_us| dated.last_us >= last_us || last_us / SECOND_US > now_s;
        if row.last_us.is_none_or(gives_way) {
            row.last_us = Some(dated.last_us);
            // It was read as a line of a ship, and so is JSON.
            row.latest = serde_json::from_slice(&dated.latest).ok();
        }
    }
    let value = serde_json::to_vec(&row)
        .map_err(|error| StateError::Damaged(format!("encoding: {error}")))?;
    Ok(table.put(&mut txn.txn, key, &value)?)
}

/// Adds a minute, unless it is old; how many rows that were.
fn close_minute(
    txn: &mut WriteTxn<'_>,
    name: &ShipName,
    minute: Option<(i64, Bucket)>,
    first_minute: i64,
) -> Result<usize, StateError> {
    let Some((at, bucket)) = minute.filter(|(at, _)| *at >= first_minute) else { return Ok(0) };
    let table = txn.tables.ship_minutes;
    add_bucket(txn, table, name, at, bucket).map(|()| 1)
}

fn add_bucket(
    txn: &mut WriteTxn<'_>,
    table: Table,
    name: &ShipName,
    at: i64,
    mut bucket: Bucket,
) -> Result<(), StateError> {
    let key = row_key(name, at);
    if let Some(stored) = table.get(&txn.txn, &key)? {
        bucket.add(Bucket::decode(stored).ok_or_else(damaged)?);
    }
    Ok(table.put(&mut txn.txn, &key, &bucket.encode())?)
}

/// Deletes the rows of a ship that are before `first`, so many at most.
fn trim(
    txn: &mut WriteTxn<'_>,
    table: Table,
    name: &ShipName,
    first: i64,
    most: usize,
) -> Result<(), StateError> {
    let (from, to) = (row_key(name, i64::MIN), row_key(name, first));
    let old = table.range(&txn.txn, &between(&from, &to))?.take(most);
    let old: Vec<Vec<u8>> =
        old.map(|row| row.map(|(key, _)| key.to_vec())).collect::<Result<_, _>>()?;
    for key in old {
        table.delete(&mut txn.txn, &key)?;
    }
    Ok(())
}

/// Deletes old rows of the ship whose turn it is, whether or not it still sends.
pub(super) fn trim_next(txn: &mut WriteTxn<'_>, kept: Kept, now_s: i64) -> Result<(), StateError> {
    let tables = txn.tables;
    let turn = tables.meta.get(&txn.txn, TRIM_CURSOR)?.map_or(Bound::Unbounded, Bound::Excluded);
    let next = match tables.ships.range(&txn.txn, &(turn, Bound::Unbounded))?.next() {
        Some(next) => Some(next?),
        None => tables.ships.first(&txn.txn)?,
    };
    let Some(name) = next.map(|(key, _)| ship_name(key)).transpose()? else { return Ok(()) };
    trim(txn, tables.ship_seconds, &name, kept.first_second(now_s), TRIMMED)?;
    trim(txn, tables.ship_minutes, &name, kept.first_minute(now_s), TRIMMED)?;
    Ok(tables.meta.put(&mut txn.txn, TRIM_CURSOR, name.as_str().as_bytes())?)
}

/// The row of a ship, if anything is stored of it.
///
/// # Errors
/// A read failed, or the row is damaged.
pub fn ship(
    txn: &RoTxn<'_>,
    tables: Tables,
    name: &ShipName,
) -> Result<Option<ShipRow>, StateError> {
    tables.ships.get(txn, name.as_str().as_bytes())?.map(decode).transpose()
}

/// The rows of so many ships, in the order of their names, from the one after `after` on.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn ships(
    txn: &RoTxn<'_>,
    tables: Tables,
    after: Option<&ShipName>,
    most: usize,
) -> Result<Vec<(ShipName, ShipRow)>, StateError> {
    let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str().as_bytes()));
    let rows = tables.ships.range(txn, &(from, Bound::<&[u8]>::Unbounded))?.take(most);
    let read = |row: heed::Result<(&[u8], &[u8])>| {
        let (key, value) = row?;
        Ok((ship_name(key)?, decode(value)?))
    };
    rows.map(read).collect()
}

/// The rows of a ship from `from` to before `to`, in seconds or minutes since 1970 as `table` has
/// them, in order.
pub(super) fn buckets<'txn>(
    txn: &'txn RoTxn<'_>,
    table: Table,
    name: &ShipName,
    (from, to): (i64, i64),
) -> Result<impl Iterator<Item = Result<(i64, Bucket), StateError>> + use<'txn>, StateError> {
    let (from, to) = (row_key(name, from), row_key(name, to.max(from)));
    let rows = table.range(txn, &between(&from, &to))?;
    Ok(rows.map(|row| {
        let (key, value) = row?;
        let at = key.last_chunk::<8>().map(|at| u64::from_be_bytes(*at) ^ SIGN);
        at.map(u64::cast_signed).zip(Bucket::decode(value)).ok_or_else(damaged)
    }))
}

/// From which second on all that is known of a ship is known by single seconds.
pub(super) fn fine_from(
    txn: &RoTxn<'_>,
    tables: Tables,
    name: &ShipName,
) -> Result<i64, StateError> {
    let first = |table| buckets(txn, table, name, (i64::MIN, i64::MAX)).map(|mut all| all.next());
    let second = first(tables.ship_seconds)?.transpose()?.map(|(second, _)| second);
    let minute = first(tables.ship_minutes)?.transpose()?.map(|(minute, _)| minute);
    let is_all = |second: i64| minute.is_none_or(|minute| minute >= second.div_euclid(60));
    Ok(match second {
        Some(second) if is_all(second) => i64::MIN,
        Some(second) => second,
        None => i64::MAX,
    })
}

const SIGN: u64 = 1 << 63;

fn row_key(name: &ShipName, at: i64) -> Vec<u8> {
    let at = (at.cast_unsigned() ^ SIGN).to_be_bytes();
    [name.as_str().as_bytes(), &[0], &at].concat()
}

const fn between<'a>(from: &'a [u8], to: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(from), Bound::Excluded(to))
}

fn ship_name(key: &[u8]) -> Result<ShipName, StateError> {
    let name = std::str::from_utf8(key).ok().and_then(|name| name.parse().ok());
    name.ok_or_else(|| StateError::Damaged("a ship's name".to_owned()))
}

fn decode(row: &[u8]) -> Result<ShipRow, StateError> {
    serde_json::from_slice(row)
        .map_err(|error| StateError::Damaged(format!("a row of table ships: {error}")))
}

fn damaged() -> StateError {
    StateError::Damaged("figures of a ship are not readable".to_owned())
}
