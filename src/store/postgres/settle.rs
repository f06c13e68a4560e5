//! Ends of attempts, and the parts of results that come before them.
//!
//! A settlement whose answer was lost may be said again: the second one is
//! [`Settled::Late`], and the first one holds.

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::error::DatabaseError;
use super::row::{Held, lock, lock_one, stored, uuid, write};
use super::writer::Txn;
use crate::store::{Millis, Settled, Settlement, TaskState, back_off_ms};
use crate::task::{Attempt, Outcome, ResultHead, TaskId};

/// Which parts of an attempt there are, and their bytes.
const COUNT_PARTS: &str = "SELECT id, attempt, index, octet_length(bytes)::bigint \
     FROM parts WHERE id = ANY($1)";
/// Those of other attempts, and what is left over from a longer result.
const DROP_PARTS: &str = "DELETE FROM parts p \
     USING unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS s (id, kept, parts) \
     WHERE p.id = s.id AND (p.attempt IS DISTINCT FROM s.kept OR p.index >= s.parts)";

/// Places and bytes of parts by task and attempt.
type Parts = HashMap<(Uuid, i64), Vec<(i64, i64)>>;

/// What became of each, in their order.
pub(super) fn settle<'a>(
    txn: &'a Txn,
    settlements: &'a [Settlement],
) -> BoxFuture<'a, Result<Vec<Settled>, DatabaseError>> {
    Box::pin(async move {
        let ids: Vec<Uuid> = settlements.iter().map(|settlement| uuid(settlement.id)).collect();
        let mut held = lock(txn, &ids).await?;
        let leaders: Vec<Uuid> = held.iter().filter_map(|row| row.follows).collect();
        if !leaders.is_empty() {
            held.extend(lock(txn, &leaders).await?);
        }
        let mut rows: HashMap<Uuid, Held> = held.into_iter().map(|row| (row.id, row)).collect();
        let with_parts = rows.values().filter(|row| row.has_parts).map(|row| row.id);
        let with_parts: Vec<Uuid> = with_parts.collect();
        let parts = count_parts(txn, &with_parts).await?;
        let settled = settlements.iter().map(|one| apply(&mut rows, &parts, one)).collect();
        let is_of_others = |settlement: &Settlement| {
            settlement.attempt.is_none() || matches!(settlement.outcome, Outcome::Died { .. })
        };
        if settlements.iter().any(is_of_others) {
            // A worker of ours may run it.
            txn.ring_news();
        }
        drop_parts(txn, &mut rows, &with_parts).await?;
        write(txn, &rows.values().collect::<Vec<_>>()).await?;
        Ok(settled)
    })
}

async fn count_parts(txn: &Txn, ids: &[Uuid]) -> Result<Parts, DatabaseError> {
    let mut parts = Parts::new();
    if ids.is_empty() {
        return Ok(parts);
    }
    for row in txn.rows(COUNT_PARTS, &[&ids]).await? {
        let (id, attempt) = (row.try_get(0)?, row.try_get(1)?);
        let part = (row.try_get(2)?, row.try_get(3)?);
        parts.entry((id, attempt)).or_default().push(part);
    }
    Ok(parts)
}

/// All but those of the result.
async fn drop_parts(
    txn: &Txn,
    rows: &mut HashMap<Uuid, Held>,
    with_parts: &[Uuid],
) -> Result<(), DatabaseError> {
    let (mut ids, mut kept, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for id in with_parts {
        let Some(row) = rows.get_mut(id).filter(|row| row.is_changed) else { continue };
        let parts = row.result.as_ref().map_or(0, ResultHead::parts);
        row.has_parts = parts > 0;
        ids.push(*id);
        kept.push((parts > 0).then_some(row.attempt));
        ends.push(stored(parts));
    }
    if !ids.is_empty() {
        txn.execute(DROP_PARTS, &[&ids, &kept, &ends]).await?;
    }
    Ok(())
}

/// Whether all parts of a result are there.
fn is_whole(head: &ResultHead, parts: &Parts, row: &Held) -> bool {
    if head.is_whole() {
        return true;
    }
    let end = stored(head.parts());
    let there = parts.get(&(row.id, row.attempt)).map(Vec::as_slice).unwrap_or_default();
    let of_it = || there.iter().filter(|(index, _)| *index < end);
    let bytes: i64 = of_it().map(|(_, bytes)| *bytes).sum();
    stored(of_it().count()) == end && bytes == stored(head.bytes)
}

/// Changes the row, if the settlement holds.
fn apply(rows: &mut HashMap<Uuid, Held>, parts: &Parts, settlement: &Settlement) -> Settled {
    let Some(own) = rows.get(&uuid(settlement.id)) else { return Settled::Unknown };
    let endpoint = settlement.endpoint.as_ref().map(|name| name.as_str());
    if endpoint.is_some_and(|endpoint| endpoint != own.endpoint) {
        return Settled::Unknown;
    }
    if own.follows.is_some() && settlement.attempt.is_some() {
        // An attempt is one of the task that it follows; an outside worker knows of neither.
        return Settled::Late;
    }
    if let Outcome::Died { reason } = &settlement.outcome {
        let id = own.id;
        return rows
            .get_mut(&id)
            .map_or(Settled::Unknown, |row| note_death(row, settlement, reason));
    }
    let target = own.follows.unwrap_or(own.id);
    let Some(row) = rows.get_mut(&target) else { return Settled::Unknown };
    if !is_awaited(row, settlement.attempt) {
        return Settled::Late;
    }
    if row.state == Some(TaskState::Queued) || row.started_at_ms.is_none() {
        let began_at_ms = settlement.began_at_ms;
        row.started_at_ms = began_at_ms.map(|at_ms| at_ms.max(row.created_at_ms));
    }
    let at_ms = settlement.at_ms.max(row.started_at_ms.unwrap_or(row.created_at_ms));
    match &settlement.outcome {
        Outcome::Finished(head) => {
            if !is_whole(head, parts, row) {
                return Settled::PartsMissing;
            }
            row.end(TaskState::Finished, at_ms);
            row.progress = 1000;
            row.error = None;
            row.result = Some(head.clone());
        }
        Outcome::Failed { reason, is_final } => fail(row, reason, *is_final, at_ms),
        Outcome::Released | Outcome::Died { .. } => row.wait(row.run_at_ms),
        Outcome::Missed { reason } => {
            row.error = Some(plain(reason));
            row.end(TaskState::Missed, at_ms);
        }
    }
    Settled::Applied
}

/// A failure more: the last one ends it, after any other it is due after a pause.
fn fail(row: &mut Held, reason: &str, is_final: bool, at_ms: Millis) {
    count_failure(row, reason, at_ms);
    if is_final || row.failures >= row.failures_max {
        row.end(TaskState::Failed, at_ms);
    } else {
        let pause_ms = back_off_ms(u32::try_from(row.failures).unwrap_or(u32::MAX));
        row.wait(at_ms.saturating_add(pause_ms));
    }
}

/// An attempt has failed; so it has begun.
fn count_failure(row: &mut Held, reason: &str, at_ms: Millis) {
    row.failures += 1;
    row.error = Some(plain(reason));
    row.started_at_ms.get_or_insert(at_ms);
}

/// A failure of an attempt, be it the current one or one before it.
fn note_death(row: &mut Held, settlement: &Settlement, reason: &str) -> Settled {
    let is_known = settlement.attempt.is_some_and(|attempt| i64::from(attempt) <= row.attempt);
    if row.has_ended() || !is_known {
        return Settled::Late;
    }
    if is_awaited(row, settlement.attempt) || row.failures + 1 >= row.failures_max {
        fail(row, reason, false, settlement.at_ms.max(row.created_at_ms));
    } else {
        count_failure(row, reason, settlement.at_ms);
        row.is_changed = true;
    }
    Settled::Applied
}

/// Whether what comes of this attempt still counts.
fn is_awaited(row: &Held, attempt: Option<Attempt>) -> bool {
    let runs = matches!(row.state, Some(TaskState::Queued | TaskState::Running));
    match attempt {
        Some(attempt) => runs && row.attempt == i64::from(attempt),
        None => !row.has_ended(),
    }
}

/// A text without what PostgreSQL has no room for.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

const PUT_PART: &str = "INSERT INTO parts (id, attempt, index, bytes) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (id, attempt, index) DO UPDATE SET bytes = EXCLUDED.bytes";
const HAS_PARTS: &str = "UPDATE tasks SET has_parts = true WHERE id = $1";

/// See [`Store::put_part`](crate::store::Store::put_part).
pub(super) async fn put_part(
    txn: &Txn,
    id: TaskId,
    attempt: Option<Attempt>,
    index: u32,
    bytes: &[u8],
) -> Result<bool, DatabaseError> {
    let Some((follower, row)) = lock_one(txn, id).await? else { return Ok(false) };
    if (follower.is_some() && attempt.is_some()) || !is_awaited(&row, attempt) {
        return Ok(false);
    }
    txn.execute(PUT_PART, &[&row.id, &row.attempt, &i64::from(index), &bytes]).await?;
    if !row.has_parts {
        txn.execute(HAS_PARTS, &[&row.id]).await?;
    }
    Ok(true)
}
