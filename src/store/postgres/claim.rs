//! Giving tasks out: one statement finds the due ones by index, skips what others hold at this
//! moment, and changes them.

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::DatabaseError;
use super::row::{end_followers, stored, task, uuid, worker_uuid};
use super::writer::Txn;
use crate::store::{CLOCKS_APART_MS, Claim, Claimed, Millis, TOO_LATE, Task, TaskState};
use crate::task::{Attempt, TaskId, WorkerId};

/// How often it looks for others in place of those that were missed.
const ROUNDS_MAX: usize = 10;

/// Gives found tasks out, as of a time, to an owner and in a state, and stamps that column with the
/// time; or says why they are missed, if their time is over and nobody has begun them.
macro_rules! give_out {
    ($now:literal, $owner:literal, $why:literal, $state:literal, $at:literal, $found:literal) => {
        concat!(
            "UPDATE tasks t SET state = CASE WHEN ",
            late!($now),
            " THEN 6 ELSE ",
            $state,
            " END, attempt = CASE WHEN ",
            late!($now),
            " THEN t.attempt ELSE t.attempt + 1 END, owner = CASE WHEN ",
            late!($now),
            " THEN NULL ELSE ",
            $owner,
            "::uuid END, ",
            $at,
            " = CASE WHEN ",
            late!($now),
            " THEN NULL ELSE ",
            $now,
            " END, finished_at_ms = CASE WHEN ",
            late!($now),
            " THEN ",
            $now,
            " END, error = CASE WHEN ",
            late!($now),
            " THEN ",
            $why,
            " ELSE t.error END, \
             changed_in = CASE WHEN t.is_told THEN pg_current_xact_id() END \
             WHERE t.id = ANY (ARRAY(",
            $found,
            ")) RETURNING *"
        )
    };
}
macro_rules! late {
    ($now:literal) => {
        concat!("t.expires_at_ms < ", $now, " AND t.started_at_ms IS NULL")
    };
}

const CLAIM: &str = give_out!(
    "$3",
    "$5",
    "$6",
    2,
    "started_at_ms",
    "SELECT d.id FROM unnest($2::text[]) AS k (kind) CROSS JOIN LATERAL ( \
         SELECT c.id, c.run_at_ms, c.seq FROM tasks c \
         WHERE c.state = 0 AND c.endpoint = $1 AND c.kind = k.kind AND c.run_at_ms <= $3 \
         ORDER BY c.run_at_ms, c.seq LIMIT $4 FOR UPDATE SKIP LOCKED) AS d \
     ORDER BY d.run_at_ms, d.seq LIMIT $4"
);
const NEXT_DUE: &str = "SELECT min(d.run_at_ms) FROM unnest($2::text[]) AS k (kind) \
     CROSS JOIN LATERAL (SELECT c.run_at_ms FROM tasks c \
         WHERE c.state = 0 AND c.endpoint = $1 AND c.kind = k.kind \
         ORDER BY c.run_at_ms, c.seq LIMIT 1) AS d";

const TAKE_DUE: &str = give_out!(
    "$1",
    "$3",
    "$4",
    1,
    "queued_at_ms",
    "SELECT c.id FROM tasks c WHERE c.state = 0 AND c.run_at_ms <= $1 \
     ORDER BY c.run_at_ms, c.seq LIMIT $2 FOR UPDATE SKIP LOCKED"
);
const NEXT_DUE_OF_ALL: &str = "SELECT min(d.run_at_ms) FROM ( \
         SELECT c.run_at_ms FROM tasks c WHERE c.state = 0 \
         ORDER BY c.run_at_ms, c.seq LIMIT 1) AS d";

/// A claim is a sign of life as well; a worker that was buried gives none.
pub(super) const SIGN: &str = "INSERT INTO workers AS w (id, beats) VALUES ($1, 1) \
     ON CONFLICT (id) DO UPDATE SET beats = w.beats + 1 WHERE w.buried_at_ms IS NULL \
     RETURNING beats";
/// As if they had not been given out; nobody has been told.
const GIVE_BACK: &str = "UPDATE tasks SET state = 0, attempt = attempt - 1, owner = NULL, \
     queued_at_ms = NULL, started_at_ms = CASE WHEN attempt > 1 THEN started_at_ms END \
     WHERE id = ANY($1)";

/// See [`Store::claim`](crate::store::Store::claim).
pub(super) async fn claim(txn: &Txn, claim: &Claim) -> Result<Claimed, DatabaseError> {
    let endpoint = claim.endpoint.as_ref().map(|name| name.as_str()).unwrap_or_default();
    let kinds: Vec<&str> = claim.kinds.iter().map(|kind| kind.as_str()).collect();
    let worker = worker_uuid(claim.worker);
    let mut tasks = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let wanted = claim.tasks_max.saturating_sub(tasks.len());
        let values: &super::link::Values<'_> =
            &[&endpoint, &kinds, &claim.now_ms, &stored(wanted), &worker, &TOO_LATE];
        let rows = txn.rows(CLAIM, values).await?;
        let found = rows.len();
        tasks.extend(give_out(txn, rows, claim.worker).await?);
        if found < wanted || tasks.len() >= claim.tasks_max {
            break;
        }
    }
    let next = txn.rows(NEXT_DUE, &[&endpoint, &kinds]).await?;
    claimed(tasks, &next)
}

/// See [`Store::take_due`](crate::store::Store::take_due).
pub(super) async fn take_due(
    txn: &Txn,
    dispatcher: WorkerId,
    tasks_max: usize,
    now_ms: Millis,
) -> Result<Claimed, DatabaseError> {
    let owner = worker_uuid(dispatcher);
    let mut tasks = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let wanted = tasks_max.saturating_sub(tasks.len());
        let values: &super::link::Values<'_> = &[&now_ms, &stored(wanted), &owner, &TOO_LATE];
        let rows = txn.rows(TAKE_DUE, values).await?;
        let found = rows.len();
        tasks.extend(give_out(txn, rows, dispatcher).await?);
        if found < wanted || tasks.len() >= tasks_max {
            break;
        }
    }
    let next = txn.rows(NEXT_DUE_OF_ALL, &[]).await?;
    claimed(tasks, &next)
}

fn claimed(tasks: Vec<Task>, next: &[Row]) -> Result<Claimed, DatabaseError> {
    let next_due_ms = next.first().map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(Claimed { tasks, next_due_ms })
}

/// Those that were not missed, in due order; none, if the worker is buried.
async fn give_out(txn: &Txn, rows: Vec<Row>, worker: WorkerId) -> Result<Vec<Task>, DatabaseError> {
    let mut tasks: Vec<(Millis, i64, Task)> = Vec::with_capacity(rows.len());
    let (mut missed, mut is_told) = (Vec::new(), false);
    for row in &rows {
        let task = task(row)?;
        is_told |= row.try_get::<_, bool>("is_told")?;
        if task.state == TaskState::Missed {
            missed.push(uuid(task.id));
        } else {
            tasks.push((task.run_at_ms, row.try_get("seq")?, task));
        }
    }
    end_followers(txn, &missed).await?;
    if is_told {
        txn.ring_news();
    }
    let is_buried = !tasks.is_empty() && txn.rows(SIGN, &[&worker_uuid(worker)]).await?.is_empty();
    if is_buried {
        let ids: Vec<Uuid> = tasks.drain(..).map(|(_, _, task)| uuid(task.id)).collect();
        txn.execute(GIVE_BACK, &[&ids]).await?;
    }
    tasks.sort_by_key(|(run_at_ms, seq, _)| (*run_at_ms, *seq));
    Ok(tasks.into_iter().map(|(_, _, task)| task).collect())
}

/// `+ 0` keeps the planner off the index of all queued tasks, which it takes for small.
const DISPATCHED: &str = "UPDATE tasks t SET owner = NULL \
     FROM unnest($1::uuid[], $2::bigint[]) AS s (id, attempt) \
     WHERE t.id = s.id AND t.attempt = s.attempt AND t.state + 0 = 1";

/// See [`Store::dispatched`](crate::store::Store::dispatched).
pub(super) async fn dispatched(
    txn: &Txn,
    tasks: &[(TaskId, Attempt)],
) -> Result<(), DatabaseError> {
    let ids: Vec<Uuid> = tasks.iter().map(|(id, _)| uuid(*id)).collect();
    let attempts: Vec<i64> = tasks.iter().map(|(_, attempt)| i64::from(*attempt)).collect();
    txn.execute(DISPATCHED, &[&ids, &attempts]).await?;
    Ok(())
}

const REQUEUE: &str = "UPDATE tasks SET state = 0, queued_at_ms = NULL, \
     run_at_ms = LEAST(run_at_ms, $3), \
     changed_in = CASE WHEN is_told THEN pg_current_xact_id() END \
     WHERE state = 1 AND owner IS NULL AND (queued_at_ms < $2 OR queued_at_ms > $4) \
         AND endpoint = $1";

/// See [`Store::requeue`](crate::store::Store::requeue).
pub(super) async fn requeue(
    txn: &Txn,
    endpoint: &str,
    queued_before_ms: Millis,
    now_ms: Millis,
) -> Result<u64, DatabaseError> {
    let too_late_ms = now_ms.saturating_add(CLOCKS_APART_MS);
    let values: &super::link::Values<'_> = &[&endpoint, &queued_before_ms, &now_ms, &too_late_ms];
    let requeued = txn.execute(REQUEUE, values).await?;
    if requeued > 0 {
        txn.ring_work();
        txn.ring_news();
    }
    Ok(requeued)
}
