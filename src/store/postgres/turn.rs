//! What people and outside workers change: begin, cancel, retry.

use uuid::Uuid;

use super::error::DatabaseError;
use super::read;
use super::row::{Held, lock_one, write};
use super::writer::Txn;
use crate::store::{Millis, Task, TaskState};
use crate::task::TaskId;

/// See [`Store::begin_outside`](crate::store::Store::begin_outside).
pub(super) async fn begin_outside(
    txn: &Txn,
    id: TaskId,
    at_ms: Millis,
    deadline_ms: Millis,
) -> Result<Option<Task>, DatabaseError> {
    let Some((_, mut row)) = lock_one(txn, id).await? else { return Ok(None) };
    match (row.state, row.owner) {
        (Some(TaskState::Pending | TaskState::Queued), _) => {
            row.attempt += 1;
            row.state = Some(TaskState::Running);
            row.started_at_ms = Some(at_ms);
            row.progress = 0;
            row.owner = None;
            row.deadline_ms = Some(deadline_ms);
            row.is_changed = true;
            // Whoever takes it out of a queue must let it be.
            txn.ring_news();
        }
        (Some(TaskState::Running), None) => {
            row.attempt += 1;
            row.deadline_ms = Some(deadline_ms);
            row.is_changed = true;
        }
        // One of our workers runs it.
        _ => {}
    }
    write(txn, &[&row]).await?;
    read::task_in(txn, id).await
}

const TAKE_OVER: &str = "UPDATE tasks SET follows = NULL, state = 0, is_told = is_told OR $2, \
     changed_in = CASE WHEN is_told OR $2 THEN pg_current_xact_id() END \
     WHERE id = (SELECT f.id FROM tasks f WHERE f.follows = $1 ORDER BY f.seq LIMIT 1) \
     RETURNING id";
const FOLLOW: &str = "UPDATE tasks SET follows = $2 WHERE follows = $1";
const DROP_PARTS: &str = "DELETE FROM parts WHERE id = $1";

/// See [`Store::cancel`](crate::store::Store::cancel).
pub(super) async fn cancel(
    txn: &Txn,
    id: TaskId,
    now_ms: Millis,
) -> Result<Option<TaskState>, DatabaseError> {
    let Some((follower, mut row)) = lock_one(txn, id).await? else { return Ok(None) };
    let state = row.state;
    if row.has_ended() {
        return Ok(state);
    }
    txn.ring_news();
    if let Some(mut follower) = follower {
        follower.follows = None;
        follower.end(TaskState::Cancelled, now_ms);
        write(txn, &[&follower]).await?;
        return Ok(state);
    }
    row.end(TaskState::Cancelled, now_ms);
    if row.has_parts {
        txn.execute(DROP_PARTS, &[&row.id]).await?;
        row.has_parts = false;
    }
    write(txn, &[&row]).await?;
    if row.key_hash.is_some()
        && let Some(heir) = txn.rows(TAKE_OVER, &[&row.id, &row.is_told]).await?.first()
    {
        let heir: Uuid = heir.try_get(0)?;
        txn.execute(FOLLOW, &[&row.id, &heir]).await?;
        txn.ring_work();
    }
    Ok(state)
}

const LEADER: &str = "SELECT id FROM tasks WHERE key_hash = $1 AND state IN (0, 1, 2, 3) FOR SHARE";
const TELL: &str = "UPDATE tasks SET is_told = true WHERE id = $1 AND NOT is_told";

/// See [`Store::retry`](crate::store::Store::retry).
pub(super) async fn retry(
    txn: &Txn,
    id: TaskId,
    now_ms: Millis,
) -> Result<Option<TaskState>, DatabaseError> {
    let Some((follower, mut row)) = lock_one(txn, id).await? else { return Ok(None) };
    let state = row.state;
    // What follows another is pending, running or finished as that one is.
    if follower.is_some() || !row.has_ended() || state == Some(TaskState::Finished) {
        return Ok(state);
    }
    row.failures = 0;
    row.wait(row.run_at_ms.min(now_ms));
    row.finished_at_ms = None;
    row.error = None;
    // It would be missed again at once.
    row.expires_at_ms = row.expires_at_ms.filter(|expires_at_ms| *expires_at_ms >= now_ms);
    follow_leader(txn, &mut row).await?;
    write(txn, &[&row]).await?;
    Ok(state)
}

/// Another task of the key may have been submitted since: then this one follows it.
async fn follow_leader(txn: &Txn, row: &mut Held) -> Result<(), DatabaseError> {
    let Some(key_hash) = &row.key_hash else { return Ok(()) };
    if let Some(leader) = txn.rows(LEADER, &[key_hash]).await?.first() {
        let leader: Uuid = leader.try_get(0)?;
        row.follows = Some(leader);
        row.state = None;
        if row.is_told {
            txn.execute(TELL, &[&leader]).await?;
        }
    }
    Ok(())
}
