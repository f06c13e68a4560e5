//! Rows of the table `tasks`: read as tasks, or held under a lock, changed, and written back.

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::DatabaseError;
use super::writer::Txn;
use crate::store::{Millis, Task, TaskState};
use crate::task::{Name, ResultHead, TaskId, WorkerId};

pub(super) fn uuid(id: TaskId) -> Uuid {
    Uuid::from_bytes(id.bytes())
}

pub(super) fn task_id(id: Uuid) -> TaskId {
    TaskId::from_bytes(id.into_bytes())
}

pub(super) fn worker_uuid(worker: WorkerId) -> Uuid {
    Uuid::from_bytes(worker.bytes())
}

/// A number as it is stored.
pub(super) fn stored(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// A stored number that was not negative.
pub(super) fn number<T: TryFrom<i64>>(row: &Row, column: &str) -> Result<T, DatabaseError> {
    let stored: i64 = row.try_get(column)?;
    T::try_from(stored).map_err(|_| DatabaseError::Damaged(format!("{column} {stored}")))
}

pub(super) fn name(text: &str) -> Result<Name, DatabaseError> {
    text.parse().map_err(|_| DatabaseError::Damaged(format!("the name {text:?}")))
}

/// The state of a number; there may be none.
pub(super) fn state(stored: Option<i16>) -> Result<Option<TaskState>, DatabaseError> {
    let known = |number| {
        TaskState::from_number(i64::from(number))
            .ok_or_else(|| DatabaseError::Damaged(format!("state {number}")))
    };
    stored.map(known).transpose()
}

fn result(row: &Row) -> Result<Option<ResultHead>, DatabaseError> {
    let Some(bytes) = row.try_get::<_, Option<i64>>("result_bytes")? else { return Ok(None) };
    let head: Option<Vec<u8>> = row.try_get("result_head")?;
    let bytes = u64::try_from(bytes).unwrap_or_default();
    Ok(Some(ResultHead { bytes, head: head.unwrap_or_default() }))
}

/// A row of `tasks` that follows no other, or one of the view `shown`.
pub(super) fn task(row: &Row) -> Result<Task, DatabaseError> {
    let endpoint: &str = row.try_get("endpoint")?;
    let state = state(row.try_get("state")?)?;
    let owner: Option<Uuid> = row.try_get("owner")?;
    let follows: Option<Uuid> = row.try_get("follows")?;
    let progress: i16 = row.try_get("progress")?;
    Ok(Task {
        id: task_id(row.try_get("id")?),
        kind: name(row.try_get("kind")?)?,
        endpoint: if endpoint.is_empty() { None } else { Some(name(endpoint)?) },
        payload: row.try_get("payload")?,
        state: state.ok_or_else(|| DatabaseError::Damaged("no state".to_owned()))?,
        attempt: number(row, "attempt")?,
        failures: number(row, "failures")?,
        failures_max: number(row, "failures_max")?,
        created_at_ms: row.try_get("created_at_ms")?,
        run_at_ms: row.try_get("run_at_ms")?,
        expires_at_ms: row.try_get("expires_at_ms")?,
        started_at_ms: row.try_get("started_at_ms")?,
        finished_at_ms: row.try_get("finished_at_ms")?,
        owner: owner.map(|owner| WorkerId::from_bytes(owner.into_bytes())),
        progress: u16::try_from(progress).unwrap_or_default(),
        result: result(row)?,
        error: row.try_get("error")?,
        follows: follows.map(task_id),
    })
}

/// A row that nobody else can change until the transaction ends.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) id: Uuid,
    pub(super) endpoint: String,
    pub(super) failures_max: i64,
    pub(super) created_at_ms: Millis,
    pub(super) is_told: bool,
    pub(super) key_hash: Option<Vec<u8>>,
    pub(super) follows: Option<Uuid>,
    /// `None`: that of the task it follows.
    pub(super) state: Option<TaskState>,
    pub(super) attempt: i64,
    pub(super) failures: i64,
    pub(super) run_at_ms: Millis,
    pub(super) expires_at_ms: Option<Millis>,
    pub(super) started_at_ms: Option<Millis>,
    pub(super) finished_at_ms: Option<Millis>,
    pub(super) deadline_ms: Option<Millis>,
    pub(super) owner: Option<Uuid>,
    pub(super) progress: i16,
    pub(super) result: Option<ResultHead>,
    pub(super) error: Option<String>,
    pub(super) has_parts: bool,
    /// It is to be written back.
    pub(super) is_changed: bool,
}

impl Held {
    fn read(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            id: row.try_get("id")?,
            endpoint: row.try_get("endpoint")?,
            failures_max: row.try_get("failures_max")?,
            created_at_ms: row.try_get("created_at_ms")?,
            is_told: row.try_get("is_told")?,
            key_hash: row.try_get("key_hash")?,
            follows: row.try_get("follows")?,
            state: state(row.try_get("state")?)?,
            attempt: row.try_get("attempt")?,
            failures: row.try_get("failures")?,
            run_at_ms: row.try_get("run_at_ms")?,
            expires_at_ms: row.try_get("expires_at_ms")?,
            started_at_ms: row.try_get("started_at_ms")?,
            finished_at_ms: row.try_get("finished_at_ms")?,
            deadline_ms: row.try_get("deadline_ms")?,
            owner: row.try_get("owner")?,
            progress: row.try_get("progress")?,
            result: result(row)?,
            error: row.try_get("error")?,
            has_parts: row.try_get("has_parts")?,
            is_changed: false,
        })
    }

    /// Whether nothing changes it but a retry.
    pub(super) fn has_ended(&self) -> bool {
        self.state.is_some_and(TaskState::is_terminal)
    }

    /// Ends it for good.
    pub(super) fn end(&mut self, state: TaskState, at_ms: Millis) {
        self.leave(state);
        self.finished_at_ms = Some(at_ms);
    }

    /// Makes it pending, due at that time.
    pub(super) fn wait(&mut self, run_at_ms: Millis) {
        self.leave(TaskState::Pending);
        self.run_at_ms = run_at_ms;
        self.progress = 0;
    }

    /// Nobody runs it any more.
    fn leave(&mut self, state: TaskState) {
        self.state = Some(state);
        self.owner = None;
        self.deadline_ms = None;
        self.is_changed = true;
    }
}

const LOCK: &str = "SELECT * FROM tasks WHERE id = ANY($1) ORDER BY id FOR UPDATE";

/// Locks those that are there, always in the same order.
pub(super) async fn lock(txn: &Txn, ids: &[Uuid]) -> Result<Vec<Held>, DatabaseError> {
    txn.rows(LOCK, &[&ids]).await?.iter().map(Held::read).collect()
}

/// Locks a task, and the one that it follows: that, or the task itself if it follows none.
pub(super) async fn lock_one(
    txn: &Txn,
    id: TaskId,
) -> Result<Option<(Option<Held>, Held)>, DatabaseError> {
    let Some(held) = lock(txn, &[uuid(id)]).await?.pop() else { return Ok(None) };
    let Some(leader) = held.follows else { return Ok(Some((None, held))) };
    let leader = lock(txn, &[leader]).await?.pop();
    let leader = leader.ok_or_else(|| DatabaseError::Damaged(format!("{id} follows nothing")))?;
    Ok(Some((Some(held), leader)))
}

const WRITE: &str = "UPDATE tasks t SET follows = s.follows, state = s.state, attempt = s.attempt, \
     failures = s.failures, run_at_ms = s.run_at_ms, expires_at_ms = s.expires_at_ms, \
     started_at_ms = s.started_at_ms, finished_at_ms = s.finished_at_ms, \
     deadline_ms = s.deadline_ms, owner = s.owner, progress = s.progress, \
     result_bytes = s.result_bytes, result_head = s.result_head, error = s.error, \
     has_parts = s.has_parts, \
     changed_in = CASE WHEN t.is_told THEN pg_current_xact_id() END \
     FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[], $5::bigint[], \
         $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::uuid[], \
         $12::smallint[], $13::bigint[], $14::bytea[], $15::text[], $16::boolean[]) \
     AS s (id, follows, state, attempt, failures, run_at_ms, expires_at_ms, started_at_ms, \
         finished_at_ms, deadline_ms, owner, progress, result_bytes, result_head, error, \
         has_parts) \
     WHERE t.id = s.id";

/// Writes back those that have changed; what followed a task that failed or was missed ends too.
pub(super) async fn write(txn: &Txn, rows: &[&Held]) -> Result<(), DatabaseError> {
    fn each<'a, T>(rows: &[&'a Held], value: impl Fn(&'a Held) -> T) -> Vec<T> {
        rows.iter().map(|row| value(row)).collect()
    }
    let rows: Vec<&Held> = rows.iter().filter(|row| row.is_changed).copied().collect();
    if rows.is_empty() {
        return Ok(());
    }
    let state = |row: &Held| row.state.and_then(|state| i16::try_from(state.number()).ok());
    let bytes = |row: &Held| row.result.as_ref().map(|result| stored(result.bytes));
    let ids = each(&rows, |row| row.id);
    txn.execute(
        WRITE,
        &[
            &ids,
            &each(&rows, |row| row.follows),
            &each(&rows, state),
            &each(&rows, |row| row.attempt),
            &each(&rows, |row| row.failures),
            &each(&rows, |row| row.run_at_ms),
            &each(&rows, |row| row.expires_at_ms),
            &each(&rows, |row| row.started_at_ms),
            &each(&rows, |row| row.finished_at_ms),
            &each(&rows, |row| row.deadline_ms),
            &each(&rows, |row| row.owner),
            &each(&rows, |row| row.progress),
            &each(&rows, bytes),
            &each(&rows, |row| row.result.as_ref().map(|result| result.head.as_slice())),
            &each(&rows, |row| row.error.as_deref()),
            &each(&rows, |row| row.has_parts),
        ],
    )
    .await?;
    let is_unlucky = |row: &&&Held| {
        matches!(row.state, Some(TaskState::Failed | TaskState::Missed)) && row.key_hash.is_some()
    };
    let unlucky: Vec<Uuid> = rows.iter().filter(is_unlucky).map(|row| row.id).collect();
    if rows.iter().any(|row| row.is_told) {
        txn.ring_news();
    }
    if rows.iter().any(|row| row.state == Some(TaskState::Pending)) {
        txn.ring_work();
    }
    end_followers(txn, &unlucky).await
}

const END_FOLLOWERS: &str = "UPDATE tasks f SET follows = NULL, state = l.state, \
     attempt = l.attempt, started_at_ms = l.started_at_ms, finished_at_ms = l.finished_at_ms, \
     progress = l.progress, error = l.error, \
     changed_in = CASE WHEN f.is_told THEN pg_current_xact_id() END \
     FROM tasks l WHERE l.id = ANY($1) AND f.follows = l.id";

/// What follows these, which have just ended without a result, ends as they did.
pub(super) async fn end_followers(txn: &Txn, leaders: &[Uuid]) -> Result<(), DatabaseError> {
    if !leaders.is_empty() {
        txn.execute(END_FOLLOWERS, &[&leaders]).await?;
    }
    Ok(())
}
