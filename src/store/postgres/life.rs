//! Signs of life of workers, and what becomes of the tasks of those that give none.

use uuid::Uuid;

use super::claim::SIGN;
use super::error::DatabaseError;
use super::row::{end_followers, stored, task_id, uuid, worker_uuid};
use super::writer::Txn;
use crate::store::{ATTEMPTS_PER_FAILURE, Beaten, Millis, WorkerBeat};
use crate::task::{Attempt, Beat, TaskId, WorkerId};

/// Only what has news is written.
const BEAT: &str = "UPDATE tasks t SET state = 2, owner = $4::uuid, deadline_ms = NULL, \
     progress = CASE WHEN t.state = 1 THEN s.progress ELSE GREATEST(t.progress, s.progress) END, \
     started_at_ms = CASE WHEN t.state = 1 THEN $5 ELSE t.started_at_ms END, \
     changed_in = CASE WHEN t.is_told THEN pg_current_xact_id() END \
     FROM unnest($1::uuid[], $2::bigint[], $3::smallint[]) AS s (id, attempt, progress) \
     WHERE t.id = s.id AND t.attempt = s.attempt \
         AND (t.state = 1 OR (t.state = 2 AND t.owner = $4 AND t.progress < s.progress)) \
     RETURNING t.is_told";
/// Found by their ids, not by their owner, of which the planner knows nothing.
const LOST: &str = "SELECT s.id, s.attempt FROM unnest($1::uuid[], $2::bigint[]) \
     AS s (id, attempt) WHERE NOT EXISTS (SELECT FROM tasks t \
         WHERE t.id = s.id AND t.attempt = s.attempt AND t.state = 2 \
             AND t.owner IS NOT DISTINCT FROM $3)";

/// See [`Store::beat`](crate::store::Store::beat).
pub(super) async fn beat(
    txn: &Txn,
    worker: WorkerId,
    running: &[Beat],
    now_ms: Millis,
) -> Result<Beaten, DatabaseError> {
    let owner = worker_uuid(worker);
    if txn.rows(SIGN, &[&owner]).await?.is_empty() {
        let lost = running.iter().map(|beat| (beat.id, beat.attempt)).collect();
        return Ok(Beaten { is_buried: true, lost });
    }
    if running.is_empty() {
        return Ok(Beaten::default());
    }
    let ids: Vec<Uuid> = running.iter().map(|beat| uuid(beat.id)).collect();
    let attempts: Vec<i64> = running.iter().map(|beat| i64::from(beat.attempt)).collect();
    let progress = |beat: &Beat| i16::try_from(beat.progress.min(1000)).unwrap_or_default();
    let progress: Vec<i16> = running.iter().map(progress).collect();
    for row in txn.rows(BEAT, &[&ids, &attempts, &progress, &owner, &now_ms]).await? {
        if row.try_get(0)? {
            txn.ring_news();
        }
    }
    let mut lost = Vec::new();
    for row in txn.rows(LOST, &[&ids, &attempts, &owner]).await? {
        let attempt: i64 = row.try_get(1)?;
        lost.push((task_id(row.try_get(0)?), Attempt::try_from(attempt).unwrap_or_default()));
    }
    Ok(Beaten { is_buried: false, lost })
}

const BURY: &str = "UPDATE workers SET buried_at_ms = $3 \
     WHERE id = $1 AND beats = $2 AND buried_at_ms IS NULL";
/// What was on its way to the broker has not been given out.
const ORPHANS: &str = "UPDATE tasks SET \
     state = CASE WHEN state = 2 AND attempt >= failures_max * $4 THEN 4 ELSE 0 END, \
     finished_at_ms = \
         CASE WHEN state = 2 AND attempt >= failures_max * $4 THEN $2::bigint END, \
     run_at_ms = LEAST(run_at_ms, $2::bigint), \
     error = CASE WHEN state = 2 THEN $3::text ELSE error END, \
     owner = NULL, queued_at_ms = NULL, progress = 0, \
     changed_in = CASE WHEN is_told THEN pg_current_xact_id() END \
     WHERE owner = $1 AND state IN (1, 2) RETURNING id, state";

/// See [`Store::bury`](crate::store::Store::bury).
pub(super) async fn bury(
    txn: &Txn,
    dead: WorkerBeat,
    now_ms: Millis,
) -> Result<u64, DatabaseError> {
    let owner = worker_uuid(dead.worker);
    if txn.execute(BURY, &[&owner, &stored(dead.beats), &now_ms]).await? == 0 {
        return Ok(0);
    }
    let error = "its worker was not heard of any more";
    let values: &super::link::Values<'_> =
        &[&owner, &now_ms, &error, &i64::from(ATTEMPTS_PER_FAILURE)];
    let orphans = txn.rows(ORPHANS, values).await?;
    let mut failed: Vec<Uuid> = Vec::new();
    for row in &orphans {
        if row.try_get::<_, i16>(1)? == 4 {
            failed.push(row.try_get(0)?);
        }
    }
    end_followers(txn, &failed).await?;
    if !orphans.is_empty() {
        txn.ring_work();
        txn.ring_news();
    }
    Ok(orphans.len() as u64)
}

const HAND_BACK: &str = "UPDATE tasks t SET state = 0, owner = NULL, queued_at_ms = NULL, \
     progress = 0, changed_in = CASE WHEN is_told THEN pg_current_xact_id() END \
     WHERE t.owner = $1 AND t.state IN (1, 2) AND NOT EXISTS (SELECT FROM \
         unnest($2::uuid[], $3::bigint[]) AS s (id, attempt) \
         WHERE s.id = t.id AND s.attempt = t.attempt)";
const RETIRE: &str = "DELETE FROM workers WHERE id = $1 AND buried_at_ms IS NULL";

/// See [`Store::disown`](crate::store::Store::disown).
///
/// The claim whose answer was lost may still be about to commit: it holds the worker's row then,
/// and so signing waits for it.
pub(super) async fn disown(
    txn: &Txn,
    worker: WorkerId,
    in_hand: &[(TaskId, Attempt)],
) -> Result<u64, DatabaseError> {
    txn.rows(SIGN, &[&worker_uuid(worker)]).await?;
    hand_back(txn, worker, in_hand).await
}

async fn hand_back(
    txn: &Txn,
    worker: WorkerId,
    in_hand: &[(TaskId, Attempt)],
) -> Result<u64, DatabaseError> {
    let ids: Vec<Uuid> = in_hand.iter().map(|(id, _)| uuid(*id)).collect();
    let attempts: Vec<i64> = in_hand.iter().map(|(_, attempt)| i64::from(*attempt)).collect();
    let tasks = txn.execute(HAND_BACK, &[&worker_uuid(worker), &ids, &attempts]).await?;
    if tasks > 0 {
        txn.ring_work();
        txn.ring_news();
    }
    Ok(tasks)
}

/// See [`Store::retire`](crate::store::Store::retire).
pub(super) async fn retire(txn: &Txn, worker: WorkerId) -> Result<(), DatabaseError> {
    // Nobody would look for what it has left in spite of its promise.
    hand_back(txn, worker, &[]).await?;
    txn.execute(RETIRE, &[&worker_uuid(worker)]).await?;
    Ok(())
}
