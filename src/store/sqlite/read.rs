//! Questions that change nothing.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Result, params, params_from_iter};

use super::row::{PAYLOAD, Row, columns, endpoint_text, name};
use crate::store::{Count, Cursor, Filter, Task, TaskState, WorkerBeat};
use crate::task::{TaskId, WorkerId};

/// The task `t`, and `l`, the one whose run it shows: the one it follows, or itself.
macro_rules! shown {
    ($rest:expr) => {
        concat!(
            "SELECT ",
            columns!("t", "l"),
            ", coalesce(t.payload, (SELECT bytes FROM payload WHERE task = t.seq)),
             iif(t.follows IS NULL, NULL, l.id)
             FROM task t ",
            $rest,
        )
    };
}

/// In this order: `t` is found first.
macro_rules! joined {
    () => {
        "CROSS JOIN task l ON l.seq = coalesce(t.follows, t.seq) "
    };
}

fn read(row: &rusqlite::Row<'_>) -> Result<Task> {
    let follows: Option<[u8; 16]> = row.get(PAYLOAD + 1)?;
    Ok(Row::read(row)?.into_task(row.get(PAYLOAD)?, follows.map(TaskId::from_bytes)))
}

pub(super) fn task(connection: &Connection, id: TaskId) -> Result<Option<Task>> {
    let sql = shown!(concat!(joined!(), "WHERE t.id = ?1"));
    connection.prepare_cached(sql)?.query_row([id.bytes()], read).optional()
}

pub(super) fn tasks(connection: &Connection, filter: &Filter) -> Result<Vec<Task>> {
    let unlucky = TaskState::Failed.number();
    let are_unlucky =
        !filter.states.is_empty() && filter.states.iter().all(|state| state.number() >= unlucky);
    // Few tasks end badly, and are found by an index; all others by going through, newest first:
    // through those of a kind, which may be few of many.
    let index = match (are_unlucky, &filter.kind) {
        (true, _) => "INDEXED BY unlucky ",
        (false, Some(_)) => "INDEXED BY of_kind ",
        (false, None) => "NOT INDEXED ",
    };
    let mut sql = shown!("").to_owned() + index + joined!() + "WHERE true";
    let mut bound = Vec::new();
    if are_unlucky {
        sql += " AND t.state > 3";
    }
    if !filter.states.is_empty() {
        let numbers: Vec<_> = filter.states.iter().map(|s| s.number().to_string()).collect();
        sql += &format!(" AND t.state IN ({})", numbers.join(", "));
    }
    if let Some(kind) = &filter.kind {
        sql += " AND t.kind = ?";
        bound.push(Value::Text(kind.to_string()));
    }
    if let Some(endpoint) = &filter.endpoint {
        sql += " AND t.endpoint = ?";
        bound.push(Value::Text(endpoint_text(Some(endpoint)).to_owned()));
    }
    if let Some(before) = filter.before {
        // One that was removed meanwhile stood behind the one before it by name.
        sql += " AND t.seq < coalesce((SELECT seq FROM task WHERE id = ?),
                 (SELECT seq + 1 FROM task WHERE id < ? ORDER BY id DESC LIMIT 1))";
        bound.extend([Value::Blob(before.bytes().into()), Value::Blob(before.bytes().into())]);
    }
    sql += " ORDER BY t.seq DESC LIMIT ?";
    bound.push(Value::Integer(i64::try_from(filter.tasks_max).unwrap_or(i64::MAX)));
    connection.prepare_cached(&sql)?.query_map(params_from_iter(bound), read)?.collect()
}

pub(super) fn changes(
    connection: &Connection,
    since: Cursor,
    tasks_max: usize,
) -> Result<(Vec<Task>, Cursor)> {
    let sql = shown!(concat!(
        "INDEXED BY changed ",
        joined!(),
        "WHERE t.changed > ?1 ORDER BY t.changed LIMIT ?2",
    ));
    let mut cursor = since;
    let mut statement = connection.prepare_cached(sql)?;
    let limit = i64::try_from(tasks_max).unwrap_or(i64::MAX);
    let tasks = statement.query_map(params![since.0, limit], |row| {
        cursor = Cursor(row.get(PAYLOAD - 1)?);
        read(row)
    })?;
    let tasks = tasks.collect::<Result<Vec<_>>>()?;
    Ok((tasks, cursor))
}

pub(super) fn now(connection: &Connection) -> Result<Cursor> {
    connection
        .prepare_cached("SELECT latest FROM revision")?
        .query_row([], |row| Ok(Cursor(row.get(0)?)))
}

pub(super) fn part(connection: &Connection, id: TaskId, index: u32) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT part.bytes FROM task t
               CROSS JOIN task l ON l.seq = coalesce(t.follows, t.seq)
               JOIN part ON part.task = l.seq AND part.attempt = l.attempt AND part.number = ?2
               WHERE t.id = ?1 AND l.state = 3";
    connection
        .prepare_cached(sql)?
        .query_row(params![id.bytes(), index], |row| row.get(0))
        .optional()
}

pub(super) fn counts(connection: &Connection) -> Result<Vec<Count>> {
    let mut statement =
        connection.prepare_cached("SELECT kind, state, tasks FROM count WHERE tasks > 0")?;
    let read = |row: &rusqlite::Row<'_>| {
        let kind = name(row, 0)?;
        let state = TaskState::from_number(row.get(1)?);
        let tasks: i64 = row.get(2)?;
        Ok(kind.zip(state).map(|(kind, state)| Count { kind, state, tasks: tasks.cast_unsigned() }))
    };
    statement.query_map([], read)?.filter_map(Result::transpose).collect()
}

pub(super) fn workers(connection: &Connection) -> Result<Vec<WorkerBeat>> {
    let sql = "SELECT id, beats FROM worker WHERE buried_at IS NULL";
    let read = |row: &rusqlite::Row<'_>| {
        let beats: i64 = row.get(1)?;
        Ok(WorkerBeat { worker: WorkerId::from_bytes(row.get(0)?), beats: beats.cast_unsigned() })
    };
    connection.prepare_cached(sql)?.query_map([], read)?.collect()
}
