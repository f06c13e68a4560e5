//! Questions that change nothing.

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::DatabaseError;
use super::link::Session;
use super::row::{name, number, state, stored, task, uuid};
use super::writer::Txn;
use crate::store::{Count, Filter, Task, WorkerBeat};
use crate::task::{TaskId, WorkerId};

const TASK: &str = "SELECT * FROM shown WHERE id = $1";

fn first(rows: &[Row]) -> Result<Option<Task>, DatabaseError> {
    rows.first().map(task).transpose()
}

/// A task.
pub(super) async fn one_task(session: &Session, id: TaskId) -> Result<Option<Task>, DatabaseError> {
    first(&session.rows(TASK, &[&uuid(id)]).await?)
}

/// A task, as the transaction sees it.
pub(super) async fn task_in(txn: &Txn, id: TaskId) -> Result<Option<Task>, DatabaseError> {
    first(&txn.rows(TASK, &[&uuid(id)]).await?)
}

/// One that was removed meanwhile stood behind the one before it by name.
macro_rules! tasks {
    ($of_kind:literal) => {
        concat!(
            "SELECT * FROM shown \
             WHERE seq < COALESCE((SELECT b.seq FROM tasks b WHERE b.id = $4), \
                     (SELECT b.seq + 1 FROM tasks b WHERE b.id < $4 ORDER BY b.id DESC LIMIT 1), \
                     CASE WHEN $4::uuid IS NULL THEN 9223372036854775807 ELSE 0 END) \
                 AND (cardinality($2::smallint[]) = 0 OR state = ANY($2)) \
                 AND ($3::text IS NULL OR endpoint = $3) AND ",
            $of_kind,
            " ORDER BY seq DESC LIMIT $5",
        )
    };
}

/// Apart, so that a plan that is good for all values uses the index.
const TASKS: &str = tasks!("$1::text IS NULL");
const TASKS_OF_KIND: &str = tasks!("kind = $1");

/// Tasks, newest first.
pub(super) async fn tasks(session: &Session, filter: &Filter) -> Result<Vec<Task>, DatabaseError> {
    let states = filter.states.iter().filter_map(|state| i16::try_from(state.number()).ok());
    let states: Vec<i16> = states.collect();
    let kind = filter.kind.as_ref().map(|name| name.as_str());
    let endpoint = filter.endpoint.as_ref().map(|name| name.as_str());
    let before = filter.before.map(uuid);
    let values: &super::link::Values<'_> =
        &[&kind, &states, &endpoint, &before, &stored(filter.tasks_max)];
    session
        .rows(if kind.is_some() { TASKS_OF_KIND } else { TASKS }, values)
        .await?
        .iter()
        .map(task)
        .collect()
}

const COUNTS: &str = "SELECT kind, state, sum(tasks)::bigint AS tasks FROM ( \
         SELECT kind, state, count(*) AS tasks FROM tasks WHERE follows IS NULL GROUP BY 1, 2 \
         UNION ALL SELECT f.kind, l.state, count(*) FROM tasks f \
             JOIN tasks l ON l.id = f.follows GROUP BY 1, 2) AS c \
     GROUP BY kind, state ORDER BY kind, state";

/// How many tasks of each kind are in each state.
pub(super) async fn counts(session: &Session) -> Result<Vec<Count>, DatabaseError> {
    let count = |row: &Row| {
        let state = state(row.try_get("state")?)?;
        Ok(Count {
            kind: name(row.try_get("kind")?)?,
            state: state.ok_or_else(|| DatabaseError::Damaged("no state".to_owned()))?,
            tasks: number(row, "tasks")?,
        })
    };
    session.rows(COUNTS, &[]).await?.iter().map(count).collect()
}

const PART: &str = "SELECT p.bytes FROM tasks t JOIN tasks l ON l.id = COALESCE(t.follows, t.id) \
     JOIN parts p ON p.id = l.id AND p.attempt = l.attempt \
     WHERE t.id = $1 AND l.state = 3 AND p.index = $2";

/// A part of a result.
pub(super) async fn part(
    session: &Session,
    id: TaskId,
    index: u32,
) -> Result<Option<Vec<u8>>, DatabaseError> {
    let rows = session.rows(PART, &[&uuid(id), &i64::from(index)]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
}

const WORKERS: &str = "SELECT id, beats FROM workers WHERE buried_at_ms IS NULL ORDER BY id";

/// Who has signed, and was neither buried nor retired.
pub(super) async fn workers(session: &Session) -> Result<Vec<WorkerBeat>, DatabaseError> {
    let worker = |row: &Row| {
        let id: Uuid = row.try_get("id")?;
        let worker = WorkerId::from_bytes(id.into_bytes());
        Ok(WorkerBeat { worker, beats: number(row, "beats")? })
    };
    session.rows(WORKERS, &[]).await?.iter().map(worker).collect()
}
