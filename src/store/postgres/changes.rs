//! The stream of changes of watched tasks.
//!
//! A change has the number of the transaction that made it, and within that a place which its task
//! has for life. A transaction may commit after one with a higher number, so a cursor never goes
//! beyond the lowest number that still runs: what lies above it is told, and would be told again
//! with each question until that transaction ends, be it of another program and last for hours.
//! So it is remembered here what was told to whoever holds a cursor; a cursor from elsewhere is
//! understood as well, and told some twice.
//!
//! A cursor is, from its highest bit: 41 bits of a transaction's number; one bit; 22 bits of the
//! place in it from where to go on if that bit is set, else of the number of a memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::DatabaseError;
use super::link::{Session, Values};
use super::row::{stored, task};
use crate::service::held;
use crate::store::{Cursor, Task};
use crate::task::TaskId;

const PLACE_BITS: u32 = 22;
const HAS_PLACE: i64 = 1 << PLACE_BITS;
const PLACE_MASK: i64 = HAS_PLACE - 1;
/// Memories, and changes in one, that are kept; what is forgotten is told again.
const MEMORIES_MAX: usize = 64;
const REMEMBERED_MAX: usize = 100_000;

/// The place of a task's changes in their transactions.
pub(super) fn place(id: TaskId) -> i32 {
    let [.., high, middle, low] = id.bytes();
    let place = i32::from_be_bytes([0, high, middle, low]);
    place & ((1 << PLACE_BITS) - 1)
}

/// A change: of this task, by that transaction.
type Change = (Uuid, i64);

/// What was told above the lowest transaction that still ran, by the cursor that was given for it.
#[derive(Debug)]
pub(super) struct Memories {
    told: Mutex<BTreeMap<i64, HashSet<Change>>>,
    latest: AtomicI64,
}

impl Default for Memories {
    fn default() -> Self {
        // Anywhere, so that no cursor from elsewhere means a memory of ours.
        let latest = AtomicI64::new(fastrand::i64(..PLACE_MASK / 2));
        Self { told: Mutex::default(), latest }
    }
}

impl Memories {
    fn of(&self, cursor: Cursor) -> HashSet<Change> {
        held(&self.told).get(&cursor.0).cloned().unwrap_or_default()
    }

    /// The cursor for whoever was told these, and all below `number`.
    fn remember(&self, number: i64, mut told: HashSet<Change>) -> Cursor {
        let start = Cursor(number << (PLACE_BITS + 1));
        told.retain(|(_, changed_in)| *changed_in >= number);
        if told.is_empty() || told.len() > REMEMBERED_MAX {
            return start;
        }
        let memory = (self.latest.fetch_add(1, Relaxed) & PLACE_MASK).max(1);
        let cursor = Cursor(start.0 | memory);
        let mut memories = held(&self.told);
        memories.insert(cursor.0, told);
        while memories.len() > MEMORIES_MAX {
            memories.pop_first();
        }
        cursor
    }
}

const RUNNING: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";

/// The lowest number of a transaction that may still commit.
async fn lowest_running(session: &Session) -> Result<i64, DatabaseError> {
    let rows = session.rows(RUNNING, &[]).await?;
    let lowest = rows.first().map(|row| row.try_get(0)).transpose()?;
    lowest.ok_or_else(|| DatabaseError::Damaged("no snapshot".to_owned()))
}

/// Where the stream ends now.
pub(super) async fn now(session: &Session) -> Result<Cursor, DatabaseError> {
    Ok(Cursor(lowest_running(session).await? << (PLACE_BITS + 1)))
}

const ENDED: &str = "SELECT id, changed_in::text::bigint, place FROM tasks \
     WHERE (changed_in, place) >= ($1::bigint::text::xid8, $2::int) \
         AND changed_in < $3::bigint::text::xid8 \
     ORDER BY changed_in, place FETCH FIRST $4 ROWS WITH TIES";
/// The latest of them; the others at the latest when the lowest transaction has ended.
const OPEN: &str = "SELECT id, changed_in::text::bigint, place FROM tasks \
     WHERE changed_in >= $1::bigint::text::xid8 ORDER BY changed_in DESC, place DESC LIMIT $2";
const WATCHED: &str = "SELECT * FROM shown WHERE is_watched AND id IN (SELECT unnest($1::uuid[]) \
     UNION SELECT f.id FROM tasks f WHERE f.follows = ANY($1)) ORDER BY seq";

fn change(row: &Row) -> Result<Change, DatabaseError> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Watched tasks that changed since, and where to go on. More than `tasks_max` only if several
/// watched ones follow one that changed.
pub(super) async fn changes(
    session: &Session,
    memories: &Memories,
    since: Cursor,
    tasks_max: usize,
) -> Result<(Vec<Task>, Cursor), DatabaseError> {
    let tasks_max = tasks_max.max(1);
    let since = Cursor(since.0.max(0));
    let from = since.0 >> (PLACE_BITS + 1);
    let from_place = if since.0 & HAS_PLACE == 0 { 0 } else { since.0 & PLACE_MASK };
    let from_place = i32::try_from(from_place).unwrap_or_default();
    let mut told = memories.of(since);
    let lowest = lowest_running(session).await?.max(from);
    let limit = stored(tasks_max.saturating_add(told.len()));
    let values: &Values<'_> = &[&from, &from_place, &lowest, &limit];
    let ended = session.rows(ENDED, values).await?;
    let mut news = Vec::new();
    for row in &ended {
        let change = change(row)?;
        if told.insert(change) {
            news.push(change.0);
        }
        if news.len() == tasks_max {
            let cursor = after(change.1, row.try_get(2)?);
            return Ok((watched(session, &news).await?, cursor));
        }
    }
    let left = stored(tasks_max.saturating_sub(news.len()).saturating_add(told.len()));
    for row in session.rows(OPEN, &[&lowest, &left]).await? {
        let change = change(&row)?;
        if news.len() < tasks_max && told.insert(change) {
            news.push(change.0);
        }
    }
    Ok((watched(session, &news).await?, memories.remember(lowest, told)))
}

/// The cursor of whoever was told all up to this place.
fn after(number: i64, place: i32) -> Cursor {
    let start = number << (PLACE_BITS + 1);
    // Beyond the last place begins the next transaction.
    Cursor((start | HAS_PLACE) + i64::from(place) + 1)
}

async fn watched(session: &Session, ids: &[Uuid]) -> Result<Vec<Task>, DatabaseError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    session.rows(WATCHED, &[&ids]).await?.iter().map(task).collect()
}

#[cfg(test)]
mod tests {
    use super::super::row::uuid;
    use super::*;

    #[test]
    fn a_cursor_only_goes_forward() {
        let memories = Memories::default();
        let told = HashSet::from([(uuid(TaskId::new()), 8)]);
        let cursors = [
            memories.remember(7, HashSet::new()),
            memories.remember(7, told.clone()),
            after(7, 0),
            after(7, (1 << PLACE_BITS) - 1),
            memories.remember(8, told.clone()),
        ];
        assert!(cursors.is_sorted(), "{cursors:?}");
        assert_eq!(memories.of(cursors[1]), told);
        assert_eq!(memories.remember(9, told), Cursor(9 << (PLACE_BITS + 1)));
    }

    #[test]
    fn a_place_fits_in_a_cursor() {
        assert!((0..1000).all(|_| i64::from(place(TaskId::new())) <= PLACE_MASK));
    }
}
