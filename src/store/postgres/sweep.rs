//! Cleaning up, so many rows at a time.

use uuid::Uuid;

use super::error::DatabaseError;
use super::row::{Held, end_followers, lock, write};
use super::schedules;
use super::writer::Txn;
use crate::store::{BACK_OFF_MS_MAX, BEGUN_IS_HEARD_MS, Millis, Sweep, Swept, TOO_LATE, TaskState};

/// Rows of a piece.
const PIECE: i64 = 1000;
/// The same when the clock went back, which happens rarely.
const TURN_BACK_PIECE: i64 = 10_000;
/// How long it is known of a worker that it was buried.
const TOMBSTONE_MS: Millis = 24 * 3600 * 1000;

/// Tasks in a state whose time is over and that nobody has begun.
macro_rules! miss {
    ($state:literal) => {
        concat!(
            "UPDATE tasks SET state = 6, finished_at_ms = $1, error = $3, queued_at_ms = NULL, \
             changed_in = CASE WHEN is_told THEN pg_current_xact_id() END \
             WHERE id = ANY (ARRAY(SELECT t.id FROM tasks t WHERE t.state = ",
            $state,
            " AND t.expires_at_ms < $4 AND t.started_at_ms IS NULL AND t.owner IS NULL \
             ORDER BY t.expires_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id, is_told"
        )
    };
}
const MISS_PENDING: &str = miss!(0);
const MISS_QUEUED: &str = miss!(1);
const OVERDUE: &str = "SELECT id FROM tasks WHERE deadline_ms < $1 ORDER BY deadline_ms LIMIT $2";
/// With who follows it, unless one of those was submitted later.
const PRUNE: &str = "DELETE FROM tasks WHERE id = ANY (ARRAY(SELECT t.id FROM tasks t \
     WHERE t.finished_at_ms < $1 AND NOT EXISTS (SELECT FROM tasks f WHERE f.follows = t.id) \
     ORDER BY t.finished_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING id";
const PRUNE_FOLLOWERS: &str = "DELETE FROM tasks WHERE id = ANY (ARRAY(SELECT f.id FROM tasks t \
     JOIN tasks f ON f.follows = t.id WHERE t.finished_at_ms < $1 AND f.created_at_ms < $1 \
     LIMIT $2 FOR UPDATE OF f SKIP LOCKED))";
const FORGET: &str = "DELETE FROM workers WHERE buried_at_ms < $1";

/// A piece of it.
pub(super) async fn sweep(txn: &Txn, sweep: Sweep) -> Result<Swept, DatabaseError> {
    let now_ms = sweep.now_ms;
    let missed = miss(txn, sweep).await?;
    let overdue = give_up_overdue(txn, now_ms).await?;
    let mut pruned = 0;
    if let Some(ended_before_ms) = sweep.ended_before_ms {
        pruned += txn.execute(PRUNE_FOLLOWERS, &[&ended_before_ms, &PIECE]).await?;
        let removed = txn.rows(PRUNE, &[&ended_before_ms, &PIECE]).await?;
        let removed: Vec<Uuid> =
            removed.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        pruned += removed.len() as u64;
        pruned += schedules::prune(txn, &removed, ended_before_ms, PIECE).await?;
    }
    txn.execute(FORGET, &[&now_ms.saturating_sub(TOMBSTONE_MS)]).await?;
    Ok(Swept { missed, overdue, pruned })
}

async fn miss(txn: &Txn, sweep: Sweep) -> Result<u64, DatabaseError> {
    let now_ms = sweep.now_ms;
    let mut missed = txn.rows(MISS_PENDING, &[&now_ms, &PIECE, &TOO_LATE, &now_ms]).await?;
    if sweep.is_all_heard {
        let before_ms = now_ms.saturating_sub(BEGUN_IS_HEARD_MS);
        missed.extend(txn.rows(MISS_QUEUED, &[&now_ms, &PIECE, &TOO_LATE, &before_ms]).await?);
    }
    let mut ids: Vec<Uuid> = Vec::new();
    for row in &missed {
        ids.push(row.try_get(0)?);
        if row.try_get(1)? {
            txn.ring_news();
        }
    }
    end_followers(txn, &ids).await?;
    Ok(missed.len() as u64)
}

/// Outside workers that were not heard of in time have failed.
async fn give_up_overdue(txn: &Txn, now_ms: Millis) -> Result<u64, DatabaseError> {
    let late = txn.rows(OVERDUE, &[&now_ms, &PIECE]).await?;
    let ids: Vec<Uuid> = late.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    let mut rows = lock(txn, &ids).await?;
    let is_late = |row: &Held| row.deadline_ms.is_some_and(|deadline_ms| deadline_ms < now_ms);
    let mut overdue = 0;
    for row in rows.iter_mut().filter(|row| is_late(row)) {
        overdue += 1;
        row.failures += 1;
        row.error = Some("the outside worker was not heard of in time".to_owned());
        if row.failures >= row.failures_max {
            row.end(TaskState::Failed, now_ms);
        } else {
            // It has waited already.
            row.wait(row.run_at_ms.min(now_ms));
        }
    }
    write(txn, &rows.iter().collect::<Vec<_>>()).await?;
    Ok(overdue)
}

const SEE: &str = "UPDATE clock SET seen_ms = $1 WHERE seen_ms < $1";

/// Remembers the latest time that was told, for when the clock goes back.
pub(super) async fn see(txn: &Txn, seen_ms: Millis) -> Result<(), DatabaseError> {
    txn.execute(SEE, &[&seen_ms]).await?;
    Ok(())
}

const SEEN: &str = "SELECT GREATEST(seen_ms, $1::bigint) FROM clock FOR UPDATE";
/// What nobody has begun was missed in the future, and is not too late now. Not of a key: another
/// may do its work by now.
const REVIVE: &str = "UPDATE tasks SET state = 0, finished_at_ms = NULL, error = NULL, \
     changed_in = CASE WHEN is_told THEN pg_current_xact_id() END \
     WHERE id = ANY (ARRAY(SELECT t.id FROM tasks t \
         WHERE t.finished_at_ms > $1 AND t.state = 6 AND t.expires_at_ms >= $1 \
             AND t.started_at_ms IS NULL AND t.key_hash IS NULL \
         ORDER BY t.finished_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED))";
/// Due now is what was to run at once, what had been given out, and what pauses after a failure for
/// longer than any does; none of that is due much later than the latest time that was told.
const BRING_FORWARD: &str = "UPDATE tasks SET run_at_ms = $1 \
     WHERE id = ANY (ARRAY(SELECT t.id FROM tasks t \
         WHERE t.state = 0 AND t.run_at_ms > $1 AND t.run_at_ms <= $2 \
             AND (t.run_at_ms <= t.created_at_ms \
                 OR (t.attempt > 0 AND (t.failures = 0 OR t.run_at_ms > $4))) \
         ORDER BY t.run_at_ms LIMIT $3 FOR UPDATE SKIP LOCKED))";
const UNSEE: &str = "UPDATE clock SET seen_ms = $1";

/// The clock may have gone back to `now_ms`, from `seen_ms` or later. Whether that was the last
/// piece.
pub(super) async fn turn_back(
    txn: &Txn,
    now_ms: Millis,
    seen_ms: Millis,
) -> Result<bool, DatabaseError> {
    let seen = txn.rows(SEEN, &[&seen_ms]).await?;
    let seen_ms: Millis = seen.first().map_or(Ok(seen_ms), |row| row.try_get(0))?;
    if seen_ms <= now_ms {
        return Ok(true);
    }
    let revived = txn.execute(REVIVE, &[&now_ms, &TURN_BACK_PIECE]).await?;
    let until_ms = seen_ms.saturating_add(BACK_OFF_MS_MAX);
    let too_far_ms = now_ms.saturating_add(BACK_OFF_MS_MAX);
    let values: &super::link::Values<'_> = &[&now_ms, &until_ms, &TURN_BACK_PIECE, &too_far_ms];
    let forward = txn.execute(BRING_FORWARD, values).await?;
    if revived.max(forward) > 0 {
        txn.ring_work();
        txn.ring_news();
    }
    let is_last = revived.max(forward) < TURN_BACK_PIECE.unsigned_abs();
    if is_last {
        txn.execute(UNSEE, &[&now_ms]).await?;
    }
    Ok(is_last)
}
